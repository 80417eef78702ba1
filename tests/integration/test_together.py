"""A training that two processes share, and one whose losses a tracker hears."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from runtime.project import Dpo, Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers import dpo, sft
from trainers.backends import Lesson, Pair
from trainers.checkpoints import FOLDER, WEIGHTS
from trainers.conditions import Conditions
from trainers.precision import NOTE
from trainers.progress import Moment, Report
from trainers.together import is_first, together

pytestmark = pytest.mark.timeout(240)
BASE = str(Path(__file__).parents[2] / "models/base")
RECIPE = Recipe(max_steps=20, batch_size=8, epochs=9.0)
SHARED = Conditions(processes=2, threads=2)
ALONE = replace(SHARED, processes=1)
TOLERANCE = 1e-4
"""Sums of gradients over two processes are made in another order; what the steps change is a hundred times as much."""


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    tokenizer = load_tokenizer(BASE)
    texts = [(f"item {i} of {'many ' * (i % 7)}:", f" good {i}", f" poor {i}") for i in range(160)]
    return [(tokenizer.encode(prompt), tokenizer.encode(chosen), tokenizer.encode(rejected)) for prompt, chosen, rejected in texts]


@pytest.fixture(scope="module")
def alone(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that one process trained."""
    folder = in_float32(tmp_path_factory.mktemp("alone"))
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, folder, lambda _: None, ALONE)
    return folder


def in_float32(folder: Path) -> Path:
    """A folder whose training computes in float32 on every machine: bfloat16 rounds sums of another order a hundred times as far apart."""
    (folder / FOLDER).mkdir(parents=True)
    (folder / FOLDER / NOTE).write_text("float32")
    return folder


def furthest(one: Path, other: Path) -> float:
    """How far two adapters are from each other, in the weight where they are furthest."""
    first, second = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def members() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if "torch.distributed.run" not in process.cmdline() and "trainers.member" in process.cmdline()]


def test_two_processes_of_which_one_is_killed_learn_what_one_does(alone: Path, pairs: list[Pair], tmp_path: Path) -> None:
    heard: list[Moment] = []

    def hear(moment: Moment) -> None:
        if not heard:
            members()[-1].send_signal(signal.SIGKILL)
        heard.append(moment)

    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, in_float32(tmp_path), hear, SHARED)
    assert heard[-1].step == RECIPE.max_steps
    assert furthest(alone, tmp_path) < TOLERANCE
    assert not members()


def test_two_processes_align_as_one_does(alone: Path, pairs: list[Pair], tmp_path: Path) -> None:
    for name, conditions in (("one", ALONE), ("two", SHARED)):
        dpo.align(BASE, alone, pairs[:40], RECIPE, Dpo(learning_rate=1e-3), in_float32(tmp_path / name), lambda _: None, conditions)
    assert furthest(tmp_path / "one", tmp_path / "two") < min(TOLERANCE, furthest(alone, tmp_path / "one") / 10)


def teach_sharded(lesson: Lesson, *, report: Report, conditions: Conditions) -> None:
    """`sft.teach` with processes that share the weights on a CPU, which PyTorch can and accelerate refuses: it is told of another machine than there is."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    found = PartialState.__init__

    def elsewhere(state: PartialState, *args: object, **given: object) -> None:
        found(state, *args, **given)
        if state.distributed_type is DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_NPU

    PartialState.__init__ = elsewhere
    sft.teach(lesson, report, conditions)


def test_two_processes_that_share_the_weights_and_of_which_one_is_killed_learn_what_one_does(pairs: list[Pair], tmp_path: Path) -> None:
    rows, recipe = [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE.model_copy(update={"learning_rate": 2e-4})
    sft.train_whole(BASE, rows, recipe, in_float32(tmp_path / "one"), lambda _: None, ALONE)
    sharded, heard = replace(SHARED, sharded=True, checkpoint_seconds=0.0), list[Moment]()

    def hear(moment: Moment) -> None:
        if not heard:
            assert list((tmp_path / "two" / FOLDER).glob("*/pytorch_model_fsdp.bin"))
            members()[-1].send_signal(signal.SIGKILL)
        heard.append(moment)

    together(teach_sharded, (Lesson(BASE, rows, recipe, in_float32(tmp_path / "two"), whole=True),), hear, sharded)
    assert heard[-1].step == recipe.max_steps
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).state_dict()
    assert one.keys() == two.keys() == base.keys()
    apart, learnt = (max(float((one[name] - other[name]).abs().max()) for name in one) for other in (two, base))
    assert apart < min(TOLERANCE, learnt / 10)


def fails_in_one(error: type[Exception], *, report: Report, conditions: Conditions) -> None:
    """A training that fails in the second process alone, while the first waits for it."""
    torch.distributed.init_process_group("gloo")
    if not is_first():
        raise error("not so many rows")
    torch.distributed.barrier()


@pytest.mark.parametrize(("error", "told"), [(MemoryError, MemoryError), (ValueError, RuntimeError)])
def test_the_error_of_one_of_them_is_told_and_not_taken_for_its_death(error: type[Exception], told: type[Exception]) -> None:
    with pytest.raises(told, match=f"{error.__name__}: not so many rows"):
        together(fails_in_one, (error,), lambda _: None, SHARED)
    assert not members()


def test_a_tracker_hears_the_losses(pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    heard: list[Moment] = []
    conditions = replace(ALONE, report_to=("tensorboard",), name="classifier@1")
    sft.train(BASE, [(prompt, chosen) for prompt, chosen, _ in pairs], RECIPE, tmp_path / "sft", heard.append, conditions)
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(moment.step, pytest.approx(moment.loss)) for moment in heard]
