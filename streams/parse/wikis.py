"""Exports of wikis: MediaWiki's XML dump (export format 0.10 and alike) and Confluence's space export (entities.xml)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from runtime.errors import InvalidInput
from streams.parse import by_unstructured
from streams.parse.blocks import Block, BlockKind, markdown_table

ARTICLES = "0"
REDIRECT = re.compile(r"^\s*#\s*(?:redirect|weiterleitung|redirection)\b", re.IGNORECASE)
HEADING = re.compile(r"^(={1,6})\s*(.+?)\s*\1\s*$", re.MULTILINE)
TABLE = re.compile(r"^\{\|.*?^\|\}\s*$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^(?:file|image|category|datei|bild|kategorie|fichier|catégorie)\s*:", re.IGNORECASE)
CODE = re.compile(r"<(syntaxhighlight|source|pre)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
MACRO_CODE = re.compile(r"<ac:structured-macro[^>]*ac:name=\"(?:code|noformat)\"[^>]*>.*?<ac:plain-text-body>\s*<!\[CDATA\[(.*?)\]\]>\s*</ac:plain-text-body>.*?</ac:structured-macro>", re.DOTALL)
PARAMETER = re.compile(r"<ac:parameter[^>]*>.*?</ac:parameter>", re.DOTALL)
CURRENT = "current"


def mediawiki(data: bytes) -> list[Block]:
    """The articles of a dump, each under a heading of its own; talk, redirects and other namespaces are left out.

    Raises:
        InvalidInput: XML that is cut or broken.
    """
    found: list[Block] = []
    for page in _elements(data, "page"):
        text = next((e.text or "" for e in page.iter("{*}text")), "")
        if (page.findtext("{*}ns") or ARTICLES) == ARTICLES and not REDIRECT.match(text):
            found.append(Block(BlockKind.HEADING, page.findtext("{*}title") or "", 1))
            found += _wikitext(text)
    return found


def confluence(data: bytes) -> list[Block]:
    """The current pages of a space, each under a heading of its own.

    Raises:
        InvalidInput: XML that is cut or broken.
    """
    titles: dict[str, str] = {}
    bodies: dict[str, str] = {}
    for entity in _elements(data, "object"):
        properties = {p.get("name"): p for p in entity.findall("property")}
        number = entity.findtext("id") or ""
        if entity.get("class") in ("Page", "BlogPost"):
            status = properties["contentStatus"].text if "contentStatus" in properties else CURRENT
            if status == CURRENT and "originalVersion" not in properties and "title" in properties:
                titles[number] = properties["title"].text or ""
        elif entity.get("class") == "BodyContent" and "content" in properties and "body" in properties:
            owner = properties["content"].findtext("id")
            if owner:
                bodies[owner] = properties["body"].text or ""
    return [block for number, title in titles.items() for block in (Block(BlockKind.HEADING, title, 1), *_storage(bodies.get(number, "")))]


def _elements(data: bytes, name: str) -> Iterator[Any]:
    """Elements of that name, one at a time; each is freed behind its use."""
    from lxml import etree

    try:
        for _, element in etree.iterparse(io.BytesIO(data), tag=f"{{*}}{name}", resolve_entities=False, no_network=True, huge_tree=False):
            yield element
            element.clear()
    except etree.XMLSyntaxError as error:
        raise InvalidInput(f"the XML can't be read: {error}") from error


def _storage(body: str) -> list[Block]:
    """Blocks of Confluence's storage format: XHTML with macros."""
    from html import escape

    body = MACRO_CODE.sub(lambda found: f"<pre>{escape(found[1])}</pre>", body)
    page = PARAMETER.sub("", body)
    return [_deeper(block) for block in by_unstructured.html(f"<html><body>{page}</body></html>".encode())] if page.strip() else []


def _wikitext(text: str) -> Iterator[Block]:
    position = 0
    for heading in HEADING.finditer(text):
        yield from _prose(text[position : heading.start()])
        yield Block(BlockKind.HEADING, _plain(heading[2]), min(6, len(heading[1])))
        position = heading.end()
    yield from _prose(text[position:])


def _prose(text: str) -> Iterator[Block]:
    kept: list[Block] = []

    def keep(block: Block) -> str:
        kept.append(block)
        return f"\n\n\0{len(kept) - 1}\0\n\n"

    text = CODE.sub(lambda found: keep(Block(BlockKind.CODE, found[2].strip("\n"))), text)
    text = TABLE.sub(lambda found: keep(Block(BlockKind.TABLE, _wiki_table(found[0]))), text)
    for part in re.split(r"\n\s*\n|\n(?=[*#:;])|(?<=\n)(?=\0)", text):
        if place := re.fullmatch(r"\s*\0(\d+)\0\s*", part):
            yield kept[int(place[1])]
        elif plain := _plain(part.lstrip("*#:; \n")):
            yield Block(BlockKind.LIST_ITEM if part.lstrip("\n").startswith(("*", "#")) else BlockKind.TEXT, plain)


def _plain(text: str) -> str:
    """Wikitext without its markup: templates, references, files and categories are gone."""
    import mwparserfromhell

    code = mwparserfromhell.parse(text)
    for reference in code.filter_tags(matches=lambda tag: str(tag.tag).casefold() in ("ref", "gallery", "math")):
        code.replace(reference, "")
    for link in code.filter_wikilinks():
        if FILE.match(str(link.title)):
            code.replace(link, "")
    return " ".join(code.strip_code(normalize=True, collapse=True).split())


def _wiki_table(source: str) -> str:
    """A wiki table as a Markdown table."""
    rows: list[list[str]] = [[]]
    for line in source.strip().splitlines()[1:-1]:
        if line.startswith("|-"):
            rows.append([])
        elif line.startswith(("|", "!")) and not line.startswith("|+"):
            cells = re.split(r"\|\||!!", line[1:])
            rows[-1] += [_plain(cell.rpartition("|")[2] if "|" in cell and "[[" not in cell and "{{" not in cell else cell) for cell in cells]
        elif rows[-1] and line.strip():
            rows[-1][-1] = f"{rows[-1][-1]} {_plain(line)}".strip()
    return markdown_table([row for row in rows if row])


def _deeper(block: Block) -> Block:
    return Block(block.kind, block.text, min(6, block.level + 1), block.page) if block.kind is BlockKind.HEADING else block
