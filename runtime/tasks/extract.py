"""The `extract` task: entities of declared types in a text, with character offsets.

The completion is one `TYPE= text` line an entity in the order of the text, or `none`.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def render_prompt(labels: Sequence[str], text: str) -> Prompt:
    """The prompt that asks for entities of the types `labels`."""
    return Prompt(system=f"entities: {', '.join(labels)}", user=one_line(text))


def render_entities(entities: Sequence[Entity]) -> str:
    """The completion that stands for `entities`."""
    return "\n".join(render_field(e.label, e.text) for e in sorted(entities)) or NO_ENTITY


def parse_entities(completion: str, labels: Sequence[str], text: str) -> list[Entity]:
    """The entities of `completion`, each placed at its first occurrence behind the one before it.

    Raises:
        ValueError: an unknown type, or a text that is not in `text` at that point.
    """
    if completion.strip() == NO_ENTITY:
        return []
    entities, position = [], 0
    for label, value in parse_fields(completion.strip().split("\n")):
        if label not in labels:
            raise ValueError(f"{label!r} is none of {', '.join(labels)}")
        start = text.find(value, position)
        if start < 0 or not value:
            raise ValueError(f"{value!r} is not in the text behind offset {position}")
        entities.append(Entity(start, start + len(value), label, value))
        position = start + len(value)
    return entities
