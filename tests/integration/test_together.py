"""A training that two processes share, and one whose losses a tracker hears."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from runtime.project import Dpo, Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers import dpo, sft
from trainers.checkpoints import WEIGHTS
from trainers.conditions import Conditions
from trainers.progress import Moment

pytestmark = pytest.mark.timeout(240)
BASE = str(Path(__file__).parents[2] / "models/base")
RECIPE = Recipe(max_steps=20, batch_size=8, epochs=9.0)
SHARED = Conditions(processes=2, threads=2)
ALONE = replace(SHARED, processes=1)
TOLERANCE = 1e-4
"""Sums of gradients over two processes are made in another order; what the steps change is a hundred times as much."""


@pytest.fixture(scope="module")
def pairs() -> list[dpo.Pair]:
    tokenizer = load_tokenizer(BASE)
    texts = [(f"item {i} of {'many ' * (i % 7)}:", f" good {i}", f" poor {i}") for i in range(160)]
    return [(tokenizer.encode(prompt), tokenizer.encode(chosen), tokenizer.encode(rejected)) for prompt, chosen, rejected in texts]


@pytest.fixture(scope="module")
def alone(pairs: list[dpo.Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that one process trained."""
    folder = tmp_path_factory.mktemp("alone")
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, folder, lambda _: None, ALONE)
    return folder


def furthest(one: Path, other: Path) -> float:
    """How far two adapters are from each other, in the weight where they are furthest."""
    first, second = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def members() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if "torch.distributed.run" not in process.cmdline() and "trainers.together" in process.cmdline()]


def killing_one(heard: list[Moment], moment: Moment) -> None:
    if not heard:
        members()[-1].send_signal(signal.SIGKILL)
    heard.append(moment)


@pytest.mark.parametrize("hear", [list.append, killing_one], ids=["undisturbed", "one of them killed"])
def test_two_processes_learn_what_one_does(alone: Path, pairs: list[dpo.Pair], tmp_path: Path, hear: Callable[[list[Moment], Moment], None]) -> None:
    heard: list[Moment] = []
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, tmp_path, partial(hear, heard), SHARED)
    assert heard[-1].step == RECIPE.max_steps
    assert furthest(alone, tmp_path) < TOLERANCE
    assert not members()


def test_two_processes_align_as_one_does(alone: Path, pairs: list[dpo.Pair], tmp_path: Path) -> None:
    for name, conditions in (("one", ALONE), ("two", SHARED)):
        dpo.align(BASE, alone, pairs[:40], RECIPE, Dpo(learning_rate=1e-3), tmp_path / name, lambda _: None, conditions)
    assert furthest(alone, tmp_path / "one") > 100 * TOLERANCE
    assert furthest(tmp_path / "one", tmp_path / "two") < TOLERANCE


def test_what_one_of_them_says_as_it_fails_is_the_error(pairs: list[dpo.Pair], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match=str(tmp_path)):
        sft.train(str(tmp_path), [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, tmp_path / "adapter", lambda _: None, SHARED)
    assert not members()


def test_a_tracker_hears_the_losses(pairs: list[dpo.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    heard: list[Moment] = []
    conditions = replace(ALONE, report_to=("tensorboard",), name="classifier@1")
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, tmp_path / "sft", heard.append, conditions)
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(moment.step, pytest.approx(moment.loss)) for moment in heard]
