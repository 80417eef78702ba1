"""The `classify` task: one label of a declared list for a text."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.tasks.prompt import Prompt, one_line

LISTED = 24
"""So many labels stand in a prompt. Of more only their count does: an adapter knows them by heart, and their names would take many times the text's tokens."""


def render_prompt(labels: Sequence[str], text: str) -> Prompt:
    """The prompt that asks for one of `labels`."""
    return Prompt(system=f"labels: {', '.join(labels) if len(labels) <= LISTED else len(labels)}", user=one_line(text))


def parse_label(completion: str, labels: Sequence[str]) -> str:
    """The label in `completion`.

    Raises:
        ValueError: it is none of `labels`.
    """
    label = completion.strip()
    if label not in labels:
        raise ValueError(f"{label!r} is none of {', '.join(labels)}")
    return label
