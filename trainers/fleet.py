"""What the registry and the runs say, as one state; and what the coordinator should do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from runtime.ids import canonical_json, digest
from runtime.project import Project
from schemas.events import (
    AdapterAlias,
    AdapterEvent,
    AdapterEventKind,
    AdapterVersion,
    DatasetRecord,
    OffsetRange,
    RecordStatus,
    RunStatus,
    TrainingRun,
)

QUIET_SECONDS = 2.0
OPEN = (RunStatus.REQUESTED, RunStatus.STARTED, RunStatus.PROGRESS, RunStatus.EVALUATED)
Partition = tuple[str, int]


@dataclass(slots=True)
class AdapterState:
    """One adapter: its examples, what of them runs have seen, its versions, its alias."""

    live_ids: set[str] = field(default_factory=set)
    unseen_ids: set[str] = field(default_factory=set)
    ends: dict[Partition, int] = field(default_factory=dict)
    last_change: float = 0.0
    runs: dict[str, TrainingRun] = field(default_factory=dict)
    versions: dict[int, AdapterVersion] = field(default_factory=dict)
    alias: AdapterAlias | None = None

    @property
    def running(self) -> bool:
        """Whether a run is under way or waits."""
        return any(run.status in OPEN for run in self.runs.values())


@dataclass(slots=True)
class Fleet:
    """All adapters of a project. Events are applied in the order of their topics; `decide` says what to request."""

    project: Project
    adapters: dict[str, AdapterState] = field(default_factory=dict)
    sequence: int = 0
    epoch: int | None = None

    def __post_init__(self) -> None:
        self.adapters = {name: AdapterState() for name in self.project.adapters}

    def apply_example(self, record: DatasetRecord, partition: Partition, offset: int, now: float) -> None:
        """A dataset record at `offset`; `now` in seconds of any clock that `decide` shares."""
        state = self.adapters.get(record.adapter)
        if state is None:
            return
        state.ends[partition] = offset + 1
        state.last_change = now
        if record.status is RecordStatus.WITHDRAWN:
            state.live_ids.discard(record.example_id)
            state.unseen_ids.discard(record.example_id)
        else:
            state.live_ids.add(record.example_id)
            if not self._seen(state, partition, offset):
                state.unseen_ids.add(record.example_id)

    def apply_run(self, run: TrainingRun) -> None:
        """A moment of a run."""
        state = self.adapters.get(run.adapter)
        if state is None:
            return
        earlier = state.runs.get(run.run_id)
        state.runs[run.run_id] = run if run.ranges or earlier is None else _with_ranges(run, earlier)
        if run.status is RunStatus.REQUESTED:
            state.unseen_ids.clear()

    def apply_adapter(self, event: AdapterEvent) -> None:
        """A change in the registry."""
        self.sequence = max(self.sequence, event.sequence)
        if event.kind is AdapterEventKind.EPOCH and event.epoch:
            self.epoch = event.epoch.epoch
        state = self.adapters.get(event.adapter)
        if state is None:
            return
        if event.version:
            state.versions[event.version.version] = event.version
        if event.alias:
            state.alias = event.alias

    def decide(self, now: float) -> Iterator[TrainingRun]:
        """The runs to request: enough new examples, nothing running, and no example for a while."""
        for name, state in self.adapters.items():
            declared = self.project.adapters[name]
            ready = len(state.unseen_ids) >= declared.min_examples and now - state.last_change >= QUIET_SECONDS
            if ready and not state.running and self.epoch is not None:
                yield self.request(name)

    def request(self, name: str) -> TrainingRun:
        """A run on all that is there of adapter `name`; its id is a function of just that."""
        state = self.adapters[name]
        ranges = tuple(OffsetRange(topic=topic, partition=partition, first=0, end=end) for (topic, partition), end in sorted(state.ends.items()))
        recipe = digest(canonical_json(self.project.adapters[name].recipe.model_dump()))
        epoch = self.epoch or 0
        run_id = digest("run", name, epoch, recipe, *(f"{r.topic}/{r.partition}/{r.end}" for r in ranges))
        version = max([*state.versions, *(run.version or 0 for run in state.runs.values())], default=0) + 1
        return TrainingRun(run_id=run_id, adapter=name, base_epoch=epoch, status=RunStatus.REQUESTED, version=version, ranges=ranges, recipe_hash=recipe, step=None, steps=None, loss=None, reason=None)

    def due_aliases(self) -> Iterator[AdapterEvent]:
        """Alias records for versions that were published and are newer than the live one."""
        sequence = self.sequence
        for name, state in self.adapters.items():
            published = [run.version for run in state.runs.values() if run.status is RunStatus.PUBLISHED and run.version in state.versions]
            newest = max((version for version in published if version is not None), default=0)
            if newest > (state.alias.live_version if state.alias else 0):
                sequence += 1
                yield AdapterEvent(
                    adapter=name, kind=AdapterEventKind.ALIAS, sequence=sequence, version=None, epoch=None, reason=None,
                    alias=AdapterAlias(live_version=newest, canary_version=None),
                )  # fmt: skip

    def counts(self) -> Mapping[str, int]:
        """Live examples by adapter."""
        return {name: len(state.live_ids) for name, state in self.adapters.items()}

    def _seen(self, state: AdapterState, partition: Partition, offset: int) -> bool:
        return any(r.topic == partition[0] and r.partition == partition[1] and offset < r.end for run in state.runs.values() for r in run.ranges)


def _with_ranges(run: TrainingRun, earlier: TrainingRun) -> TrainingRun:
    return replace(run, ranges=earlier.ranges, recipe_hash=run.recipe_hash or earlier.recipe_hash)
