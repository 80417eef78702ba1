"""Public labelled sets as rows: each of the forms that they come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.labelled.prepare import banking, documents, intents, main, parts, sentence, tweets
from loom.bench.scores import load_rows
from loom.labels import label_of
from runtime.project import load_project

ROOT = Path(__file__).parents[2]
SETS = ROOT.parent / "shared" / "data"


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
        assert len(ids["test"]) > 250
        assert len({*ids["train"], *ids["test"]}) == len(ids["train"]) + len(ids["test"])
