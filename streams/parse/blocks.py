"""What a parser makes of a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BlockKind(StrEnum):
    """What a block is to the chunker: headings make the path, tables and code stay whole."""

    HEADING = "heading"
    TEXT = "text"
    LIST_ITEM = "list_item"
    TABLE = "table"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document in reading order. `level` is a heading's, from 1; `page` counts from 1, None without pages; `page_last` where it ends on a later one."""

    kind: BlockKind
    text: str
    level: int = 0
    page: int | None = None
    page_last: int | None = None

    def markdown(self) -> str:
        """The block as Markdown."""
        match self.kind:
            case BlockKind.HEADING:
                return f"{'#' * max(1, self.level)} {self.text}"
            case BlockKind.LIST_ITEM:
                return f"- {self.text}"
            case BlockKind.CODE:
                return f"```\n{self.text}\n```"
            case _:
                return self.text


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the head, as a Markdown table."""
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = ["| " + " | ".join([*(cell.replace("|", "\\|") for cell in row), *[""] * (width - len(row))]) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])
