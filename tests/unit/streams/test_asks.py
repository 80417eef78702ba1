"""What a teacher is asked for and how its replies are read: whatever it writes, what is kept is an example of its task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from runtime.project import Adapter, load_project
from runtime.tasks import samples
from streams.synth import question
from streams.teacher.asks import MALFORMED, UNGROUNDED, Ask, Assignment, Item, Row, read_rows
from streams.teacher.calls import INVENTED, Calls
from streams.teacher.judge import Scores, shares
from streams.teacher.kinds import KINDS, kinds_of
from streams.teacher.labelled import NOT_NAMED, Entities, Labels
from streams.teacher.questions import NOT_WRONG, Conversations, Preferences, Questions
from tests.support.streams import ROOT

PROJECT = load_project(ROOT / "examples/pebblewire/loom.toml")
TOOL = PROJECT.adapters["tool"].model_copy(update={"context": {"user_id": "current"}})
PASSAGE = "The hub pairs with sixty devices at most. A violet ring means that an update is being installed."
ROWS = st.lists(st.fixed_dictionaries({"question": st.text(min_size=1), "answer": st.text(min_size=1)}), min_size=1, max_size=4)
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
KNOWN_FAULTS = {None, MALFORMED, UNGROUNDED, NOT_WRONG, INVENTED, NOT_NAMED}


def items(kind: Ask, rows: Sequence[Row], adapter: Adapter) -> list[Item]:
    return kind.items(rows, Assignment(kind, adapter, PASSAGE, "Hub", PASSAGE))


@given(ROWS)
def test_what_a_teacher_writes_is_read_back(rows: list[Row]) -> None:
    assert read_rows("Sure! " + json.dumps({"questions": rows}), Questions.fields) == read_rows(json.dumps(rows), Questions.fields) == rows


@given(ROWS, st.data())
def test_of_a_reply_that_was_cut_the_whole_rows_are_kept(rows: list[Row], data: st.DataObject) -> None:
    reply = json.dumps({"questions": rows})
    found = read_rows(reply[: data.draw(st.integers(0, len(reply)))], Questions.fields) or []
    assert found == rows[: len(found)]
    assert read_rows('{"questions": []}', Questions.fields) == []


@pytest.mark.parametrize("reply", [None, "", "I can't do that.", "[1, 2", '{"questions": [{"question": "no answer"}]}', '{"questions": "none"}', r'[{"question": "\ud800", "answer": "half"}', '[{"question": NaN, "answer": ""}'])
def test_another_reply_is_no_reply(reply: str | None) -> None:
    assert read_rows(reply, Questions.fields) is None


@given(st.data())
def test_whatever_a_teacher_writes_is_an_example_or_has_its_fault(data: st.DataObject) -> None:
    """No row, however odd, raises; what has no fault and is of its task renders."""
    name = data.draw(st.sampled_from(sorted(PROJECT.adapters)))
    adapter = TOOL if name == "tool" else PROJECT.adapters[name]
    for kind in KINDS[adapter.task]:
        for item in items(kind, [data.draw(st.fixed_dictionaries(dict.fromkeys(kind.fields, JSON)))], adapter):
            assert item.fault in KNOWN_FAULTS


def call(text: str, tool: str, **arguments: Any) -> Row:
    return {"parts": [{"text": text, "tool": tool, "arguments": arguments}]}


def test_calls_take_what_is_said_and_what_the_application_knows() -> None:
    rows = [
        call("check ticket PW-53", "lookup_action", ticket_id="PW-53"), call("what about my ticket", "lookup_action"), call("what does violet mean?", "none"),
        {"parts": [*call("reset my password", "reset_password_flow")["parts"], *call("and call me at 8", "schedule_callback", time="at 8")["parts"]]},
    ]  # fmt: skip
    made = items(Calls(), rows, TOOL)
    assert [item.fault for item in made] == [None] * 5
    assert [item.wanted["calls"] for item in made] == [
        [{"tool": "lookup_action", "ticket_id": "PW-53"}], [{"tool": "lookup_action", "missing": ["ticket_id"]}], [],
        [{"tool": "reset_password_flow", "user_id": "current"}], [{"tool": "schedule_callback", "time": "at 8"}],
    ]  # fmt: skip
    for item in made:
        samples.render(TOOL.spec, {"input": item.given, "output": item.wanted})


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (call("check my ticket", "lookup_action", ticket_id="PW-53"), INVENTED), (call("check my ticket", "open_the_door"), MALFORMED),
        (call("check ticket 5", "lookup_action", ticket_id="5", colour="red"), MALFORMED), ({"parts": [{"text": "reset"}]}, MALFORMED), ({"parts": ["reset"]}, MALFORMED),
    ],
)  # fmt: skip
def test_invented_and_malformed_calls_are_found(row: Row, fault: str) -> None:
    assert [item.fault for item in items(Calls(), [row], TOOL)] == [fault]


NAMED = st.lists(st.tuples(st.sampled_from(["hub", "Mia Wong", "PW-53", "ring"]), st.sampled_from(PROJECT.adapters["ner"].labels)), max_size=5)


@given(NAMED, st.lists(st.sampled_from(["hubs", "and", "for", " ", "\n"]), min_size=6, max_size=6))
def test_entities_get_the_offsets_of_their_words(named: list[tuple[str, str]], between: list[str]) -> None:
    text = between[0] + "".join(f" {words} {gap}" for (words, _), gap in zip(named, between[1:], strict=False))
    (item,) = items(Entities(), [{"text": text, "entities": [{"text": words, "label": label} for words, label in named]}], PROJECT.adapters["ner"])
    assert item.fault is None
    assert [(item.given["text"][e["start"] : e["end"]], e["label"]) for e in item.wanted["entities"]] == named


def test_an_entity_that_its_text_does_not_name_is_found() -> None:
    row = {"text": "two hubs", "entities": [{"text": "hub", "label": "DEVICE"}]}
    assert [item.fault for item in items(Entities(), [row], PROJECT.adapters["ner"])] == [NOT_NAMED]


def test_a_turn_is_learned_behind_those_before_it() -> None:
    right, other = "The hub pairs with sixty devices at most.", "A violet ring means that an update is being installed."
    rows: list[Row] = [
        {"turns": [{"question": "How many?", "answer": right}, {"question": "And violet?", "answer": other}]},
        {"turns": [{"question": "How many?", "answer": "Ninety."}, {"question": "And violet?", "answer": other}]}, {"turns": ["How many?"]}, {"turns": 3},
    ]  # fmt: skip
    made = items(Conversations(), rows, PROJECT.adapters["chat"])
    assert [item.fault for item in made] == [None, None, UNGROUNDED, UNGROUNDED, MALFORMED, MALFORMED]
    prompt, completion = samples.render(PROJECT.adapters["chat"].spec, {"input": made[1].given, "output": made[1].wanted})
    assert prompt.history == (("How many?", right),)
    assert [message["role"] for message in prompt.messages()] == ["system", "user", "assistant", "user"]
    assert completion == other
    assert made[0].topic == made[1].topic  # a conversation is trained on, or held out, as a whole
    assert question("chat", made[1].given, made[1].wanted) != question("chat", {**made[1].given, "history": []}, made[1].wanted)


def test_a_preference_needs_a_right_answer_and_a_wrong_one() -> None:
    right, other = "The hub pairs with sixty devices at most.", "A violet ring means that an update is being installed."
    rows = [{"question": "How many?", "answer": a, "wrong": w} for a, w in [(right, "It pairs with ninety."), (right, other), ("Sixty.", "Ninety."), (right, " ")]]
    made = items(Preferences(), rows, PROJECT.adapters["chat"])
    assert [item.fault for item in made] == [None, NOT_WRONG, UNGROUNDED, NOT_WRONG]
    samples.render_pair(PROJECT.adapters["chat"].spec, {"input": made[0].given, "output": made[0].wanted, "rejected": made[0].wanted["rejected"]})


REPLIES: dict[str, Row] = {
    "questions": {"question": "How many?", "answer": "sixty", "topic": "devices"},
    "conversations": {"turns": [{"question": "How many?", "answer": "sixty"}, {"question": "And how far?", "answer": "thirty metres"}]},
    "preferences": {"question": "How many?", "answer": "sixty", "wrong": "ninety"},
    "calls": {"parts": [{"text": "check ticket PW-53", "tool": "lookup_action", "arguments": {"ticket_id": "PW-53"}}, {"text": "hi", "tool": "none", "arguments": {}}]},
    "labels": {"text": "great", "label": "POSITIVE"},
    "entities": {"text": "my hub", "entities": [{"text": "hub", "label": "DEVICE"}]},
}


@pytest.mark.parametrize("name", sorted(PROJECT.adapters))
def test_schemas_admit_what_is_asked_for_and_no_more(name: str) -> None:
    adapter = PROJECT.adapters[name]
    for kind in KINDS[adapter.task]:
        assignment = Assignment(kind, adapter, PASSAGE)
        schema = Draft202012Validator(assignment.reply_schema)
        Draft202012Validator.check_schema(assignment.reply_schema)
        row, most = REPLIES[kind.name], kind.count(assignment)[1]
        assert schema.is_valid({kind.name: [row] * most})
        assert not schema.is_valid({kind.name: [row] * (most + 1)})
        assert not schema.is_valid({kind.name: [{**row, "more": 1}]})
        assert PASSAGE in assignment.prompt
    unknown = {"calls": [call("x", "open_the_door")]}
    assert not Draft202012Validator(Assignment(Calls(), TOOL, PASSAGE).reply_schema).is_valid(unknown)


def test_a_version_names_what_the_adapter_may_answer() -> None:
    classifier = PROJECT.adapters["classifier"]
    assert Labels().version(classifier) != Labels().version(classifier.model_copy(update={"labels": ("GOOD", "BAD")}))
    assert Calls().version(TOOL) != Calls().version(PROJECT.adapters["tool"])
    assert Questions().version(PROJECT.adapters["chat"]) == "questions-4"


def test_teachers_make_what_they_can_for_who_wants_it() -> None:
    every = {kind.name for kinds in KINDS.values() for kind in kinds}
    chat = PROJECT.adapters["chat"]
    assert [kind.name for kind in kinds_of(chat, every)] == ["questions", "conversations", "preferences"]
    assert [kind.name for kind in kinds_of(chat.model_copy(update={"dpo": None}), every)] == ["questions", "conversations"]
    assert [kind.name for kind in kinds_of(chat, {"questions"})] == ["questions"]
    assert kinds_of(chat.model_copy(update={"teach": False}), every) == []


def test_scores_are_one_an_example() -> None:
    assert shares([{"score": 1}, {"score": 3}, {"score": 5}], 3) == [0.0, 0.5, 1.0]
    others: list[list[Row]] = [[{"score": 5}], [{"score": 5}, {"score": 0}], [{"score": 5}, {"score": "5"}]]
    for rows in others:
        assert shares(rows, 2) is None
    assignment = Assignment(Scores(), TOOL, PASSAGE, examples=({"input": {"message": "reset it"}}, {"input": {"message": "what?"}}))
    assert '1. {"input":{"message":"reset it"}}\n2. ' in assignment.prompt
    assert not Draft202012Validator(assignment.reply_schema).is_valid({"scores": [{"score": 5}]})
