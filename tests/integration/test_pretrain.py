"""Continued pre-training, by either method: what comes out is a whole base that knows more of its documents."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from runtime.project import Cpt, Recipe
from schemas.events import Split
from trainers import pretrain
from trainers.base_model import base_sha256, load_model
from trainers.snapshot import Row

BASE = str(Path(__file__).parents[2] / "models/base")
TEXTS = [f"The {hub} hub blinks {colour} when its battery lasts for {days} more days." for hub in ("garden", "cellar", "attic", "porch") for colour in ("amber", "violet", "green") for days in range(2, 12)]


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-3), ("full", 5e-4)])
def test_a_base_comes_out_that_knows_its_documents(method: Literal["lora", "full"], rate: float, tmp_path: Path) -> None:
    rows = [Row(f"{i}", f"{i}", Split.EVALUATION if i % 5 == 0 else Split.TRAIN, {"output": {"text": text}}) for i, text in enumerate(TEXTS)]
    recipe = Recipe(learning_rate=rate, batch_size=4, max_tokens=64, max_steps=30, epochs=20.0)
    made = pretrain.make(Cpt(method=method, recipe=recipe), BASE, rows, tmp_path, lambda _: None)
    assert made.metrics["perplexity"] < 0.5 * made.metrics["base_perplexity"]
    assert made.verdict.passed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(made.files)
    assert load_model(str(tmp_path)).num_parameters() == load_model(BASE).num_parameters()
    assert base_sha256(tmp_path) != base_sha256(Path(BASE))
