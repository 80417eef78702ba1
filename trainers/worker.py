"""The trainer's shell: takes requested runs in order, carries each out in a process of its own, says how it goes.

State is what `training-runs` says: a run without a last word is gone on with after a crash, under the same id, from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import structlog

from runtime.artifacts import delete
from runtime.errors import Transient
from runtime.event_writer import Entry, EventWriter
from runtime.follower import Follower
from runtime.kafka import Record
from runtime.machine import cores, has_nvidia
from runtime.objects import Objects
from runtime.project import Project
from runtime.pulse import read_pulses
from runtime.signing import NO_KEYS, Keys
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, RunStatus, RunTrigger, TrainingRun
from schemas.topics import ADAPTERS, BASE, TRAINING_RUNS
from trainers.conditions import ALONE, Conditions
from trainers.fleet import OPEN
from trainers.memory import kernel_kills, was_ended_for_memory
from trainers.pacing import Pacer, pause, resume
from trainers.progress import Moment
from trainers.run import VERSIONS, Outcome, OutOfMemory, RunSpec, child

log = structlog.get_logger()
STAGE = "trainer"
PACE_SECONDS = 0.1
PRELOAD = ["trainers.fork", "trainers.run", "trl", "peft", "datasets", "sklearn.metrics", "xgrammar"]
"""What a run's process has imported before it is one."""
ATTEMPTS = 4
"""A process that is killed is started again and goes on from its last checkpoint, where memory was short with half as many rows at once: so often."""
ROOM_BYTES = 3 << 30
"""A run begins beside another while so much memory is free: twice what one takes."""


def runs_at_once(wanted: int | None) -> int:
    """How many runs a trainer carries out at the same time: `wanted`, or one where a GPU is, else two.

    On a CPU two runs beside each other, on half the threads each, are through sooner than one after the other: small products gain little by
    threads, which wait for each other where others use the cores too (docs/benchmarks.md).
    """
    return wanted or (1 if has_nvidia() else min(2, cores()))


class Trainer:
    """Runs until `stop` is set, or until it had nothing to do for `idle_seconds`; at most `at_once` training runs at a time, one an adapter. They stop while serving, whose `pulses` lie in that folder, needs
    the machine that it shares with them."""

    def __init__(self, project: Project, broker: str, database: str, objects: str, scratch: Path, prefix: str = "", codec: Codec | None = None, registry: str | None = None, at_once: int = 1, conditions: Conditions = ALONE, keys: Keys = NO_KEYS, idle_seconds: float | None = None, pulses: Path | None = None) -> None:
        self._project, self._broker, self._database, self._objects, self._scratch, self._prefix, self._at_once, self._conditions, self._keys, self._idle_seconds, self._pulses = project, broker, database, objects, scratch, prefix, at_once, conditions, keys, idle_seconds, pulses
        self._codec, self._registry = codec or Codec(), registry
        self._follower = Follower(broker, [prefix + TRAINING_RUNS.name, prefix + ADAPTERS.name])
        self._writer = EventWriter(broker, STAGE, STAGE, self._codec, prefix)
        self._runs: dict[str, TrainingRun] = {}
        self._versions: dict[tuple[str, int], AdapterVersion] = {}
        self._live: dict[str, int] = {}
        self._epoch = 0
        self._tainted: set[tuple[str, int]] = set()
        self._deleted: set[tuple[str, int]] = set()
        self._cleaned: set[str] = set()
        self._ending = asyncio.Event()
        self._pacer, self._pids = Pacer(project.gpu), dict[int, TrainingRun]()
        self._waits: str | None = None
        # a fork server imports torch and TRL once, and each run starts from there in a moment
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOAD)

    async def run(self, stop: asyncio.Event) -> None:
        """Follows requests and carries them out. Raises Fenced when another trainer took over."""
        await self._writer.start()
        await self._follower.start()
        works: dict[str, asyncio.Task[None]] = {}
        pacing = [asyncio.create_task(self._pace())] if self._pulses and self._project.gpu.share != "separate" else []
        busy = time.monotonic()
        try:
            while not stop.is_set() and not any(task.done() for task in pacing):
                await self._follower.deliver(self._apply)  # a run may be cancelled while it is carried out
                for run_id in [run_id for run_id, work in works.items() if work.done()]:
                    await works.pop(run_id)
                if await self._follower.caught_up():
                    await self._clean(works)
                    if (run := self._next(works)) and self._has_room_beside(works):
                        works[run.run_id] = asyncio.create_task(self._carry_out(run))
                if works:
                    busy = time.monotonic()
                elif self._idle_seconds is not None and time.monotonic() - busy > self._idle_seconds:
                    log.info("trainer.idle", seconds=self._idle_seconds)
                    break
        finally:
            self._ending.set()
            await asyncio.gather(*pacing, return_exceptions=True)
            for pid in self._pids:
                resume(pid)  # what is stopped would not hear that it is to end
            await asyncio.gather(*works.values(), return_exceptions=True)
            await self._follower.stop()
            await self._writer.stop()
        for work in (*works.values(), *pacing):
            await work

    async def _pace(self) -> None:
        """Stops the runs' processes while serving needs the machine."""
        while not self._ending.is_set():
            waits = self._pacer.stop(read_pulses(self._pulses, time.time()), time.time()) if self._pulses else None
            changed, self._waits = (waits is None) != (self._waits is None), waits
            for pid in self._pids if waits or changed else ():  # those that began meanwhile stop too
                (pause if waits else resume)(pid)
            if changed:
                log.info("runs.wait" if waits else "runs.go_on", reason=waits)
                for run in list(self._pids.values()):
                    await self._say(replace(run, status=RunStatus.PROGRESS, ranges=(), reason=f"waits: {waits}" if waits else "goes on"))
            await asyncio.sleep(PACE_SECONDS)

    def _has_room_beside(self, works: Collection[str]) -> bool:
        """Whether one more run may start beside those of `works`."""
        return not works or (len(works) < self._at_once and psutil.virtual_memory().available > ROOM_BYTES)

    def _next(self, works: Collection[str]) -> TrainingRun | None:
        """The run to carry out beside those of `works`: what a command asked for first, then by priority, then the oldest; none of an adapter that one is for."""
        busy = {self._runs[run_id].adapter for run_id in works}
        waiting = [run for run in self._runs.values() if run.status in OPEN and run.adapter not in busy]
        return min(waiting, key=lambda run: (run.trigger is not RunTrigger.COMMAND, -self._priority(run.adapter)), default=None)

    def _priority(self, name: str) -> int:
        declared = self._project.adapters.get(name)
        return declared.priority if declared else 0

    async def _clean(self, works: Collection[str]) -> None:
        """Deletes what runs that have ended left in their folders, for one that was killed could not; and tainted versions that serve no more."""
        for run_id in [run_id for run_id, run in self._runs.items() if run.status not in OPEN and run_id not in self._cleaned and run_id not in works]:
            self._cleaned.add(run_id)
            if (folder := self._scratch / run_id).parent == self._scratch:
                shutil.rmtree(folder, ignore_errors=True)
        serving = {(BASE, self._epoch), *self._live.items()}
        for name, number in self._tainted - self._deleted - serving:
            try:
                await delete(self._versions[name, number], Objects(self._objects), self._scratch / VERSIONS)
            except Transient as error:
                log.warning("version.not_deleted", adapter=name, version=number, error=str(error))
                return  # later again
            self._deleted.add((name, number))
            log.info("version.deleted", adapter=name, version=number)

    def _apply(self, record: Record) -> None:
        if record.topic == self._prefix + ADAPTERS.name:
            event = self._codec.decode(AdapterEvent, record.value)
            if event.kind in (AdapterEventKind.VERSION, AdapterEventKind.TAINT) and event.version:
                self._versions[event.adapter, event.version.version] = event.version
            if event.kind is AdapterEventKind.TAINT and event.version:
                self._tainted.add((event.adapter, event.version.version))
            if event.alias:
                self._live[event.adapter] = event.alias.live_version
            if event.epoch:
                self._epoch, self._live = event.epoch.epoch, dict(event.epoch.live)
            return
        self._note(self._codec.decode(TrainingRun, record.value))

    def _spec(self, run: TrainingRun) -> RunSpec | str:
        """What to carry out, or why it can't be."""
        recipe = self._project.training_of(run.adapter)
        if recipe is None:
            return f"{run.adapter} is not declared any more"
        base = self._versions.get((BASE, run.base_epoch)) if run.base_epoch else self._project.base_folder
        if base is None:
            return f"base epoch {run.base_epoch} is not in the registry"
        if (BASE, run.base_epoch) in self._tainted:
            return f"base epoch {run.base_epoch} learned from what was forgotten"
        published = self._published(run)
        live = next((version for version in published if version.version == self._live.get(run.adapter)), None)
        best = max(published, key=lambda version: (next((score for name, score in version.metrics.items() if name.startswith("anchor_")), 0.0), version.version), default=None)
        return RunSpec(
            run.run_id, run.adapter, run.version or 1, run.base_epoch, base, recipe, run.ranges, live, self._broker, self._database, self._objects, self._scratch, self._registry,
            best=best, first=published[0] if published else None, floor_only=run.trigger in (RunTrigger.EPOCH, RunTrigger.FORGET), amends=run.trigger is RunTrigger.FEEDBACK and live is not None,
            conditions=replace(self._conditions, threads=max(1, cores() // self._at_once), gpu_memory=None if self._project.gpu.share == "separate" else 0.95 - self._project.gpu.serving, name=f"{run.adapter}@{run.version or 1}"), keys=self._keys,
        )  # fmt: skip

    def _published(self, run: TrainingRun) -> list[AdapterVersion]:
        """The versions of the run's adapter on its base that passed their gates and are not tainted, in their order."""
        numbers = sorted(other.version or 0 for other in self._runs.values() if other.adapter == run.adapter and other.status is RunStatus.PUBLISHED)
        found = [self._versions[run.adapter, number] for number in numbers if (run.adapter, number) in self._versions.keys() - self._tainted]
        return [version for version in found if version.base_epoch == run.base_epoch]

    async def _carry_out(self, run: TrainingRun) -> None:
        spec = self._spec(run)
        if isinstance(spec, str):
            await self._conclude(run, spec, None)
            return
        log.info("run.started", run_id=run.run_id, adapter=run.adapter)
        await self._say(replace(run, status=RunStatus.STARTED, ranges=()))
        for attempt in range(1, ATTEMPTS + 1):
            kills = kernel_kills()
            last, exit_code = await self._attempt(run, spec)
            if self._given_up(run):
                log.info("run.given_up", run_id=run.run_id, adapter=run.adapter, status=self._runs[run.run_id].status)
                break
            why = _why_it_died(last, exit_code)
            if why is None or attempt == ATTEMPTS:
                await self._conclude(run, last, exit_code)
                break
            if isinstance(last, OutOfMemory) or was_ended_for_memory(exit_code, kills, kernel_kills()):
                spec = replace(spec, conditions=spec.conditions.halved())
                why += f"; 1/{1 << spec.conditions.halvings} of the rows at once from now on, gradients accumulated to the same batch"
            log.warning("run.goes_on", run_id=run.run_id, adapter=run.adapter, attempt=attempt, reason=why)
            await self._say(replace(run, status=RunStatus.PROGRESS, ranges=(), reason=why))

    def _given_up(self, run: TrainingRun) -> bool:
        """Whether the worker ends, or the run was cancelled."""
        return self._ending.is_set() or self._runs[run.run_id].status is RunStatus.CANCELLED

    async def _attempt(self, run: TrainingRun, spec: RunSpec) -> tuple[Any, int]:
        """The last word of a process that carries the run out, and its exit code, which is below zero where a signal ended it."""
        ours, theirs = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=child, args=(spec, theirs), name=f"run-{run.run_id[:8]}", daemon=True)
        await asyncio.to_thread(process.start)
        theirs.close()
        pid = process.pid or 0
        self._pids[pid] = run
        last: Any = None
        try:
            while not self._given_up(run):
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
            del self._pids[pid]
            resume(pid)
            if self._given_up(run):
                process.terminate()
            await asyncio.to_thread(process.join)
        return last, process.exitcode or 0

    async def _conclude(self, run: TrainingRun, last: Any, exit_code: int | None) -> None:
        """The version first, then the run's last word, in one transaction."""
        if not isinstance(last, Outcome):
            reason = last.error if isinstance(last, OutOfMemory) else last if isinstance(last, str) else f"the run's process ended with {exit_code}"
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
        self._note(word)

    async def _say(self, run: TrainingRun) -> None:
        await self._writer.write([Entry(TRAINING_RUNS.name, run.run_id, run)])
        self._note(run)

    def _note(self, run: TrainingRun) -> None:
        """A moment of a run; behind its last word nothing counts, neither our own words that come back nor a command."""
        earlier = self._runs.get(run.run_id)
        if earlier is None or (earlier.status in OPEN and run.status is not RunStatus.REQUESTED):
            self._runs[run.run_id] = replace(run, ranges=run.ranges or (earlier.ranges if earlier else ()))


def _why_it_died(last: Any, exit_code: int) -> str | None:
    """Why a run's process ended before the run did, so that another may go on; None when the run has ended."""
    if isinstance(last, OutOfMemory):
        return last.error
    return None if exit_code >= 0 or isinstance(last, (Outcome, str)) else f"the process was ended by signal {-exit_code}"
