"""What a request's results become before they are told."""

from __future__ import annotations

from inference.service import once
from schemas.events import Result, ResultStatus


def result(index: int, output: str | None, task: str = "tool", status: ResultStatus = ResultStatus.OK) -> tuple[str, Result]:
    return "results.x", Result(result_id=str(index), request_id="r", task=task, adapter=task, intent_index=index, intent_count=3, text="t", output=output, status=status)


def test_the_same_call_twice_is_made_once() -> None:
    kept = [r for _, r in once([result(0, '{"tool":"a"}'), result(1, '{"tool":"b"}'), result(2, '{"tool":"a"}')])]
    assert [(r.result_id, r.intent_index, r.intent_count) for r in kept] == [("0", 0, 2), ("1", 1, 2)]


def test_the_same_answer_to_two_questions_and_two_failures_stay() -> None:
    given = [result(0, '{"answer":"yes"}', "chat"), result(1, '{"answer":"yes"}', "chat"), result(2, None, status=ResultStatus.FAILED), result(3, None, status=ResultStatus.FAILED)]
    assert len(once(given)) == 4
