"""Public labelled sets as rows: each of the forms that they come in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from examples.labelled.prepare import asked_call, banking, conversations, documents, functions, intents, main, parts, sentence, services, tweets
from loom.bench.scores import load_rows
from loom.labels import label_of
from runtime.project import load_project

ROOT = Path(__file__).parents[2]
SETS = ROOT.parent / "shared" / "data"
LEAST = {"functions": 200, "talk": 20}
"""Of the small sets, how many rows are held back."""
WEATHER = {"name": "weather.get", "description": "Weather of a place. It may be slow.", "parameters": {"type": "dict", "required": ["place"], "properties": {"place": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]}, "hours": {"type": "array"}}}}


def test_tags_of_either_way_are_spans() -> None:
    tokens = [("Ann", "B-per"), ("Lee", "I-per"), ("Bo", "B-per"), ("met", "O"), ("Acme", "I-org"), ("Paris", "I-loc")]
    row = sentence("x", tokens)
    assert row["text"] == "Ann Lee Bo met Acme Paris"
    assert [(row["text"][e["start"] : e["end"]], e["label"]) for e in row["entities"]] == [("Ann Lee", "per"), ("Bo", "per"), ("Acme", "org"), ("Paris", "loc")]


def test_documents_are_told_apart_and_the_last_sentence_counts(tmp_path: Path) -> None:
    (tmp_path / "set.conll").write_text("-DOCSTART- -X- O O\n\nAnn N - I-PER\nran V - O\n\n-DOCSTART- -X- O O\n\nBo N - I-PER")
    first, second = documents(tmp_path / "set.conll")
    assert [row["text"] for row in first] == ["Ann ran"]
    assert [row["text"] for row in second] == ["Bo"]


def test_labels_of_tweets_have_their_names(tmp_path: Path) -> None:
    for name, text in {"mapping": "0\tanger\n1\tjoy\n", "val_text": "grr\nyay\n", "val_labels": "0\n1\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    assert [(row["text"], row["label"]) for row in tweets(tmp_path, "val")] == [("grr", "ANGER"), ("yay", "JOY")]


def test_intents_have_those_that_are_out_of_scope_among_them(tmp_path: Path) -> None:
    (tmp_path / "clinc.json").write_text(json.dumps({"val": [["pay my bill", "pay_bill"]], "oos_val": [["why is the sky blue", "oos"]]}))
    rows = intents(tmp_path / "clinc.json", "val")
    assert [(row["text"], row["label"]) for row in rows] == [("pay my bill", "pay_bill"), ("why is the sky blue", "oos")]
    assert len({row["id"] for row in rows}) == 2


def test_a_text_of_banking_may_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,category\n"my card, where\nis it",card_arrival\n')
    assert [(row["text"], row["label"]) for row in banking(tmp_path / "train.csv")] == [("my card, where\nis it", "card_arrival")]


@pytest.mark.parametrize(
    ("accepts", "call"),
    [
        ({"place": ["PARIS", "Paris"], "days": ["", 3], "unit": ["C", ""]}, {"place": "Paris", "days": 3, "unit": "C"}),
        ({"place": ["Rome"]}, None),
        ({"place": ["Paris"], "hours": [[1, 2]]}, None),
        ({"place": ["Paris"], "hours": ["", [1, 2]]}, {"place": "Paris"}),
    ],
    ids=["the first that can be had", "not in the text", "a list", "a list that may be left out"],
)
def test_a_call_is_what_its_line_can_hold(accepts: dict[str, list[Any]], call: dict[str, Any] | None) -> None:
    found = asked_call([WEATHER], {"weather.get": accepts}, "How warm is Paris for 3 days?")
    assert found == (None if call is None else {"calls": [{"tool": "weather.get", **call}], "accepts": accepts})


def test_questions_on_the_same_functions_stay_together(tmp_path: Path) -> None:
    (tmp_path / "possible_answer").mkdir()
    for category in ("simple_python", "multiple", "live_simple", "live_multiple", "irrelevance", "live_irrelevance"):
        asked = {"id": category, "question": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Paris, please"}]], "function": [WEATHER]}
        (tmp_path / f"{category}.jsonl").write_text(json.dumps(asked))
        (tmp_path / "possible_answer" / f"{category}.jsonl").write_text(json.dumps({"id": category, "ground_truth": [{"weather.get": {"place": ["Paris"]}}]}))
    (group,) = functions(tmp_path)
    assert [len(row["calls"]) for row in group] == [1, 1, 1, 1, 0, 0]
    assert {row["text"] for row in group} == {"Paris, please"}
    assert group[0]["tools"] == [{"name": "weather.get", "description": "Weather of a place", "parameters": {"type": "object", "required": ["place"], "properties": {"place": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]}, "hours": {"type": "string"}}}}]


def user(said: str, acts: list[str], slots: dict[str, list[str]]) -> dict[str, Any]:
    return {"speaker": "USER", "utterance": said, "frames": [{"actions": [{"act": act} for act in acts], "state": {"active_intent": "Book", "slot_values": slots}}]}


def system(said: str, **call: Any) -> dict[str, Any]:
    return {"speaker": "SYSTEM", "utterance": said, "frames": [call]}


def test_a_dialogue_is_calls_what_they_lack_and_no_call(tmp_path: Path) -> None:
    slots = [{"name": "city", "is_categorical": False, "possible_values": []}, {"name": "beds", "is_categorical": True, "possible_values": ["1", "2"]}]
    intent = {"name": "Book", "description": "Book a room", "required_slots": ["city", "beds"], "optional_slots": {}}
    (tmp_path / "schema.json").write_text(json.dumps([{"service_name": "Rooms", "slots": slots, "intents": [intent]}]))
    call = {"service_call": {"method": "Book", "parameters": {}}}
    turns = [
        user("A room in Oslo", ["INFORM_INTENT"], {"city": ["Oslo"]}), system("For how many?"), user("Just for me", ["INFORM"], {"city": ["Oslo"], "beds": ["1"]}), system("Done.", **call),
        user("Sorry, for two in oslo", ["INFORM"], {"city": ["Oslo", "oslo"], "beds": ["2"]}), system("Done.", **call),
        user("In Bergen rather", ["INFORM"], {"city": ["New York"], "beds": ["1"]}), system("Done.", **call), user("What is its name?", ["REQUEST"], {}), system("Rica."), user("Thanks", ["THANK_YOU"], {}), system("Bye."),
    ]  # fmt: skip
    (tmp_path / "dialogues_1.json.gz").write_bytes(gzip.compress(json.dumps([{"dialogue_id": "1", "services": ["Rooms"], "turns": turns}]).encode()))
    (rows,) = services(tmp_path)
    assert [(row["text"], row["calls"]) for row in rows] == [
        ("A room in Oslo", [{"tool": "Book", "city": "Oslo", "missing": ["beds"]}]), ("Just for me", [{"tool": "Book", "city": "Oslo", "beds": "1"}]),
        ("Sorry, for two in oslo", [{"tool": "Book", "city": "oslo", "beds": "2"}]), ("Thanks", []),
    ]  # fmt: skip
    assert [row.get("accepts") for row in rows] == [None, {"city": ["Oslo"], "beds": ["1"]}, {"city": ["Oslo", "oslo"], "beds": ["2"]}, None]
    assert rows[1]["context"] == {"earlier": "A room in Oslo For how many?"}


def test_of_ranked_replies_the_best_is_right_and_the_worst_rejected(tmp_path: Path) -> None:
    following = {"text": "and then?", "replies": [{"text": "rest", "rank": 0, "replies": []}, {"text": "run", "rank": 1, "replies": []}]}
    asked = {"text": "what now?", "replies": [{"text": "sleep", "rank": 1, "replies": []}, {"text": "eat", "rank": 0, "replies": [following]}, {"text": "spam", "rank": None, "replies": []}]}
    (tmp_path / "trees.gz").write_bytes(gzip.compress(json.dumps({"message_tree_id": "t", "prompt": asked}).encode()))
    ((first, second),) = conversations(tmp_path / "trees.gz")
    assert (first["answer"], first["rejected"], first["history"]) == ("eat", {"answer": "sleep"}, [])
    assert (second["answer"], second["history"]) == ("rest", [{"question": "what now?", "answer": "eat"}])


def test_a_document_is_learned_from_or_asked_about() -> None:
    train, test = parts([[{"id": i}, {"id": i}] for i in range(10)])
    assert {row["id"] for row in train}.isdisjoint(row["id"] for row in test)
    assert (len(train), len(test)) == (16, 4)


def test_the_rows_of_the_real_sets_are_labels_of_the_declared_adapters(tmp_path: Path) -> None:
    if not SETS.exists():
        pytest.skip(f"no labelled sets at {SETS}")
    main(SETS, tmp_path)
    project = load_project(ROOT / "examples/labelled/loom.toml")
    for name, adapter in project.adapters.items():
        ids = {part: [label_of(row, name, adapter.spec, "").example_id for row in load_rows(tmp_path / f"{name}_{part}.jsonl")] for part in ("train", "test")}
        assert len(ids["train"]) > adapter.min_examples
        assert len(ids["test"]) > LEAST.get(name, 250)
        assert len({*ids["train"], *ids["test"]}) == len(ids["train"]) + len(ids["test"])
