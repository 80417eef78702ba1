"""The coordinator's shell: follows datasets, runs and registry; requests runs; is the only writer of aliases.

All state is what the topics say. One transactional id fences a second coordinator, whose writes then fail.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog
from aiokafka.errors import KafkaError

from runtime.cloudevents import headers
from runtime.errors import Fenced
from runtime.follower import Follower
from runtime.ids import digest
from runtime.kafka import Record, producer
from runtime.project import Project
from schemas.codec import RECORDS, Codec
from schemas.events import AdapterEvent, AdapterEventKind, BaseEpoch, DatasetRecord, Event, TrainingRun
from schemas.topics import ADAPTERS, TRAINING_RUNS, dataset_topic
from trainers.base_model import base_sha256
from trainers.fleet import Fleet

log = structlog.get_logger()
STAGE = "coordinator"


class Coordinator:
    """Runs until `stop` is set."""

    def __init__(self, project: Project, broker: str, prefix: str = "", codec: Codec | None = None) -> None:
        self._project = project
        self._prefix = prefix
        self._codec = codec or Codec()
        self._datasets = {prefix + dataset_topic(name).name for name in project.adapters}
        topics = {prefix + topic.name: topic.partitions for topic in (TRAINING_RUNS, ADAPTERS, *map(dataset_topic, project.adapters))}
        self._follower = Follower(broker, topics)
        self._producer = producer(broker, f"{prefix}{STAGE}")
        self.fleet = Fleet(project)

    async def run(self, stop: asyncio.Event) -> None:
        """Follows, decides, writes.

        Raises:
            Fenced: another coordinator took over.
        """
        await self._producer.start()
        await self._follower.start()
        try:
            caught_up = False
            while not stop.is_set():
                await self._follower.deliver(self._apply)
                caught_up = caught_up or await self._follower.caught_up()
                if caught_up:
                    await self._act()
        finally:
            await self._follower.stop()
            await self._producer.stop()

    def _apply(self, record: Record) -> None:
        if record.topic in self._datasets:
            self.fleet.apply_example(self._codec.decode(DatasetRecord, record.value), (record.topic, record.partition), record.offset, time.monotonic())
        elif record.topic == self._prefix + TRAINING_RUNS.name:
            self.fleet.apply_run(self._codec.decode(TrainingRun, record.value))
        else:
            self.fleet.apply_adapter(self._codec.decode(AdapterEvent, record.value))

    async def _act(self) -> None:
        if self.fleet.epoch is None:
            await self._write(ADAPTERS.name, "*", self._first_epoch())
        for event in list(self.fleet.due_aliases()):
            await self._write(ADAPTERS.name, event.adapter, event)
            log.info("alias.switched", adapter=event.adapter, version=event.alias.live_version if event.alias else None)
        for run in list(self.fleet.decide(time.monotonic())):
            await self._write(TRAINING_RUNS.name, run.run_id, run)
            log.info("run.requested", adapter=run.adapter, run_id=run.run_id, version=run.version)

    def _first_epoch(self) -> AdapterEvent:
        folder = Path(self._project.base_folder)
        sha256 = base_sha256(folder) if folder.exists() else self._project.base_folder
        epoch = BaseEpoch(epoch=0, base_uri=folder.as_uri() if folder.exists() else self._project.base_folder, base_sha256=sha256, live={})
        return AdapterEvent(adapter="*", kind=AdapterEventKind.EPOCH, sequence=self.fleet.sequence + 1, version=None, alias=None, epoch=epoch, reason=None)

    async def _write(self, topic: str, key: str, event: Event) -> None:
        """One event in a transaction of its own, applied to the state at once."""
        event_id = digest(topic, key, self._codec.encode(event))
        try:
            async with self._producer.transaction():
                await self._producer.send_and_wait(self._prefix + topic, key=key.encode(), value=self._codec.encode(event), headers=list(headers(RECORDS[type(event)], event_id, STAGE, None)))
        except KafkaError as error:
            raise Fenced(f"coordinator: {type(error).__name__}: {error}") from error
        if isinstance(event, TrainingRun):
            self.fleet.apply_run(event)
        elif isinstance(event, AdapterEvent):
            self.fleet.apply_adapter(event)
