"""Which answers differ between two versions."""

from __future__ import annotations

import pytest

from runtime.project import Adapter
from schemas.events import Split
from trainers.compare import differing
from trainers.evaluate import Asked, Invalid
from trainers.snapshot import Row

MOOD = Adapter(task="classify", result="mood", labels=("A", "B"))


def asked(i: int, label: str) -> Asked:
    return Asked(MOOD.spec, Row(f"e{i}", "g", Split.EVALUATION, {"input": {"text": f"message {i}"}, "output": {"label": label}}))


def test_answers_that_differ_are_named_with_how_right_each_is() -> None:
    made = differing(MOOD, [asked(i, label) for i, label in enumerate("AABB")], ["A", "A", "A", Invalid()], ["A", "B", "A", "B"])
    assert (made.metric, made.held_out) == ("macro_f1", 4)
    assert made.scores[1] == pytest.approx(0.5)
    assert [(d.example_id, d.wanted, d.ours, d.theirs, d.our_score, d.their_score) for d in made.differences] == [("e1", "A", "A", "B", 1.0, 0.0), ("e3", "B", None, "B", 0.0, 1.0)]
    assert made.differences[0].input == {"text": "message 1"}
