"""Labelled texts from files: JSON lines to `Label`s, each checked as the streams will check it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import InvalidInput, SettingsError
from runtime.ids import canonical_json, digest
from runtime.tasks import samples
from runtime.tasks.extract import in_one_line
from schemas.events import Label

ANSWERS = {"classify": "label", "tool": "calls", "extract": "entities", "chat": "answer"}
"""What a row of each task has beside its `text`."""


def labels_of(path: Path, adapter: str, spec: samples.TaskSpec, licence: str) -> Iterator[Label | InvalidInput]:
    """The labels in the lines of `path`, or what is wrong with a line.

    Raises:
        SettingsError: the file can't be read.
    """
    for number, line in numbered_lines(path):
        try:
            yield label_of(row_of(line), adapter, spec, licence)
        except ValueError as error:
            yield InvalidInput(f"{path}:{number}: {error}")


def label_of(row: Mapping[str, Any], adapter: str, spec: samples.TaskSpec, licence: str) -> Label:
    """The label that a row makes. Its id is a function of the row's `id`, else of what is asked, so that the same file twice counts once. Pure.

    Raises:
        ValueError: the row is not of the task's shape, or its answer is not among what is declared.
    """
    given = {**samples.task_input(spec.task, row["text"], row.get("context", {})), **{name: row[name] for name in ("passage", "history", "tools") if name in row}}
    wanted = {ANSWERS[spec.task]: _answer(spec.task, row)} | ({"rejected": row["rejected"]} if "rejected" in row else {})
    samples.render(spec, {"input": given, "output": wanted})  # raises what the streams would refuse
    named = row.get("id")
    example_id = digest("label", adapter, str(named) if named is not None else canonical_json(given))
    return Label(example_id=example_id, adapter=adapter, input=canonical_json(given), output=canonical_json(wanted), group_id=row.get("group"), licence=row.get("licence", licence), withdrawn=bool(row.get("withdrawn", False)))


def _answer(task: str, row: Mapping[str, Any]) -> Any:
    name = ANSWERS[task]
    if name not in row:
        raise ValueError(f'a row of this adapter has "text" and "{name}"')
    return [in_one_line(row["text"], entity) for entity in row[name]] if task == "extract" else row[name]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of `path` that are not blank, with their numbers from 1. Raises SettingsError where it can't be read."""
    try:
        with path.open(encoding="utf-8") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error


def row_of(line: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises ValueError where it is none, or has no `text`."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    match row:
        case {"text": str()}:
            return dict(row)
    raise ValueError('every line is an object with "text"')
