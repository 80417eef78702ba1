"""Lines with their fonts and places into blocks."""

from __future__ import annotations

import pytest

from streams.parse import Block
from streams.parse.layout import Entry, Line, blocks, without_furniture


def page(number: int, *texts: str, size: float = 10, weight: int = 400, fixed: bool = False, top: float = 700, gap: float = 12) -> list[Line]:
    return [Line(text, size, weight, fixed, 72, top - gap * i, number) for i, text in enumerate(texts)]


def furnished(number: int) -> list[Line]:
    header, footer = page(number, "Acme manual", top=780), page(number, f"Page {number} of 9", top=30)
    return [*header, *page(number, f"This is what page {'abcdefghi'[number]} says.", f"And {'abcdefghi'[number]} more."), *footer]


def kinds(found: list[Block]) -> list[tuple[str, int, str]]:
    return [(b.kind.value, b.level, b.text) for b in found]


def test_what_repeats_at_the_edges_goes() -> None:
    kept = without_furniture([line for number in range(1, 6) for line in furnished(number)])
    assert [line.text for line in kept] == [text for n in "bcdef" for text in (f"This is what page {n} says.", f"And {n} more.")]


def test_pages_of_such_lines_alone_are_kept() -> None:
    tickets = [line for number in range(1, 6) for line in page(number, f"ticket {number}")]
    assert without_furniture(tickets) == tickets


def test_sizes_make_levels_and_two_big_lines_are_one_heading() -> None:
    found = blocks([
        *page(1, "A very long", "title", size=20, gap=22), *page(1, "It begins here.", "And goes on.", top=640), *page(1, "Part", size=14, top=600), *page(1, "More.", top=580),
    ])  # fmt: skip
    assert kinds(found) == [("heading", 1, "A very long title"), ("text", 0, "It begins here. And goes on."), ("heading", 2, "Part"), ("text", 0, "More.")]


def test_an_outline_says_what_is_a_heading_and_the_contents_page_is_not() -> None:
    lines = [*page(1, "Limits", "Some text about it."), *page(1, "Limits", size=14, top=600), *page(1, "Sixty devices.", "Big words", top=580)]
    found = blocks(lines, [Entry("Limits", 2, 1)])
    assert [b for b in kinds(found) if b[0] == "heading"] == [("heading", 2, "Limits")]
    assert kinds(found)[0] == ("text", 0, "Limits Some text about it.")


def test_gaps_bullets_and_fonts_part_blocks() -> None:
    found = blocks([
        *page(1, "One paragraph", "of two lines."), *page(1, "Another one", "that is longer.", top=660), *page(1, "• first", "goes on", "• second", top=636),
        *page(1, "if ready:", "    go()", fixed=True, top=580),
    ])  # fmt: skip
    assert kinds(found) == [
        ("text", 0, "One paragraph of two lines."), ("text", 0, "Another one that is longer."), ("list_item", 0, "first goes on"), ("list_item", 0, "second"), ("code", 0, "if ready:\ngo()"),
    ]  # fmt: skip


def test_code_keeps_its_indentation_by_its_place() -> None:
    (code,) = blocks([Line("def f():", 10, 400, True, 72, 700, 1), Line("return 1", 10, 400, True, 96, 688, 1)])
    assert code.text == "def f():\n    return 1"


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (("a well-", "known thing"), "a wellknown thing"), (("a well-", "known and well-known thing"), "a well-known and well-known thing"),
        (("it is sup\ufffeported",), "it is supported"), (("the Anglo-", "Saxon"), "the Anglo-Saxon"),
    ],
)  # fmt: skip
def test_broken_words_are_joined_as_the_document_spells_them(texts: tuple[str, ...], whole: str) -> None:
    assert [b.text for b in blocks(page(1, *texts))] == [whole]


def test_a_second_column_goes_on_with_the_sentence_of_the_first() -> None:
    found = blocks([*page(1, "The first column ends", "in the middle of", top=124), *page(1, "a sentence.", "Then more."), *page(1, "Alone.", top=640)])
    assert kinds(found)[0] == ("text", 0, "The first column ends in the middle of a sentence. Then more.")


def test_a_sentence_goes_on_overleaf() -> None:
    (whole, next_one) = blocks([*page(1, "The outlet valve of the second boiler in the cellar", "opens at three"), *page(2, "bar, and closes at one."), *page(2, "Then more.", top=600)])
    assert (whole.text, whole.page, whole.page_last, next_one.page) == ("The outlet valve of the second boiler in the cellar opens at three bar, and closes at one.", 1, 2, 2)


def test_what_a_figure_says_in_big_letters_is_no_heading() -> None:
    found = blocks([*page(1, "Sorry, I can only answer that. Ask again", size=20), *page(1, "Figure 1 shows an exchange of words.", "It is long.", top=600)])
    assert [b[0] for b in kinds(found)] == ["text", "text"]


def test_leaders_of_a_contents_page_are_left_out() -> None:
    assert [b.text for b in blocks(page(1, "Introduction . . . . . . . . 7", "Real text."))] == ["Real text."]


def test_no_lines_are_no_blocks() -> None:
    assert blocks([]) == []
