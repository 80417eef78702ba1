"""A training run for a trainer to carry out: its examples, and the request."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from aiokafka import TopicPartition

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.processes import PULSES
from runtime.artifacts import fetch
from runtime.database import connect
from runtime.follower import Follower
from runtime.ids import canonical_json
from runtime.kafka import Outgoing, apply_topics, consumer
from runtime.objects import Objects
from runtime.project import Gpu, Project, Recipe, load_project
from runtime.sealing import PostgresKeys, seal
from runtime.signing import SIGNATURE
from schemas.codec import Codec
from schemas.events import AdapterEvent, DatasetRecord, OffsetRange, RecordStatus, RunStatus, Split, TrainingRun
from schemas.topics import ADAPTERS, TRAINING_RUNS, dataset_topic
from tests.support.kafka import publish, read_all
from tests.support.versions import new_keys
from trainers.run import RunSpec, child
from trainers.worker import Trainer

CODEC = Codec()
MOODS = ("NEGATIVE", "NEUTRAL", "POSITIVE")


def small_project(steps: int) -> Project:
    """A classifier that is trained for so many steps."""
    example = load_project(Path(__file__).parents[2] / "examples/pebblewire/loom.toml")
    classifier = example.adapters["classifier"].model_copy(update={"recipe": Recipe(max_steps=steps, epochs=50.0)})
    return example.model_copy(update={"adapters": {"classifier": classifier}})


def child_with_little_memory(spec: RunSpec, connection: Any) -> None:
    """A run's process in whose memory a step has no room for sixteen rows at once: torch's own allocator says so."""
    step = transformers.Trainer.training_step

    def needy(trainer: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        torch.empty(trainer.args.per_device_train_batch_size // 16 << 60, dtype=torch.uint8)  # an exbibyte, or nothing
        return step(trainer, *args, **kwargs)

    transformers.Trainer.training_step = needy
    child(spec, connection)


async def request_a_run(broker: str, database: str, prefix: str) -> TrainingRun:
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
    return run


@dataclass
class Carried:
    """A run that a trainer carried out: the topics' prefix, and what was heard."""

    prefix: str
    heard: list[TrainingRun] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [moment.step for moment in self.heard if moment.step is not None]

    @property
    def troubles(self) -> list[str | None]:
        return [moment.reason for moment in self.heard if moment.status is RunStatus.PROGRESS and moment.step is None]


async def carry_out(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, folder: Path, trouble: Callable[[int], None] | None = None, gpu: Gpu = Gpu()) -> Carried:
    """Requests a run and has it carried out; its process gets into `trouble`, which takes its id, at its first word."""
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await request_a_run(kafka.address, postgres.url, prefix)
    keys, objects = new_keys(folder), Objects((folder / "objects").as_uri())
    project = small_project(steps=40).model_copy(update={"gpu": gpu})
    trainer = Trainer(project, kafka.address, postgres.url, objects.url, folder / "scratch", prefix, keys=keys, idle_seconds=3, pulses=folder / PULSES)
    carried = Carried(prefix)
    follower = Follower(kafka.address, [prefix + TRAINING_RUNS.name])
    await follower.start()
    running = asyncio.create_task(trainer.run(asyncio.Event()))
    async with asyncio.timeout(180):
        while not carried.heard or carried.heard[-1].status not in (RunStatus.PUBLISHED, RunStatus.REJECTED, RunStatus.FAILED):
            await follower.deliver(lambda record: carried.heard.append(CODEC.decode(TrainingRun, record.value)))
            if trouble and carried.heard and carried.heard[-1].status is RunStatus.PROGRESS:
                trouble(next(process.pid for process in multiprocessing.active_children() if process.name == "run-r1" and process.pid))
                trouble = None
    async with asyncio.timeout(20):
        await running  # ends by itself: there is nothing more to do
    await follower.stop()
    assert carried.heard[-1].status in (RunStatus.PUBLISHED, RunStatus.REJECTED), carried.heard[-1].reason
    assert all(moment.tokens_per_second and moment.memory_bytes for moment in carried.heard if moment.step is not None)
    assert not list((folder / "scratch").iterdir())
    (event,) = [CODEC.decode(AdapterEvent, record.value) for record in await read_all(kafka.address, prefix + ADAPTERS.name)]
    assert event.version and (await fetch(event.version, objects, folder / "fetched", keys)).joinpath(SIGNATURE).exists()
    return carried
