"""A large model's word on a version's answers: what it is asked, what is made of its replies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from loom.embedded.kafka import free_port
from runtime.project import TeacherLimits
from runtime.tasks.samples import TaskSpec
from schemas.events import Split
from tests.support.endpoint import Endpoint, serving
from trainers.conditions import LlmJudge
from trainers.evaluate import Asked, Invalid
from trainers.llm_judge import Judged, judged, question, read_score
from trainers.snapshot import Row

LIMITS = TeacherLimits(usd_per_million_input=2.0, usd_per_million_output=8.0)


def asked(text: str, answer: str, **given: Any) -> Asked:
    return Asked(TaskSpec("chat"), Row(text, text, Split.EVALUATION, {"input": {"question": text, **given}, "output": {"answer": answer}}))


ONE = asked("How many?", "Sixty.", passage="The hub pairs with sixty.", history=[{"question": "Which hub?", "answer": "The den's."}])
OTHER = asked("How far?", "Ten metres.")


async def scores_of(said: list[Any], reply: Callable[[str], int], failing: int = 0) -> tuple[Judged, Endpoint]:
    port, endpoint = free_port(), Endpoint({"score": reply}, failing)
    async with serving(endpoint, port):
        return await asyncio.to_thread(judged, LlmJudge(f"http://127.0.0.1:{port}/v1", "big", "key", LIMITS), [ONE, OTHER], said), endpoint


@pytest.mark.asyncio
async def test_each_answer_has_its_own_score_and_an_endpoint_that_fails_is_asked_again() -> None:
    verdict, endpoint = await scores_of(["Sixty devices.", "Nobody knows."], lambda prompt: 5 if "Sixty devices." in prompt else 2, failing=3)
    assert verdict.scores == (1.0, 0.25)
    assert verdict.mean == 0.625
    assert endpoint.refused == 3
    assert len(endpoint.asked) == 2
    assert 0 < verdict.usd < 0.01


@pytest.mark.asyncio
async def test_what_can_not_be_read_is_the_worst_unasked_and_a_score_out_of_range_is_none() -> None:
    verdict, endpoint = await scores_of([Invalid(), "Ten."], lambda _: 4)
    assert verdict.scores == (0.75, 0.0)
    assert len(endpoint.asked) == 1
    verdict, _ = await scores_of(["Sixty.", "Ten."], lambda prompt: 9 if "Sixty" in prompt else 3)
    assert verdict.scores == (0.5,)
    verdict, _ = await scores_of(["Sixty.", "Ten."], lambda _: 0)
    assert math.isnan(verdict.mean)


def test_the_judge_sees_the_passage_the_turns_before_the_right_answer_and_the_one_it_scores() -> None:
    words = question(ONE, "Fifty.")
    assert [part for part in ("The hub pairs with sixty.", "Which hub?", "The den's.", "How many?", "Right answer: Sixty.", "Assistant's answer: Fifty.") if part not in words] == []
    assert "No passage" in question(OTHER, "Far.")


@pytest.mark.parametrize(("reply", "score"), [('{"score": 1}', 0.0), ('{"score": 5}', 1.0), ('{"score": 6}', None), ('{"score": "5"}', None), ("five", None), (None, None), ("[]", None)])
def test_a_reply_is_a_score_from_one_to_five_or_nothing(reply: str | None, score: float | None) -> None:
    assert read_score(reply) == score


def test_its_key_is_in_no_log() -> None:
    assert "secret" not in repr(LlmJudge("http://h/v1", "big", "secret", LIMITS))
