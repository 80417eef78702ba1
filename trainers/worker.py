"""The trainer's shell: takes requested runs in order, carries each out in a process of its own, says how it goes.

State is what `training-runs` says: a run without a last word is carried out again after a crash, under the same id.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from runtime.cloudevents import headers
from runtime.errors import Fenced
from runtime.follower import Follower
from runtime.ids import digest
from runtime.kafka import Record, producer
from runtime.project import Project
from schemas.codec import RECORDS, Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, Event, RunStatus, TrainingRun
from schemas.topics import ADAPTERS, TRAINING_RUNS
from trainers.fleet import OPEN
from trainers.run import Outcome, Progress, RunSpec, child

log = structlog.get_logger()
STAGE = "trainer"


class Trainer:
    """Runs until `stop` is set; one training run at a time."""

    def __init__(self, project: Project, broker: str, database: str, objects: str, scratch: Path, prefix: str = "", codec: Codec | None = None) -> None:
        self._project, self._broker, self._database, self._objects, self._scratch, self._prefix = project, broker, database, objects, scratch, prefix
        self._codec = codec or Codec()
        self._follower = Follower(broker, {prefix + TRAINING_RUNS.name: TRAINING_RUNS.partitions, prefix + ADAPTERS.name: ADAPTERS.partitions})
        self._producer = producer(broker, f"{prefix}{STAGE}")
        self._runs: dict[str, TrainingRun] = {}
        self._versions: dict[tuple[str, int], AdapterVersion] = {}
        self._live: dict[str, int] = {}
        # a fork server imports torch and TRL once, and each run starts from there in a moment
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["trainers.sft", "trainers.run", "trl", "peft", "datasets", "sklearn.metrics", "xgrammar"])

    async def run(self, stop: asyncio.Event) -> None:
        """Follows requests and carries them out. Raises Fenced when another trainer took over."""
        await self._producer.start()
        await self._follower.start()
        try:
            while not stop.is_set():
                await self._follower.deliver(self._apply)
                waiting = [run for run in self._runs.values() if run.status in OPEN]
                if waiting and await self._follower.caught_up():
                    await self._carry_out(waiting[0], stop)
        finally:
            await self._follower.stop()
            await self._producer.stop()

    def _apply(self, record: Record) -> None:
        if record.topic == self._prefix + ADAPTERS.name:
            event = self._codec.decode(AdapterEvent, record.value)
            if event.kind is AdapterEventKind.VERSION and event.version:
                self._versions[event.adapter, event.version.version] = event.version
            if event.alias:
                self._live[event.adapter] = event.alias.live_version
            return
        run = self._codec.decode(TrainingRun, record.value)
        earlier = self._runs.get(run.run_id)
        if earlier is not None and (run.status is RunStatus.REQUESTED or earlier.status not in OPEN):
            return  # our own earlier words come back here: a last word stands
        self._runs[run.run_id] = replace(run, ranges=run.ranges or (earlier.ranges if earlier else ()))

    def _spec(self, run: TrainingRun) -> RunSpec:
        adapter = self._project.adapters[run.adapter]
        live = self._versions.get((run.adapter, self._live.get(run.adapter, 0)))
        live = live if live and live.base_epoch == run.base_epoch else None
        return RunSpec(run.run_id, run.adapter, run.version or 1, run.base_epoch, self._project.base_folder, adapter, run.ranges, live, self._broker, self._database, self._objects, self._scratch)

    async def _carry_out(self, run: TrainingRun, stop: asyncio.Event) -> None:
        log.info("run.started", run_id=run.run_id, adapter=run.adapter)
        await self._say(replace(run, status=RunStatus.STARTED, ranges=()))
        ours, theirs = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=child, args=(self._spec(run), theirs), name=f"run-{run.run_id[:8]}", daemon=True)
        await asyncio.to_thread(process.start)
        theirs.close()
        last: Any = None
        try:
            while not stop.is_set():
                if not await asyncio.to_thread(ours.poll, 0.5):
                    continue
                try:
                    last = ours.recv()
                except EOFError:
                    break
                if isinstance(last, Progress):
                    await self._say(replace(run, status=RunStatus.PROGRESS, ranges=(), step=last.step, steps=last.steps, loss=last.loss))
                else:
                    break
        finally:
            if stop.is_set():
                process.terminate()
            await asyncio.to_thread(process.join)
        if not stop.is_set():
            await self._conclude(run, last, process.exitcode)

    async def _conclude(self, run: TrainingRun, last: Any, exit_code: int | None) -> None:
        """The version first, then the run's last word, in one transaction."""
        if not isinstance(last, Outcome):
            reason = last if isinstance(last, str) else f"the run's process ended with {exit_code}"
            log.error("run.failed", run_id=run.run_id, adapter=run.adapter, reason=reason)
            await self._say(replace(run, status=RunStatus.FAILED, ranges=(), reason=reason))
            return
        status = RunStatus.PUBLISHED if last.verdict.passed else RunStatus.REJECTED
        log.info("run.judged", status=status, run_id=run.run_id, adapter=run.adapter, verdict=last.verdict.reason)
        version = AdapterVersion(
            version=run.version or 1, engine_name=last.engine_name, base_epoch=run.base_epoch, artifact_uri=last.artifact_uri, files=last.files, run_id=run.run_id,
            recipe_hash=last.recipe_hash, manifest_sha256=last.manifest_sha256, rank=self._project.adapters[run.adapter].recipe.rank, metrics=last.metrics, verdict=last.verdict.reason,
        )  # fmt: skip
        event = AdapterEvent(adapter=run.adapter, kind=AdapterEventKind.VERSION, version=version, alias=None, epoch=None, reason=None)
        word = replace(run, status=status, ranges=(), metrics=last.metrics, reason=last.verdict.reason)
        await self._write([(ADAPTERS.name, run.adapter, event), (TRAINING_RUNS.name, run.run_id, word)])
        self._runs[run.run_id] = word

    async def _say(self, run: TrainingRun) -> None:
        await self._write([(TRAINING_RUNS.name, run.run_id, run)])
        self._runs[run.run_id] = replace(run, ranges=run.ranges or self._runs[run.run_id].ranges)

    async def _write(self, events: list[tuple[str, str, Event]]) -> None:
        try:
            async with self._producer.transaction():
                for topic, key, event in events:
                    data = self._codec.encode(event)
                    extra = headers(RECORDS[type(event)], digest(topic, key, data), STAGE, None)
                    await self._producer.send_and_wait(self._prefix + topic, key=key.encode(), value=data, headers=list(extra))
        except KafkaError as error:
            raise Fenced(f"trainer: {type(error).__name__}: {error}") from error
