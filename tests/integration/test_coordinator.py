"""The coordinator on a real broker: foreign bytes are parked, once, and change nothing; a second one fences the first."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from loom.embedded.kafka import EmbeddedKafka
from runtime.errors import Fenced
from runtime.ids import digest
from runtime.kafka import Outgoing, apply_topics, producer
from runtime.project import Base, load_project
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, DatasetRecord, DeadLetter, OffsetRange, RecordStatus, Split, TrainingRun
from tests.support.kafka import publish, read_all
from trainers.coordinator import Coordinator
from trainers.fleet import QUIET_SECONDS
from trainers.snapshot import read_ranges

CODEC = Codec()
EXAMPLE = load_project(Path(__file__).parents[2] / "examples/pebblewire/loom.toml")
PROJECT = EXAMPLE.model_copy(update={"base": Base(model=EXAMPLE.base.model)})  # adapters wait for no pre-training


def records(prefix: str, count: int) -> list[Outgoing]:
    made = [
        DatasetRecord(example_id=digest("e", i), adapter="classifier", task="classify", split=Split.TRAIN, group_id="g", body=None, status=RecordStatus.LIVE) for i in range(count)
    ]
    return [Outgoing(f"{prefix}datasets.classifier", r.example_id.encode(), CODEC.encode(r)) for r in made]


async def until(broker: str, topic: str, count: int) -> list[bytes | None]:
    for _ in range(240):
        if len(found := await read_all(broker, topic)) >= count:
            return [r.value for r in found]
        await asyncio.sleep(0.25)
    raise AssertionError(f"{topic} holds {len(found)} records, {count} were expected")


@pytest.mark.asyncio
async def test_it_requests_a_run_past_foreign_bytes_and_a_second_one_fences_it(kafka: EmbeddedKafka) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await apply_topics(kafka.address, PROJECT.topics.values(), prefix)
    await publish(kafka.address, [Outgoing(prefix + topic, b"k", b"no avro") for topic in ("training-runs", "adapters", "adapter-commands", "datasets.classifier")])
    stop = asyncio.Event()
    first = asyncio.create_task(Coordinator(PROJECT, kafka.address, prefix).run(stop))
    values = await until(kafka.address, f"{prefix}adapters", 2)
    assert CODEC.decode(AdapterEvent, values[1]).kind is AdapterEventKind.EPOCH
    enough = PROJECT.adapters["classifier"].min_examples
    await publish(kafka.address, records(prefix, enough))
    run = CODEC.decode(TrainingRun, (await until(kafka.address, f"{prefix}training-runs", 2))[1])
    assert (run.adapter, run.version, sum(r.end for r in run.ranges)) == ("classifier", 1, enough + 1)
    assert len(await read_ranges(kafka.address, [OffsetRange(topic=r.topic, partition=r.partition, first=r.first, end=r.end) for r in run.ranges], CODEC, "classifier")) == enough
    second = asyncio.create_task(Coordinator(PROJECT, kafka.address, prefix).run(stop))
    await asyncio.sleep(3)
    await publish(kafka.address, [Outgoing(f"{prefix}training-runs", run.run_id.encode(), CODEC.encode(_failed(run)))])
    await publish(kafka.address, records(prefix, 2 * enough)[enough:])
    assert len(await until(kafka.address, f"{prefix}training-runs", 4)) == 4
    stop.set()
    done = await asyncio.gather(first, second, return_exceptions=True)
    assert sum(isinstance(outcome, Fenced) for outcome in done) <= 1
    assert [outcome for outcome in done if outcome is not None and not isinstance(outcome, Fenced)] == []
    letters = [CODEC.decode(DeadLetter, v) for v in await until(kafka.address, f"{prefix}dead-letters", 4)]
    assert sorted((letter.topic, letter.value) for letter in letters) == [(prefix + topic, b"no avro") for topic in ("adapter-commands", "adapters", "datasets.classifier", "training-runs")]
    runs = [CODEC.decode(TrainingRun, v) for v in (await until(kafka.address, f"{prefix}training-runs", 4))[1:]]
    assert [r.version for r in runs if r.status == "requested"] == [1, 2]
    del done, first, second
    gc.collect()  # asyncio logs what aiokafka left of the fenced producer; logged while pytest parses, it breaks Python 3.11 (gh-106905)


@pytest.mark.asyncio
async def test_a_run_waits_until_the_streams_have_read_what_is_there(kafka: EmbeddedKafka) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await apply_topics(kafka.address, PROJECT.topics.values(), prefix)
    chunks, group = TopicPartition(f"{prefix}chunks", 0), f"{prefix}synth"
    async with transactional(kafka.address) as client:
        sent = [await client.send(chunks.topic, b"a long document", partition=0) for _ in range(3)]
    stop = asyncio.Event()
    running = asyncio.create_task(Coordinator(PROJECT, kafka.address, prefix, feeders={group: [chunks.topic]}).run(stop))
    await publish(kafka.address, records(prefix, PROJECT.adapters["classifier"].min_examples))
    await asyncio.sleep(3 * QUIET_SECONDS)
    assert await read_all(kafka.address, f"{prefix}training-runs") == []
    async with transactional(kafka.address) as client:  # the streams' way: the offset after the last record, before its marker
        await client.send_offsets_to_transaction({chunks: (await sent[-1]).offset + 1}, group)
    assert CODEC.decode(TrainingRun, (await until(kafka.address, f"{prefix}training-runs", 1))[0]).adapter == "classifier"
    stop.set()
    await running


@asynccontextmanager
async def transactional(broker: str) -> AsyncIterator[AIOKafkaProducer]:
    client = producer(broker, uuid.uuid4().hex)
    await client.start()
    try:
        async with client.transaction():
            yield client
    finally:
        await client.stop()


def _failed(run: TrainingRun) -> TrainingRun:
    from dataclasses import replace

    from schemas.events import RunStatus

    return replace(run, status=RunStatus.FAILED, ranges=())
