"""A request into results: route, ask every adapter at once, one terminal result an intent, one last word."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from cachetools import LRUCache

from inference.breaker import Breaker
from inference.engines import Engine, Hear
from inference.residency import Lease
from inference.routing.decision import Decision, Intent
from inference.routing.router import Router
from inference.shadows import Shadows
from runtime.errors import InvalidInput, Transient
from runtime.ids import canonical_json, digest
from runtime.metrics import ANSWER_TOKENS, ANSWERS, COMPLETED, FALLBACKS, ROUTES
from runtime.project import Adapter, Project
from runtime.pulse import PulseWriter
from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import prompt_ids
from runtime.tasks.samples import TaskSpec, answer, ask, task_input
from runtime.tasks.shortlist import Shortlist, may_cut
from runtime.tasks.tool import Tool
from schemas.events import AdapterVersion, CompletionStatus, Request, RequestCompleted, Result, ResultReference, ResultStatus, RouteStatus
from schemas.topics import BASE, result_topic

ADAPTER_ID = re.compile(r"^([a-z][a-z0-9-]{0,31})(?:@([1-9][0-9]{0,8}|base))?$")
MAX_TEXT_CHARACTERS = 4000
VERSIONS_WATCHED = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of prompts and of what was answered."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True, slots=True)
class Answer:
    """Results with the topics that they go to, and the last word."""

    results: tuple[tuple[str, Result], ...]
    completed: RequestCompleted
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a caller puts on offer in the place of what is declared; None leaves that as it is. `grammar` and `max_tokens` are for `chat` alone."""

    labels: tuple[str, ...] | None = None
    tools: tuple[Tool, ...] | None = None
    grammar: str | None = None
    max_tokens: int | None = None


DECLARED = Offer()
Link = int | Literal["previous", "base"] | None
"""A version; the one that was live before; the base alone; whichever the adapter's name stands for."""


class Leases(Protocol):
    """Where versions are held while they answer: a residency."""

    def expect(self, adapter: str) -> None:
        """A request for `adapter` is on its way."""

    def lease(self, adapter: str, version: int | Literal["previous"] | None = None, conversation: str | None = None) -> AbstractAsyncContextManager[Lease]:
        """The engine and who answers for `adapter`, held meanwhile."""


class _Breakers(LRUCache[str, Breaker]):
    """A breaker for each version."""

    def __missing__(self, engine_name: str) -> Breaker:
        made = self[engine_name] = Breaker()
        return made


class Unreadable(Exception):
    """What a version answered is not valid for its task."""


@dataclass(slots=True)
class _Ended:
    """How an intent ended: who answered, or was to, and what."""

    status: ResultStatus = ResultStatus.REFUSED
    output: str | None = None
    error: str | None = None
    confidence: float | None = None
    generate_ms: float = 0.0
    version: AdapterVersion | None = None
    instead_of: str | None = None
    shadow: AdapterVersion | None = None
    usage: Usage = Usage()


class _Told:
    """Passes pieces on, and knows whether there were any: what was begun before a listener can't be begun anew."""

    def __init__(self, hear: Hear | None) -> None:
        self._hear, self.any = hear, False
        self.hear = self._pass_on if hear else None

    def _pass_on(self, piece: str) -> None:
        assert self._hear is not None
        self.any = True
        self._hear(piece)


def _chain(declared: Adapter, version: str | None) -> tuple[Link, ...]:
    """Who is asked, one after the other: the version that a request names alone, or the adapter's own and those that it falls back to."""
    if version is None:
        return (None, *declared.fallback)
    return ("base",) if version == BASE else (int(version),)


def allowed(adapter: Adapter, names: Sequence[str] | None, offer: Offer = DECLARED) -> TaskSpec:
    """What the adapter may answer to a request that allows the tools `names`; text can't widen it."""
    tools = adapter.declared_tools if offer.tools is None else offer.tools
    return TaskSpec(adapter.task, offer.labels or adapter.labels, tuple(tool for tool in tools if names is None or tool.name in names), adapter.quote, adapter.shortlist)


def once(results: Sequence[tuple[str, Result]]) -> list[tuple[str, Result]]:
    """`results` without calls that repeat an earlier one: "the bill, please. Send me the bill" opens one widget. Pure."""
    kept: list[tuple[str, Result]] = []
    for topic, result in results:
        is_call = result.task == "tool" and result.status is ResultStatus.OK
        if not (is_call and any((result.adapter, result.output) == (other.adapter, other.output) for _, other in kept)):
            kept.append((topic, result))
    return [(topic, replace(result, intent_index=i, intent_count=len(kept))) for i, (topic, result) in enumerate(kept)]


class Service:
    """Answers requests. Holds no state of its own."""

    def __init__(self, project: Project, router: Router, residency: Leases, tokenizer: Any, shortlist: Shortlist, shadows: Shadows | None = None, pulse: PulseWriter | None = None) -> None:
        self._project, self._router, self._residency, self._tokenizer, self._shortlist, self._shadows, self._pulse = project, router, residency, tokenizer, shortlist, shadows, pulse
        self._breakers: LRUCache[str, Breaker] = _Breakers(VERSIONS_WATCHED)

    async def answer(self, request: Request, now_ms: int, offer: Offer = DECLARED, hear: Hear | None = None) -> Answer:
        """The answer to `request`; `now_ms` is the time in epoch milliseconds. Where it is one of a `chat` adapter alone, `hear` is told each piece of it as it comes.

        Raises:
            Transient: the engine fails, or the router can't be asked; nothing was answered.
        """
        with self._pulse.answering() if self._pulse else nullcontext():
            answered = await self._answer(request, now_ms, offer, hear)
        COMPLETED.labels(answered.completed.status).inc()
        return answered

    async def _answer(self, request: Request, now_ms: int, offer: Offer, hear: Hear | None) -> Answer:
        if request.deadline_ms is not None and now_ms > request.deadline_ms:
            return self._closed(request, CompletionStatus.EXPIRED, f"DEADLINE_EXCEEDED: the deadline passed {now_ms - request.deadline_ms} ms ago")
        if len(request.text) > MAX_TEXT_CHARACTERS:
            return self._closed(request, CompletionStatus.FAILED, f"the text has {len(request.text)} characters, {MAX_TEXT_CHARACTERS} at most")
        if not request.text.strip():
            return self._closed(request, CompletionStatus.FAILED, "the text is empty")
        began = time.perf_counter()
        try:
            decision, version = await self._decision(request)
        except InvalidInput as error:
            return self._closed(request, CompletionStatus.FAILED, str(error))
        route_ms = (time.perf_counter() - began) * 1000
        if decision.status is not None:
            ROUTES.labels(decision.status).observe(route_ms / 1000)
        for intent in decision.intents:
            self._residency.expect(intent.adapter)
        until = None if request.deadline_ms is None else began + (request.deadline_ms - now_ms) / 1000
        chats = [i for i, intent in enumerate(decision.intents) if not intent.always and self._project.adapters[intent.adapter].task == "chat"]
        heard = chats if sum(not intent.always for intent in decision.intents) == 1 else []
        made = await asyncio.gather(*(self._result(request, decision.intents, i, version, route_ms, offer, until, hear if i in heard else None) for i in range(len(decision.intents))))
        answered = self._complete(request, decision, once([(topic, result) for topic, result, _ in made]))
        return replace(answered, usage=sum((usage for *_, usage in made), Usage()))

    async def _decision(self, request: Request) -> tuple[Decision, str | None]:
        """What the request is for, and the version that it names."""
        if request.adapter_id is None:
            decision = await self._router.route(request.text)
            if decision.status is RouteStatus.UNAVAILABLE:
                ROUTES.labels(decision.status).observe(0)
                raise Transient(decision.error or "the router can't be asked")
            return decision, None
        found = ADAPTER_ID.match(request.adapter_id)
        if not found or found.group(1) not in self._project.adapters:
            raise InvalidInput(f"no adapter {request.adapter_id[:64]!r}: one of {', '.join(self._project.adapters)}, also with @version or @base")
        return Decision(None, (Intent(found.group(1), request.text),)), found.group(2)

    async def _result(self, request: Request, intents: Sequence[Intent], index: int, version: str | None, route_ms: float, offer: Offer, until: float | None, hear: Hear | None) -> tuple[str, Result, Usage]:
        """One intent's result; `until` is when its deadline passes, by `time.perf_counter`: then the engine is told to stop."""
        intent, asked = intents[index], time.perf_counter()
        declared = self._project.adapters[intent.adapter]
        ended = _Ended()
        try:
            async with asyncio.timeout(None if until is None else until - asked):
                await self._ask(ended, request, intent, _chain(declared, version), offer, hear)
        except TimeoutError:
            if until is None:
                raise
            ended.status, ended.error = ResultStatus.EXPIRED, f"DEADLINE_EXCEEDED: no answer within {(time.perf_counter() - asked) * 1000:.0f} ms"
        result = Result(
            result_id=digest("result", request.request_id, declared.task, index), request_id=request.request_id, task=declared.task, adapter=intent.adapter,
            version=ended.version.version if ended.version else None, engine_name=ended.version.engine_name if ended.version else None, intent_index=index, intent_count=len(intents), text=intent.text,
            output=ended.output, confidence=ended.confidence, timings_ms={"route": route_ms, "generate": ended.generate_ms}, status=ended.status, error=ended.error,
            route_score=intent.score, route_margin=intent.margin, route_nearest=intent.nearest, instead_of=ended.instead_of,
        )  # fmt: skip
        if ended.shadow is not None:
            self._have_shadowed(ended.shadow, result, request, intent, offer)
        ANSWERS.labels(intent.adapter, result.status).observe(time.perf_counter() - asked)
        return result_topic(declared.result).name, result, ended.usage

    async def _ask(self, ended: _Ended, request: Request, intent: Intent, chain: Sequence[Link], offer: Offer, hear: Hear | None) -> None:
        """Asks those of `chain` one after the other until one gives an answer that can be read; `ended` says how it ended."""
        declared, told = self._project.adapters[intent.adapter], _Told(hear)
        for link in chain:
            async with self._residency.lease(intent.adapter, None if link == "base" else link, request.conversation_id if link is None else None) as lease:
                held = None if link == "base" else lease.version
                if link == chain[0]:
                    ended.version, ended.shadow = held, lease.shadow
                if held is None and link != "base":
                    ended.error = ended.error or f"adapter {intent.adapter} has no live version" + (f" {link}" if link else "")
                    continue
                breaker = self._breakers[held.engine_name] if held else None
                if breaker and (left := breaker.seconds_left):
                    ended.error = ended.error or f"{held and held.engine_name} is left alone for {left:.0f} s more: its last answers could not be read"
                    continue
                began = time.perf_counter()
                try:
                    output, ended.confidence, usage = await self._generate(lease.engine, declared, request, intent, held.engine_name if held else None, offer, told.hear)
                except Unreadable as failure:
                    if breaker:
                        breaker.note(False)
                    ended.status, ended.error = ResultStatus.FAILED, str(failure)
                    if told.any:
                        return
                except (ValueError, InvalidInput) as failure:
                    ended.status, ended.error = ResultStatus.FAILED, str(failure)
                    return
                else:
                    if breaker:
                        breaker.note(True)
                    if link != chain[0]:
                        ended.instead_of = ended.version.engine_name if ended.version else intent.adapter
                        FALLBACKS.labels(intent.adapter, link).inc()
                    ended.status, ended.output, ended.error, ended.version, ended.usage = ResultStatus.OK, output, None, held, usage
                    return
                finally:
                    ended.generate_ms += (time.perf_counter() - began) * 1000
        if len(chain) > 1:
            FALLBACKS.labels(intent.adapter, "none").inc()

    def _have_shadowed(self, shadow: AdapterVersion, result: Result, request: Request, intent: Intent, offer: Offer) -> None:
        """Has the candidate `shadow` answer what `result` answers."""

        async def answer() -> Result:
            ended = _Ended()
            await self._ask(ended, request, intent, (shadow.version,), offer, None)
            return replace(
                result, result_id=digest("shadow", result.result_id, shadow.engine_name), version=shadow.version, engine_name=shadow.engine_name, output=ended.output, confidence=ended.confidence,
                timings_ms={"route": 0.0, "generate": ended.generate_ms}, status=ended.status, error=ended.error, instead_of=None,
            )  # fmt: skip

        if self._shadows is not None:
            self._shadows.ask(request.conversation_id, answer)

    async def _generate(self, engine: Engine, declared: Adapter, request: Request, intent: Intent, engine_name: str | None, offer: Offer, hear: Hear | None) -> tuple[str, float, Usage]:
        """JSON output, confidence, tokens.

        Raises:
            Unreadable: what was answered is not valid.
            ValueError, InvalidInput: it can't be asked so.
        """
        everything = allowed(declared, request.tools, offer)
        given = task_input(everything.task, intent.text, request.context)
        narrow = self._shortlist.narrow
        ((spec, shown),) = await asyncio.to_thread(narrow, everything, [given]) if may_cut(everything) else narrow(everything, [given])
        ids = prompt_ids(self._tokenizer, ask(spec, shown))
        own, most = (offer.grammar, offer.max_tokens) if spec.task == "chat" else (None, None)
        made = await engine.generate(ids, engine_name, own or grammar(spec, shown), most or MAX_TOKENS[spec.task], hear, request.priority)
        ANSWER_TOKENS.labels(intent.adapter).inc(made.token_count)
        try:
            return canonical_json(answer(spec, made.text, shown)), made.confidence, Usage(len(ids), made.token_count)
        except ValueError as error:
            raise Unreadable(str(error)) from error

    def _complete(self, request: Request, decision: Decision, results: Sequence[tuple[str, Result]]) -> Answer:
        """The last word: unknown when only adapters that see every message answered."""
        good = [result for _, result in results if result.status is ResultStatus.OK]
        if all(intent.always for intent in decision.intents):
            status = CompletionStatus.UNKNOWN
        elif len(good) == len(results):
            status = CompletionStatus.OK
        elif not good and any(result.status is ResultStatus.EXPIRED for _, result in results):
            status = CompletionStatus.EXPIRED
        else:
            status = CompletionStatus.PARTIAL if good else CompletionStatus.FAILED
        references = tuple(ResultReference(result_id=result.result_id, topic=topic) for topic, result in results)
        error = next((result.error for _, result in results if result.error), None)
        return Answer(tuple(results), RequestCompleted(request_id=request.request_id, status=status, results=references, error=error, route=decision.status))

    def _closed(self, request: Request, status: CompletionStatus, error: str) -> Answer:
        return Answer((), RequestCompleted(request_id=request.request_id, status=status, error=error))
