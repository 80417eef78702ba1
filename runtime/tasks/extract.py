"""The `extract` task: entities of declared types in a text, with character offsets.

The completion is one `TYPE= text` line an entity in the order of the text, or `none`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtime.tasks.fields import parse_fields, render_field
from runtime.tasks.prompt import Prompt, one_line

NO_ENTITY = "none"


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """`text[start:end]` of the one-line text is an entity of type `label`; offsets in characters."""

    start: int
    end: int
    label: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """The wire form."""
        return asdict(self)


def in_one_line(text: str, entity: Mapping[str, Any]) -> dict[str, Any]:
    """`entity`, which has `start`, `end` and `label` in `text`, with its offsets in the one-line text, which is what adapters see."""
    before, inside = text[: entity["start"]], one_line(text[entity["start"] : entity["end"]])
    start = len(one_line(before)) + (1 if before.strip() and before[-1].isspace() else 0)
    return {"start": start, "end": start + len(inside), "label": entity["label"]}


def render_prompt(labels: Sequence[str], text: str) -> Prompt:
    """The prompt that asks for entities of the types `labels`."""
    return Prompt(system=f"entities: {', '.join(labels)}", user=one_line(text))


def render_entities(entities: Sequence[Entity]) -> str:
    """The completion that stands for `entities`."""
    return "\n".join(render_field(e.label, e.text) for e in sorted(entities)) or NO_ENTITY


def parse_entities(completion: str, labels: Sequence[str], text: str) -> list[Entity]:
    """The entities of `completion`, in the order of the text.

    Each is placed at its first occurrence behind the one before it, or, out of order, at its first one that is not
    taken; one that has no place left is the same once more, and counts once.

    Raises:
        ValueError: an unknown type, or what is not in `text` at all.
    """
    if completion.strip() == NO_ENTITY:
        return []
    entities: list[Entity] = []
    position = 0
    for label, value in parse_fields(completion.strip().split("\n")):
        if label not in labels:
            raise ValueError(f"{label!r} is none of {', '.join(labels)}")
        if not value or value not in text:
            raise ValueError(f"{value!r} is not in the text")
        start = text.find(value, position)
        if start < 0:
            start = next((found.start() for found in re.finditer(re.escape(value), text) if not _taken(entities, found.start(), found.end())), -1)
        if start >= 0:
            entities.append(Entity(start, start + len(value), label, value))
            position = max(position, start + len(value))
    return sorted(entities)


def _taken(entities: Sequence[Entity], start: int, end: int) -> bool:
    return any(start < entity.end and entity.start < end for entity in entities)
