"""Who answers in the place of a version that can't, and who answers behind one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.breaker import FAILED_OF_THEM, LOOKED_AT, PAUSE_SECONDS, Breaker
from inference.engines import Generation, Hear
from inference.residency import Candidate, Lease
from inference.service import Answer, Service
from runtime.errors import InvalidInput
from runtime.project import load_project
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import AdapterVersion, CompletionStatus, Request, Result, ResultStatus

PROJECT = load_project(Path(__file__).parents[3] / "examples/pebblewire/loom.toml")


def version(number: int) -> AdapterVersion:
    return AdapterVersion(version=number, engine_name=f"classifier@{number}-0123abcd", base_epoch=0, artifact_uri="", files=(), run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")


class Says:
    """Answers by who is asked; "base" is the base."""

    def __init__(self, texts: dict[str, str | Exception]) -> None:
        self.texts, self.asked, self.priorities = texts, list[str](), list[int]()

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        name = (adapter or "base").removesuffix("-0123abcd")
        self.asked.append(name)
        self.priorities.append(priority)
        said = self.texts[name]
        if isinstance(said, Exception):
            raise said
        return Generation(said, 3, 0.5)


class Leases:
    """Version 7 is live, 6 was before it, 8 shadows it."""

    def __init__(self, engine: Says, live: int | None = 7, previous: int | None = 6, shadow: int | None = None) -> None:
        self._engine, self._live, self._previous, self._shadow = engine, live, previous, shadow

    def expect(self, adapter: str) -> None: ...

    @asynccontextmanager
    async def lease(self, adapter: str, number: int | str | None = None, conversation: str | None = None) -> AsyncIterator[Lease]:
        shadow = version(self._shadow) if self._shadow and number is None and conversation else None
        held = self._previous if number == "previous" else self._live if number in (None, self._live) else number if number == self._shadow else None
        yield Lease(self._engine, version(int(held)) if held else None, shadow)  # type: ignore[arg-type]


class Behind:
    """Shadows that are asked at once."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Result]] = []
        self.waiting: list[tuple[str, Callable[[], Awaitable[Result]]]] = []

    def ask(self, key: str, answer: Callable[[], Awaitable[Result]]) -> None:
        self.waiting.append((key, answer))

    async def all(self) -> list[tuple[str, Result]]:
        return [(key, await answer()) for key, answer in self.waiting]


def serve(leases: Leases, fallback: Sequence[str] = (), shadows: Behind | None = None) -> Service:
    declared = PROJECT.adapters["classifier"].model_copy(update={"fallback": tuple(fallback)})
    project = PROJECT.model_copy(update={"adapters": PROJECT.adapters | {"classifier": declared}})
    return Service(project, None, leases, load_tokenizer(PROJECT.base_folder), Shortlist(lambda _: 1 / 0), shadows)  # type: ignore[arg-type, return-value]


def ask(service: Service, adapter: str = "classifier", priority: int = 0) -> Answer:
    return asyncio.run(service.answer(Request(request_id="r", conversation_id="c", text="this is bad", adapter_id=adapter, priority=priority), 0))


@pytest.mark.parametrize(("texts", "fallback", "by", "instead_of", "output"), [
    ({"classifier@7": "NEGATIVE"}, ("previous", "base"), "classifier@7-0123abcd", None, '"NEGATIVE"'),
    ({"classifier@7": "what?", "classifier@6": "POSITIVE"}, ("previous", "base"), "classifier@6-0123abcd", "classifier@7-0123abcd", '"POSITIVE"'),
    ({"classifier@7": "what?", "classifier@6": "no!", "base": "NEUTRAL"}, ("previous", "base"), None, "classifier@7-0123abcd", '"NEUTRAL"'),
    ({"classifier@7": "what?", "base": "NEUTRAL"}, ("base",), None, "classifier@7-0123abcd", '"NEUTRAL"'),
])  # fmt: skip
def test_the_next_one_answers_where_an_answer_can_not_be_read_and_the_result_names_both(texts: dict[str, str | Exception], fallback: Sequence[str], by: str | None, instead_of: str | None, output: str) -> None:
    told = ask(serve(Leases(Says(texts)), fallback))
    ((_, result),) = told.results
    assert (result.status, result.engine_name, result.instead_of, result.output, result.error) == (ResultStatus.OK, by, instead_of, output, None)
    assert told.completed.status is CompletionStatus.OK


def test_where_nobody_can_answer_the_first_fault_is_told() -> None:
    engine = Says({"classifier@7": "what?", "classifier@6": "eh?"})
    ((_, result),) = ask(serve(Leases(engine), ("previous",))).results
    assert (result.status, result.version, result.instead_of, engine.asked) == (ResultStatus.FAILED, 7, None, ["classifier@7", "classifier@6"])
    assert result.error


def test_an_adapter_without_a_version_falls_back_too() -> None:
    ((_, result),) = ask(serve(Leases(Says({"base": "NEUTRAL"}), live=None, previous=None), ("previous", "base"))).results
    assert (result.status, result.version, result.instead_of, result.output) == (ResultStatus.OK, None, "classifier", '"NEUTRAL"')


def test_who_names_a_version_gets_that_one_or_nothing() -> None:
    engine = Says({"classifier@7": "what?", "classifier@6": "POSITIVE", "base": "NEUTRAL"})
    ((_, result),) = ask(serve(Leases(engine), ("previous", "base")), "classifier@7").results
    assert (result.status, engine.asked) == (ResultStatus.FAILED, ["classifier@7"])


def test_what_is_the_callers_fault_is_asked_of_nobody_else() -> None:
    engine = Says({"classifier@7": InvalidInput("the prompt is too long"), "base": "NEUTRAL"})
    service = serve(Leases(engine), ("base",))
    for _ in range(LOOKED_AT + 1):
        ((_, result),) = ask(service).results
        assert (result.status, result.error) == (ResultStatus.FAILED, "the prompt is too long")
    assert set(engine.asked) == {"classifier@7"}


def test_a_version_that_fails_again_and_again_is_not_asked_any_more() -> None:
    engine = Says({"classifier@7": "what?", "base": "NEUTRAL"})
    service = serve(Leases(engine), ("base",))
    results = [ask(service).results[0][1] for _ in range(FAILED_OF_THEM + 5)]
    assert {(result.output, result.instead_of) for result in results} == {('"NEUTRAL"', "classifier@7-0123abcd")}
    assert engine.asked.count("classifier@7") == FAILED_OF_THEM
    refusing = serve(Leases(engine))
    results = [ask(refusing).results[0][1] for _ in range(FAILED_OF_THEM + 1)]
    assert (results[-2].status, results[-1].status) == (ResultStatus.FAILED, ResultStatus.REFUSED)
    assert "classifier@7-0123abcd is left alone for" in (results[-1].error or "")


def test_a_priority_reaches_the_engine() -> None:
    engine = Says({"classifier@7": "NEGATIVE"})
    ask(serve(Leases(engine)), priority=3)
    assert engine.priorities == [3]


def test_a_shadow_answers_the_same_message_under_an_id_of_its_own() -> None:
    behind, engine = Behind(), Says({"classifier@7": "NEGATIVE", "classifier@8": "POSITIVE", "classifier@6": "NEUTRAL"})
    told = ask(serve(Leases(engine, shadow=8), ("previous",), behind))
    ((_, result),) = told.results
    assert (result.engine_name, result.output, engine.asked) == ("classifier@7-0123abcd", '"NEGATIVE"', ["classifier@7"])
    ((key, shadow),) = asyncio.run(behind.all())
    assert (key, shadow.engine_name, shadow.version, shadow.output, shadow.request_id, shadow.intent_index) == ("c", "classifier@8-0123abcd", 8, '"POSITIVE"', "r", 0)
    assert shadow.result_id != result.result_id
    engine.texts["classifier@8"] = "what?"
    ((_, shadow),) = asyncio.run(behind.all())
    assert (shadow.status, shadow.instead_of, engine.asked[-1]) == (ResultStatus.FAILED, None, "classifier@8")
    ask(serve(Leases(engine, shadow=8), (), behind), "classifier@7")
    assert len(behind.waiting) == 1, "a version that a request names is shadowed by nobody"


@given(st.lists(st.booleans(), max_size=80))
def test_a_breaker_opens_just_where_so_many_of_the_last_answers_failed(answers: list[bool]) -> None:
    breaker, seen = Breaker(lambda: 0.0), list[bool]()
    for good in answers:
        if breaker.seconds_left:
            break
        breaker.note(good)
        seen.append(good)
        assert bool(breaker.seconds_left) == (seen[-LOOKED_AT:].count(False) >= FAILED_OF_THEM)


def test_one_answer_decides_when_the_pause_is_over() -> None:
    now = 0.0
    breaker = Breaker(lambda: now)
    for _ in range(FAILED_OF_THEM):
        breaker.note(False)
    assert breaker.seconds_left == PAUSE_SECONDS
    now += PAUSE_SECONDS
    assert [breaker.seconds_left for _ in range(2)] == [0, PAUSE_SECONDS], "one may ask, the others wait for how that ends"
    breaker.note(False)
    assert breaker.seconds_left == PAUSE_SECONDS
    now += PAUSE_SECONDS
    assert not breaker.seconds_left
    breaker.note(True)
    assert not breaker.seconds_left
    breaker.note(False)
    assert not breaker.seconds_left, "what was before is forgotten"


@given(st.floats(0.05, 0.95), st.integers(1, 99))
def test_a_candidate_has_its_share_of_conversations_and_always_the_same(share: float, number: int) -> None:
    candidate = Candidate(version(number), share, False)
    has = [candidate.has(f"conversation {i}") for i in range(1000)]
    assert abs(sum(has) / 1000 - share) < 0.08
    assert has == [Candidate(version(number), share, True).has(f"conversation {i}") for i in range(1000)]
    wider = Candidate(version(number), min(1.0, share + 0.05), False)
    assert all(wider.has(f"conversation {i}") for i in range(1000) if has[i]), "a larger share keeps those that it had"
