"""What a teacher can be asked for: an instruction, the form of its reply, and how that is read. Pure."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from runtime.ids import canonical_json, digest
from runtime.project import Adapter
from runtime.tasks.prompt import one_line

COUNT = 16
MAX_CHARACTERS = 400
GAP = re.compile(r"[\s,]*")
DECODER = json.JSONDecoder()
TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
Row = Mapping[str, Any]

MALFORMED = "it is no example of its task as the adapter is declared"
UNGROUNDED = "the answer is no span of the passage"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a teacher is given: what to write, for which adapter, and about what.

    `passage` is what no other chunk holds of `chunk`; `examples` is what a judge is to score.
    """

    ask: Ask
    adapter: Adapter
    passage: str
    heading: str = ""
    chunk: str = ""
    examples: tuple[Row, ...] = ()

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return f"{self.ask.instruction(self)}\n\nHeading: {self.heading}\n<passage>\n{self.passage}\n</passage>"

    @property
    def reply_schema(self) -> dict[str, Any]:
        """JSON Schema of a reply, for endpoints that decode under one."""
        least, most = self.ask.count(self)
        rows = {"type": "array", "items": self.ask.row_schema(self.adapter), "minItems": least, "maxItems": most}
        return record({self.ask.name: rows})


@dataclass(frozen=True, slots=True)
class Item:
    """An example as a teacher wrote it; `topic` is the same for paraphrases, `fault` says why it can't be kept."""

    given: Row
    wanted: Row
    topic: str
    fault: str | None = None


class Ask(ABC):
    """One thing to ask for. `edition` changes with the wording, `fields` are what each row of a reply must have."""

    name: ClassVar[str]
    edition: ClassVar[int]
    fields: ClassVar[tuple[str, ...]]
    reply_tokens: ClassVar[int] = 2048

    @abstractmethod
    def instruction(self, assignment: Assignment) -> str:
        """What stands above the passage."""

    @abstractmethod
    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        """JSON Schema of a row."""

    def count(self, assignment: Assignment) -> tuple[int, int]:
        """Least and most rows."""
        return 1, COUNT

    def depends_on(self, adapter: Adapter) -> Sequence[Any]:
        """What of `adapter` the instruction names."""
        return ()

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        """The examples that a reply's rows hold, good and bad ones."""
        return []

    def version(self, adapter: Adapter) -> str:
        """Name and edition, and the hash of what the instruction names of `adapter`: another is asked for anew."""
        named = self.depends_on(adapter)
        return f"{self.name}-{self.edition}" + (f"-{digest(canonical_json(named))[:8]}" if named else "")


def record(properties: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of an object with exactly these properties."""
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def quoted(words: str, passage: str) -> bool:
    """Whether `words` stand in `passage`."""
    return bool(one_line(words)) and one_line(words) in one_line(passage)


def read_rows(reply: str | None, fields: Sequence[str]) -> list[Row] | None:
    """The rows of a teacher's reply, those before the cut where it ends too early; None when it is not what was asked for."""
    text = reply or ""
    at, rows = text.find("[") + 1, []
    if not at:
        return None
    while (start := GAP.match(text, at).end()) < len(text) and text[start] == "{":  # type: ignore[union-attr]
        try:
            row, at = DECODER.raw_decode(text, start)
            canonical_json(row).encode()  # nothing that could not be written again, such as half a surrogate pair
        except ValueError:
            break
        if not all(name in row for name in fields):
            return None
        rows.append(row)
    return rows if rows or text[start : start + 1] == "]" else None
