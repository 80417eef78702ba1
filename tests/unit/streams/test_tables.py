"""Tables of PDFs: whatever grid is drawn, ruled or striped, comes back cell by cell; boxes that are no tables stay text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.parse import BlockKind, parse
from streams.parse.blocks import markdown_table
from streams.parse.layout import Line
from streams.parse.pdf import with_table
from streams.parse.tables import MAX_BOXES, Box, Table, tables
from tests.support.pdf import filled, pdf_drawn, words

LEFT, TOP, COLUMN, ROW = 72.0, 600.0, 90.0, 20.0
Rows = list[list[str]]
word = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9)


@st.composite
def grids(draw: st.DrawFn) -> Rows:
    """Rows whose first two cells hold something, as something holds in every column."""
    width, height = draw(st.integers(2, 5)), draw(st.integers(2, 8))
    return [[draw(word if row == 0 or column < 2 else st.one_of(word, st.just(""))) for column in range(width)] for row in range(height)]


def written(rows: Rows) -> str:
    return "\n".join(words(LEFT + COLUMN * c + 4, TOP - ROW * (r + 1) + 6, cell, 10) for r, row in enumerate(rows) for c, cell in enumerate(row) if cell)


def rules(rows: Rows) -> str:
    """Each cell's four edges, as thin boxes."""
    width, height = COLUMN * len(rows[0]), ROW * len(rows)
    return "\n".join([*(filled(LEFT, TOP - ROW * r, width, 0.5) for r in range(len(rows) + 1)), *(filled(LEFT + COLUMN * c, TOP - height, 0.5, height) for c in range(len(rows[0]) + 1))])


def stripes(rows: Rows) -> str:
    """Each second row filled cell by cell, between two rules."""
    width, height = COLUMN * len(rows[0]), ROW * len(rows)
    cells = [filled(LEFT + COLUMN * c, TOP - ROW * (r + 1), COLUMN, ROW) for r in range(1, len(rows), 2) for c in range(len(rows[0]))]
    return "\n".join([filled(LEFT, TOP, width, 1), filled(LEFT, TOP - height - 1, width, 1), *cells])


@settings(max_examples=40, deadline=None)
@given(rows=grids(), draw_grid=st.sampled_from([rules, stripes]))
def test_a_drawn_grid_comes_back(rows: Rows, draw_grid: object) -> None:
    assert callable(draw_grid)
    before, after = words(LEFT, TOP + 40, "What the parts of the hub are called."), words(LEFT, TOP - ROW * len(rows) - 40, "So much for its parts.")
    found = parse("application/pdf", pdf_drawn(["\n".join([before, draw_grid(rows), written(rows), after])]))
    assert [(b.kind, b.text) for b in found] == [
        (BlockKind.TEXT, "What the parts of the hub are called."), (BlockKind.TABLE, markdown_table(rows)), (BlockKind.TEXT, "So much for its parts."),
    ]  # fmt: skip


def test_two_striped_tables_with_words_between_are_two() -> None:
    rows = [["part", "colour"], ["door", "red"], ["lamp", "blue"]]
    second = "\n".join(line for line in (stripes(rows), written(rows)))
    lower = f"1 0 0 1 0 -160 cm\n{second}"
    found = parse("application/pdf", pdf_drawn(["\n".join([second, words(LEFT, TOP - 100, "And here are those that came later, as we said before."), lower])]))
    assert [b.kind for b in found] == [BlockKind.TABLE, BlockKind.TEXT, BlockKind.TABLE]
    assert found[0].text == found[2].text == markdown_table(rows)


def test_a_cell_over_two_columns_is_followed_by_an_empty_one() -> None:
    edges = "\n".join([
        *(filled(LEFT, TOP - ROW * r, 2 * COLUMN, 0.5) for r in range(4)), filled(LEFT, TOP - 3 * ROW, 0.5, 3 * ROW), filled(LEFT + 2 * COLUMN, TOP - 3 * ROW, 0.5, 3 * ROW),
        filled(LEFT + COLUMN, TOP - 3 * ROW, 0.5, 2 * ROW),
    ])  # fmt: skip
    text = "\n".join([words(LEFT + 60, TOP - 14, "both of them", 10), written([[], ["a", "b"], ["c", "d"]])])
    (block,) = parse("application/pdf", pdf_drawn([f"{edges}\n{text}"]))
    assert block.text == markdown_table([["both of them", ""], ["a", "b"], ["c", "d"]])


def test_a_bar_in_a_cell_is_escaped() -> None:
    (block,) = parse("application/pdf", pdf_drawn([f"{rules([['', '']] * 2)}\n{written([['a|b', 'c'], ['d', 'e']])}"]))
    assert block.text.splitlines()[0] == r"| a\|b | c |"


@pytest.mark.parametrize("drawn", [
    [Box(72, 500, 540, 600)],  # a frame around text
    [Box(72, 500, 540, 600), *(Box(77, 510 + 12 * i, 200 + 30 * i, 521 + 12 * i) for i in range(7))],  # and its words marked line by line
    [Box(72, 500 + 20 * i, 540, 500.5 + 20 * i) for i in range(5)],  # rules without columns
    [Box(10.0 * i, 10.0 * i, 10.0 * i + 9, 10.0 * i + 9) for i in range(MAX_BOXES + 1)],  # a drawing
    [],
], ids=["frame", "marked words", "rules alone", "drawing", "nothing"])  # fmt: skip
def test_what_is_no_table(drawn: Sequence[Box]) -> None:
    assert tables(drawn, lambda box: "func main() {" if box.left < 540 and box.width > 300 else "") == []


def test_lines_stay_where_the_cells_lack_letters() -> None:
    lines = [Line("one two", 10, 400, False, 80, 590, 1), Line("three four", 10, 400, False, 80, 570, 1)]
    box = Box(72, 560, 300, 600)
    assert with_table(lines, Table(box, [["one", "two"], ["three", ""]])) == lines
    (line,) = with_table(lines, Table(box, [["one", "two"], ["three", "four"]]))
    assert line.table
    assert line.text == markdown_table([["one", "two"], ["three", "four"]])
