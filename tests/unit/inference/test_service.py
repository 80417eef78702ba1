"""What a request's results become before they are told."""

from __future__ import annotations

import pytest

from inference.service import once
from runtime.tasks.samples import TaskSpec, ask, task_input
from schemas.events import Result, ResultStatus


def result(index: int, output: str | None, task: str = "tool", status: ResultStatus = ResultStatus.OK) -> tuple[str, Result]:
    return "results.x", Result(result_id=str(index), request_id="r", task=task, adapter=task, intent_index=index, intent_count=3, text="t", output=output, status=status)


def test_the_same_call_twice_is_made_once() -> None:
    kept = [r for _, r in once([result(0, '{"tool":"a"}'), result(1, '{"tool":"b"}'), result(2, '{"tool":"a"}')])]
    assert [(r.result_id, r.intent_index, r.intent_count) for r in kept] == [("0", 0, 2), ("1", 1, 2)]


def test_the_same_answer_to_two_questions_and_two_failures_stay() -> None:
    given = [result(0, '{"answer":"yes"}', "chat"), result(1, '{"answer":"yes"}', "chat"), result(2, None, status=ResultStatus.FAILED), result(3, None, status=ResultStatus.FAILED)]
    assert len(once(given)) == 4


def test_a_chat_request_brings_the_turns_before_it() -> None:
    turns = '[{"question": "How many devices?", "answer": "Sixty."}]'
    prompt = ask(TaskSpec("chat"), task_input("chat", "And at most?", {"passage": "Sixty devices.", "history": turns}))
    assert prompt.messages()[1:] == [{"role": "user", "content": "How many devices?"}, {"role": "assistant", "content": "Sixty."}, {"role": "user", "content": "And at most?"}]
    assert ask(TaskSpec("chat"), task_input("chat", "Hi", {})).messages() == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("history", ["nonsense", "3", '"abc"', '[{"question": "a"}]', '[{"question": 1, "answer": "b"}]', '{"a": 1}'])
def test_a_history_of_another_form_is_refused(history: str) -> None:
    with pytest.raises(ValueError):
        ask(TaskSpec("chat"), task_input("chat", "And at most?", {"history": history}))
