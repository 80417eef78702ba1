"""Rule-made wrong answers: they differ from the right one, and serving's own parsers take them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tasks import samples
from runtime.tasks.preferences import plausible_wrong
from runtime.tasks.samples import TaskSpec
from runtime.tasks.tool import Tool

TOOLS = (
    Tool("create_ticket", "Open a ticket", {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]}),
    Tool("reset_password_flow", "New password", {"type": "object", "properties": {"user_id": {"type": "string"}}, "required": ["user_id"]}),
)
TOOL, CHAT = TaskSpec("tool", tools=TOOLS), TaskSpec("chat")
WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=6).map(" ".join)


@given(subject=WORDS, tail=WORDS, seed=st.integers())
def test_a_wrong_call_is_valid_and_wrong(subject: str, tail: str, seed: int) -> None:
    body: dict[str, Any] = {"input": {"message": f"open a ticket: {subject} {tail}", "context": {"user_id": "current"}}, "output": {"calls": [{"tool": "create_ticket", "subject": subject}]}}
    wrong = plausible_wrong(TOOL, body["input"], body["output"], random.Random(seed))
    assert wrong is not None
    if wrong != body["output"]:  # an extended span may read the same as the right one elsewhere
        prompt, chosen, rejected = samples.render_pair(TOOL, {**body, "rejected": wrong})
        assert chosen != rejected
        samples.answer(TOOL, rejected, body["input"])
        assert prompt == samples.render(TOOL, body)[0]


def test_no_call_is_turned_into_a_call() -> None:
    given_ = {"message": "nice weather", "context": {}}
    assert plausible_wrong(TOOL, given_, {"calls": []}, random.Random(0)) in [{"calls": [{"tool": t.name, "missing": list(t.required)}]} for t in TOOLS]


def test_a_message_that_brings_its_tools_is_turned_into_a_call_of_those() -> None:
    own = [{"name": "lamp", "description": "Light a lamp"}]
    given_ = {"message": "nice weather", "context": {}, "tools": own}
    wrong = plausible_wrong(TOOL, given_, {"calls": []}, random.Random(0))
    assert wrong == {"calls": [{"tool": "lamp"}]}
    _, chosen, rejected = samples.render_pair(TOOL, {"input": given_, "output": {"calls": []}, "rejected": wrong})
    assert (chosen, rejected) == ("none", "lamp")


def test_a_wrong_answer_is_another_sentence_or_half_of_the_right_one() -> None:
    given_ = {"question": "when?", "passage": "It opens at six. It closes at nine in the evening."}
    found = {plausible_wrong(CHAT, given_, {"answer": "It closes at nine in the evening."}, random.Random(i))["answer"] for i in range(20)}  # type: ignore[index]
    assert found == {"It opens at six.", "It closes at"}


@pytest.mark.parametrize("spec", [TaskSpec("classify", ("A", "B")), TaskSpec("cpt")])
def test_other_tasks_have_none(spec: TaskSpec) -> None:
    assert plausible_wrong(spec, {"text": "x"}, {"label": "A"}, random.Random(0)) is None


@pytest.mark.parametrize(("extra", "words"), [({}, "missing"), ({"rejected": {"answer": "Yes."}}, "the same")])
def test_a_pair_needs_two_answers(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        samples.render_pair(CHAT, {"input": {"question": "is it?"}, "output": {"answer": "Yes."}, **extra})
