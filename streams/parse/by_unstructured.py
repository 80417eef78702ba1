"""Markdown, HTML, Word documents and plain text by unstructured, the parser of record.

Its tokenizer would fetch a spaCy model at the first call; a blank English pipeline that splits sentences takes its
place, so that nothing leaves the machine. Labels then rest on structure (headings, lists, tables), not on grammar.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from functools import cache
from typing import Any

from runtime.errors import InvalidInput
from streams.imports import without_torch
from streams.parse.blocks import Block, BlockKind, markdown_table
from streams.parse.decoding import decode
from streams.parse.dialects import plain_markdown
from streams.parse.landmarks import without_landmarks

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("SCARF_NO_ANALYTICS", "true")
os.environ.setdefault("UNSTRUCTURED_DISABLE_NOTICE", "1")

TEMPLATE = re.compile(r"<script[^>]*type=\"text/x-handlebars-template\"[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
KINDS = {"Title": BlockKind.HEADING, "ListItem": BlockKind.LIST_ITEM, "Table": BlockKind.TABLE, "CodeSnippet": BlockKind.CODE}
OLE = b"\xd0\xcf\x11\xe0"
LEFT_OUT = {"Header", "Footer", "PageBreak", "PageNumber", "Image"}


@cache
def offline() -> None:
    """Puts the blank pipeline where unstructured looks for its model."""
    with without_torch():
        import spacy
        from unstructured.nlp import tokenize

        pipeline = spacy.blank("en")  # imports what other packages offer to pipelines
        pipeline.add_pipe("sentencizer")
    tokenize._get_nlp = lambda: pipeline


def markdown(data: bytes) -> list[Block]:
    """Blocks of a Markdown document; a title in its front matter becomes the first heading."""
    offline()
    from unstructured.partition.md import partition_md

    title, body = plain_markdown(decode(data))
    blocks = _blocks(partition_md(text=body)) if body.strip() else []
    return [Block(BlockKind.HEADING, title, 1), *blocks] if title else blocks


def html(data: bytes) -> list[Block]:
    """Blocks of an HTML page without its navigation; a body that sits in a template script is taken out of it."""
    offline()
    from unstructured.partition.html import partition_html

    source = decode(data, declares=True)
    templates = TEMPLATE.findall(source)
    return _blocks(partition_html(text=without_landmarks("\n".join(templates) if templates else source)))


def docx(data: bytes) -> list[Block]:
    """Blocks of a Word document. Raises InvalidInput for a file that is none."""
    offline()
    from unstructured.partition.docx import partition_docx

    try:
        return _blocks(partition_docx(file=io.BytesIO(data)))
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        hint = "it is encrypted or an old .doc" if data.startswith(OLE) else "it is damaged or cut short"
        raise InvalidInput(f"the Word document can't be opened, {hint}: {error}") from error


def text(data: bytes) -> list[Block]:
    """Paragraphs of plain text."""
    offline()
    from unstructured.partition.text import partition_text

    return [Block(BlockKind.LIST_ITEM if e.category == "ListItem" else BlockKind.TEXT, e.text) for e in partition_text(text=decode(data))]


def _blocks(elements: list[Any]) -> list[Block]:
    kept = [e for e in elements if e.category not in LEFT_OUT and e.text.strip()]
    return [Block(KINDS.get(e.category, BlockKind.TEXT), _text(e), (e.metadata.category_depth or 0) + 1 if e.category == "Title" else 0, e.metadata.page_number) for e in kept]


def _text(element: Any) -> str:
    if element.category == "Table" and element.metadata.text_as_html:
        return _html_table(element.metadata.text_as_html)
    return str(element.text)


def _html_table(source: str) -> str:
    """An HTML table as a Markdown table."""
    from bs4 import BeautifulSoup

    rows = [[" ".join(cell.get_text(" ").split()) for cell in row.find_all(["td", "th"])] for row in BeautifulSoup(source, "html.parser").find_all("tr")]
    return markdown_table([row for row in rows if row])
