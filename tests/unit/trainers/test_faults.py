"""What is wrong with calls and answers, told apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tasks.samples import TaskSpec
from runtime.tasks.tool import Tool
from schemas.events import Split
from trainers.evaluate import Asked, Invalid
from trainers.faults import ast_match, invented_arguments, is_bad, parts
from trainers.snapshot import Row

SCHEMAS = {"room": {"type": "string"}, "days": {"type": "integer"}, "mode": {"type": "string", "enum": ["eco", "warm"]}}
HEAT = Tool("heat", "Heat a room", {"type": "object", "properties": SCHEMAS, "required": ["room"]})
KITCHEN = {"tool": "heat", "room": "kitchen"}


def tool_asked(message: str, *calls: dict[str, Any]) -> Asked:
    return Asked(TaskSpec("tool", tools=(HEAT,)), Row("1", "g", Split.EVALUATION, {"input": {"message": message, "context": {"user_id": "u7"}}, "output": {"calls": list(calls)}}))


def chat_asked(passage: str) -> Asked:
    return Asked(TaskSpec("chat"), Row("1", "g", Split.EVALUATION, {"input": {"question": "when?", "passage": passage}, "output": {"answer": "x"}}))


@pytest.mark.parametrize(
    ("got", "wanted", "bad"),
    [
        (KITCHEN, KITCHEN, False),
        (KITCHEN, None, True),
        ({"tool": "heat", "room": "big kitchen"}, KITCHEN, True),
        (KITCHEN, {"tool": "heat", "missing": ["room"]}, True),
        ({"tool": "heat", "missing": ["room"]}, KITCHEN, False),
        (KITCHEN, {**KITCHEN, "days": 3}, False),
        ({**KITCHEN, "days": 3}, KITCHEN, True),
        ({"tool": "heat", "missing": ["room", "days"]}, {"tool": "heat", "missing": ["days", "room"]}, False),
        ({"tool": "other"}, KITCHEN, False),
        (None, KITCHEN, False),
        (None, None, False),
        (Invalid(), None, False),
    ],
    ids=["right", "none fits", "a wrong span", "filled what is missing", "asks for what is given", "leaves out what is given", "fills what nobody gave", "what is missing in another order", "another tool", "no call", "rightly none", "can't be read"],
)
def test_a_bad_call_does_what_nobody_asked_for(got: Any, wanted: Any, bad: bool) -> None:
    assert is_bad(got, wanted) is bad


def test_an_argument_is_invented_where_no_text_holds_it() -> None:
    one = tool_asked("Heat the Kitchen for 3 days")
    assert invented_arguments({"tool": "heat", "room": "kitchen", "days": 3, "mode": "eco"}, one) == []
    assert invented_arguments({"tool": "heat", "room": "attic", "days": 4, "mode": "eco"}, one) == ["room", "days"]
    assert invented_arguments({"tool": "heat", "room": "u7"}, one) == [], "the context holds it"


def test_the_parts_of_calls_are_shares_of_all_and_of_those_that_want_none() -> None:
    asked = [tool_asked("heat the kitchen", KITCHEN), tool_asked("hello"), tool_asked("good morning"), tool_asked("heat the attic", {"tool": "heat", "room": "attic"})]
    said = [KITCHEN, KITCHEN, None, Invalid()]
    assert parts(asked, said, [1.0, 0.0, 1.0, 0.0]) == {"bad_calls": 0.25, "invented_arguments": 0.25, "irrelevance_accuracy": 0.5}
    assert "irrelevance_accuracy" not in parts(asked[:1], said[:1], [1.0])


def test_the_parts_of_chat_are_the_books_and_the_words_that_no_passage_holds() -> None:
    asked = [chat_asked("It opens at six."), chat_asked("It opens at six."), chat_asked("")]
    assert parts(asked, ["opens at six. daily", "it opens", "at ten"], [0.8, 0.6, 0.1]) == pytest.approx({"token_f1_open_book": 0.7, "token_f1_closed_book": 0.1, "unsupported_words": 0.125})


def test_nothing_and_other_tasks_have_no_parts() -> None:
    assert parts([], [], []) == {}
    assert parts([Asked(TaskSpec("classify", labels=("A",)), Row("1", "g", Split.EVALUATION, {}))], ["A"], [1.0]) == {}


ACCEPTS: dict[str, list[Any]] = {"room": ["Kitchen", "the kitchen"], "days": [3, ""], "on": [True, ""]}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"room": "Kitchen", "days": 3}, True),
        ({"room": "KIT-chen"}, True),
        ({"room": "Kitchen", "days": 3.0, "on": True}, True),
        ({"days": 3}, False),
        ({"room": "Kitchen", "days": 4}, False),
        ({"room": "Kitchen", "on": 1}, False),
        ({"room": "Kitchen", "colour": "red"}, False),
        ({"room": "Kitchen", "missing": []}, False),
    ],
    ids=["one of the values", "case and signs", "numbers are equal", "one lacks", "another value", "a number is no boolean", "an argument too many", "asks"],
)
def test_calls_that_bfcl_accepts(arguments: dict[str, Any], match: bool) -> None:
    assert ast_match({"tool": "heat", **arguments}, "heat", ACCEPTS) is match
    assert not ast_match({"tool": "cool", **arguments}, "heat", ACCEPTS)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.text(), st.integers(), st.booleans()), min_size=1))
def test_a_call_matches_its_own_values_and_nothing_that_is_no_call(arguments: dict[str, Any]) -> None:
    accepts = {name: [value] for name, value in arguments.items()}
    assert ast_match({"tool": "t", **arguments}, "t", accepts)
    assert not ast_match(None, "t", accepts)
    assert not ast_match(Invalid(), "t", accepts)
