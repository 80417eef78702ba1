"""Labelled texts from files of other people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loom.labels import label_of, labels_of
from runtime.errors import InvalidInput, SettingsError
from runtime.project import ToolDeclaration, load_project
from runtime.tasks.samples import TaskSpec
from schemas.events import Label

EXAMPLE = load_project(Path(__file__).parents[3] / "examples/pebblewire/loom.toml")
MOODS = TaskSpec("classify", labels=("NEGATIVE", "POSITIVE"))


def made(task: str, row: dict[str, Any]) -> tuple[Any, Any]:
    adapter = next(name for name, declared in EXAMPLE.adapters.items() if declared.task == task)
    label = label_of(row, adapter, EXAMPLE.adapters[adapter].spec, "unknown")
    return json.loads(label.input), json.loads(label.output)


def test_a_row_becomes_what_its_task_is_trained_on() -> None:
    assert made("classify", {"text": "it broke", "label": "NEGATIVE"}) == ({"text": "it broke"}, {"label": "NEGATIVE"})
    calls = [{"tool": "restart_hub", "hub_name": "attic"}]
    assert made("tool", {"text": "restart the attic hub", "calls": calls, "rejected": {"calls": []}}) == ({"message": "restart the attic hub", "context": {}}, {"calls": calls, "rejected": {"calls": []}})
    assert made("extract", {"text": "ask\n\n Ann  Lee", "entities": [{"start": 6, "end": 14, "label": "PERSON"}]}) == ({"text": "ask\n\n Ann  Lee"}, {"entities": [{"start": 4, "end": 11, "label": "PERSON"}]})
    passage = "The lamp blinks twice. Then it rests."
    given, wanted = made("chat", {"text": "How often does it blink?", "passage": passage, "answer": "The lamp blinks twice."})
    assert (given["question"], given["passage"], wanted) == ("How often does it blink?", passage, {"answer": "The lamp blinks twice."})


def test_a_message_may_bring_the_tools_that_are_on_offer() -> None:
    lamp = {"name": "lamp.set", "description": "Set a lamp", "parameters": {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}}
    row = {"text": "make it green", "tools": [lamp], "calls": [{"tool": "lamp.set", "colour": "green"}]}
    assert made("tool", row) == ({"message": "make it green", "context": {}, "tools": [lamp]}, {"calls": row["calls"]})
    for fault, tools in {"no such tool": [{**lamp, "name": "other"}], "one name": [lamp, lamp], "a list of at most 64": [{**lamp, "name": f"lamp{i}"} for i in range(65)], "comes with a message is": [{**lamp, "name": "lamp\n"}]}.items():
        with pytest.raises(ValueError, match=fault):
            made("tool", {**row, "tools": tools})


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ([], "JSON Schema object"),
        ({"properties": []}, "JSON Schema object"),
        ({"properties": {"colour": "string"}}, "argument colour"),
        ({"properties": {"colour": {"enum": "red"}}}, "argument colour"),
        ({"properties": {"colour": {"enum": []}}}, "argument colour"),
        ({"properties": {"colour": {"pattern": "("}}}, "regular expression"),
        ({"properties": {"a= b": {}}}, "named 'a= b'"),
        ({"properties": {"colour": {"x-injected": "yes"}}}, "neither true nor false"),
        ({"properties": {}, "required": ["colour"]}, "`required` names"),
    ],
)
def test_a_tool_that_no_call_could_be_made_of_is_refused_wherever_it_comes_from(parameters: Any, fault: str) -> None:
    tool = {"name": "lamp", "description": "Set a lamp", "parameters": parameters}
    with pytest.raises(ValueError, match=fault):
        made("tool", {"text": "hello", "tools": [tool], "calls": []})
    with pytest.raises(ValueError, match=fault if isinstance(parameters, dict) else "parameters"):
        ToolDeclaration.model_validate(tool)


def test_the_same_line_twice_is_one_label_and_an_id_names_it() -> None:
    one, other = ({"text": "fine", "label": label} for label in MOODS.labels)
    assert label_of(one, "mood", MOODS, "x").example_id == label_of(other, "mood", MOODS, "x").example_id, "the same text, judged anew"
    assert label_of({**one, "id": 7}, "mood", MOODS, "x").example_id == label_of({"text": "poor", "label": "NEGATIVE", "id": 7}, "mood", MOODS, "x").example_id
    assert label_of(one, "mood", MOODS, "x").example_id != label_of(one, "other", MOODS, "x").example_id
    assert label_of({**one, "licence": "CC0-1.0", "group": "g"}, "mood", MOODS, "x").licence == "CC0-1.0"


def test_a_bad_line_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good", "label": "POSITIVE"}\n\nno json\n["a"]\n{"text": "x", "label": "GLAD"}\n{"text": "x"}\n{"text": "bad", "label": "NEGATIVE"}\n')
    found = list(labels_of(path, "mood", MOODS, "CC-BY-4.0"))
    assert [json.loads(one.output)["label"] for one in found if isinstance(one, Label)] == ["POSITIVE", "NEGATIVE"]
    faults = [str(one) for one in found if isinstance(one, InvalidInput)]
    assert [fault.split(": ")[0].rsplit(":", 1)[1] for fault in faults] == ["3", "4", "5", "6"]
    assert "GLAD" in faults[2]
    assert '"text" and "label"' in faults[3]


def test_a_file_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(SettingsError, match="can't be read"):
            list(labels_of(path, "mood", MOODS, "x"))
