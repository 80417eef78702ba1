"""A training that is killed goes on from its last checkpoint, and ends where it would have ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiokafka import TopicPartition
from safetensors.numpy import load_file

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import connect
from runtime.follower import Follower
from runtime.ids import canonical_json
from runtime.kafka import Outgoing, apply_topics, consumer
from runtime.project import Recipe, load_project
from runtime.sealing import PostgresKeys, seal
from schemas.codec import Codec
from schemas.events import DatasetRecord, OffsetRange, RecordStatus, RunStatus, Split, TrainingRun
from schemas.topics import ADAPTERS, TRAINING_RUNS, dataset_topic
from tests.support.kafka import publish
from tests.support.training import STEPS
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


MOODS = ("NEGATIVE", "NEUTRAL", "POSITIVE")


async def request_a_run(broker: str, database: str, prefix: str) -> None:
    """Sixty examples and a run over them."""
    topics = [replace(dataset_topic("classifier"), partitions=1), TRAINING_RUNS, ADAPTERS]
    await apply_topics(broker, topics, prefix)
    pool = await connect(database, size=1)
    key = await PostgresKeys(pool).key("upstream")
    await pool.close()
    for n in range(60):
        body = seal(key, f"e{n}:body", canonical_json({"input": {"text": f"message {n} is {MOODS[n % 3].lower()}"}, "output": {"label": MOODS[n % 3]}}))
        record = DatasetRecord(example_id=f"e{n}", adapter="classifier", task="classify", split=Split.EVALUATION if n % 6 == 0 else Split.TRAIN, group_id=f"g{n}", body=body, status=RecordStatus.LIVE)
        await publish(broker, [Outgoing(prefix + topics[0].name, record.example_id.encode(), CODEC.encode(record))])
    place = TopicPartition(prefix + topics[0].name, 0)
    async with consumer(broker) as reader:
        end = (await reader.end_offsets([place]))[place]
    run = TrainingRun(run_id="r1", adapter="classifier", base_epoch=0, status=RunStatus.REQUESTED, version=1, ranges=(OffsetRange(topic=place.topic, partition=0, first=0, end=end),))
    await publish(broker, [Outgoing(prefix + TRAINING_RUNS.name, b"r1", CODEC.encode(run))])


@pytest.mark.asyncio
async def test_its_worker_starts_it_again(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await request_a_run(kafka.address, postgres.url, prefix)
    example = load_project(Path(__file__).parents[2] / "examples/pebblewire/loom.toml")
    classifier = example.adapters["classifier"].model_copy(update={"recipe": Recipe(max_steps=40, epochs=20.0)})
    project = example.model_copy(update={"adapters": {"classifier": classifier}})
    trainer = Trainer(project, kafka.address, postgres.url, (tmp_path / "objects").as_uri(), tmp_path / "scratch", prefix)
    heard: list[TrainingRun] = []
    stop = asyncio.Event()
    follower = Follower(kafka.address, [prefix + TRAINING_RUNS.name])
    await follower.start()
    running = asyncio.create_task(trainer.run(stop))
    killed = False
    async with asyncio.timeout(180):
        while not heard or heard[-1].status not in (RunStatus.PUBLISHED, RunStatus.REJECTED, RunStatus.FAILED):
            await follower.deliver(lambda record: heard.append(CODEC.decode(TrainingRun, record.value)))
            if heard and heard[-1].status is RunStatus.PROGRESS and not killed:
                next(process for process in multiprocessing.active_children() if process.name == "run-r1").kill()
                killed = True
    stop.set()
    await running
    await follower.stop()
    steps = [moment.step for moment in heard if moment.status is RunStatus.PROGRESS]
    assert killed
    assert steps[-1] == 40
    assert steps.count(10) == 2  # it had no checkpoint yet
    assert heard[-1].status in (RunStatus.PUBLISHED, RunStatus.REJECTED), heard[-1].reason
    assert all(moment.tokens_per_second and moment.memory_bytes for moment in heard if moment.status is RunStatus.PROGRESS)
    assert not list((tmp_path / "scratch").iterdir())
