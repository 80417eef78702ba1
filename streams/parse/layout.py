"""Lines of a paged document into blocks: furniture that repeats goes, sizes and outline make headings, gaps make paragraphs. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median

from streams.parse.blocks import Block, BlockKind

EDGE_LINES = 5
FURNITURE_SHARE = 0.4
FURNITURE_PAGES = 3
LEADERS = re.compile(r"(?:\.\s?){5,}\s*[\divxlc]*$")
BULLET = re.compile(r"^(?:[•◦▪●○■‣⁃∙·]|[-–—*](?=\s))\s*")
NUMBERED = re.compile(r"^\(?(?:\d{1,3}|[a-zA-Z])[.)]\s+\S")
BROKEN = re.compile(r"(\w+)(?:\ufffe|\u0002|[-\u2010\u2011]\n)\s?(\w+)")
JOINED = "\ufffe"
"""Where pdfium has joined two lines at a hyphen."""
WORD = re.compile(r"\w+(?:-\w+)*")
IN_CELL = re.compile(r"\n(?!\|)")
"""An end of line in a table that is no row's."""
SENTENCES = re.compile(r"\w{3,}[.!?]\s+[A-Z].*\w|(?:\w+\W+){6,}\w+\.$")
"""Several sentences, or a long one with its full stop."""
MIN_OVERLEAF_CHARACTERS = 60
BIGGER = 1.12
MAX_HEADING_CHARACTERS = 140
HEADING_LINES = 3
BOLD = 600
PARAGRAPH_GAP = 1.35


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text: font size in points, weight (400 is regular, 0 unknown), whether its letters are all as wide, the
    left edge and the base line in points, the page from 1. A table is one line, and its text is Markdown."""

    text: str
    size: float
    weight: int
    fixed: bool
    left: float
    bottom: float
    page: int
    table: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the outline: level from 1, the page that it leads to."""

    title: str
    level: int
    page: int


def blocks(lines: Sequence[Line], outline: Sequence[Entry] = ()) -> list[Block]:
    """The document's blocks in reading order."""
    kept = [line for line in without_furniture(lines) if line.text.strip() and not LEADERS.search(line.text.strip())]
    if not kept:
        return []
    body = body_size(kept)
    headed = _headings(kept, outline, body)
    spacing = _spacing(kept)
    found = [block for level, group in groupby(headed, key=lambda pair: pair[1] > 0) for block in (_titles(list(group)) if level else _paragraphs([line for line, _ in group], spacing))]
    return _mended(_over_pages(found))


def without_furniture(lines: Sequence[Line]) -> list[Line]:
    """`lines` without headers, footers and page numbers: what stands at the same height near the edge of many pages, but for its digits."""
    pages = [list(group) for _, group in groupby(lines, key=lambda line: line.page)]
    edges: dict[int, set[int]] = {}
    count: Counter[tuple[str, int]] = Counter()
    for page in pages:
        by_height = sorted(page, key=lambda line: line.bottom)
        near = {id(line) for line in [*by_height[:EDGE_LINES], *by_height[-EDGE_LINES:]]}
        edges[page[0].page] = near
        count.update({_furniture(line) for line in page if id(line) in near})
    often = max(FURNITURE_PAGES, FURNITURE_SHARE * len(pages))
    kept = [line for line in lines if id(line) not in edges[line.page] or count[_furniture(line)] < often]
    # forms and tickets have pages of such lines alone
    return kept if 2 * len({line.page for line in kept}) >= len(pages) else list(lines)


def _furniture(line: Line) -> tuple[str, int]:
    return re.sub(r"\d+", "#", " ".join(line.text.split())), round(line.bottom / 4)


def body_size(lines: Sequence[Line]) -> float:
    """The size that most letters have, those of tables apart where there are others."""
    sizes: Counter[float] = Counter()
    for line in [line for line in lines if not line.table] or lines:
        sizes[round(line.size, 1)] += len(line.text)
    return sizes.most_common(1)[0][0]


def _headings(lines: Sequence[Line], outline: Sequence[Entry], body: float) -> list[tuple[Line, int]]:
    """Each line with its level as a heading, 0 for others: by the outline where there is one, else by size and weight."""
    if outline:
        return _by_outline(lines, outline)
    sizes = sorted({round(line.size) for line in lines if _is_big(line, body)}, reverse=True)
    level = {size: min(rank, 5) for rank, size in enumerate(sizes, 1)}
    heavy = sum(len(line.text) for line in lines if line.weight >= BOLD) > 0.3 * sum(len(line.text) for line in lines)

    def of(line: Line, before: Line | None) -> int:
        if _is_big(line, body):
            return level[round(line.size)]
        alone = before is None or before.page != line.page or before.weight < BOLD
        bold = not heavy and line.weight >= BOLD and round(line.size, 1) >= body and len(line.text) < MAX_HEADING_CHARACTERS / 2
        return min(len(sizes) + 1, 6) if bold and alone and not line.fixed and not line.table and not line.text.rstrip().endswith((".", ",", ";")) else 0

    return [(line, of(line, lines[i - 1] if i else None)) for i, line in enumerate(lines)]


def _is_big(line: Line, body: float) -> bool:
    return not line.table and line.size >= BIGGER * body and 1 < len(line.text.strip()) < MAX_HEADING_CHARACTERS and any(c.isalpha() for c in line.text)


def _by_outline(lines: Sequence[Line], outline: Sequence[Entry]) -> list[tuple[Line, int]]:
    """Lines that say, alone or with the next two, what an entry of their page says; of several the biggest, then the last."""
    wanted = {(entry.page, _bare(entry.title)): entry.level for entry in reversed(outline)}
    pages = {entry.page for entry in outline}
    found: dict[tuple[int, str], tuple[float, int, int]] = {}
    for i, line in enumerate(lines):
        if line.page not in pages:
            continue
        said = ""
        for span, part in enumerate(lines[i : i + HEADING_LINES], 1):
            said += _bare(part.text)
            if (line.page, said) in wanted and said:
                found[line.page, said] = max(found.get((line.page, said), (0.0, 0, 0)), (round(line.size, 1), i, span))
    levels = [0] * len(lines)
    for key, (_, i, span) in found.items():
        levels[i : i + span] = [wanted[key]] * span
    return list(zip(lines, levels, strict=True))


def _bare(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _titles(found: Sequence[tuple[Line, int]]) -> Iterator[Block]:
    """Headings: neighbours of one level and size on one page are one."""
    for (level, _, page), group in groupby(found, key=lambda pair: (pair[1], round(pair[0].size, 1), pair[0].page)):
        text = " ".join(" ".join(line.text for line, _ in group).split())
        # what a figure says in big letters is no heading
        yield Block(BlockKind.TEXT, text, page=page) if SENTENCES.search(text) else Block(BlockKind.HEADING, text, level, page)


def _spacing(lines: Sequence[Line]) -> Mapping[float, float]:
    """For each size the usual distance of one line to the next."""
    gaps: dict[float, list[float]] = {}
    for before, line in pairwise(lines):
        gap = before.bottom - line.bottom
        if JOINED not in before.text and not (before.table or line.table) and before.page == line.page and round(before.size, 1) == round(line.size, 1) and 0 < gap < 3 * line.size:
            gaps.setdefault(round(line.size, 1), []).append(gap)
    return {size: median(found) for size, found in gaps.items()}


def _paragraphs(lines: Sequence[Line], spacing: Mapping[float, float]) -> Iterator[Block]:
    held: list[Line] = []
    for line in lines:
        if held and _begins(held[-1], line, spacing):
            yield _paragraph(held)
            held = []
        held.append(line)
    if held:
        yield _paragraph(held)


def _begins(before: Line, line: Line, spacing: Mapping[float, float]) -> bool:
    """Whether a new block begins with `line`."""
    gap = before.bottom - line.bottom
    usual = spacing.get(round(line.size, 1), 1.2 * line.size)
    if line.page != before.page or line.fixed != before.fixed or line.table or before.table:
        return True
    if line.fixed:
        return gap > 3 * usual
    if BULLET.match(line.text) or NUMBERED.match(line.text):
        return abs(gap) > 1
    if gap < -line.size:  # the next column
        return before.text.rstrip().endswith((".", "!", "?", ":"))
    return gap > (PARAGRAPH_GAP + before.text.count(JOINED)) * usual or abs(line.size - before.size) > 0.15 * before.size


def _paragraph(lines: Sequence[Line]) -> Block:
    if lines[0].table:
        return Block(BlockKind.TABLE, lines[0].text, page=lines[0].page)
    if all(line.fixed for line in lines):
        left = min(line.left for line in lines)
        width = max(0.1, 0.6 * lines[0].size)
        text = "\n".join(" " * round((line.left - left) / width) + line.text.strip() for line in lines)
        return Block(BlockKind.CODE, text, page=lines[0].page)
    text = "\n".join(line.text.strip() for line in lines)
    if bullet := BULLET.match(text):
        return Block(BlockKind.LIST_ITEM, text[bullet.end() :], page=lines[0].page)
    return Block(BlockKind.TEXT, text, page=lines[0].page)


def _over_pages(found: Sequence[Block]) -> list[Block]:
    """A sentence that goes on overleaf makes one block of two."""
    joined: list[Block] = []
    for block in found:
        before = joined[-1] if joined else None
        overleaf = before and before.page is not None and block.page == (before.page_last or before.page) + 1 and len(before.text) > MIN_OVERLEAF_CHARACTERS
        if before and overleaf and block.kind is BlockKind.TEXT and before.kind in (BlockKind.TEXT, BlockKind.LIST_ITEM) and block.text[0].islower() and before.text[-1] not in ".!?:;":
            joined[-1] = replace(before, text=f"{before.text}\n{block.text}", page_last=block.page)
        else:
            joined.append(block)
    return joined


def _mended(found: Sequence[Block]) -> list[Block]:
    """Words that a line end broke are whole again: as the document spells them elsewhere, else without the hyphen."""
    words = Counter(word for block in found for word in WORD.findall(block.text.casefold().replace("\u2011", "-")))

    def join(broken: re.Match[str]) -> str:
        whole, hyphened = broken[1] + broken[2], f"{broken[1]}-{broken[2]}"
        keep = words[hyphened.casefold()] > words[whole.casefold()] or not broken[2][0].islower()
        return hyphened if keep else whole

    mended = []
    for block in found:
        text = BROKEN.sub(join, block.text)
        mended.append(replace(block, text=IN_CELL.sub(" ", text) if block.kind is BlockKind.TABLE else text if block.kind is BlockKind.CODE else " ".join(text.split())))
    return [block for block in mended if block.text]
