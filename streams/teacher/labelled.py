"""Texts with the classifier's labels, and texts with the entities that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.project import Adapter
from runtime.tasks.prompt import one_line
from streams.teacher.asks import COUNT, MALFORMED, TEXT, Ask, Assignment, Item, Row, record

NOT_NAMED = "an entity is not in its text"


class Labels(Ask):
    """A text and its label."""

    name = "labels"
    edition = 1
    fields = ("text", "label")

    def depends_on(self, adapter: Adapter) -> Sequence[Any]:
        return adapter.labels

    def instruction(self, assignment: Assignment) -> str:
        return f"""Write up to {COUNT} short messages that customers could send about what this passage is about, as varied in wording, length and tone as real ones.
Label each with one of: {", ".join(assignment.adapter.labels)}. Use each label about equally often; none may be named in a message.
Reply with JSON and nothing else: {{"labels": [{{"text": "...", "label": "..."}}]}}"""

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        return record({"text": TEXT, "label": {"enum": list(adapter.labels)}})

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        return [Item({"text": str(row["text"])}, {"label": str(row["label"])}, str(row["text"])) for row in rows]


class Entities(Ask):
    """A text and what it names, by offsets in the text on one line."""

    name = "entities"
    edition = 1
    fields = ("text", "entities")

    def depends_on(self, adapter: Adapter) -> Sequence[Any]:
        return adapter.labels

    def instruction(self, assignment: Assignment) -> str:
        return f"""Write up to {COUNT} short messages that customers could send about what this passage is about, as varied in wording and length as real ones.
Most of them name one or more things of these kinds: {", ".join(assignment.adapter.labels)}. Some name none.
List all of them in the order in which they stand, word for word as in the message.
Reply with JSON and nothing else: {{"entities": [{{"text": "...", "entities": [{{"text": "...", "label": "..."}}]}}]}}"""

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        entity = record({"text": TEXT, "label": {"enum": list(adapter.labels)}})
        return record({"text": TEXT, "entities": {"type": "array", "items": entity, "maxItems": COUNT}})

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        return [_marked(one_line(str(row["text"])), row["entities"]) for row in rows]


def _marked(text: str, named: Iterable[Mapping[str, Any]]) -> Item:
    """`text` with the offsets of what it names: each from where the one before it ends."""
    found: list[dict[str, Any]] = []
    at = 0
    try:
        for entity in named:
            words = one_line(str(entity["text"]))
            place = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)").search(text, at) if words else None
            if place is None:
                return Item({"text": text}, {"entities": []}, text, NOT_NAMED)
            at = place.end()
            found.append({"start": place.start(), "end": at, "label": str(entity["label"])})
    except (KeyError, TypeError):
        return Item({"text": text}, {"entities": []}, text, MALFORMED)
    return Item({"text": text}, {"entities": found}, text)
