"""Documents into blocks, and bad documents into clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import InvalidInput
from streams.parse import BlockKind, parse
from tests.support.pdf import pdf_of

ROOT = Path(__file__).parents[3]


def test_markdown_keeps_headings_and_its_front_title() -> None:
    blocks = parse("text/markdown", b'---\ntitle: "The hub"\n---\n\nIt works.\n\n## Limits\n\n- sixty devices\n')
    assert [(b.kind, b.text) for b in blocks] == [(BlockKind.HEADING, "The hub"), (BlockKind.TEXT, "It works."), (BlockKind.HEADING, "Limits"), (BlockKind.LIST_ITEM, "sixty devices")]


def test_a_table_becomes_markdown() -> None:
    (table,) = [b for b in parse("text/markdown", b"# P\n\n| Plan | Price |\n| --- | --- |\n| Plus | 4 |\n") if b.kind is BlockKind.TABLE]
    assert table.text == "| Plan | Price |\n| --- | --- |\n| Plus | 4 |"


def test_html_body_in_a_template_script_is_found() -> None:
    page = b'<html><body><script id="t" type="text/x-handlebars-template"><h1>Design</h1><p>Kafka is a log of records.</p></script></body></html>'
    assert "Kafka is a log of records." in [b.text for b in parse("text/html", page)]


def test_navigation_is_left_out_and_text_on_menus_is_not() -> None:
    page = b"""<html><body><nav><a href="a">Products</a></nav><div role="navigation"><a href="b">Skip</a></div><div hidden>secret</div><main><h1>Hub</h1><p>It <b>pairs</b>.</p>
      <ul class="nav nav-tabs"><li><a href="c">One page</a></li><li><a href="d">Two page</a></li></ul><div class="menu">The menu of the day: <a href="e">fish</a> or <a href="f">rice</a>.</div>
      <ul><li><a href="g">Locks</a></li><li><a href="h">Lamps</a></li></ul></main>after it<footer>2020, all rights reserved</footer></body></html>"""
    assert [b.text for b in parse("text/html", page)] == ["Hub", "It pairs.", "The menu of the day: fish or rice.", "Locks", "Lamps"]


def test_a_page_of_links_alone_says_that_it_holds_no_text() -> None:
    with pytest.raises(InvalidInput, match="no text found"):
        parse("text/html", b"<nav><a href=1>Only</a></nav>")


@pytest.mark.parametrize(
    ("media_type", "data", "fault"),
    [
        ("text/markdown", b"", "empty"),
        ("application/zip", b"PK\3\4", "no parser"),
        ("application/pdf", b"PK\3\4 zip named pdf", "zip archive"),
        ("application/pdf", b"%PDF-1.7\n1 0 obj\n<< /Type", "damaged or cut"),
        ("text/plain", b"\0\1\2\0" * 50, "binary data"),
        ("text/html", b"<html><body></body></html>", "no text found"),
    ],
)
def test_what_can_not_be_parsed_says_why(media_type: str, data: bytes, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        parse(media_type, data)


def test_a_pdf_gives_its_pages_and_one_without_text_says_so() -> None:
    assert [(b.text, b.page) for b in parse("application/pdf", pdf_of(["The hub", "pairs with lamps"]))] == [("The hub", 1), ("pairs with lamps", 2)]
    with pytest.raises(InvalidInput, match="no text layer in 2 pages"):
        parse("application/pdf", pdf_of(["", ""]))


PARALLEL = """
from concurrent.futures import ThreadPoolExecutor
from streams.parse import parse
from tests.support.pdf import pdf_of

books = [pdf_of([f"page {page} of book {book}" for page in range(60)]) for book in range(16)]
with ThreadPoolExecutor(8) as pool:
    for book, blocks in enumerate(pool.map(lambda data: parse("application/pdf", data), books * 8)):
        assert [b.text for b in blocks] == [f"page {page} of book {book % 16}" for page in range(60)]
"""


def test_pdfs_are_parsed_in_many_threads_at_once() -> None:
    """In a process of its own: pdfium kills it where two threads meet."""
    done = subprocess.run([sys.executable, "-c", PARALLEL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
