"""Chunks follow the structure and lose no word."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.chunking import chunk
from streams.parse.blocks import Block, BlockKind

WORDS = st.lists(st.text(alphabet="abcdefg.", min_size=1, max_size=8), min_size=1, max_size=30).map(" ".join)
BLOCKS = st.lists(
    st.one_of(
        st.builds(Block, st.just(BlockKind.TEXT), WORDS, page=st.integers(1, 9)),
        st.builds(Block, st.just(BlockKind.HEADING), WORDS, st.integers(1, 3)),
    ),
    max_size=12,
)


def count(text: str) -> int:
    return len(text.split())


@given(BLOCKS, st.integers(1, 20))
def test_joined_chunks_are_the_text(blocks: list[Block], budget: int) -> None:
    chunks = chunk(blocks, budget, count)
    words = [word for b in blocks if b.kind is BlockKind.TEXT for word in b.text.split()]
    assert [word for c in chunks for word in c.text[c.overlap :].split()] == words


@given(BLOCKS, st.integers(1, 20))
def test_no_chunk_exceeds_the_budget(blocks: list[Block], budget: int) -> None:
    assert all(c.token_count <= budget for c in chunk(blocks, budget, count))


def test_the_heading_path_follows_levels() -> None:
    blocks = [Block(BlockKind.HEADING, "A", 1), Block(BlockKind.TEXT, "one"), Block(BlockKind.HEADING, "B", 2), Block(BlockKind.TEXT, "two"), Block(BlockKind.HEADING, "C", 1), Block(BlockKind.TEXT, "three")]
    assert [c.heading_path for c in chunk(blocks, 50, count)] == [("A",), ("A", "B"), ("C",)]


def test_tables_and_code_stay_whole() -> None:
    table = "| a | b |\n" * 20
    assert [c.text for c in chunk([Block(BlockKind.TABLE, table), Block(BlockKind.TEXT, "after")], 5, count)] == [table, "after"]


def test_pages_span_their_blocks() -> None:
    (one,) = chunk([Block(BlockKind.TEXT, "a", page=3), Block(BlockKind.TEXT, "b", page=4)], 50, count)
    assert (one.page_first, one.page_last) == (3, 4)


def test_where_a_section_is_cut_the_last_sentence_is_said_again() -> None:
    first, second = chunk([Block(BlockKind.TEXT, "One two three. Four five."), Block(BlockKind.TEXT, "Six seven eight nine.")], 6, count)
    assert (first.text, first.overlap) == ("One two three. Four five.", 0)
    assert (second.text, second.text[: second.overlap]) == ("Four five.\n\nSix seven eight nine.", "Four five.\n\n")


def test_sections_and_tables_are_not_said_again() -> None:
    blocks = [Block(BlockKind.TEXT, "One two. Three four."), Block(BlockKind.HEADING, "B", 1), Block(BlockKind.TABLE, "a b. c d e f"), Block(BlockKind.TEXT, "Six seven.")]
    assert [c.overlap for c in chunk(blocks, 6, count)] == [0, 0, 0]
