"""docs/contract.md says what is taken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.project import load_project
from runtime.tasks.samples import render

ROOT = Path(__file__).parents[2]
PROJECT = load_project(ROOT / "examples/pebblewire/loom.toml")
ROWS = re.findall(r"^\| (\w+)[^|]*\| `(\{.*\})` \| `(\{.*\})` \|$", (ROOT / "docs/contract.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_task_has_an_example() -> None:
    assert {task for task, _, _ in ROWS} == {"classify", "tool", "extract", "chat"}
    assert len(ROWS) == 8


@pytest.mark.parametrize(("task", "given", "wanted"), ROWS)
def test_the_examples_are_taken(task: str, given: str, wanted: str) -> None:
    spec = next(adapter.spec for adapter in PROJECT.adapters.values() if adapter.task == task)
    body: dict[str, Any] = {"input": json.loads(given), "output": json.loads(wanted)}
    prompt, completion = render(spec, body)
    assert prompt.user
    assert completion
