"""A training that is killed goes on from its last checkpoint, and ends where it would have ended."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.processes import PULSES
from runtime.project import Gpu
from runtime.pulse import PulseWriter
from tests.support.runs import carry_out, child_with_little_memory
from tests.support.training import BASE, STEPS, tell
from trainers import worker
from trainers.checkpoints import WEIGHTS
from trainers.precision import NOTE
from trainers.worker import PRELOAD

TOLERANCE = 1e-6


@contextmanager
def training(kind: str, folder: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that trains, forked from one that has imported what that takes, as a trainer's runs are; and where it says its steps."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "tests.support.training"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=tell, args=(theirs, kind, folder))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()


def steps_of(kind: str, folder: Path) -> list[int]:
    steps = []
    with training(kind, folder) as (process, said):
        with suppress(EOFError):
            while True:
                steps.append(said.recv())
        process.join()
        assert process.exitcode == 0
    return steps


@pytest.mark.parametrize(("kind", "weights", "learnt"), [("sft", WEIGHTS, "lora_B"), ("dpo", WEIGHTS, "lora_B"), ("whole", "model.safetensors", "mlp")])
def test_it_ends_with_the_same_weights(kind: str, weights: str, learnt: str, tmp_path: Path) -> None:
    with training(kind, tmp_path / "killed") as (process, said):
        while said.recv() != 20:
            pass
        process.kill()
    every = list(range(10, STEPS + 1, 10))
    assert steps_of(kind, tmp_path / "killed") in (every[1:], every[2:])  # the checkpoint of the step that it was killed after may lack its end
    notes = sorted(note.relative_to(tmp_path / "killed") for note in (tmp_path / "killed").rglob(NOTE))
    assert notes, "what a training computes in"
    for note in notes:  # what computes otherwise ends otherwise
        (tmp_path / "whole" / note.parent).mkdir(parents=True)
        shutil.copy(tmp_path / "killed" / note, tmp_path / "whole" / note)
    assert steps_of(kind, tmp_path / "whole") == every
    ours, theirs = (load_file(tmp_path / name / kind / weights) for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= TOLERANCE
    before = load_file(Path(BASE) / weights) if kind == "whole" else {}
    assert any(float((now - before.get(name, 0.0)).abs().max()) > 0 for name, now in ours.items() if learnt in name)


@pytest.mark.asyncio
async def test_its_worker_starts_it_again(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    carried = await carry_out(kafka, postgres, tmp_path, lambda process: os.kill(process, signal.SIGKILL))
    assert carried.troubles == ["the process was ended by signal 9"]
    assert carried.steps[-1] == 40
    assert carried.steps.count(10) == 2  # it had no checkpoint yet


@pytest.mark.asyncio
async def test_it_stops_while_somebody_is_answered_and_goes_on_where_it_was(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    states: list[str] = []

    def ask(run: int) -> None:
        """Serving answers for three seconds."""
        writer, began = PulseWriter(tmp_path / PULSES / "serving.json"), time.monotonic()
        with writer.answering():
            while time.monotonic() - began < 3:
                writer.write()
                time.sleep(0.2)
                states.append(psutil.Process(run).status())
        writer.write()

    carried = await carry_out(kafka, postgres, tmp_path, lambda run: threading.Thread(target=ask, args=(run,)).start(), Gpu(share="sleep", quiet_seconds=1))
    assert carried.troubles == ["waits: serving answers", "goes on"]
    assert states.count(psutil.STATUS_STOPPED) > 10
    assert carried.steps == sorted(set(carried.steps)), "a step was done twice"
    assert carried.steps[-1] == 40


@pytest.mark.asyncio
async def test_where_memory_is_short_half_as_many_rows_are_in_it_at_once(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "child", child_with_little_memory)
    carried = await carry_out(kafka, postgres, tmp_path)
    assert carried.steps[-1] == 40
    (trouble,) = carried.troubles
    assert trouble is not None
    assert trouble.endswith("; 1/2 of the rows at once from now on, gradients accumulated to the same batch")
