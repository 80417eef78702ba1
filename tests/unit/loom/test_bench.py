"""Scores: intervals, paired tests, files of other people, and what is compared with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.routing.fit import labelled
from loom.bench.quality import _only, _spelling, right_call, right_tool
from loom.bench.router import ONE_ALONE, Found, Side, intent_rows, router_scores
from loom.bench.scores import compared, load_rows, paired, share
from loom.frames import Frames
from runtime.errors import SettingsError
from runtime.tasks.extract import in_one_line
from schemas.events import Split
from streams.format import group_of, split_of

FRAMES = Path(__file__).parents[3] / "examples/pebblewire/frames.toml"
HITS = st.lists(st.booleans(), min_size=1, max_size=40)


@given(HITS)
def test_a_share_lies_in_its_interval(hits: list[bool]) -> None:
    score = share("x", "y", hits)
    assert score.low is not None
    assert score.high is not None
    assert 0 <= score.low <= score.value + 1e-9 <= score.high + 2e-9 <= 1 + 2e-9


def test_mcnemar_is_the_sign_test_on_what_differs() -> None:
    # seven cases for us, one for them: 2 * (1 + 8) / 2**8
    score = paired("x", "y", [True] * 7 + [False] + [True] * 5, [False] * 7 + [True] + [True] * 5)
    assert score.p_value == pytest.approx(18 / 256)
    assert score.value == pytest.approx(6 / 13)


@given(HITS)
def test_equals_do_not_differ(hits: list[bool]) -> None:
    score = paired("x", "y", hits, hits)
    assert (score.value, score.p_value) == (0.0, 1.0)


def test_two_calls_are_not_one_and_none_is_none() -> None:
    call = {"tool": "t", "a": "1"}
    row: dict[str, Any] = {"calls": [call]}
    assert right_call(_only([call]), row)
    assert not right_tool(_only([call, call]), row)
    assert right_tool(_only([]), {"calls": []})
    assert not right_tool(None, row)
    assert not right_call({"tool": "t", "a": "one"}, row)
    assert right_call({"tool": "t", "a": "one"}, {**row, "accepts": {"a": ["1", "One"]}})
    assert not right_call(None, {**row, "accepts": {"a": ["", "1"]}})


def test_other_peoples_labels_keep_their_spelling_unless_all_are_declared() -> None:
    assert _spelling(["negative", "Positive"], ["NEGATIVE", "POSITIVE"]) == {"negative": "NEGATIVE", "Positive": "POSITIVE"}
    assert _spelling(["negative", "angry"], ["NEGATIVE"]) == {"negative": "negative", "angry": "angry"}


@given(words=st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6), blanks=st.lists(st.sampled_from([" ", "  ", "\n", "\t "]), min_size=6, max_size=6), which=st.integers(0, 5))
def test_offsets_follow_the_text_into_one_line(words: list[str], blanks: list[str], which: int) -> None:
    at = which % len(words)
    before = "".join(word + blank for word, blank in zip(words[:at], blanks, strict=False))
    text = before + words[at] + "".join(blank + word for blank, word in zip(blanks, words[at + 1 :], strict=False))
    found = in_one_line(text, {"start": len(before), "end": len(before) + len(words[at]), "label": "X"})
    assert " ".join(text.split())[found["start"] : found["end"]] == words[at]


@pytest.mark.parametrize(("content", "words"), [("{", "test.jsonl:1: no JSON"), ('{"label": "A"}', 'object with "text"'), ("[1]", 'object with "text"')])
def test_a_bad_test_file_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(content)
    with pytest.raises(SettingsError, match=words):
        load_rows(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "frames.toml"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} can't be read"):
        load_rows(tmp_path / name)


def fixed(table: dict[str, tuple[list[str], float]]) -> Side:
    """A router that answers from a table of routes and score."""
    return lambda text: Found(frozenset(table[text][0]), (table[text][0] or ["x"])[0], table[text][1], 0.001)


def test_routes_are_scored_as_sets() -> None:
    rows = labelled([{"text": "a", "intents": ["x"]}, {"text": "b", "intents": ["x", "y"]}, {"text": "c", "intents": []}, {"text": "d", "intent": "y"}])
    sides = {"ours": fixed({"a": (["x"], 0.9), "b": (["x"], 0.8), "c": ([], 0.1), "d": (["x"], 0.3)}), "theirs": fixed({"a": (["x"], 0.9), "b": (["x", "y"], 0.8), "c": (["y"], 0.7), "d": ([], 0.3)})}
    scores = {(s.what, s.mode): s.value for s in router_scores(sides, rows)}
    assert (scores["exact set of intents", "ours"], scores["exact set, one intent", "ours"], scores["exact set, several intents", "ours"], scores["out of scope is unknown", "ours"]) == (0.5, 0.5, 0.0, 1.0)
    assert (scores["best intent is right", "ours"], scores["best intent is right", "theirs"]) == (2 / 3, 2 / 3)
    assert scores["out of scope scores below 98% of what is in scope", "ours"] == 1.0
    assert scores["out of scope scores below 98% of what is in scope", "theirs"] == 0.0
    assert scores["exact set, several intents", "ours over theirs"] == -1.0
    assert scores["p99 ms", "ours"] == pytest.approx(1.0)
    assert scores["exact set of intents", ONE_ALONE] == 0.5


def test_intents_are_read_in_the_forms_that_they_are_published_in(tmp_path: Path) -> None:
    (tmp_path / "clinc.json").write_text(json.dumps({"val": [["hi", "greet"]], "oos_val": [["what is love", "oos"]], "train": [["bye", "leave"]], "oos_train": []}))
    (tmp_path / "banking.csv").write_text('text,category\n"my card, please",card\n')
    (tmp_path / "nlupp.json").write_text(json.dumps([{"text": "a new card", "intents": ["new", "card"]}, {"text": "six", "slots": {}}]))
    (tmp_path / "own.jsonl").write_text('{"text": "reset it", "intents": ["tool/reset"]}\n')
    rows = intent_rows([tmp_path / name for name in ("clinc.json", "banking.csv", "nlupp.json", "own.jsonl")], "val")
    assert [(row.text, sorted(row.routes)) for row in rows] == [
        ("hi", [("greet", "")]), ("what is love", []), ("my card, please", [("card", "")]), ("a new card", [("card", ""), ("new", "")]), ("six", []), ("reset it", [("tool", "reset")]),
    ]  # fmt: skip
    with pytest.raises(SettingsError, match=r"clinc\.json can't be read as rows of intents: KeyError: 'test'"):
        intent_rows([tmp_path / "clinc.json"], "test")


def test_scores_are_rows_of_a_benchmark_side_by_side() -> None:
    right, wrong = [True, True, True, False], [False, True, False, False]
    rows = compared([share("right", "adapter", right), share("right", "base", wrong), paired("right", "adapter over base", right, wrong), share("alone", "router", right)])
    assert [(row.what, row.ours, row.baseline, row.ratio) for row in rows] == [("right: adapter beside base", 0.75, 0.25, 3.0), ("alone: router", 0.75, None, None)]
    assert rows[0].ours_spread == (share("", "", right).low, share("", "", right).high)


def test_baselines_see_the_frames_that_adapters_train_on_and_no_others() -> None:
    trained = [label for label in Frames(FRAMES).labels() if split_of(group_of(label)) is Split.TRAIN]
    given = [json.loads(label.input) for label in trained if label.adapter != "chat"]
    assert [row["text"] for row in load_rows(FRAMES)] == [g.get("text") or g["message"] for g in given]


def test_documents_of_the_pipeline_are_no_twins() -> None:
    from loom.bench import pipeline

    pages = [pipeline.document(f"page-{i}") for i in range(50)]
    assert pages == [pipeline.document(f"page-{i}") for i in range(50)]
    texts = [page.content.decode() for page in pages if page.content]
    runs = [{tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in (text.split() for text in texts)]
    likest = max(len(a & b) / len(a | b) for i, a in enumerate(runs) for b in runs[:i])
    assert likest < 0.2
