"""DPO with TRL from an SFT adapter, on the bundled base: it prefers what was chosen, and leaves one adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.artifacts import MANIFEST
from runtime.project import Dpo, Recipe, load_project
from runtime.tasks.prompt import load_tokenizer
from schemas.events import Split
from trainers import dpo, fork, sft
from trainers.base_model import load_model
from trainers.snapshot import Row

BASE = str(Path(__file__).parents[2] / "models/base")


def test_it_prefers_what_was_chosen(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    tokenizer = load_tokenizer(BASE)
    pairs = [(tokenizer.encode(f"item {i}:"), tokenizer.encode(" good"), tokenizer.encode(" poor")) for i in range(96)]
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs], Recipe(max_steps=8), tmp_path / "sft", lambda *_: None)
    steps: list[int] = []
    aligned = dpo.align(BASE, tmp_path / "sft", pairs, Recipe(), Dpo(learning_rate=1e-3), tmp_path / "dpo", lambda moment: steps.append(moment.step))

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


def test_tokens_beyond_the_length_of_the_other_answer_count_as_declared(tmp_path: Path) -> None:
    import torch

    tokenizer = load_tokenizer(BASE)
    good, poor = tokenizer.encode(" good"), tokenizer.encode(" poor")
    pairs = [(tokenizer.encode(f"item {i}:"), good, good + poor) for i in range(96)]  # apart by the length alone
    sft.train(BASE, [(prompt, longer) for prompt, _, longer in pairs], Recipe(max_steps=8), tmp_path / "sft", lambda *_: None)

    def tail(alpha: float) -> float:
        """Log probability of the longer answer's last token after a training."""
        model = dpo.align(BASE, tmp_path / "sft", pairs, Recipe(), Dpo(learning_rate=1e-3, ld_alpha=alpha), tmp_path / f"dpo-{alpha}", lambda _: None)
        with torch.inference_mode():
            return float(model(torch.tensor([pairs[0][0] + good])).logits[0, -1].log_softmax(-1)[poor[0]])

    assert tail(1.0) < tail(0.0) - 1.0


PROJECT = f"""
[base]
model = "{BASE}"
[adapters.house]
task = "tool"
result = "tool-calls"
[adapters.house.recipe]
max_steps = 2
[adapters.house.dpo]
own_answers = 20
[[adapters.house.tools]]
name = "open_door"
description = "Open a door"
parameters = {{ type = "object", properties = {{ door = {{ type = "string" }} }}, required = ["door"] }}
utterances = ["open the door"]
[[adapters.house.tools]]
name = "dim_lamp"
description = "Dim a lamp"
parameters = {{ type = "object", properties = {{ lamp = {{ type = "string" }} }}, required = ["lamp"] }}
utterances = ["dim the lamp"]
"""


def test_what_the_sft_adapter_gets_wrong_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "loom.toml").write_text(PROJECT)
    adapter = load_project(tmp_path / "loom.toml").adapters["house"]
    names = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")
    rows = [
        Row(f"{name}-{i}-{tool}", f"{name}-{i}", Split.EVALUATION if name == "heath" else Split.TRAIN, {"input": {"message": frame.format(f"{name} {i}")}, "output": {"calls": [{"tool": tool, key: f"{name} {i}"}]}})
        for name in names
        for i in range(4)
        for tool, key, frame in (("open_door", "door", "please open {}"), ("dim_lamp", "lamp", "make {} darker"))
    ]
    first = fork.make(adapter, BASE, rows, fork.Earlier(), tmp_path / "first", lambda *_: None)
    assert 0 < first.metrics["own_mistakes"] == first.metrics["pairs"] <= 40, "twenty examples, answered under the grammar and without"
    assert "dpo_call_accuracy" in first.metrics
    (tmp_path / "first" / MANIFEST).write_text(json.dumps({"example_ids": [row.example_id for row in rows]}))
    earlier = fork.Earlier(*[tmp_path / "first"] * 3)
    second = fork.make(adapter, BASE, rows, earlier, tmp_path / "second", lambda *_: None)
    assert second.metrics["live_call_accuracy"] == first.metrics["call_accuracy"]
