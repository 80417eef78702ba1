"""The gate judges generated answers on the same examples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from runtime.project import Gate
from runtime.tasks.samples import TaskSpec
from trainers.bounds import paired_lower_bound
from trainers.evaluate import Evaluation, Invalid, Scores, entity_f1, macro_f1, score, token_f1
from trainers.gate import Rivals, judge


def evaluation(right: int, of: int = 250, valid: float = 1.0) -> Evaluation:
    each = tuple(float(i < right) for i in range(of))
    return Evaluation("call_accuracy", right / max(1, of), each, valid)


def scores(right: int, of: int = 250, new: Evaluation | None = None, anchors: Evaluation | None = None, tokens: float = 10.0, valid: float = 1.0) -> Scores:
    return Scores(evaluation(right, of, valid), new, anchors, tokens)


BASE = evaluation(50)


@pytest.mark.parametrize(
    ("candidate", "rivals", "passed", "words"),
    [
        (scores(225), Rivals(BASE), True, "0.900 on 250 held-out examples, base 0.200"),
        (scores(100), Rivals(BASE), False, "below the floor"),
        (scores(150), Rivals(evaluation(150)), False, "not above the base"),
        (scores(200), Rivals(BASE, scores(237)), False, "worse than the live"),
        (scores(237), Rivals(BASE, scores(235)), True, "live 0.940"),
        (scores(237), Rivals(BASE, scores(237)), True, "live 0.948"),
        (scores(225, valid=0.8), Rivals(BASE), False, "only 0.800 of the answers are valid"),
        (scores(225, tokens=16.0), Rivals(BASE, scores(225)), False, "1.60 times the live one's tokens"),
        (scores(225, new=evaluation(20, 25)), Rivals(BASE, scores(225, new=evaluation(21, 25))), False, "on the 25 that the live one has not seen"),
        (scores(225, new=evaluation(20, 25)), Rivals(BASE, scores(225, new=evaluation(20, 25))), True, ""),
        (scores(225, new=evaluation(1, 19)), Rivals(BASE, scores(225, new=evaluation(9, 19))), True, ""),
        (scores(225, anchors=evaluation(87, 100)), Rivals(BASE, scores(225), evaluation(90, 100)), False, "on the 100 anchors it has 0.870, the best version 0.900"),
        (scores(225, anchors=evaluation(88, 100)), Rivals(BASE, scores(225), evaluation(90, 100)), True, ""),
        (scores(0, 0), Rivals(evaluation(0, 0)), False, "no held-out"),
    ],
)
def test_verdicts(candidate: Scores, rivals: Rivals, passed: bool, words: str) -> None:
    verdict = judge(Gate(min_score=0.5), candidate, rivals, 1000)
    assert (verdict.passed, words in verdict.reason) == (passed, True), verdict.reason


def test_it_may_not_be_too_big() -> None:
    verdict = judge(Gate(max_megabytes=2), scores(225), Rivals(BASE), 3_000_000)
    assert (verdict.passed, "3.0 MB, 2 at most" in verdict.reason) == (False, True)


@pytest.mark.parametrize(("policy", "passed"), [("publish", True), ("reject", False)])
def test_of_few_examples_little_can_be_told_and_policy_decides(policy: str, passed: bool) -> None:
    verdict = judge(Gate.model_validate({"underpowered": policy}), scores(190, 199), Rivals(evaluation(20, 199)), 1000)
    assert (verdict.passed, verdict.reason.startswith("underpowered: "), verdict.numbers["underpowered"]) == (passed, True, 1.0)


def test_on_a_new_base_the_floor_is_enough() -> None:
    rivals = Rivals(evaluation(240), scores(245, anchors=evaluation(99, 100)), evaluation(99, 100))
    candidate = scores(150, anchors=evaluation(10, 100))
    assert not judge(Gate(), candidate, rivals, 1000).passed
    assert judge(Gate(), candidate, rivals, 1000, floor_only=True).passed
    assert not judge(Gate(min_score=0.7), candidate, rivals, 1000, floor_only=True).passed


def test_a_verdict_names_its_numbers() -> None:
    numbers = judge(Gate(), scores(225, new=evaluation(20, 25)), Rivals(BASE, scores(225, new=evaluation(10, 25))), 1000).numbers
    assert numbers["gain_on_new"] == pytest.approx(0.4)
    assert numbers["bound_over_live"] == 0.0
    assert numbers["bound_over_base"] > 0.6
    assert numbers["slowdown"] == 1.0


def test_the_bound_needs_two_examples() -> None:
    assert paired_lower_bound(evaluation(1, 1), evaluation(0, 1)) == float("-inf")
    assert paired_lower_bound(evaluation(50, 50), evaluation(0, 50)) == 1.0
    labels = TaskSpec("classify", ("A",))
    assert paired_lower_bound(score(labels, ["A"], ["A"]), score(labels, ["B"], ["A"])) == float("-inf")


def test_of_many_texts_without_entities_the_bound_goes_by_the_entities() -> None:
    """Whoever finds none in any is right on most texts, and useless."""
    spec, span = TaskSpec("extract", ("X",)), {"start": 0, "end": 3, "label": "X"}
    wanted = [[span] if i < 60 else [] for i in range(250)]
    finds = score(spec, [[span] if i < 40 or i > 230 else [] for i in range(250)], wanted)
    none = score(spec, [[] for _ in range(250)], wanted)
    assert sum(finds.each) - sum(none.each) < 25
    assert none.score == 0.0
    assert finds.score == pytest.approx(80 / 119)
    assert 0.5 < paired_lower_bound(finds, none) < finds.score
    assert paired_lower_bound(none, finds) < -finds.score


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("ABCD"), st.sampled_from("ABCD")), min_size=2, max_size=40))
def test_f1_is_the_librarys_and_nothing_is_better_than_itself(rows: list[tuple[str, str, str]]) -> None:
    spec = TaskSpec("classify", tuple("ABCD"))
    wanted, ours, theirs = (list(column) for column in zip(*rows, strict=True))
    better, worse = score(spec, ours, wanted), score(spec, theirs, wanted)
    assert paired_lower_bound(better, better) == 0.0
    assert paired_lower_bound(better, worse) == paired_lower_bound(better, worse), "the same draw each time"
    assert -1.0 <= paired_lower_bound(better, worse) <= 1.0
    assert better.score == pytest.approx(f1_score(wanted, ours, labels=sorted(set(wanted)), average="macro", zero_division=0.0))


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


@pytest.mark.parametrize(("mean", "passed"), [(None, True), (0.6, True), (0.5, False), (math.nan, False)])
def test_a_judge_has_its_say_where_one_was_asked(mean: float | None, passed: bool) -> None:
    verdict = judge(Gate(judged=20, min_judge_score=0.6), replace(scores(225), judge_score=mean), Rivals(BASE), 1000)
    assert verdict.passed == passed
    assert verdict.numbers.get("judge_score") == (mean if mean is not None and math.isfinite(mean) else None)
    assert passed or "the judge's mean score is" in verdict.reason
