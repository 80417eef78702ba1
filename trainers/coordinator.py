"""The coordinator's shell: follows datasets, runs, registry and commands; requests runs; is the only writer of aliases and epochs.

All state is what the topics say. Foreign bytes on them are parked, by the coordinator alone and once. One transactional id fences a second coordinator, whose writes then fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from runtime.backlog import Backlog
from runtime.dead_letters import letter_of
from runtime.errors import Transient
from runtime.event_writer import Entry, EventWriter
from runtime.follower import Follower
from runtime.kafka import Record
from runtime.metrics import CORRECTIONS
from runtime.project import Project
from schemas.codec import Codec, InvalidRecord
from schemas.events import AdapterAlias, AdapterCommand, AdapterEvent, BaseEpoch, DatasetRecord, DeadLetter, RunStatus, TrainingRun
from schemas.topics import ADAPTER_COMMANDS, ADAPTERS, DEAD_LETTERS, TRAINING_RUNS
from trainers import commands
from trainers.base_model import base_sha256
from trainers.fleet import Fleet
from trainers.trials import Trials

log = structlog.get_logger()
STAGE = "coordinator"


class Coordinator:
    """Runs until `stop` is set. `feeders` are the consumer groups that examples pass through, each with its topics."""

    def __init__(self, project: Project, broker: str, prefix: str = "", codec: Codec | None = None, feeders: Mapping[str, Sequence[str]] | None = None) -> None:
        self._project, self._prefix = project, prefix
        self._codec = codec or Codec()
        self.fleet = Fleet(project)
        datasets = self.fleet.datasets()
        self._datasets = {prefix + topic.name: name for name, topic in datasets.items()}
        topics = [prefix + topic.name for topic in (TRAINING_RUNS, ADAPTERS, ADAPTER_COMMANDS, DEAD_LETTERS, *datasets.values())]
        self._follower = Follower(broker, topics)
        self._upstream = Backlog(broker, feeders or {})
        self._parked: set[str] = set()
        self._refused: dict[str, DeadLetter] = {}
        self._commands: dict[str, AdapterCommand] = {}
        self._answered: set[str] = set()
        self._trials = Trials(project, broker, prefix, self._codec)
        self._writer = EventWriter(broker, STAGE, STAGE, self._codec, prefix)

    async def run(self, stop: asyncio.Event) -> None:
        """Follows, decides, writes.

        Raises:
            Fenced: another coordinator took over.
        """
        await self._writer.start()
        await self._follower.start()
        await self._upstream.start()
        try:
            caught_up = False
            while not stop.is_set():
                await self._follower.deliver(self._apply, self._refuse)
                caught_up = caught_up or await self._follower.caught_up()
                if caught_up:
                    await self._act()
        finally:
            await self._trials.stop()
            await self._upstream.stop()
            await self._follower.stop()
            await self._writer.stop()

    def _apply(self, record: Record) -> None:
        if dataset := self._datasets.get(record.topic):
            example = self._codec.decode(DatasetRecord, record.value)
            self.fleet.apply_example(example, dataset, (record.topic, record.partition), record.offset, record.timestamp_ms / 1000, time.time())
        elif record.topic == self._prefix + TRAINING_RUNS.name:
            run = self._codec.decode(TrainingRun, record.value)
            self._answered.add(run.command_id or "")
            self.fleet.apply_run(run)
        elif record.topic == self._prefix + ADAPTER_COMMANDS.name:
            command = self._codec.decode(AdapterCommand, record.value)
            self._commands[command.command_id] = command
        elif record.topic == self._prefix + DEAD_LETTERS.name:
            letter = self._codec.decode(DeadLetter, record.value)
            if letter.stage == STAGE:
                self._parked.add(letter.letter_id)
        else:
            event = self._codec.decode(AdapterEvent, record.value)
            self._answered.add(event.command_id or "")
            self.fleet.apply_adapter(event, record.timestamp_ms / 1000)

    def _refuse(self, record: Record, error: InvalidRecord) -> None:
        letter = letter_of(STAGE, record, error)
        self._refused[letter.letter_id] = letter

    async def _act(self) -> None:
        """Writes what is due, and applies it to the state at once."""
        if letters := [letter for letter_id, letter in self._refused.items() if letter_id not in self._parked]:
            await self._writer.write([Entry(DEAD_LETTERS.name, letter.key, letter, letter.letter_id) for letter in letters])
            self._parked |= self._refused.keys()
        self._refused.clear()
        if self.fleet.epoch is None:
            await self._change(self.fleet.epoch_event(self._first_epoch()))
        if epoch := self.fleet.due_epoch():
            await self._change(epoch)
            log.info("epoch.switched", epoch=epoch.epoch.epoch if epoch.epoch else None)
        for event in list(self.fleet.due_aliases()):
            await self._change(event)
            self._tell(event)
        for trial in await self._trials.follow(self.fleet):
            version = trial.candidate if trial.promoted else self.fleet.adapters[trial.adapter].live
            await self._change(event := self.fleet.alias_event(trial.adapter, version, reason=trial.reason))
            self._tell(event)
        for command in [one for one in self._commands.values() if one.command_id not in self._answered]:
            await self._answer(command)
        self._commands.clear()
        for run in await self._due_runs(time.time()):
            await self._writer.write([Entry(TRAINING_RUNS.name, run.run_id, run)])
            self.fleet.apply_run(run)
            log.info("run.requested", adapter=run.adapter, run_id=run.run_id, version=run.version)

    def _tell(self, event: AdapterEvent) -> None:
        alias = event.alias or AdapterAlias(live_version=0)
        log.info("alias.switched", adapter=event.adapter, version=alias.live_version, candidate=alias.canary_version, reason=event.reason)
        if (since := self.fleet.adapters[event.adapter].learning.pop(alias.live_version, None)) is not None:
            CORRECTIONS.labels(event.adapter).observe(time.time() - since)

    async def _due_runs(self, now: float) -> list[TrainingRun]:
        """The runs to request now; they wait for examples on their way, so that a long document is not left out."""
        runs = list(self.fleet.decide(now))
        if runs and await self._may_wait():
            self.fleet.stir(now)
            return list(self.fleet.decide(now))
        return runs

    async def _may_wait(self) -> bool:
        """Whether records are on their way, or the broker can't say so yet: one that has just started loads its groups first."""
        try:
            return await self._upstream.waits()
        except Transient as error:
            log.warning("backlog.unknown", error=str(error))
            return True

    async def _answer(self, command: AdapterCommand) -> None:
        answer = commands.answer(self.fleet, command)
        self._answered.add(command.command_id)
        log.info("command.answered", action=command.action, adapter=command.adapter, command_id=command.command_id, reason=answer.reason)
        if isinstance(answer, AdapterEvent):
            await self._change(answer)
            return
        await self._writer.write([Entry(TRAINING_RUNS.name, answer.run_id, answer)])
        if answer.status is not RunStatus.CANCELLED:  # its trainer may have said a last word before: the topic's order decides
            self.fleet.apply_run(answer)

    async def _change(self, event: AdapterEvent) -> None:
        await self._writer.write([Entry(ADAPTERS.name, event.adapter, event)])
        self.fleet.apply_adapter(event, time.time())

    def _first_epoch(self) -> BaseEpoch:
        folder = Path(self._project.base_folder)
        here = folder.exists()
        return BaseEpoch(epoch=0, base_uri=folder.as_uri() if here else self._project.base_folder, base_sha256=base_sha256(folder) if here else self._project.base_folder, live={})
