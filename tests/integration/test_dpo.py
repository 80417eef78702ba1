"""DPO with TRL from an SFT adapter, on the bundled base: it prefers what was chosen, and leaves one adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.project import Dpo, Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers import dpo, sft
from trainers.base_model import load_model

BASE = str(Path(__file__).parents[2] / "models/base")


def test_it_prefers_what_was_chosen(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    tokenizer = load_tokenizer(BASE)
    pairs = [(tokenizer.encode(f"item {i}:"), tokenizer.encode(" good"), tokenizer.encode(" poor")) for i in range(96)]
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs], Recipe(max_steps=8), tmp_path / "sft", lambda *_: None)
    steps: list[int] = []
    aligned = dpo.align(BASE, tmp_path / "sft", pairs, Recipe(), Dpo(learning_rate=1e-3), tmp_path / "dpo", lambda step, *_: steps.append(step))

    def margin(model: PeftModel) -> float:
        """Log probability of the chosen first token over the rejected one."""
        with torch.inference_mode():
            scores = model(torch.tensor([pairs[0][0]])).logits[0, -1].log_softmax(-1)
        return float(scores[pairs[0][1][0]] - scores[pairs[0][2][0]])

    before = margin(PeftModel.from_pretrained(load_model(BASE), str(tmp_path / "sft")))
    after = margin(aligned)
    assert after > before + 0.5
    assert steps
    again = PeftModel.from_pretrained(load_model(BASE), str(tmp_path / "dpo"))
    assert margin(again) == pytest.approx(after, abs=0.1)
    assert not (tmp_path / "dpo" / "ref").exists()
