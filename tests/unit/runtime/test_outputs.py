"""An answer in the form of a training record's output is the inverse of what is expected of one."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.tasks.samples import TaskSpec, expected, output_of


@pytest.mark.parametrize(
    ("task", "answer"),
    [("classify", "POSITIVE"), ("tool", {"tool": "restart_hub", "hub_name": "garden"}), ("tool", None), ("extract", [{"start": 0, "end": 3, "label": "X"}]), ("extract", []), ("chat", "It is red.")],
)
def test_output_and_answer(task: str, answer: Any) -> None:
    spec = TaskSpec(task)
    assert expected(spec, output_of(spec, answer)) == answer
