"""Which held-out examples a version is judged by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.artifacts import MANIFEST
from runtime.project import Adapter, Dpo
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import Split
from trainers.evaluate import Asked, HeldOut
from trainers.fork import AMENDING_OTHERS, MAX_ANCHORS, MAX_HELD_OUT, MAX_NEW, Earlier, amendment, as_declared, judged_by
from trainers.snapshot import Row

TOKENIZER = load_tokenizer(str(Path(__file__).parents[3] / "models/base"))
ADAPTER = Adapter(task="classify", result="mood", labels=("A", "B"))
ROWS = [Row(f"{i:04}", f"g{i}", Split.EVALUATION if i % 2 else Split.TRAIN, {"input": {"text": f"message {i}"}, "output": {"label": "A"}}) for i in range(1000)]
IDS = [row.example_id for row in ROWS if row.split is Split.EVALUATION]


def judged(rows: list[Row], earlier: Earlier = Earlier()) -> HeldOut:
    return judged_by(ADAPTER, rows, TOKENIZER, Shortlist(lambda texts: np.ones((len(texts), 1), np.float32)), earlier)


def ids(held_out: HeldOut, places: tuple[int, ...]) -> list[str]:
    return [held_out.asked[i].row.example_id for i in places]


def version(folder: Path, examples: list[str]) -> Path:
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps({"example_ids": examples}))
    return folder


def test_the_first_version_sets_the_anchors() -> None:
    held_out = judged(ROWS)
    assert [one.row.example_id for one in held_out.asked] == IDS[:MAX_HELD_OUT]
    assert ids(held_out, held_out.anchors) == IDS[:MAX_ANCHORS]
    assert held_out.new == ()


def test_a_later_version_is_judged_by_the_same_anchors_and_by_what_is_new(tmp_path: Path) -> None:
    earlier = Earlier(live=version(tmp_path / "live", IDS[:400]), first=version(tmp_path / "first", IDS[300:]))
    held_out = judged(ROWS, earlier)
    assert ids(held_out, held_out.anchors) == IDS[300 : 300 + MAX_ANCHORS]
    assert ids(held_out, held_out.new) == IDS[400 : 400 + MAX_NEW]
    assert len(held_out.asked) == MAX_HELD_OUT
    assert [one.row.example_id for one in held_out.asked] == sorted(one.row.example_id for one in held_out.asked)


def test_an_anchor_that_was_withdrawn_makes_room_for_the_next(tmp_path: Path) -> None:
    left = [row for row in ROWS if row.example_id != IDS[0]]
    held_out = judged(left, Earlier(first=version(tmp_path / "first", IDS)))
    assert ids(held_out, held_out.anchors) == IDS[1 : 1 + MAX_ANCHORS]


def test_an_amendment_learns_corrections_and_a_few_others_and_is_judged_by_all_that_is_held_out() -> None:
    rows = [replace(row, is_correction=i % 100 == 0, is_pair=i % 4 == 2) for i, row in enumerate(ROWS)]
    taken = amendment(rows, 0)
    assert taken == amendment(rows, 0)
    assert [row.example_id for row in taken] == sorted(row.example_id for row in taken)
    assert {row.example_id for row in rows if row.is_correction or row.split is Split.EVALUATION} <= {row.example_id for row in taken}
    assert sum(row.split is Split.TRAIN and not row.is_correction and not row.is_pair for row in taken) == min(AMENDING_OTHERS, 240)


def test_weighted_pairs_are_seen_as_often_as_the_judge_says() -> None:
    pairs = [(Asked(ADAPTER.spec, replace(ROWS[i], judge_score=score)), ([i], [1], [2])) for i, score in enumerate((1.0, 0.0, 0.25, 0.75, None))]
    assert as_declared(pairs, Dpo(), 0) == [pair for _, pair in pairs]
    seen = [prompt[0] for seed in range(300) for prompt, _, _ in as_declared(pairs, Dpo(weighted=True), seed)]
    assert len(seen) == 300 * 5
    assert [seen.count(i) / 300 * 3 / 5 for i in range(5)] == pytest.approx([1.0, 0.0, 0.25, 0.75, 1.0], abs=0.05)  # of shares that add up to 3
