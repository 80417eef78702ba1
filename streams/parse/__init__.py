"""Documents into blocks. One table of parsers, one file a way of parsing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

from ftfy import fix_text

from runtime.errors import InvalidInput
from streams.parse.blocks import Block, BlockKind
from streams.parse.decoding import to_utf8

Parser = Callable[[bytes], list[Block]]


def _late(module: str, name: str) -> Parser:
    """The parser `name` of a module of this package, whose libraries are imported when it is first called."""

    def parse_with(data: bytes) -> list[Block]:
        found: list[Block] = getattr(import_module(f"streams.parse.{module}"), name)(data)
        return found

    return parse_with


PARSERS: dict[str, Parser] = {
    "text/markdown": _late("by_unstructured", "markdown"),
    "text/html": _late("by_unstructured", "html"),
    "text/plain": _late("by_unstructured", "text"),
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": _late("by_unstructured", "docx"),
    "application/pdf": _late("pdf", "pdf"),
    "text/x-log": _late("logs", "logs"),
    "text/csv": _late("records", "table"),
    "application/json": _late("records", "objects"),
    "application/x-ndjson": _late("records", "lines"),
    "application/x-mediawiki+xml": _late("wikis", "mediawiki"),
    "application/x-confluence+xml": _late("wikis", "confluence"),
}


def parse(media_type: str, data: bytes) -> list[Block]:
    """The blocks of a document.

    Raises:
        InvalidInput: nothing to parse, no parser for the media type, or a document that holds no text; says what to do.
    """
    if not data:
        raise InvalidInput("the document is empty: 0 bytes")
    parser = PARSERS.get(media_type.partition(";")[0].strip().lower())
    if parser is None:
        raise InvalidInput(f"no parser for {media_type}: one of {', '.join(PARSERS)}")
    try:
        blocks = [replace(block, text=_repaired(block.text)) for block in parser(to_utf8(media_type, data)) if block.text.strip()]
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # what libraries raise at damaged input is no bug of ours, and another attempt would end alike
        raise InvalidInput(f"the parser of {media_type} failed on this document: {type(error).__name__}: {error}") from error
    if not blocks:
        raise InvalidInput(f"no text found in {len(data)} bytes of {media_type}")
    return blocks


def _repaired(text: str) -> str:
    """Text with broken Unicode put right."""
    return text if text.isascii() else fix_text(text)


__all__ = ["PARSERS", "Block", "BlockKind", "parse"]
