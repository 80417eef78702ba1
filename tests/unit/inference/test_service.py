"""What a request's results become before they are told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.service import Offer, allowed, once
from loom.labels import label_of
from runtime.project import Adapter
from runtime.tasks.grammar import grammar
from runtime.tasks.samples import TaskSpec, ask, offered, render, task_input
from runtime.tasks.tool import Tool
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


BOOKING = {"to": {"type": "string"}, "beds": {"type": "integer"}, "arrival": {"type": "string"}, "class": {"type": "string", "enum": ["b", "a"]}}


@given(st.permutations(list(BOOKING)), st.permutations(["user_id", "earlier", "city"]))
def test_tools_that_come_with_a_message_are_asked_about_as_they_were_learned_in_whatever_order_their_json_is(arguments: list[str], fields: list[str]) -> None:
    adapter = Adapter(task="tool", result="calls", teach=False)
    parameters = {"type": "object", "properties": {name: BOOKING[name] for name in arguments}, "required": ["to", "arrival"]}
    context = {name: f"{name} 7" for name in fields}
    message = "to Oslo on May 3"
    row = {"text": message, "context": context, "tools": [{"name": "book", "description": "Book a room", "parameters": parameters}], "calls": [{"tool": "book", "to": "Oslo", "missing": ["arrival"]}]}
    label = label_of(row, "house", adapter.spec, "")
    learned, completion = render(adapter.spec, {"input": json.loads(label.input), "output": json.loads(label.output)})
    served = task_input("tool", message, context)
    spec = allowed(adapter, None, Offer(tools=(Tool("book", "Book a room", parameters),)))
    assert ask(spec, served) == learned
    assert completion == "book\narrival= ?\nto= Oslo"
    known, given_ = offered(adapter.spec, json.loads(label.input))
    (asked,), (taught,) = ([line for line in (grammar(*one) or "").splitlines() if "= " in line and "root" in line] for one in ((spec, served), (known, given_)))
    assert asked == taught
