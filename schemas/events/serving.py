"""Requests, results and feedback. The fields are explained in the .avsc files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.events.common import Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message to answer. Key: conversation or user."""

    request_id: str
    conversation_id: str
    text: str
    context: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    adapter_id: str | None = None
    deadline_ms: int | None = None
    priority: int = 0
    served: str | None = None


class ResultStatus(StrEnum):
    """How it ended."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to one intent of a request. Key: the request's."""

    result_id: str
    request_id: str
    task: str
    adapter: str | None = None
    version: int | None = None
    engine_name: str | None = None
    intent_index: int
    intent_count: int
    text: str
    output: str | None = None
    confidence: float | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    status: ResultStatus
    error: str | None = None
    route_score: float | None = None
    route_margin: float | None = None
    route_nearest: str | None = None
    instead_of: str | None = None


class CompletionStatus(StrEnum):
    """How it ended."""

    OK = "ok"
    PARTIAL = "partial"
    UNKNOWN = "unknown"
    FAILED = "failed"
    EXPIRED = "expired"


class RouteStatus(StrEnum):
    """What a router says of a message."""

    CLASSIFIED = "classified"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReference:
    """Where a result is."""

    result_id: str
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCompleted:
    """The last word on a request, exactly one. Key: the request's."""

    request_id: str
    status: CompletionStatus
    results: tuple[ResultReference, ...] = ()
    error: str | None = None
    route: RouteStatus | None = None


class FeedbackVerdict(StrEnum):
    """What kind."""

    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    RATED = "rated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """A user's judgement of a result. Key: request_id."""

    feedback_id: str
    request_id: str
    result_id: str | None = None
    verdict: FeedbackVerdict
    output: Sealed | None = None
    rating: float | None = None
