"""The trainer's shell: takes requested runs in order, carries each out in a process of its own, says how it goes.

State is what `training-runs` says: a run without a last word is gone on with after a crash, under the same id, from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog

from runtime.event_writer import Entry, EventWriter
from runtime.follower import Follower
from runtime.kafka import Record
from runtime.project import Project
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, RunStatus, TrainingRun
from schemas.topics import ADAPTERS, BASE, TRAINING_RUNS
from trainers.fleet import OPEN
from trainers.progress import Moment
from trainers.run import Outcome, RunSpec, child

log = structlog.get_logger()
STAGE = "trainer"
ATTEMPTS = 3
"""A process that is killed, of too little memory perhaps, is started again so often, and goes on from its last checkpoint."""


class Trainer:
    """Runs until `stop` is set; one training run at a time."""

    def __init__(self, project: Project, broker: str, database: str, objects: str, scratch: Path, prefix: str = "", codec: Codec | None = None, registry: str | None = None) -> None:
        self._project, self._broker, self._database, self._objects, self._scratch, self._prefix = project, broker, database, objects, scratch, prefix
        self._codec, self._registry = codec or Codec(), registry
        self._follower = Follower(broker, [prefix + TRAINING_RUNS.name, prefix + ADAPTERS.name])
        self._writer = EventWriter(broker, STAGE, STAGE, self._codec, prefix)
        self._runs: dict[str, TrainingRun] = {}
        self._versions: dict[tuple[str, int], AdapterVersion] = {}
        self._live: dict[str, int] = {}
        # a fork server imports torch and TRL once, and each run starts from there in a moment
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["trainers.fork", "trainers.run", "trl", "peft", "datasets", "sklearn.metrics", "xgrammar"])

    async def run(self, stop: asyncio.Event) -> None:
        """Follows requests and carries them out. Raises Fenced when another trainer took over."""
        await self._writer.start()
        await self._follower.start()
        try:
            while not stop.is_set():
                await self._follower.deliver(self._apply)
                waiting = [run for run in self._runs.values() if run.status in OPEN]
                if waiting and await self._follower.caught_up():
                    await self._carry_out(waiting[0], stop)
        finally:
            await self._follower.stop()
            await self._writer.stop()

    def _apply(self, record: Record) -> None:
        if record.topic == self._prefix + ADAPTERS.name:
            event = self._codec.decode(AdapterEvent, record.value)
            if event.kind is AdapterEventKind.VERSION and event.version:
                self._versions[event.adapter, event.version.version] = event.version
            if event.alias:
                self._live[event.adapter] = event.alias.live_version
            if event.epoch:
                self._live = dict(event.epoch.live)
            return
        run = self._codec.decode(TrainingRun, record.value)
        earlier = self._runs.get(run.run_id)
        if earlier is not None and (run.status is RunStatus.REQUESTED or earlier.status not in OPEN):
            return  # our own earlier words come back here: a last word stands
        self._runs[run.run_id] = replace(run, ranges=run.ranges or (earlier.ranges if earlier else ()))

    def _spec(self, run: TrainingRun) -> RunSpec | str:
        """What to carry out, or why it can't be."""
        recipe = self._project.training_of(run.adapter)
        if recipe is None:
            return f"{run.adapter} is not declared any more"
        base = self._versions.get((BASE, run.base_epoch)) if run.base_epoch else self._project.base_folder
        if base is None:
            return f"base epoch {run.base_epoch} is not in the registry"
        live = self._versions.get((run.adapter, self._live.get(run.adapter, 0)))
        live = live if live and live.base_epoch == run.base_epoch else None
        return RunSpec(
            run.run_id, run.adapter, run.version or 1, run.base_epoch, base, recipe, run.ranges, live, self._broker, self._database, self._objects, self._scratch, self._registry,
        )  # fmt: skip

    async def _carry_out(self, run: TrainingRun, stop: asyncio.Event) -> None:
        spec = self._spec(run)
        if isinstance(spec, str):
            await self._conclude(run, spec, None)
            return
        log.info("run.started", run_id=run.run_id, adapter=run.adapter)
        await self._say(replace(run, status=RunStatus.STARTED, ranges=()))
        for attempt in range(1, ATTEMPTS + 1):
            last, exit_code = await self._attempt(run, spec, stop)
            if stop.is_set():
                return
            if exit_code >= 0 or isinstance(last, (Outcome, str)) or attempt == ATTEMPTS:
                break
            log.warning("run.died", run_id=run.run_id, adapter=run.adapter, signal=-exit_code, attempt=attempt)
        await self._conclude(run, last, exit_code)

    async def _attempt(self, run: TrainingRun, spec: RunSpec, stop: asyncio.Event) -> tuple[Any, int]:
        """The last word of a process that carries the run out, and its exit code, which is below zero where a signal ended it."""
        ours, theirs = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=child, args=(spec, theirs), name=f"run-{run.run_id[:8]}", daemon=True)
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
                if isinstance(last, Moment):
                    await self._say(replace(run, status=RunStatus.PROGRESS, ranges=(), **asdict(last)))
                else:
                    break
        finally:
            if stop.is_set():
                process.terminate()
            await asyncio.to_thread(process.join)
        return last, process.exitcode or 0

    async def _conclude(self, run: TrainingRun, last: Any, exit_code: int | None) -> None:
        """The version first, then the run's last word, in one transaction."""
        if not isinstance(last, Outcome):
            reason = last if isinstance(last, str) else f"the run's process ended with {exit_code}"
            log.error("run.failed", run_id=run.run_id, adapter=run.adapter, reason=reason)
            await self._say(replace(run, status=RunStatus.FAILED, ranges=(), reason=reason))
            return
        status = RunStatus.PUBLISHED if last.verdict.passed else RunStatus.REJECTED
        log.info("run.judged", status=status, run_id=run.run_id, adapter=run.adapter, verdict=last.verdict.reason)
        trained = self._project.training_of(run.adapter)
        assert trained is not None  # else there was nothing to carry out
        version = AdapterVersion(
            version=run.version or 1, engine_name=last.engine_name, base_epoch=run.base_epoch, artifact_uri=last.artifact_uri, files=last.files, run_id=run.run_id,
            recipe_hash=run.recipe_hash or "", manifest_sha256=last.manifest_sha256, rank=trained.recipe.rank, metrics=last.metrics, verdict=last.verdict.reason,
        )  # fmt: skip
        event = AdapterEvent(adapter=run.adapter, kind=AdapterEventKind.VERSION, version=version, alias=None, epoch=None, reason=None)
        word = replace(run, status=status, ranges=(), metrics=last.metrics, reason=last.verdict.reason)
        await self._writer.write([Entry(ADAPTERS.name, run.adapter, event), Entry(TRAINING_RUNS.name, run.run_id, word)])
        self._runs[run.run_id] = word

    async def _say(self, run: TrainingRun) -> None:
        await self._writer.write([Entry(TRAINING_RUNS.name, run.run_id, run)])
        self._runs[run.run_id] = replace(run, ranges=run.ranges or self._runs[run.run_id].ranges)
