"""The part of `loom bench inference` that goes through Kafka: a request in, its result out, beside the engine alone at the same rate, and beside a bare relay of aiokafka."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from inference.engines import Engine
from inference.engines.vllm import VllmEngine
from inference.residency import Lease
from inference.service import Service
from inference.worker import CONCURRENT, AnswerStage, RequestShell
from loom.bench.asker import RESULTS, Asked, asked, text_of
from loom.bench.compare import BenchmarkFailed, Row, arrivals
from loom.embedded.kafka import EmbeddedKafka, free_port
from runtime.encoder import minilm
from runtime.kafka import Outgoing, apply_topics, consumer, producer, send_all
from runtime.project import load_project
from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import load_tokenizer, prompt_ids
from runtime.tasks.samples import TaskSpec, answer, ask, task_input
from runtime.tasks.shortlist import Shortlist
from runtime.transactions import PartitionTransactions
from schemas.codec import Codec
from schemas.events import Request, Result
from schemas.topics import REQUESTS

IDEMPOTENT_MS, EXACTLY_ONCE_MS, OF_THROUGHPUT, STRUCTURED = 10.0, 30.0, 0.95, 1.05
LOAD, WARM_UP = 0.5, 20
"""Of what the engine alone answers a second; and requests before those that are measured."""
PROJECT = """
[base]
model = "{base}"
[adapters.mood]
task = "classify"
result = "moods"
labels = ["NEGATIVE", "NEUTRAL", "POSITIVE"]
[adapters.essay]
task = "chat"
result = "essays"
utterances = ["tell me"]
[adapters.act]
task = "tool"
result = "calls"
[[adapters.act.tools]]
name = "restart_hub"
description = "Restart a hub"
parameters = {{ type = "object", properties = {{ hub_name = {{ type = "string" }}, when = {{ type = "string" }} }}, required = ["hub_name", "when"] }}
utterances = ["restart my hub"]
[[adapters.act.tools]]
name = "track_order"
description = "Where an order is"
parameters = {{ type = "object", properties = {{ order = {{ type = "string" }}, street = {{ type = "string" }} }}, required = ["order", "street"] }}
utterances = ["track my order"]
"""
CODEC = Codec()
TRIES, AT_ONCE, LONG_TOKENS = 1280, 64, 60
"""Messages that are tried, so many at once, for one that is answered with more than so many tokens: which one that is, or how rare they are, hangs on the last bits of the weights."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of a round at half of capacity and of one at full speed, pairs of structured answers, and rounds."""

    paced: int
    pressed: int
    pairs: int
    rounds: int


WHOLE, QUICK = Counts(300, 600, 150, 3), Counts(40, 60, 10, 1)


class Base:
    """What a residency is to the service, for a base without adapters."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def expect(self, adapter: str) -> None: ...

    @asynccontextmanager
    async def lease(self, adapter: str, version: int | str | None = None, conversation: str | None = None) -> AsyncIterator[Lease]:
        yield Lease(self._engine, None)


class Bench:
    """An engine, a broker, and the ways that a request can take."""

    def __init__(self, engine: VllmEngine, broker: str, project_file: Path) -> None:
        self.engine, self.broker, self.project = engine, broker, load_project(project_file)
        self.tokenizer = load_tokenizer(self.project.base_folder)
        no_router: Any = None
        self.service = Service(self.project, no_router, Base(engine), self.tokenizer, Shortlist(minilm().encode))
        self.seeds = itertools.count(1)

    def prompt(self, adapter: str, text: str) -> tuple[list[int], str | None, int, tuple[TaskSpec, Any]]:
        """What the engine is asked for a message, and by what its answer is read."""
        spec = self.project.adapters[adapter].spec
        given = task_input(spec.task, text, {})
        return prompt_ids(self.tokenizer, ask(spec, given)), grammar(spec, given), MAX_TOKENS[spec.task], (spec, given)

    async def bare(self, rate: float, count: int) -> Asked:
        """The engine alone, requests coming at random moments, or `CONCURRENT` at once where `rate` is 0, after `WARM_UP` unmeasured as in `through`."""
        await self._bare(0, WARM_UP)
        return await self._bare(rate, count)

    async def _bare(self, rate: float, count: int) -> Asked:
        seed = next(self.seeds)
        asks = [self.prompt("mood", text_of(number, seed)) for number in range(count)]
        gate, took, chance = asyncio.Semaphore(CONCURRENT if not rate else count), list[float](), random.Random(seed)

        async def one(number: int) -> None:
            ids, rule, most, *_ = asks[number]
            async with gate:
                began = time.perf_counter()
                await self.engine.generate(ids, None, rule, most)
                took.append(time.perf_counter() - began)

        began = time.perf_counter()
        running = [asyncio.create_task(one(number)) async for number in arrivals(count, rate, chance)]
        await asyncio.gather(*running)
        return Asked(took, took, time.perf_counter() - began)

    async def through(self, way: str, rate: float, count: int) -> Asked:
        """By Kafka, in a way: `exactly-once`, `idempotent`, or a relay of either that asks no engine."""
        async with self._serving(way) as prefix:
            await asked(self.broker, prefix, 0, WARM_UP, next(self.seeds))  # until partitions are there, and all is warm
            return await asked(self.broker, prefix, rate, count, next(self.seeds))

    @asynccontextmanager
    async def _serving(self, way: str) -> AsyncIterator[str]:
        prefix, stop = f"{way.replace(' ', '-')}-{next(self.seeds)}.", asyncio.Event()
        await apply_topics(self.broker, self.project.topics.values(), prefix)
        if way.endswith("relay"):
            running = asyncio.create_task(self._relay(prefix, stop, with_transactions=way.startswith("exactly-once")))
        else:
            shell = RequestShell(f"{prefix}inference", self.broker, AnswerStage(self.service, CODEC, prefix), CODEC, prefix, delivery=way)
            running = asyncio.create_task(shell.run(stop))
        try:
            yield prefix
        finally:
            stop.set()
            await running

    async def _relay(self, prefix: str, stop: asyncio.Event, *, with_transactions: bool) -> None:
        """aiokafka's own loop: what is read is sent on as a result, and committed."""
        group = f"{prefix}relay"
        reader = consumer(self.broker, prefix + REQUESTS.name, group=group)
        await reader.start()
        transactions = PartitionTransactions(group, lambda name: producer(self.broker, name, linger_milliseconds=0))
        writer = producer(self.broker, linger_milliseconds=0)
        await writer.start()
        while not reader.assignment():  # noqa: ASYNC110 - aiokafka sets no event
            await asyncio.sleep(0.05)
        if with_transactions:
            await transactions.fence(reader.assignment())

        async def relay(place: TopicPartition, messages: Sequence[Any]) -> None:
            results = [Outgoing(prefix + RESULTS, m.key, m.value) for m in messages]
            if with_transactions:
                await transactions.commit(transactions.epoch, place, results, messages[-1].offset + 1)
                return
            await send_all(writer, results)
            await reader.commit({place: messages[-1].offset + 1})

        while not stop.is_set():
            batches = await reader.getmany(timeout_ms=200)
            await asyncio.gather(*(relay(place, messages) for place, messages in batches.items()))
        await transactions.close()
        await writer.stop()
        await reader.stop()

    async def short_before_long(self, text: str) -> float:
        """Milliseconds by which a short answer's request, sent while a long one to `text` is answered, ends before it."""
        async with self._serving("exactly-once") as prefix:
            await asked(self.broker, prefix, 0, WARM_UP, next(self.seeds))
            reader, writer = consumer(self.broker, f"{prefix}results.essays", f"{prefix}{RESULTS}"), producer(self.broker, linger_milliseconds=0)
            await reader.start()
            await writer.start()
            for name, adapter in (("long", "essay@base"), ("short", "mood@base")):
                await writer.send_and_wait(prefix + REQUESTS.name, key=name.encode(), value=CODEC.encode(Request(request_id=name, conversation_id=name, text=text, adapter_id=adapter)))
                await asyncio.sleep(0.1)
            ended: dict[str, float] = {}
            while not {"long", "short"} <= ended.keys():
                for batch in (await reader.getmany(timeout_ms=200)).values():
                    ended |= {CODEC.decode(Result, message.value).request_id: time.perf_counter() for message in batch}
            await reader.stop()
            await writer.stop()
        return (ended["long"] - ended["short"]) * 1000

    async def answered_at_length(self) -> str:
        """A message to which the base says much. Raises BenchmarkFailed where it never does."""

        async def length(text: str) -> int:
            ids, rule, most, *_ = self.prompt("essay", text)
            return (await self.engine.generate(ids, None, rule, most)).token_count

        for first in range(0, TRIES, AT_ONCE):
            texts = [text_of(number, 0) for number in range(first, first + AT_ONCE)]
            lengths = await asyncio.gather(*(length(text) for text in texts))
            if max(lengths) > LONG_TOKENS:
                return texts[lengths.index(max(lengths))]
        raise BenchmarkFailed(f"of {TRIES} messages the base answers none with more than {LONG_TOKENS} tokens")

    def _as_long(self, tokens: int, adapter: str) -> list[int] | None:
        """The prompt of another message, of so many tokens; None where a length is so rare that it is not found."""
        prompts = (self.prompt(adapter, text_of(number, next(self.seeds)))[0] for number in range(TRIES))
        return next((ids for ids in prompts if len(ids) == tokens), None)

    async def structured(self, adapter: str, pairs: int) -> tuple[list[float], list[float], float]:
        """Milliseconds of answers under their grammar and of free text of as many tokens, after other messages of as many, by turns; and the share of the first that their task can read."""
        bound, free, texts, seed = list[float](), list[float](), list[str](), next(self.seeds)
        asks = [self.prompt(adapter, text_of(number, seed)) for number in range(pairs + WARM_UP)]
        unlike = [self._as_long(len(ids), adapter) for ids, *_ in asks]  # of the same message much would be in the cache
        for number, ((ids, rule, most, _), free_ids) in enumerate(zip(asks, unlike, strict=True), -WARM_UP):  # without a pause, after which the first would be slower
            began = time.perf_counter()
            made = await self.engine.generate(ids, None, rule, most)
            between = time.perf_counter()
            texts.append(made.text)
            if free_ids is None:
                continue
            other = await self.engine.generate(free_ids, None, None, made.token_count)
            ended = time.perf_counter()
            if number >= 0 and other.token_count == made.token_count:
                bound.append((between - began) * 1000)
                free.append((ended - between) * 1000)
        if not bound:
            raise BenchmarkFailed(f"no message to the adapter {adapter} was answered at as many tokens as another that is as long: more pairs may find one ({pairs} now)")
        return bound, free, statistics.mean(_can_be_read(*read, text) for (*_, read), text in zip(asks, texts, strict=True))


async def measured(bench: Bench, counts: Counts) -> list[Row]:
    """The rows, sides taking turns."""
    await bench.bare(0, 40)
    capacity = [(await bench.bare(0, counts.pressed)).each_second for _ in range(counts.rounds)]
    rate = LOAD * statistics.median(capacity)
    ways = ("idempotent", "exactly-once", "idempotent relay", "exactly-once relay")
    paced: dict[str, list[float]] = {way: [] for way in ("bare", *ways)}
    outside: dict[str, list[float]] = {way: [] for way in ways}
    pressed: dict[str, list[float]] = {"bare": [], "idempotent": [], "exactly-once": []}
    for _ in range(counts.rounds):
        paced["bare"].append(_p50((await bench.bare(rate, counts.paced)).took))
        pressed["bare"].append((await bench.bare(0, counts.pressed)).each_second)
        for way in ways:
            found = await bench.through(way, rate, counts.paced)
            paced[way].append(_p50(found.took))
            outside[way].append(_p50([whole - engine for whole, engine in zip(found.took, found.in_engine, strict=True)]))
            if way in pressed:
                pressed[way].append((await bench.through(way, 0, counts.pressed)).each_second)
    over = {way: [mine - alone for mine, alone in zip(paced[way], paced["bare"], strict=True)] for way in ways}
    wordy = await bench.answered_at_length()
    rows = [
        Row.under("the engine alone, p50 at half of capacity", "ms", paced["bare"]),
        Row.under("Kafka, idempotent: p50 over the engine's", "ms", over["idempotent"], goal=IDEMPOTENT_MS),
        Row.under("Kafka, exactly-once: p50 over the engine's", "ms", over["exactly-once"], goal=EXACTLY_ONCE_MS),
        Row.under("the same, idempotent: what a request is outside of the engine, p50", "ms", outside["idempotent"], goal=IDEMPOTENT_MS),
        Row.under("the same, exactly-once: what a request is outside of the engine, p50", "ms", outside["exactly-once"], goal=EXACTLY_ONCE_MS),
        Row.under("aiokafka alone, idempotent: p50", "ms", paced["idempotent relay"]),
        Row.under("aiokafka alone, exactly-once: p50", "ms", paced["exactly-once relay"]),
        Row.of("Kafka, idempotent, at full speed", "requests/s", pressed["idempotent"], pressed["bare"], OF_THROUGHPUT),
        Row.of("Kafka, exactly-once, at full speed", "requests/s", pressed["exactly-once"], pressed["bare"], OF_THROUGHPUT),
        Row.of("a short answer that began after a long one ends before it, by", "ms", [await bench.short_before_long(wordy) for _ in range(counts.rounds)], goal=0.0),
    ]
    for adapter, what in (("mood", "a label"), ("act", "a call")):
        bound, free, valid = await bench.structured(adapter, counts.pairs)
        rows += [Row.under(f"{what} under its grammar, over free text of as many tokens", "ms", bound, free, STRUCTURED), Row.of(f"{what}: valid answers", "", [valid], goal=1.0)]
    return rows


def _can_be_read(spec: TaskSpec, given: Any, text: str) -> bool:
    """Whether the task can read an answer."""
    try:
        answer(spec, text, given)
    except ValueError:
        return False
    return True


def _p50(seconds: Sequence[float]) -> float:
    """Of seconds, in milliseconds."""
    return statistics.median(seconds) * 1000


async def event_rows(base: str, quick: bool) -> list[Row]:
    """The rows of requests through Kafka. Raises BenchmarkFailed where requests are not answered."""
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as name:
        project = Path(name) / "loom.toml"
        project.write_text(PROJECT.format(base=Path(base).resolve()))
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # of topics that were just made
        broker, engine = EmbeddedKafka(Path(name) / "kafka", free_port()), VllmEngine(base)
        await asyncio.to_thread(broker.start)
        try:
            await engine.start()
            return await measured(Bench(engine, broker.address, project), QUICK if quick else WHOLE)
        finally:
            await engine.stop()
            broker.stop()
