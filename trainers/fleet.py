"""What the registry and the runs say, as one state; and what the coordinator should do about it. Pure.

Adapters are forked from a base epoch. Continued pre-training makes the next epoch; its forks are trained while the
current one serves, and one record switches base and adapters together. Until the first pre-training has ended, where
one is declared, adapters wait: forks of a base that is about to be replaced would be thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from runtime.ids import canonical_json, digest
from runtime.project import Project
from schemas.events import (
    AdapterAlias,
    AdapterEvent,
    AdapterEventKind,
    AdapterVersion,
    BaseEpoch,
    DatasetRecord,
    OffsetRange,
    RecordStatus,
    RunStatus,
    RunTrigger,
    TrainingRun,
)
from schemas.topics import BASE, CPT, PREFERENCES, Topic, dataset_topic
from trainers.base_model import weights_sha256

QUIET_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 300.0
"""For how long enough examples wait for more: in a stream that never rests some always come."""
MOST_DOUBLINGS = 4
"""Each version in a row that its gate rejects doubles how many new examples start a run, so often at most."""
OPEN = (RunStatus.REQUESTED, RunStatus.STARTED, RunStatus.PROGRESS, RunStatus.EVALUATED)
EPOCH_KEY = "*"
Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What starts a run: so many examples that no run has seen, so many corrections by users among them, or one that has waited so long. Each version in
    a row that its gate rejects doubles the numbers."""

    examples: int
    corrections: int | None = None
    oldest_seconds: float | None = None


@dataclass(slots=True)
class AdapterState:
    """One adapter, or the base: its examples, what of them runs have seen, its versions, its alias.

    `unseen` maps the examples that no run has seen to when they were written, `corrections` those of users among them, `learning` versions to when the first
    correction that they learn was written, `tainted` those that learned from what was forgotten to why. `stack` are the versions that were live on the current epoch, each
    above the one that a rollback from it leads to; `newest_live` is the newest that ever was, `newest_tried` the newest that ever was a candidate for its place, `tried_since` when the present candidate became one;
    `changed_at` is the sequence of the last alias or epoch record.
    """

    live_ids: set[str] = field(default_factory=set)
    unseen: dict[str, float] = field(default_factory=dict)
    corrections: dict[str, float] = field(default_factory=dict)
    learning: dict[int, float] = field(default_factory=dict)
    ends: dict[Partition, int] = field(default_factory=dict)
    last_change: float = 0.0
    due_since: float | None = None
    runs: dict[str, TrainingRun] = field(default_factory=dict)
    versions: dict[int, AdapterVersion] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    tainted: dict[int, str] = field(default_factory=dict)
    alias: AdapterAlias | None = None
    stack: list[int] = field(default_factory=list)
    newest_live: int = 0
    newest_tried: int = 0
    tried_since: float = 0.0
    changed_at: int = 0

    @property
    def live(self) -> int:
        """The version that answers; 0 when there is none."""
        return self.alias.live_version if self.alias else 0

    @property
    def candidate(self) -> int:
        """The version that proves itself beside the live one; 0 when there is none."""
        return (self.alias.canary_version or 0) if self.alias else 0

    @property
    def retired(self) -> bool:
        """Whether it was taken out of service."""
        return self.alias is not None and not self.alias.live_version

    @property
    def running(self) -> bool:
        """Whether a run is under way or waits."""
        return any(run.status in OPEN for run in self.runs.values())

    @property
    def published(self) -> list[AdapterVersion]:
        """Versions that passed the gate and learned from nothing that was forgotten, in their order."""
        numbers = sorted({run.version or 0 for run in self.runs.values() if run.status is RunStatus.PUBLISHED} - self.tainted.keys())
        return [self.versions[number] for number in numbers if number in self.versions]

    @property
    def rejections(self) -> int:
        """How many of the last runs in a row made what their gate rejected; those that failed, were cancelled or tried another epoch tell nothing."""
        judged = [run.status for run in self.runs.values() if run.status in (RunStatus.PUBLISHED, RunStatus.REJECTED) and run.trigger is not RunTrigger.EPOCH]
        return next((i for i, status in enumerate(reversed(judged)) if status is RunStatus.PUBLISHED), len(judged))

    def runs_on(self, epoch: int) -> list[TrainingRun]:
        """The runs on base epoch `epoch`."""
        return [run for run in self.runs.values() if run.base_epoch == epoch]

    def newest_on(self, epoch: int) -> int:
        """The newest version on base epoch `epoch` that passed the gate and was refused by no server; 0 when there is none."""
        return max((version.version for version in self.published if version.base_epoch == epoch and version.version not in self.refused), default=0)

    @property
    def before(self) -> list[int]:
        """The versions that were live on this epoch before the one that is, and may be again, in their order."""
        return [number for number in self.stack[:-1] if number not in self.tainted and number not in self.refused] if self.live else []

    def switch(self, alias: AdapterAlias | None, sequence: int, at: float) -> None:
        """Other versions answer, or none, from `at` on."""
        self.alias, self.changed_at = alias, sequence
        if self.candidate:
            self.newest_tried, self.tried_since = max(self.newest_tried, self.candidate), at
        if not self.live:
            return
        self.newest_live = max(self.newest_live, self.live)
        if self.live in self.stack:
            del self.stack[self.stack.index(self.live) + 1 :]
        else:
            self.stack.append(self.live)

    def is_to_replace(self, serving: int) -> bool:
        """Whether the version that serves learned from what was forgotten, and no run has tried to make another."""
        return serving in self.tainted and not any(run.trigger is RunTrigger.FORGET and run.status is not RunStatus.CANCELLED and (run.version or 0) > serving for run in self.runs.values())

    def due(self, wanted: Wanted, serving: int, now: float) -> RunTrigger | None:
        """What starts a run where version `serving` serves; None where nothing is wanted yet, a run is under way, or more examples come just now."""
        trigger = None if self.running else RunTrigger.FORGET if self.is_to_replace(serving) else self._trigger(wanted, now)
        if trigger is None:
            self.due_since = None
            return None
        self.due_since = now if self.due_since is None else self.due_since
        return trigger if now - self.last_change >= QUIET_SECONDS or now - self.due_since >= LONGEST_WAIT_SECONDS else None

    def _trigger(self, wanted: Wanted, now: float) -> RunTrigger | None:
        doublings = min(self.rejections, MOST_DOUBLINGS)
        if len(self.unseen) >= wanted.examples << doublings:
            return RunTrigger.EXAMPLES
        if wanted.corrections is not None and self.live and len(self.corrections) >= wanted.corrections << doublings:
            return RunTrigger.FEEDBACK
        waited_for_long = wanted.oldest_seconds is not None and self.unseen and now - min(self.unseen.values()) >= wanted.oldest_seconds
        return RunTrigger.AGE if waited_for_long else None

    def see(self, run: TrainingRun) -> None:
        """A run was requested over all that is there; one that corrections started learns of these alone."""
        if self.corrections:
            self.learning[run.version or 0] = min(self.corrections.values())
        if run.trigger is RunTrigger.FEEDBACK:
            for example_id in self.corrections:
                self.unseen.pop(example_id, None)
        else:
            self.unseen.clear()
        self.corrections.clear()


    def begin_anew(self) -> None:
        """The base was tainted: what runs on it have seen without a version to show for it counts again. A live version is made anew with the base."""
        if not self.live:
            self.unseen |= dict.fromkeys(self.live_ids - self.unseen.keys(), math.inf)


@dataclass(slots=True)
class Fleet:
    """All adapters of a project. Events are applied in the order of their topics; `decide` says what to request."""

    project: Project
    adapters: dict[str, AdapterState] = field(default_factory=dict)
    base: AdapterState = field(default_factory=AdapterState)
    preference_ends: dict[Partition, int] = field(default_factory=dict)
    sequence: int = 0
    epoch: BaseEpoch | None = None

    def __post_init__(self) -> None:
        self.adapters = {name: AdapterState() for name in self.project.adapters}

    @property
    def states(self) -> dict[str, AdapterState]:
        """The base and every declared adapter, by name."""
        return {BASE: self.base, **self.adapters}

    def serving(self, name: str) -> int:
        """The version of an adapter that answers, or the base epoch that serves; 0 where there is none."""
        return (self.epoch.epoch if self.epoch else 0) if name == BASE else self.adapters[name].live

    def apply_example(self, record: DatasetRecord, dataset: str, partition: Partition, offset: int, written: float, now: float) -> None:
        """A record of `dataset` at `offset`, with when it was written; times in seconds of the clock that `decide` has."""
        state = self._state(BASE if record.adapter == CPT else record.adapter)
        if state is None:
            return
        state.last_change = now
        if dataset == PREFERENCES:
            self.preference_ends[partition] = offset + 1
            return
        state.ends[partition] = offset + 1
        if record.status is RecordStatus.WITHDRAWN:
            state.live_ids.discard(record.example_id)
            state.unseen.pop(record.example_id, None)
            state.corrections.pop(record.example_id, None)
        else:
            state.live_ids.add(record.example_id)
            if not self._seen(state, partition, offset, record.is_correction):
                state.unseen.setdefault(record.example_id, written)
                if record.is_correction:
                    state.corrections.setdefault(record.example_id, written)

    def stir(self, now: float) -> None:
        """Examples are on their way: nothing is quiet at `now`."""
        for state in self.states.values():
            state.last_change = now

    def apply_run(self, run: TrainingRun) -> None:
        """A moment of a run; behind its last word nothing counts."""
        state = self._state(run.adapter)
        if state is None:
            return
        earlier = state.runs.get(run.run_id)
        if earlier is not None and earlier.status not in OPEN:
            return
        state.runs[run.run_id] = run if run.ranges or earlier is None else _with_ranges(run, earlier)
        if run.status is RunStatus.REQUESTED:
            state.see(run)

    def apply_adapter(self, event: AdapterEvent, at: float = 0.0) -> None:
        """A change in the registry, written at `at`, in epoch seconds."""
        self.sequence = max(self.sequence, event.sequence)
        if event.kind is AdapterEventKind.EPOCH and event.epoch:
            self.epoch = event.epoch
            for name, state in self.adapters.items():
                version = event.epoch.live.get(name)
                state.stack.clear()
                state.switch(AdapterAlias(live_version=version) if version else state.alias if state.retired else None, event.sequence, at)
            return
        known = self._state(event.adapter)
        if known is None:
            return
        if event.version and event.kind is AdapterEventKind.VERSION:
            known.versions[event.version.version] = event.version
        if event.version and event.kind is AdapterEventKind.TAINT:
            known.tainted[event.version.version] = event.reason or ""
            if event.adapter == BASE:
                for state in self.adapters.values():
                    if all(run.base_epoch in self.base.tainted for run in state.runs.values()):
                        state.begin_anew()
        if event.version and event.kind is AdapterEventKind.REFUSAL:
            known.refused[event.version.version] = event.reason or ""
        if event.alias:
            known.switch(event.alias, event.sequence, at)

    @property
    def candidate(self) -> AdapterVersion | None:
        """A base that passed its gate, is not the current epoch, and none of whose forks has failed."""
        newest = self.base.published[-1] if self.base.published else None
        if newest is None or self.epoch is None or newest.version <= self.epoch.epoch:
            return None
        lost = (RunStatus.REJECTED, RunStatus.FAILED, RunStatus.CANCELLED)
        failed = any(run.status in lost for state in self.adapters.values() for run in state.runs_on(newest.version))
        return None if failed else newest

    @property
    def clean_epoch(self) -> int:
        """The last base epoch, up to the current one, that learned from nothing that was forgotten; the declared base is 0."""
        current = self.epoch.epoch if self.epoch else 0
        return current if current not in self.base.tainted else max((version.version for version in self.base.published if version.version < current), default=0)

    def decide(self, now: float) -> Iterator[TrainingRun]:
        """The runs to request: enough new examples or corrections, or old ones, or what serves was tainted; nothing running, and no example for a while.

        Nothing is forked from a base that was tainted.
        """
        cpt, candidate = self.project.base.cpt, self.candidate
        if self.epoch is None or self.base.running:
            return
        if candidate is not None:
            for name, state in self.adapters.items():
                if state.live and not state.runs_on(candidate.version):
                    yield self.request(name, candidate.version, RunTrigger.EPOCH)
        elif cpt and (trigger := self.base.due(Wanted(cpt.min_examples), self.epoch.epoch, now)) and not any(state.running for state in self.adapters.values()):
            yield self.request(BASE, self.clean_epoch, trigger)
        elif (self.base.runs or not cpt) and self.epoch.epoch not in self.base.tainted:
            for name, state in self.adapters.items():
                declared = self.project.adapters[name]
                wanted = Wanted(declared.min_examples, declared.min_corrections, declared.max_age_hours * 3600 if declared.max_age_hours else None)
                if not state.retired and (trigger := state.due(wanted, state.live, now)):
                    yield self.request(name, self.epoch.epoch, trigger)

    def request(self, name: str, epoch: int, trigger: RunTrigger, command_id: str | None = None) -> TrainingRun:
        """A run of `name` on base `epoch` over all that is there; its id is a function of just that, and of the command, or the tainted version, where these asked for it."""
        state = self._state(name)
        assert state is not None
        declared = self.project.adapters.get(name)
        ends = state.ends | (self.preference_ends if declared and declared.dpo else {})
        ranges = tuple(OffsetRange(topic=topic, partition=partition, first=0, end=end) for (topic, partition), end in sorted(ends.items()))
        recipe = self.recipe_hash(name)
        version = max([*state.versions, *(run.version or 0 for run in state.runs.values())], default=0) + 1
        again = [command_id] if command_id else [version] if trigger is RunTrigger.FORGET else []  # what no new example asks for
        run_id = digest("run", name, epoch, recipe, *(f"{r.topic}/{r.partition}/{r.end}" for r in ranges), *again)
        return TrainingRun(
            run_id=run_id, adapter=name, base_epoch=epoch, status=RunStatus.REQUESTED, version=version, ranges=ranges, recipe_hash=recipe, trigger=trigger, command_id=command_id,
        )  # fmt: skip

    def recipe_hash(self, name: str) -> str:
        """Digest of how `name` is trained."""
        declared = self.project.training_of(name)
        assert declared is not None
        dpo = getattr(declared, "dpo", None)
        return digest(canonical_json([declared.recipe.model_dump(), dpo and dpo.model_dump()]))

    def due_epoch(self) -> AdapterEvent | None:
        """The record that switches to the candidate epoch, once every live adapter has a version on it."""
        candidate = self.candidate
        if candidate is None:
            return None
        live = {name: state.newest_on(candidate.version) for name, state in self.adapters.items() if state.live}
        if not all(live.values()):
            return None
        epoch = BaseEpoch(epoch=candidate.version, base_uri=candidate.artifact_uri, base_sha256=weights_sha256({file.path: file.sha256 for file in candidate.files}), live=live)
        return self.epoch_event(epoch)

    def epoch_event(self, epoch: BaseEpoch) -> AdapterEvent:
        """The record that makes `epoch` the current one."""
        return AdapterEvent(adapter=EPOCH_KEY, kind=AdapterEventKind.EPOCH, sequence=self.sequence + 1, version=None, alias=None, epoch=epoch, reason=None)

    def due_aliases(self) -> Iterator[AdapterEvent]:
        """Alias records for versions of the current epoch that were published and are newer than any that was live, or tried: what was rolled back stays so. Where a canary is
        declared they become candidates beside what is live. And back to the one before, where a server refused what is live: another replica, or a restart, would have nothing to
        answer with; and without a candidate that was refused, or learned from what was forgotten."""
        if self.epoch is None:
            return
        ahead = 0
        for name, state in self.adapters.items():
            newest, policy = state.newest_on(self.epoch.epoch), self.project.adapters[name].canary
            if newest > max(state.newest_live, state.newest_tried) and not state.retired:
                ahead += 1
                proven = policy is None or not state.live or state.live in state.refused or state.live in state.tainted
                yield self.alias_event(name, newest, ahead) if proven else self.alias_event(name, state.live, ahead, candidate=newest)
            elif state.candidate and (policy is None or state.candidate in state.refused or state.candidate in state.tainted):
                ahead += 1
                why = state.refused.get(state.candidate) or state.tainted.get(state.candidate) or "no canary is declared any more"
                yield self.alias_event(name, state.live, ahead, f"{name}@{state.candidate} is no candidate any more: {why}")
            elif state.live in state.refused and state.before:
                ahead += 1
                yield self.alias_event(name, state.before[-1], ahead, f"{name}@{state.live} was refused by a server: {state.refused[state.live]}")

    def alias_event(self, name: str, version: int, ahead: int = 1, reason: str | None = None, command_id: str | None = None, candidate: int = 0) -> AdapterEvent:
        """The record that makes `version` of `name` live, 0 for none, with `candidate` beside it as is declared; the one `ahead` of the last sequence."""
        alias, policy = AdapterAlias(live_version=version), self.project.adapters[name].canary
        if candidate and policy:
            alias = replace(alias, canary_version=candidate, canary_share=policy.share, shadow=policy.shadow)
        return AdapterEvent(adapter=name, kind=AdapterEventKind.ALIAS, sequence=self.sequence + ahead, alias=alias, reason=reason, command_id=command_id)

    def datasets(self) -> dict[str, Topic]:
        """The datasets that decide when to train, and on what."""
        return {name: dataset_topic(name) for name in (*([CPT] if self.project.base.cpt else []), PREFERENCES, *self.adapters)}

    def _state(self, name: str) -> AdapterState | None:
        return self.base if name == BASE else self.adapters.get(name)

    def _seen(self, state: AdapterState, partition: Partition, offset: int, is_correction: bool) -> bool:
        runs = [run for run in state.runs.values() if (is_correction or run.trigger is not RunTrigger.FEEDBACK) and run.base_epoch not in self.base.tainted]
        return any(r.topic == partition[0] and r.partition == partition[1] and offset < r.end for run in runs for r in run.ranges)


def _with_ranges(run: TrainingRun, earlier: TrainingRun) -> TrainingRun:
    return replace(run, ranges=earlier.ranges, recipe_hash=run.recipe_hash or earlier.recipe_hash)
