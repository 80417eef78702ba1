"""The gate judges generated answers on the same examples."""

from __future__ import annotations

import pytest

from runtime.project import Gate
from runtime.tasks.samples import TaskSpec
from trainers.evaluate import Evaluation, Invalid, entity_f1, macro_f1, paired_lower_bound, score, token_f1
from trainers.gate import judge


def evaluation(right: int, of: int = 100) -> Evaluation:
    each = tuple(float(i < right) for i in range(of))
    return Evaluation("call_accuracy", right / max(1, of), each, 1.0)


@pytest.mark.parametrize(
    ("candidate", "base", "live", "passed", "words"),
    [
        (evaluation(90), evaluation(20), None, True, "on 100 held-out"),
        (evaluation(40), evaluation(20), None, False, "below the floor"),
        (evaluation(60), evaluation(60), None, False, "not above the base"),
        (evaluation(80), evaluation(20), evaluation(95), False, "worse than the live"),
        (evaluation(95), evaluation(20), evaluation(94), True, "live 0.940"),
        (evaluation(0, 0), evaluation(0, 0), None, False, "no held-out"),
    ],
)
def test_verdicts(candidate: Evaluation, base: Evaluation, live: Evaluation | None, passed: bool, words: str) -> None:
    verdict = judge(Gate(min_score=0.5), candidate, base, live)
    assert (verdict.passed, words in verdict.reason) == (passed, True), verdict.reason


def test_the_bound_needs_two_examples() -> None:
    assert paired_lower_bound([1.0], [0.0]) == float("-inf")
    assert paired_lower_bound([1.0] * 50, [0.0] * 50) == 1.0


def test_an_invalid_answer_counts_as_wrong() -> None:
    spec = TaskSpec("classify", ("A", "B"))
    scored = score(spec, ["A", Invalid(), "B"], ["A", "A", "B"])
    assert scored.each == (1.0, 0.0, 1.0)
    assert scored.valid_share == pytest.approx(2 / 3)


def test_metrics_by_hand() -> None:
    assert macro_f1(["A", "A", "B", "B"], ["A", "B", "B", "B"]) == pytest.approx((2 / 3 + 0.8) / 2)
    span = {"start": 0, "end": 3, "label": "X"}
    assert entity_f1([[span], []], [[span], [span]]) == pytest.approx(2 / 3)
    assert token_f1("the ring is red", "the ring glows red") == pytest.approx(0.75)
    assert token_f1("no", "yes") == 0.0
