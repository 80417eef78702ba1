"""Commands on a real broker: each is answered once, also by a coordinator that starts anew; a trainer ends what is cancelled."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from loom.client import Client
from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from runtime.follower import Follower
from runtime.kafka import Outgoing, apply_topics
from runtime.objects import Objects
from runtime.project import Kafka, Project
from schemas.codec import Codec
from schemas.events import AdapterAction, AdapterCommand, AdapterEvent, AdapterEventKind, AdapterVersion, RunStatus, TrainingRun
from tests.support.kafka import publish, read_all
from tests.support.runs import request_a_run, small_project
from trainers.coordinator import Coordinator
from trainers.worker import Trainer

CODEC = Codec()


def wish(action: AdapterAction, seen: int, version: int | None = None, run_id: str | None = None) -> AdapterCommand:
    return AdapterCommand(command_id=uuid.uuid4().hex, adapter="classifier", action=action, version=version, seen_sequence=seen, run_id=run_id)


@asynccontextmanager
async def coordinating(project: Project, broker: str, prefix: str) -> AsyncIterator[Coordinator]:
    stop = asyncio.Event()
    coordinator = Coordinator(project, broker, prefix)
    running = asyncio.create_task(coordinator.run(stop))
    try:
        yield coordinator
    finally:
        stop.set()
        await running


async def events(broker: str, prefix: str) -> list[AdapterEvent]:
    return [CODEC.decode(AdapterEvent, r.value) for r in await read_all(broker, f"{prefix}adapters")]


async def until_live(coordinator: Coordinator, version: int) -> int:
    """Waits for it; the sequence then."""
    async with asyncio.timeout(30):
        while coordinator.fleet.adapters["classifier"].live != version:
            await asyncio.sleep(0.1)
    return coordinator.fleet.sequence


def published(broker: str, prefix: str, number: int) -> list[Outgoing]:
    """What a trainer writes of a version that passed its gate."""
    run = TrainingRun(run_id=f"r{number}", adapter="classifier", base_epoch=0, status=RunStatus.PUBLISHED, version=number)
    version = AdapterVersion(
        version=number, engine_name=f"classifier@{number}-00000000", base_epoch=0, artifact_uri="", files=(), run_id=run.run_id, recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="good",
    )  # fmt: skip
    event = AdapterEvent(adapter="classifier", kind=AdapterEventKind.VERSION, version=version)
    return [
        Outgoing(f"{prefix}training-runs", b"r", CODEC.encode(replace(run, status=RunStatus.REQUESTED))),
        Outgoing(f"{prefix}adapters", b"classifier", CODEC.encode(event)), Outgoing(f"{prefix}training-runs", b"r", CODEC.encode(run)),
    ]  # fmt: skip


@pytest.mark.asyncio
async def test_a_command_is_answered_once_and_what_it_said_stands_after_a_restart(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    project, prefix = small_project(steps=1), f"test-{uuid.uuid4().hex[:8]}."
    await apply_topics(kafka.address, project.topics.values(), prefix)
    async with Client(project, kafka.address, Objects(tmp_path.as_uri()), prefix) as client:
        async with coordinating(project, kafka.address, prefix) as coordinator:
            for number in (1, 2):
                await publish(kafka.address, published(kafka.address, prefix, number))
                seen = await until_live(coordinator, number)
            rollback = await client.command(wish(AdapterAction.ROLLBACK, seen))
            assert isinstance(rollback, AdapterEvent)
            assert rollback.alias is not None
            assert rollback.alias.live_version == 1
            refused = await client.command(wish(AdapterAction.ROLLBACK, seen))
            assert isinstance(refused, AdapterEvent)
            assert "changed meanwhile" in (refused.reason or "")
        before = await events(kafka.address, prefix)
        with pytest.raises(TimeoutError):
            await client.command(wish(AdapterAction.RETIRE, rollback.sequence), timeout_seconds=1)  # nobody is there: it waits
        async with coordinating(project, kafka.address, prefix) as coordinator:
            async with asyncio.timeout(30):
                while not coordinator.fleet.adapters["classifier"].retired:
                    await asyncio.sleep(0.1)
        after = await events(kafka.address, prefix)
        assert [event.kind for event in after[len(before) :]] == [AdapterEventKind.ALIAS]
        assert len({event.command_id for event in after if event.command_id}) == 3
        fleet = await client.fleet()
    assert fleet.adapters["classifier"].retired


@pytest.mark.asyncio
async def test_a_run_that_is_cancelled_ends_at_once_and_publishes_nothing(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    project, prefix = small_project(steps=10_000).model_copy(update={"kafka": Kafka(partitions=1)}), f"test-{uuid.uuid4().hex[:8]}."
    await apply_topics(kafka.address, project.topics.values(), prefix)
    run = await request_a_run(kafka.address, postgres.url, prefix)
    trainer = Trainer(project, kafka.address, postgres.url, (tmp_path / "objects").as_uri(), tmp_path / "scratch", prefix)
    stop, heard = asyncio.Event(), list[TrainingRun]()
    follower = Follower(kafka.address, [f"{prefix}training-runs"])
    await follower.start()

    async def until(status: RunStatus) -> None:
        async with asyncio.timeout(90):
            while not heard or heard[-1].status is not status:
                await follower.deliver(lambda record: heard.append(CODEC.decode(TrainingRun, record.value)))

    async with Client(project, kafka.address, Objects(tmp_path.as_uri()), prefix) as client, coordinating(project, kafka.address, prefix):
        training = asyncio.create_task(trainer.run(stop))
        await until(RunStatus.PROGRESS)
        word = await client.command(wish(AdapterAction.CANCEL, 0, run_id=run.run_id))
        assert isinstance(word, TrainingRun)
        assert word.status is RunStatus.CANCELLED
        async with asyncio.timeout(10):
            while any(process.name == "run-r1" for process in multiprocessing.active_children()) or list((tmp_path / "scratch").iterdir()):
                await asyncio.sleep(0.1)
        assert not training.done()
        stop.set()
        await training
        await follower.deliver(lambda record: heard.append(CODEC.decode(TrainingRun, record.value)))
        fleet = await client.fleet()
    await follower.stop()
    assert fleet.adapters["classifier"].runs["r1"].status is RunStatus.CANCELLED
    assert fleet.adapters["classifier"].versions == {}
