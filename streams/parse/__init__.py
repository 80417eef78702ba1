"""Documents into blocks. One table of parsers, one file a way of parsing."""

from __future__ import annotations

from collections.abc import Callable

from runtime.errors import InvalidInput
from streams.parse.blocks import Block, BlockKind

Parser = Callable[[bytes], list[Block]]


def _markdown(data: bytes) -> list[Block]:
    from streams.parse import by_unstructured

    return by_unstructured.markdown(data)


def _html(data: bytes) -> list[Block]:
    from streams.parse import by_unstructured

    return by_unstructured.html(data)


def _text(data: bytes) -> list[Block]:
    from streams.parse import by_unstructured

    return by_unstructured.text(data)


def _pdf(data: bytes) -> list[Block]:
    from streams.parse import pdf

    return pdf.pdf(data)


PARSERS: dict[str, Parser] = {
    "text/markdown": _markdown,
    "text/html": _html,
    "text/plain": _text,
    "application/pdf": _pdf,
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
    blocks = [block for block in parser(data) if block.text.strip()]
    if not blocks:
        raise InvalidInput(f"no text found in {len(data)} bytes of {media_type}")
    return blocks


__all__ = ["PARSERS", "Block", "BlockKind", "parse"]
