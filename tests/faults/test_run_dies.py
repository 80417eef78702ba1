"""A training that is killed goes on from its last checkpoint, and ends where it would have ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from runtime.follower import Follower
from schemas.codec import Codec
from schemas.events import RunStatus, TrainingRun
from schemas.topics import TRAINING_RUNS
from tests.support.runs import child_with_little_memory, request_a_run, small_project
from tests.support.training import STEPS
from trainers import worker
from trainers.checkpoints import WEIGHTS
from trainers.worker import Trainer

TOLERANCE = 1e-6
CODEC = Codec()


def training(kind: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tests.support.training", kind, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def steps_of(run: subprocess.Popen[str]) -> list[int]:
    out, _ = run.communicate()
    assert run.returncode == 0
    return [int(line) for line in out.splitlines() if line.isdigit()]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_it_ends_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    with training(kind, tmp_path / "killed") as run:
        assert run.stdout is not None
        while (line := run.stdout.readline()).strip() != "20":
            assert line
        run.kill()
    every = list(range(10, STEPS + 1, 10))
    assert steps_of(training(kind, tmp_path / "killed")) in (every[1:], every[2:])  # the checkpoint of the step that it was killed after may lack its end
    assert steps_of(training(kind, tmp_path / "whole")) == every
    ours, theirs = (load_file(tmp_path / name / kind / WEIGHTS) for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours) <= TOLERANCE
    assert any(float(np.abs(weights).max()) > 0 for name, weights in ours.items() if "lora_B" in name)


@dataclass
class Carried:
    """What was heard of a run that a trainer carried out."""

    heard: list[TrainingRun] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [moment.step for moment in self.heard if moment.step is not None]

    @property
    def troubles(self) -> list[str | None]:
        return [moment.reason for moment in self.heard if moment.status is RunStatus.PROGRESS and moment.step is None]


async def carry_out(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, folder: Path, trouble: Callable[[int], None] | None = None) -> Carried:
    """Requests a run and has it carried out; its process gets into `trouble`, which takes its id, at its first word."""
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await request_a_run(kafka.address, postgres.url, prefix)
    trainer = Trainer(small_project(steps=40), kafka.address, postgres.url, (folder / "objects").as_uri(), folder / "scratch", prefix)
    carried, stop = Carried(), asyncio.Event()
    follower = Follower(kafka.address, [prefix + TRAINING_RUNS.name])
    await follower.start()
    running = asyncio.create_task(trainer.run(stop))
    async with asyncio.timeout(180):
        while not carried.heard or carried.heard[-1].status not in (RunStatus.PUBLISHED, RunStatus.REJECTED, RunStatus.FAILED):
            await follower.deliver(lambda record: carried.heard.append(CODEC.decode(TrainingRun, record.value)))
            if trouble and carried.heard and carried.heard[-1].status is RunStatus.PROGRESS:
                trouble(next(process.pid for process in multiprocessing.active_children() if process.name == "run-r1" and process.pid))
                trouble = None
    stop.set()
    await running
    await follower.stop()
    assert carried.heard[-1].status in (RunStatus.PUBLISHED, RunStatus.REJECTED), carried.heard[-1].reason
    assert all(moment.tokens_per_second and moment.memory_bytes for moment in carried.heard if moment.step is not None)
    assert not list((folder / "scratch").iterdir())
    return carried


@pytest.mark.asyncio
async def test_its_worker_starts_it_again(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    carried = await carry_out(kafka, postgres, tmp_path, lambda process: os.kill(process, signal.SIGKILL))
    assert carried.troubles == ["the process was ended by signal 9"]
    assert carried.steps[-1] == 40
    assert carried.steps.count(10) == 2  # it had no checkpoint yet


@pytest.mark.asyncio
async def test_where_memory_is_short_half_as_many_rows_are_in_it_at_once(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "child", child_with_little_memory)
    carried = await carry_out(kafka, postgres, tmp_path)
    assert carried.steps[-1] == 40
    (trouble,) = carried.troubles
    assert trouble is not None
    assert trouble.endswith("; 1/2 of the rows at once from now on, gradients accumulated to the same batch")
