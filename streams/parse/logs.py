"""Log files into their templates, mined by Drain (He et al. 2017, ICWS), since a million lines say what a hundred do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from streams.parse.blocks import Block, BlockKind
from streams.parse.by_unstructured import decode

TIME = r"\d{1,2}:\d{2}:\d{2}(?:[.,:]\d+)?"
STAMP = re.compile(
    rf"^(?:\[?(?:\w{{3}} )?\w{{3}} +\d{{1,2}} {TIME}(?: \d{{4}})?\]?|\[?\d{{4}}[-/.]?\d{{2}}[-/.]?\d{{2}}[T :-]?{TIME}(?:Z|[+-]\d{{2}}:?\d{{2}})?\]?|\d{{6}} \d{{6}})[ |:]*"
)
"""The date and time that a line begins with."""
MASKS = (
    (r"(?<=[^A-Za-z0-9])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?", "address"),
    (r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b", "id"),
    (r"(?<=[^A-Za-z0-9])0x[0-9a-fA-F]+|\bblk_-?\d+", "id"),
    (r"(?<=[^A-Za-z0-9.])-?\d+(?:\.\d+)?(?=[^A-Za-z0-9]|$)", "number"),
)
SIMILARITY = 0.5
MAX_TEMPLATES = 5000
MAX_LINE_CHARACTERS = 2000


def logs(data: bytes) -> list[Block]:
    """One block a template, in the order of first sight: how often it was seen, and the first line that has it."""
    from drain3 import TemplateMiner
    from drain3.masking import MaskingInstruction
    from drain3.template_miner_config import TemplateMinerConfig

    config = TemplateMinerConfig()
    config.drain_sim_th, config.drain_max_clusters = SIMILARITY, MAX_TEMPLATES
    config.masking_instructions = [MaskingInstruction(pattern, name) for pattern, name in MASKS]
    miner = TemplateMiner(config=config)
    first: dict[int, str] = {}
    for line in _lines(decode(data)):
        first.setdefault(miner.add_log_message(STAMP.sub("", line))["cluster_id"], line)
    counts = {cluster.cluster_id: (cluster.get_template(), cluster.size) for cluster in miner.drain.clusters}
    return [_block(*counts[number], line) for number, line in first.items() if number in counts]


def _lines(text: str) -> Iterator[str]:
    return (line.strip()[:MAX_LINE_CHARACTERS] for line in text.splitlines() if line.strip())


def _block(template: str, count: int, line: str) -> Block:
    if count == 1:
        return Block(BlockKind.LIST_ITEM, line)
    return Block(BlockKind.LIST_ITEM, f"{template} ({count} times, first: {line})")
