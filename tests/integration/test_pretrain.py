"""Continued pre-training, by either method: what comes out is a whole base that knows more of its documents, and has forgotten little."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from runtime.project import Cpt, Recipe
from runtime.tasks.prompt import load_tokenizer
from schemas.events import Split
from trainers import pretrain
from trainers.artifact import Made
from trainers.base_model import base_sha256, load_model
from trainers.rehearsal import beside, written_by
from trainers.snapshot import Row

BASE = str(Path(__file__).parents[2] / "models/base")
TEXTS = [f"The {hub} hub blinks {colour} when its battery lasts for {days} more days." for hub in ("garden", "cellar", "attic", "porch") for colour in ("amber", "violet", "green") for days in range(2, 12)]
ROWS = [Row(f"{i}", f"{i}", Split.EVALUATION if i % 5 == 0 else Split.TRAIN, {"output": {"text": text}}) for i, text in enumerate(TEXTS)]


def made(folder: Path, rate: float = 2e-3, **declared: Any) -> Made:
    recipe = Recipe(learning_rate=rate, batch_size=4, max_tokens=64, max_steps=30, epochs=20.0)
    return pretrain.make(Cpt(recipe=recipe, **declared), BASE, ROWS, folder, lambda _: None)


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-3), ("full", 5e-4)])
def test_a_base_comes_out_that_knows_its_documents(method: Literal["lora", "full"], rate: float, tmp_path: Path) -> None:
    version = made(tmp_path, rate, method=method)
    assert version.metrics["perplexity"] < 0.5 * version.metrics["base_perplexity"]
    assert version.metrics["general_perplexity"] < 1.03 * version.metrics["base_general_perplexity"]
    assert version.verdict.passed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(version.files)
    assert load_model(str(tmp_path)).num_parameters() == load_model(BASE).num_parameters()
    assert base_sha256(tmp_path) != base_sha256(Path(BASE))


def test_what_was_rehearsed_is_forgotten_less(tmp_path: Path) -> None:
    alone, rehearsed = (made(tmp_path / name, rehearsal=share, max_forgetting=99.0) for name, share in (("alone", 0.0), ("rehearsed", 0.5)))
    assert (alone.metrics["rehearsed"], alone.metrics["share_of_change"]) == (0.0, 1.0)
    learned = len(list(pretrain.windows(load_tokenizer(BASE), [row for row in ROWS if row.split is Split.TRAIN], 64)))
    assert rehearsed.metrics["rehearsed"] == beside(0.5, learned) == learned
    assert alone.verdict.numbers["forgetting"] > 2 * rehearsed.verdict.numbers["forgetting"]


def test_a_base_that_forgot_too_much_is_refused_with_the_number(tmp_path: Path) -> None:
    version = made(tmp_path, 2e-2, rehearsal=0.0, max_forgetting=0.0)
    assert version.metrics["share_of_change"] == pretrain.SHARES[-1]
    assert not version.verdict.passed
    assert "it forgot" in version.verdict.reason


def test_a_base_writes_the_same_for_the_same_seed_and_reads_it_well() -> None:
    base, tokenizer = load_model(BASE), load_tokenizer(BASE)
    first, again, other = (written_by(base, tokenizer, 8, 48, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {len(window) for window in first} == {48}
    assert {window[0] for window in first} == {tokenizer.bos_token_id}
    documents = list(pretrain.windows(tokenizer, ROWS, 48))
    assert sum(pretrain.losses(base, first)) / 8 < sum(pretrain.losses(base, documents)) / len(documents)
