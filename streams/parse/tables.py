"""Tables of a page, by the lattice that their rules or the edges of their filled cells make. Pure.

Two kinds are told: ruled ones, whose rows and columns are drawn, and striped ones, where each second row is filled cell by
cell and the rows between are told by that. Columns that white space alone parts stay lines of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

NEAR = 2.5
"""Points within which two edges are one."""
THIN = 4.0
"""A box narrower than this, in points, is a rule."""
DRAWN = 0.5
"""The share of a table's height or width that a line between columns or rows is drawn over at least: text in boxes is no table."""
INSET = 2.0
"""Points inside of a cell's edges where its letters reach at least: those of its neighbours may reach over the edge."""
MAX_ROW = 200.0
"""Points that an unfilled row next to a striped one is high at most."""
MAX_BOXES = 3000
"""A page with more is a drawing."""
CELL_LINES = re.compile(r"(?<![-\u2010\u2011\ufffe\u0002])\s*\n\s*")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in points, upwards from the lower left corner of the page (ISO 32000-1, 8.3.2.3)."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.top - self.bottom

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it."""
        return self.left - NEAR <= x <= self.right + NEAR and self.bottom - NEAR <= y <= self.top + NEAR


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table is, and the text of its cells from the top; rows are equally long."""

    box: Box
    rows: list[list[str]]


Read = Callable[[Box], str]
"""The text whose letters touch a box."""


@dataclass(frozen=True, slots=True)
class _Lattice:
    """Columns' edges from the left, rows' edges from the top; which boxes draw it; whether its rows are filled, not ruled."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    drawn: tuple[Box, ...]
    filled: bool

    @property
    def box(self) -> Box:
        return Box(self.xs[0], self.ys[-1], self.xs[-1], self.ys[0])


def tables(boxes: Sequence[Box], read: Read) -> list[Table]:
    """The tables among a page's drawn boxes, from the top."""
    if len(boxes) > MAX_BOXES:
        return []
    shapes = [box for box in boxes if max(box.width, box.height) >= THIN]
    found = [lattice for region in _regions(shapes) if (lattice := _lattice(region))]
    rules = [box for box in shapes if box.height < THIN]
    read_tables = [_read(lattice, read) for lattice in _striped(found, rules, read)]
    return [table for table in read_tables if table]


def _regions(boxes: Sequence[Box]) -> Iterator[list[Box]]:
    """Boxes apart from others by a gap, upwards or sideways."""
    for band in _runs(boxes, lambda box: (box.bottom, box.top)):
        parts = _runs(band, lambda box: (box.left, box.right))
        if len(parts) == 1:
            yield band
        else:
            for part in parts:
                yield from _regions(part)


def _runs(boxes: Sequence[Box], span: Callable[[Box], tuple[float, float]]) -> list[list[Box]]:
    runs: list[list[Box]] = []
    end = float("-inf")
    for box in sorted(boxes, key=lambda box: span(box)[0]):
        first, last = span(box)
        if first > end + NEAR:
            runs.append([])
        runs[-1].append(box)
        end = max(end, last)
    return runs


def _lattice(region: Sequence[Box]) -> _Lattice | None:
    """The lattice of a region with two columns and more."""
    if len(region) < 2:
        return None
    outer = Box(min(b.left for b in region), min(b.bottom for b in region), max(b.right for b in region), max(b.top for b in region))
    filled = not any(box.width < THIN for box in region)
    upright = [(x, box.bottom, box.top) for box in region if box.height >= THIN for x in _edges(box.left, box.right)]
    across = [(y, box.left, box.right) for box in region if box.width >= THIN for y in _edges(box.bottom, box.top)]
    across += [(y, outer.left, outer.right) for y in _ends(upright)]
    xs = _lines(upright, outer.left, outer.right, outer.height)
    ys = _lines(across, outer.bottom, outer.top, outer.width)
    if len(xs) < 3 or (len(ys) < 3 and not filled):
        return None
    return _Lattice(tuple(xs), tuple(reversed(ys)), tuple(box for box in region if box.height >= THIN), filled)


def _edges(low: float, high: float) -> tuple[float, ...]:
    return ((low + high) / 2,) if high - low < THIN else (low, high)


def _ends(upright: Sequence[tuple[float, float, float]]) -> Iterator[float]:
    """Heights at which most of the upright lines end: rows may be drawn by these alone."""
    places = len(_clusters([x for x, _, _ in upright]))
    for cluster in _clusters([y for _, low, high in upright for y in (low, high)]):
        if len(cluster) >= 2 * places:
            yield sum(cluster) / len(cluster)


def _clusters(values: Sequence[float]) -> list[list[float]]:
    clusters: list[list[float]] = []
    for value in sorted(values):
        if not clusters or value - clusters[-1][-1] > NEAR:
            clusters.append([])
        clusters[-1].append(value)
    return clusters


def _lines(drawn: Sequence[tuple[float, float, float]], first: float, last: float, length: float) -> list[float]:
    """Where lines lie that are drawn over enough of `length`, with the outermost; each of `drawn` is its place and its span."""
    places = [first]
    by_place: list[list[tuple[float, float, float]]] = []
    for line in sorted(drawn):
        if not by_place or line[0] - by_place[-1][-1][0] > NEAR:
            by_place.append([])
        by_place[-1].append(line)
    for lines in by_place:
        place = sum(at for at, _, _ in lines) / len(lines)
        if first + NEAR < place < last - NEAR and _covered((low, high) for _, low, high in lines) >= DRAWN * length:
            places.append(place)
    return [*places, last]


def _covered(spans: Iterator[tuple[float, float]]) -> float:
    total, end = 0.0, float("-inf")
    for low, high in sorted(spans):
        total += max(0.0, high - max(low, end))
        end = max(end, high)
    return total


def _striped(lattices: Sequence[_Lattice], rules: Sequence[Box], read: Read) -> list[_Lattice]:
    """Lattices from the top; filled rows of the same columns are one with what lies between, and with the rows to the next rule."""
    merged: list[_Lattice] = []
    for lattice in sorted(lattices, key=lambda lattice: -lattice.box.top):
        before = merged[-1] if merged else None
        if before and lattice.filled and before.filled and _same(before.xs, lattice.xs) and _is_row(before.xs, lattice.ys[0], before.ys[-1], read):
            merged[-1] = _Lattice(before.xs, (*before.ys, *lattice.ys), before.drawn + lattice.drawn, filled=True)
        else:
            merged.append(lattice)
    return [_to_rules(lattice, rules, read) if lattice.filled else lattice for lattice in merged]


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= NEAR for a, b in zip(one, other, strict=True))


def _is_row(xs: Sequence[float], bottom: float, top: float, read: Read) -> bool:
    """Whether a band has text, none of it across the edges of columns."""
    if not INSET < top - bottom <= MAX_ROW:
        return False
    crossed = any(read(Box(x - 1, bottom + INSET, x + 1, top - INSET)).strip() for x in xs[1:-1])
    return not crossed and bool(read(Box(xs[0], bottom + INSET, xs[-1], top - INSET)).strip())


def _to_rules(lattice: _Lattice, rules: Sequence[Box], read: Read) -> _Lattice:
    wide = [rule for rule in rules if min(rule.right, lattice.xs[-1]) - max(rule.left, lattice.xs[0]) > 0.8 * (lattice.xs[-1] - lattice.xs[0])]
    ys = list(lattice.ys)
    for rule in sorted(wide, key=lambda rule: rule.bottom):
        if rule.bottom > ys[0] + NEAR and _is_row(lattice.xs, ys[0], rule.bottom, read):
            ys.insert(0, rule.bottom)
    for rule in sorted(wide, key=lambda rule: -rule.top):
        if rule.top < ys[-1] - NEAR and _is_row(lattice.xs, rule.top, ys[-1], read):
            ys.append(rule.top)
    return _Lattice(lattice.xs, tuple(ys), lattice.drawn, filled=True)


def _read(lattice: _Lattice, read: Read) -> Table | None:
    """The table of a lattice, without rows and columns that hold nothing."""
    rows = [row for top, bottom in pairwise(lattice.ys) if any(row := list(_row(lattice, bottom, top, read)))]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    table = [list(row) for row in zip(*columns, strict=True)]
    parted = sum(sum(map(bool, row)) > 1 for row in table)
    return Table(lattice.box, table) if len(table) > 1 and 2 * parted >= len(table) else None  # a box with marked words has one text a row


def _row(lattice: _Lattice, bottom: float, top: float, read: Read) -> Iterator[str]:
    """The texts of a row's cells; a cell over several columns is followed by empty ones."""
    if top - bottom <= INSET:
        yield from [""] * (len(lattice.xs) - 1)
        return
    middle = (bottom + top) / 2
    inner = [x for x in lattice.xs[1:-1] if lattice.filled or any(box.bottom <= middle <= box.top and min(abs(x - box.left), abs(x - box.right)) <= NEAR for box in lattice.drawn)]
    ends = iter([*inner, lattice.xs[-1]])
    left, right = lattice.xs[0], next(ends)
    inset = min(INSET, (top - bottom) / 4)
    for edge in lattice.xs[1:]:
        if edge < right:
            continue
        yield CELL_LINES.sub(" ", read(Box(left + 1, bottom + inset, right - 1, top - inset)).replace("\r\n", "\n").strip())
        yield from [""] * sum(left < x < right for x in lattice.xs)
        left, right = right, next(ends, right)
