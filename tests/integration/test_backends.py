"""What every backend that is installed here must do: the same recipe, rows and order give what TRL makes of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from runtime.errors import SettingsError
from runtime.project import Dpo, Recipe
from runtime.tasks.prompt import load_tokenizer
from tests.support.training import BASE, STEPS
from trainers import dpo, sft
from trainers.backends import Pair, Tokens
from trainers.base_model import load_model
from trainers.checkpoints import WEIGHTS
from trainers.conditions import BACKENDS, Conditions, check_backend

pytestmark = pytest.mark.timeout(900)
RECIPE = Recipe(max_steps=30, batch_size=8, epochs=30.0)
LIKE_TRL = 0.1
"""A part of what TRL takes off the loss, by which another backend's may differ: the first weights are drawn otherwise."""
TOLERANCE = 1e-4
"""Of weights that are resumed: where gradients are summed in another order."""


@pytest.fixture(params=BACKENDS)
def conditions(request: pytest.FixtureRequest) -> Conditions:
    made = Conditions(backend=request.param, threads=2, axolotl=os.environ.get("LOOM_AXOLOTL", "axolotl"))
    try:
        check_backend(made)
    except SettingsError as error:
        pytest.skip(f"{error} (make backends installs it)")
    return made


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    tokenizer = load_tokenizer(BASE)
    return [(tokenizer.encode(f"item {i}:"), tokenizer.encode(" good"), tokenizer.encode(" poor")) for i in range(96)]


@pytest.fixture(scope="module")
def rows() -> list[Tokens]:
    """Prompts that could be learned by heart, and were to lower the loss if they were learned; completions that follow from them."""
    rng = random.Random(0)
    return [([rng.randrange(300, 3000) for _ in range(12)], [200 + i % 4, 210, 2]) for i in range(48)]


@pytest.fixture(scope="module")
def by_trl(rows: list[Tokens], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trl")
    sft.train(BASE, rows, RECIPE, folder, lambda _: None, Conditions(threads=2))
    return folder


def nats(model: torch.nn.Module, rows: list[Tokens]) -> tuple[float, float]:
    """The mean loss of the prompts' tokens, and of the completions'."""
    sums = [0.0, 0.0]
    with torch.inference_mode():
        for prompt, completion in rows:
            ids = torch.tensor([prompt + completion])
            lost = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:], reduction="none")
            sums[0] += float(lost[: len(prompt) - 1].mean())
            sums[1] += float(lost[len(prompt) - 1 :].mean())
    return sums[0] / len(rows), sums[1] / len(rows)


def test_it_learns_the_completions_as_trl_does_and_no_prompts(conditions: Conditions, rows: list[Tokens], by_trl: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    model = sft.train(BASE, rows, RECIPE, tmp_path, lambda moment: steps.append(moment.step), conditions)
    prompts, completions = nats(model, rows)
    base_prompts, base_completions = nats(load_model(BASE), rows)
    _, wanted = nats(PeftModel.from_pretrained(load_model(BASE), str(by_trl)), rows)
    assert completions == pytest.approx(wanted, abs=LIKE_TRL * (base_completions - wanted))
    assert prompts > 0.9 * base_prompts
    assert steps == [10, 20, 30]
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (tmp_path, by_trl))
    assert {name: weight.shape for name, weight in ours.items()} == {name: weight.shape for name, weight in theirs.items()}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"], config["modules_to_save"] or None) == (RECIPE.rank, RECIPE.alpha, 0.0, "none", None)


def test_it_goes_on_from_an_adapter(conditions: Conditions, rows: list[Tokens], by_trl: Path, tmp_path: Path) -> None:
    sft.train(BASE, rows, RECIPE.model_copy(update={"max_steps": 1, "learning_rate": 1e-9}), tmp_path, lambda _: None, conditions, by_trl)
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (tmp_path, by_trl))
    assert max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in theirs) < TOLERANCE


def test_it_trains_all_weights(conditions: Conditions, rows: list[Tokens], tmp_path: Path) -> None:
    model = sft.train_whole(BASE, rows, RECIPE.model_copy(update={"learning_rate": 5e-4}), tmp_path, lambda _: None, conditions)
    assert nats(model, rows)[1] < 0.5 * nats(load_model(BASE), rows)[1]


def test_it_prefers_what_was_chosen(conditions: Conditions, pairs: list[Pair], tmp_path: Path) -> None:
    both = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    before = sft.train(BASE, both, RECIPE.model_copy(update={"max_steps": 8}), tmp_path / "sft", lambda _: None, conditions)
    after = dpo.align(BASE, tmp_path / "sft", pairs, RECIPE, Dpo(learning_rate=1e-3), tmp_path / "dpo", lambda _: None, conditions)

    def margin(model: PeftModel) -> float:
        """Log probability of the chosen first token over the rejected one."""
        with torch.inference_mode():
            scores = model(torch.tensor([pairs[0][0]])).logits[0, -1].float().log_softmax(-1)
        return float(scores[pairs[0][1][0]] - scores[pairs[0][2][0]])

    assert margin(after) > margin(before) + 0.5
    assert not (tmp_path / "dpo" / "ref").exists()


@pytest.mark.parametrize("conditions", [name for name in BACKENDS if name != "trl"], indirect=True)  # of TRL: tests/faults/test_run_dies.py
def test_killed_it_ends_with_the_same_weights(conditions: Conditions, tmp_path: Path) -> None:
    def training(folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "tests.support.training", "sft", str(folder), conditions.backend], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)

    def steps_of(run: subprocess.Popen[str]) -> list[int]:
        out, _ = run.communicate()
        assert run.returncode == 0
        return [int(line) for line in out.splitlines() if line.isdigit()]

    with training(tmp_path / "killed") as run:
        assert run.stdout is not None
        while (line := run.stdout.readline()).strip() != "20":
            assert line
        os.killpg(run.pid, signal.SIGKILL)
    assert 10 not in steps_of(training(tmp_path / "killed"))
    assert steps_of(training(tmp_path / "whole")) == list(range(10, STEPS + 1, 10))
    ours, theirs = (load_file(tmp_path / name / "sft" / WEIGHTS) for name in ("killed", "whole"))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) <= TOLERANCE
