"""Log files into their templates, mined by Drain (He et al. 2017, ICWS), since a million lines say what a hundred do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from streams.parse.blocks import Block, BlockKind
from streams.parse.decoding import decode

TIME = r"\d{1,2}:\d{1,2}:\d{1,2}(?:[.,:]\d+)?"
STAMP = re.compile(
    rf"^(?:\[?(?:\w{{3}} )?\w{{3}} +\d{{1,2}} {TIME}(?: \d{{4}})?\]?|\[?\d{{4}}[-/.]?\d{{2}}[-/.]?\d{{2}}[T :-]?{TIME}(?:Z|[+-]\d{{2}}:?\d{{2}})?\]?|\d{{6}} \d{{6}})[ |:]*"
)
"""The date and time that a line begins with."""
MASKS = (
    (re.compile(r"(?<![A-Za-z0-9.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?"), "<address>"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|(?<![A-Za-z0-9])0x[0-9a-fA-F]+|\bblk_-?\d+"), "<id>"),
    (re.compile(r"(?<![A-Za-z0-9.])-?\d+(?:\.\d+)?(?![A-Za-z0-9])"), "<number>"),
)
SIMILARITY = 0.5
MAX_TEMPLATES = 5000
MAX_LINE_CHARACTERS = 2000


def logs(data: bytes) -> list[Block]:
    """One block a template, in the order of first sight: how often it was seen, and the first line that has it."""
    from drain3.drain import Drain

    drain = Drain(sim_th=SIMILARITY, max_clusters=MAX_TEMPLATES)
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for line in _lines(decode(data)):
        masked = _masked(STAMP.sub("", line))
        first.setdefault(masked, line)
        counts[masked] += 1
    # Drain sees each masked line once: most lines are masked alike
    clusters: dict[int, list[str]] = {}
    for masked in first:
        clusters.setdefault(drain.add_log_message(masked)[0].cluster_id, []).append(masked)
    templates = {cluster.cluster_id: cluster.get_template() for cluster in drain.clusters}
    return [_block(templates[number], sum(counts[m] for m in members), first[members[0]]) for number, members in clusters.items() if number in templates]


def _masked(line: str) -> str:
    for pattern, name in MASKS:
        line = pattern.sub(name, line)
    return line


def _lines(text: str) -> Iterator[str]:
    return (line.strip()[:MAX_LINE_CHARACTERS] for line in text.splitlines() if line.strip())


def _block(template: str, count: int, line: str) -> Block:
    if count == 1:
        return Block(BlockKind.LIST_ITEM, line)
    return Block(BlockKind.LIST_ITEM, f"{template} ({count} times, first: {line})")
