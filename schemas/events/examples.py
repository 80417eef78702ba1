"""Examples on their way from teachers and upstreams to datasets. The fields are explained in the .avsc files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.events.common import Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """An upstream's labelled example. Key: example_id."""

    example_id: str
    adapter: str
    input: str
    output: str
    group_id: str | None = None
    licence: str = "unknown"
    withdrawn: bool = False


class ExampleStatus(StrEnum):
    """What became of it."""

    KEPT = "kept"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example by a teacher or an upstream. Key: example_id."""

    example_id: str
    adapter: str
    task: str
    input: Sealed | None = None
    output: Sealed | None = None
    group_id: str
    chunk_id: str | None = None
    doc_id: str | None = None
    teacher: str
    prompt_version: str
    judge_score: float | None = None
    teacher_usd: float | None = None
    licence: str = "unknown"
    status: ExampleStatus
    reason: str | None = None


class Split(StrEnum):
    """Which part it belongs to."""

    TRAIN = "train"
    EVALUATION = "evaluation"


class RecordStatus(StrEnum):
    """What became of it."""

    LIVE = "live"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """The strict training record of one adapter. Key: example_id."""

    example_id: str
    adapter: str
    task: str
    split: Split
    group_id: str
    body: Sealed | None = None
    teacher_usd: float | None = None
    status: RecordStatus
    is_correction: bool = False
    licence: str | None = None
    judge_score: float | None = None
