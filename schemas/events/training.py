"""Training runs, and the registry of adapters. The fields are explained in the .avsc files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class RunStatus(StrEnum):
    """Where the run stands."""

    REQUESTED = "requested"
    STARTED = "started"
    PROGRESS = "progress"
    EVALUATED = "evaluated"
    PUBLISHED = "published"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunTrigger(StrEnum):
    """What started the run."""

    EXAMPLES = "examples"
    AGE = "age"
    EPOCH = "epoch"
    COMMAND = "command"
    FEEDBACK = "feedback"
    FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRange:
    """Records [first, end) of a topic's partition."""

    topic: str
    partition: int
    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """A moment in a training run's life. Key: run_id."""

    run_id: str
    adapter: str
    base_epoch: int
    status: RunStatus
    version: int | None = None
    ranges: tuple[OffsetRange, ...] = ()
    recipe_hash: str | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    memory_bytes: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    trigger: RunTrigger = RunTrigger.EXAMPLES
    command_id: str | None = None


class AdapterEventKind(StrEnum):
    """Which of the parts is set."""

    VERSION = "version"
    ALIAS = "alias"
    EPOCH = "epoch"
    REFUSAL = "refusal"
    TAINT = "taint"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of an artifact."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterVersion:
    """An immutable adapter version."""

    version: int
    engine_name: str
    base_epoch: int
    artifact_uri: str
    files: tuple[ArtifactFile, ...]
    run_id: str
    recipe_hash: str
    manifest_sha256: str
    rank: int
    metrics: Mapping[str, float]
    verdict: str

    @property
    def adapter(self) -> str:
        """The adapter that this is a version of, as its engine name says."""
        return self.engine_name.partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterAlias:
    """Which versions an adapter's name stands for; live version 0: the adapter is retired."""

    live_version: int
    canary_version: int | None = None
    canary_share: float = 0.0
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseEpoch:
    """A base with the live version of each adapter trained on it."""

    epoch: int
    base_uri: str
    base_sha256: str
    live: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEvent:
    """A change in the registry: a version, an alias, an epoch, a refusal by a server, or a taint: the version learned from what was forgotten. Key: adapter."""

    adapter: str
    kind: AdapterEventKind
    sequence: int = 0
    version: AdapterVersion | None = None
    alias: AdapterAlias | None = None
    epoch: BaseEpoch | None = None
    reason: str | None = None
    command_id: str | None = None


class AdapterAction(StrEnum):
    """What to do."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    RETIRE = "retire"
    TRAIN = "train"
    CANCEL = "cancel"
    UNKNOWN = "unknown"
    TAINT = "taint"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCommand:
    """A wish about an adapter, for the coordinator. Key: adapter."""

    command_id: str
    adapter: str
    action: AdapterAction
    version: int | None = None
    seen_sequence: int
    run_id: str | None = None
    reason: str | None = None
