"""Text PDFs by pypdfium2: lines with their fonts and places, which layout.py makes blocks of."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pypdfium2
import pypdfium2.raw as pdfium

from runtime.errors import InvalidInput
from streams.parse.blocks import Block, markdown_table
from streams.parse.layout import Entry, Line, blocks
from streams.parse.tables import Box, Table, tables

PDFIUM = threading.Lock()
"""pdfium is not thread-safe: two documents at once end the process."""
FIXED_PITCH = 1
"""Flag of a font whose letters are all as wide. Source: ISO 32000-1, table 123."""
MISSED = 0.02
"""The share of a table's letters that its cells may lack."""
PAPER = 0.9
"""A box over this share of a page's width and height is its ground."""
MONOSPACED = (b"mono", b"courier", b"consol", b"menlo")


def pdf(data: bytes) -> list[Block]:
    """The blocks of all pages.

    Raises:
        InvalidInput: no PDF, a cut one, an encrypted one, or one without a text layer.
    """
    if not data.startswith(b"%PDF-"):
        raise InvalidInput("not a PDF: it lacks the %PDF- signature" + (" (it is a zip archive)" if data.startswith(b"PK") else ""))
    with PDFIUM:
        return _blocks(data)


def _blocks(data: bytes) -> list[Block]:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        hint = "it is encrypted: publish it without a password" if "assword" in str(error) else "it is damaged or cut short"
        raise InvalidInput(f"the PDF can't be opened, {hint}") from error
    try:
        lines = [line for number in range(len(document)) for line in _page_lines(document, number)]
        found = blocks(lines, list(_outline(document)))
        if not found:
            raise InvalidInput(f"no text layer in {len(document)} pages of PDF: it is scanned, run OCR before publishing it")
        return found
    finally:
        document.close()


def _page_lines(document: pypdfium2.PdfDocument, number: int) -> list[Line]:
    """The lines of a page in the order of the file, which in text PDFs is that of reading, also in columns; tables among them."""
    try:
        page = document[number]
        text_page = page.get_textpage()
    except pypdfium2.PdfiumError as error:
        raise InvalidInput(f"page {number + 1} of the PDF can't be read: it is damaged") from error
    position = 0
    lines = []
    for text in text_page.get_text_range().split("\r\n"):
        blank = len(text) - len(text.lstrip())
        if text.strip():
            lines.append(_line(text_page.raw, position + blank, text, number + 1))
        position += len(text) + 2
    if boxes := list(_drawn(page)):
        for table in tables(boxes, lambda box: str(text_page.get_text_bounded(box.left, box.bottom, box.right, box.top))):
            lines = with_table(lines, table)
    text_page.close()
    page.close()
    return lines


def _drawn(page: pypdfium2.PdfPage) -> Iterator[Box]:
    """The boxes around what is drawn on a page, pictures, letters and the paper's own colour apart."""
    width, height = page.get_size()
    for i in range(pdfium.FPDFPage_CountObjects(page)):
        drawn = pdfium.FPDFPage_GetObject(page, i)
        if pdfium.FPDFPageObj_GetType(drawn) == pdfium.FPDF_PAGEOBJ_PATH:
            left, bottom, right, top = (ctypes.c_float() for _ in range(4))
            pdfium.FPDFPageObj_GetBounds(drawn, left, bottom, right, top)
            box = Box(left.value, bottom.value, right.value, top.value)
            if box.width < PAPER * width or box.height < PAPER * height:
                yield box


def with_table(lines: Sequence[Line], table: Table) -> list[Line]:
    """`lines` with a table in place of its own; as they are where its cells say less or more than the lines in its place."""
    inside = [line for line in lines if not line.table and table.box.holds(line.left, line.bottom)]
    said, held = (sum(c.isalnum() for text in texts for c in text) for texts in ((line.text for line in inside), (cell for row in table.rows for cell in row)))
    if not said or abs(held - said) > MISSED * said:
        return list(lines)
    own = {id(line) for line in inside}
    first = replace(inside[0], text=markdown_table(table.rows), fixed=False, weight=0, left=table.box.left, bottom=table.box.bottom, table=True)
    return [first if line is inside[0] else line for line in lines if line is inside[0] or id(line) not in own]


def _line(page: pdfium.FPDF_TEXTPAGE, position: int, text: str, number: int) -> Line:
    index = pdfium.FPDFText_GetCharIndexFromTextIndex(page, position)
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    pdfium.FPDFText_GetCharBox(page, index, left, right, bottom, top)
    x, y = ctypes.c_double(), ctypes.c_double()
    pdfium.FPDFText_GetCharOrigin(page, index, x, y)
    name, flags = ctypes.create_string_buffer(64), ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(page, index, name, 64, flags)
    fixed = bool(flags.value & FIXED_PITCH) or any(part in name.value.lower() for part in MONOSPACED)
    weight = pdfium.FPDFText_GetFontWeight(page, index)
    bold = b"bold" in name.value.lower()
    return Line(text, pdfium.FPDFText_GetFontSize(page, index), max(weight, 700) if bold else weight, fixed, left.value, y.value, number)


def _outline(document: pypdfium2.PdfDocument) -> Iterator[Entry]:
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        page = target.get_index() if target else None
        if page is not None and bookmark.get_title():
            yield Entry(bookmark.get_title(), bookmark.level + 1, page + 1)
