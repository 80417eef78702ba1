"""A request becomes results and one last word, whatever happens on the way; and the metrics say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from inference.engines import Generation, Hear
from inference.residency import Lease
from inference.routing.decision import Decision, Intent
from inference.service import Answer, Service
from runtime.errors import InvalidInput, Transient
from runtime.project import load_project
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import AdapterVersion, CompletionStatus, Request, ResultStatus, RouteStatus

PROJECT = load_project(Path(__file__).parents[3] / "examples/pebblewire/loom.toml")
TOOL = Intent("tool", "reset my password", 0.9, 0.7, "reset my login")
MOOD = Intent("classifier", "reset my password", always=True)


def version(number: int, name: str) -> AdapterVersion:
    return AdapterVersion(version=number, engine_name=f"{name}@{number}-0123abcd", base_epoch=0, artifact_uri="", files=(), run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")


class Says:
    """An engine whose answers are known by the adapter."""

    def __init__(self, texts: dict[str, str | Exception]) -> None:
        self._texts = texts

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        said = self._texts[(adapter or "base").partition("@")[0]]
        if isinstance(said, Exception):
            raise said
        return Generation(said, 3, 0.5)


class Leases:
    """Versions that are live, on one engine."""

    def __init__(self, engine: Says, live: dict[str, AdapterVersion]) -> None:
        self._engine, self._live = engine, live

    def expect(self, adapter: str) -> None: ...

    @asynccontextmanager
    async def lease(self, adapter: str, version: int | str | None = None, conversation: str | None = None) -> AsyncIterator[Lease]:
        held = self._live.get(adapter)
        yield Lease(self._engine, held if held and version in (None, held.version) else None)  # type: ignore[arg-type]


class Decides:
    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    async def route(self, text: str) -> Decision:
        return self._decision


def answer(decision: Decision, texts: dict[str, str | Exception], request: dict[str, Any] | None = None, now_ms: int = 0, engine: Says | None = None) -> Answer:
    live = {"tool": version(7, "tool"), "classifier": version(2, "classifier")}
    service = Service(PROJECT, Decides(decision), Leases(engine or Says(texts), live), load_tokenizer(PROJECT.base_folder), Shortlist(lambda _: 1 / 0))  # type: ignore[arg-type, return-value]
    spec = PROJECT.adapters["tool"].declared_tools[0].name
    fields = {"request_id": "r", "conversation_id": "c", "text": "reset my password", "context": {"user_id": "7"}, "tools": (spec,)}
    return asyncio.run(service.answer(Request(**(fields | (request or {}))), now_ms))


class Slow(Says):
    """An engine that never answers for the tool, and notes who gave up."""

    def __init__(self, texts: dict[str, str | Exception]) -> None:
        super().__init__(texts)
        self.left: list[str | None] = []

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        try:
            if (adapter or "").startswith("tool"):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.append(adapter)
            raise
        return await super().generate(prompt, adapter, grammar, max_tokens, hear)


CLEAR = Decision(RouteStatus.CLASSIFIED, (MOOD, TOOL))
GOOD: dict[str, str | Exception] = {"tool": "reset_password_flow", "classifier": "NEGATIVE", "base": "NEUTRAL"}


def test_results_say_how_the_text_came_to_its_adapter() -> None:
    told = answer(CLEAR, GOOD)
    (_, mood), (topic, call) = told.results
    assert (topic, call.output, call.version, call.engine_name) == ("results.tool-calls", '{"tool":"reset_password_flow","user_id":"7"}', 7, "tool@7-0123abcd")
    assert (call.route_score, call.route_margin, call.route_nearest) == (0.9, 0.7, "reset my login")
    assert (mood.output, mood.route_score, mood.route_margin, mood.route_nearest) == ('"NEGATIVE"', None, None, None)
    assert (told.completed.status, told.completed.route) == (CompletionStatus.OK, RouteStatus.CLASSIFIED)


def test_what_only_those_who_see_everything_answered_is_unknown() -> None:
    told = answer(Decision(RouteStatus.UNKNOWN, (MOOD,)), GOOD)
    assert (told.completed.status, told.completed.route, len(told.results)) == (CompletionStatus.UNKNOWN, RouteStatus.UNKNOWN, 1)


def test_a_router_that_can_not_be_asked_leaves_the_request_to_a_later_attempt() -> None:
    with pytest.raises(Transient, match="routes are being loaded"):
        answer(Decision(RouteStatus.UNAVAILABLE, (MOOD,), "routes are being loaded"), GOOD)


def test_who_names_an_adapter_is_not_routed() -> None:
    told = answer(Decision(RouteStatus.UNAVAILABLE, (), "away"), GOOD, {"adapter_id": "tool@7"})
    assert (told.completed.status, told.completed.route, told.results[0][1].route_score) == (CompletionStatus.OK, None, None)
    assert answer(CLEAR, GOOD, {"adapter_id": "classifier@base"}).results[0][1].output == '"NEUTRAL"'


@pytest.mark.parametrize(
    ("texts", "statuses", "completed"),
    [
        (GOOD | {"tool": InvalidInput("the engine refuses the request")}, [ResultStatus.OK, ResultStatus.FAILED], CompletionStatus.PARTIAL),
        (GOOD | {"tool": "not a tool"}, [ResultStatus.OK, ResultStatus.FAILED], CompletionStatus.PARTIAL),
        ({"tool": "x", "classifier": "y"}, [ResultStatus.FAILED, ResultStatus.FAILED], CompletionStatus.FAILED),
    ],
    ids=["refused by the engine", "no valid answer", "none is good"],
)
def test_one_answer_that_fails_harms_no_other(texts: dict[str, str | Exception], statuses: list[ResultStatus], completed: CompletionStatus) -> None:
    told = answer(CLEAR, texts)
    assert ([result.status for _, result in told.results], told.completed.status) == (statuses, completed)
    assert told.completed.error


@pytest.mark.parametrize(
    ("request_", "now_ms", "completed", "error"),
    [
        ({"deadline_ms": 10}, 11, CompletionStatus.EXPIRED, "the deadline passed 1 ms ago"),
        ({"text": "x" * 4001}, 0, CompletionStatus.FAILED, "4001 characters"),
        ({"text": " \n"}, 0, CompletionStatus.FAILED, "empty"),
        ({"adapter_id": "../etc"}, 0, CompletionStatus.FAILED, "no adapter '../etc'"),
        ({"adapter_id": "shop"}, 0, CompletionStatus.FAILED, "one of tool, classifier, ner, chat"),
    ],
)
def test_what_ends_before_an_adapter_is_asked_has_its_last_word(request_: dict[str, Any], now_ms: int, completed: CompletionStatus, error: str) -> None:
    told = answer(CLEAR, {}, request_, now_ms)
    assert (told.results, told.completed.status) == ((), completed)
    assert error in (told.completed.error or "")


def test_a_version_that_is_not_live_is_refused() -> None:
    ((_, result),) = answer(CLEAR, GOOD, {"adapter_id": "tool@6"}).results
    assert (result.status, result.error) == (ResultStatus.REFUSED, "adapter tool has no live version 6")


def test_answers_are_counted() -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    names: list[tuple[str, dict[str, str]]] = [
        ("loom_route_seconds_count", {"status": "classified"}), ("loom_answer_seconds_count", {"adapter": "tool", "status": "ok"}),
        ("loom_answer_tokens_total", {"adapter": "tool"}), ("loom_requests_completed_total", {"status": "ok"}),
    ]  # fmt: skip
    before = [value(name, **labels) for name, labels in names]
    answer(CLEAR, GOOD)
    assert [value(name, **labels) - was for (name, labels), was in zip(names, before, strict=True)] == [1, 1, 3, 1]


def test_a_deadline_that_passes_is_a_result_and_the_engine_is_told_to_stop() -> None:
    engine = Slow(GOOD)
    told = answer(CLEAR, {}, {"deadline_ms": 2000}, 1000, engine)
    (_, mood), (_, call) = told.results
    assert (mood.status, call.status, told.completed.status) == (ResultStatus.OK, ResultStatus.EXPIRED, CompletionStatus.PARTIAL)
    assert (call.error or "").startswith("DEADLINE_EXCEEDED: no answer within ")
    assert engine.left == ["tool@7-0123abcd"]
    assert answer(Decision(RouteStatus.CLASSIFIED, (TOOL,)), {}, {"deadline_ms": 1010}, 1000, engine).completed.status is CompletionStatus.EXPIRED
