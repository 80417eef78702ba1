"""`loom bench swap`: what it costs that requests name many adapters, and that these change.

Times to the first token after a change of adapter, beside staying on one: warm (in a slot of the engine), host-cold (in memory), disk-cold (read as the request comes), the last beside
stock vLLM; throughput over a catalogue of hundreds; and versions published under load, from the registry's event to the first answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.engines.vllm import VllmEngine
from inference.residency import Residency
from inference.service import Service
from loom.bench.compare import BenchmarkFailed, Row, all_of, arrivals
from loom.bench.engine_side import FIRST_TOKEN, LAST_TOKEN
from loom.bench.random_models import random_adapter, random_version
from loom.bench.reference import Reference, off_by, rounding
from loom.bench.told import Told, told_rows
from loom.embedded.kafka import EmbeddedKafka, free_port
from runtime.encoder import minilm
from runtime.event_writer import Entry, EventWriter
from runtime.kafka import apply_topics
from runtime.objects import Objects
from runtime.precision import is_bfloat16_faster
from runtime.project import load_project
from runtime.tasks.prompt import load_tokenizer, prompt_ids
from runtime.tasks.samples import ask, task_input
from runtime.tasks.shortlist import Shortlist
from schemas.codec import Codec
from schemas.events import AdapterAlias, AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch, Request
from schemas.topics import ADAPTERS, BASE
from trainers.base_model import base_sha256

PROMPT_TOKENS = 64
WARM_WITHIN, P99_MS, OF_STOCKS_PENALTY, OF_THROUGHPUT = 1.02, 50.0, 0.5, 0.95
RESAMPLES = 2000
CATALOGUE = 256
ZIPF_REQUESTS, ZIPF_AT_ONCE, ANSWER_TOKENS = 256, 64, 16
MOODS = ("NEGATIVE", "NEUTRAL", "POSITIVE", "MIXED")
PROJECT = """
[base]
model = "{base}"
[adapters.mood]
task = "classify"
result = "moods"
labels = [{labels}]
"""
LOAD = 0.5
TEXTS, REPEATS = 25, 16
"""So few that each version is asked each of them several times; and how often all are asked to measure what is answered a second."""
CODEC = Codec()


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs of each kind, rounds over the catalogue, requests under which versions are published, and how many versions."""

    pairs: int
    rounds: int
    requests: int
    publishes: int


WHOLE, QUICK = Counts(500, 3, 10_000, 100), Counts(20, 1, 120, 3)


async def first_token_ms(engine: VllmEngine, name: str | None, chance: random.Random) -> float:
    """Milliseconds to the first token of a prompt that was not seen before."""
    prompt = [chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(PROMPT_TOKENS)]
    began = time.perf_counter()
    await engine.generate(prompt, name, None, 1)
    return (time.perf_counter() - began) * 1000


async def pairs_of(engine: VllmEngine, count: int, others: Sequence[str], home: str) -> tuple[list[float], list[float]]:
    """Milliseconds on one of `others` by turns, and on one that was asked just before, by turns."""
    chance = random.Random(0)
    there, stayed = list[float](), list[float]()
    for number in range(-5, count):
        await first_token_ms(engine, home, chance)
        measured = {}
        for kind in ("stay", "swap") if number % 2 else ("swap", "stay"):
            if kind == "swap":
                measured[kind] = await first_token_ms(engine, others[number % len(others)], chance)
                await first_token_ms(engine, home, chance)
            else:
                measured[kind] = await first_token_ms(engine, home, chance)
        if number >= 0:
            there.append(measured["swap"])
            stayed.append(measured["stay"])
    return there, stayed


def ratio_row(what: str, there: Sequence[float], stayed: Sequence[float], goal: float | None = None) -> Row:
    """The medians' ratio, with its 95 % interval (bootstrap over pairs) as the spread; it holds where the interval reaches down to the goal and no half of it is wider than 5 %."""
    rng = np.random.default_rng(0)
    mine, theirs = np.asarray(there), np.asarray(stayed)
    drawn = rng.integers(0, len(mine), (RESAMPLES, len(mine)))
    ratios = np.median(mine[drawn], 1) / np.median(theirs[drawn], 1)
    low, high = (float(value) for value in np.quantile(ratios, (0.025, 0.975)))
    row = Row.under(what, "ms", there, stayed, goal)
    return replace(row, ours_spread=(low, high), holds=None if goal is None else low <= goal and (high - low) / 2 < 0.05)


async def first_token_rows(base: str, folder: Path, counts: Counts) -> list[Row]:
    """Times to the first token."""
    rows: list[Row] = []
    names = [f"a{i}@1-aaaaaaaa" for i in range(CATALOGUE)]
    engine = VllmEngine(base, max_loras=4, max_cpu_loras=16)
    await engine.start()
    try:
        for i, name in enumerate(names[:12]):
            await engine.add(name, folder / str(i))

        for what, others in (("warm", names[1:4]), ("host-cold", names[1:12])):
            there, stayed = await pairs_of(engine, counts.pairs, others, names[0])
            rows += [ratio_row(f"first token, {what}, over staying", there, stayed, WARM_WITHIN if what == "warm" else None), p99_row(what, there)]
    finally:
        await engine.stop()
    penalties = {}
    for side, room in (("ours", CATALOGUE), ("stock", 4)):
        engine = VllmEngine(base, max_loras=4, max_cpu_loras=room)
        await engine.start()
        try:
            for i, name in enumerate(names[:32]):
                await engine.add(name, folder / str(i))

            there, stayed = await pairs_of(engine, counts.pairs, names[1:32], names[0])
        finally:
            await engine.stop()
        penalties[side] = [one - other for one, other in zip(there, stayed, strict=True)]
        if side == "ours":
            rows += [ratio_row("first token, one of 32 by turns, over staying", there, stayed), p99_row("one of 32 by turns", there)]
    rows.append(Row.under("what one of 32 by turns costs, over vLLM with room for as many as its slots", "ms", penalties["ours"], penalties["stock"], OF_STOCKS_PENALTY))
    return rows


def p99_row(what: str, milliseconds: Sequence[float]) -> Row:
    """The slowest in a hundred."""
    return Row.under(f"first token, {what}: p99", "ms", [float(np.quantile(milliseconds, 0.99))], goal=P99_MS)


async def catalogue_rows(base: str, folder: Path, counts: Counts) -> list[Row]:
    """Tokens a second over 256 adapters, asked for by Zipf's law, beside 4, of an engine with all cores, as `loom bench inference` measures it."""
    engine = VllmEngine(base, cores_left=0)
    await engine.start()
    try:
        names = [f"a{i}@1-aaaaaaaa" for i in range(CATALOGUE)]
        for i, name in enumerate(names):
            await engine.add(name, folder / str(i))
        values: dict[int, list[float]] = {4: [], CATALOGUE: []}
        for number in range(counts.rounds + 1):
            for size, kept in values.items():
                speed = await _tokens_a_second(engine, names[:size], number)
                if number:
                    kept.append(speed)
    finally:
        await engine.stop()
    return [Row.of(f"{CATALOGUE} adapters by Zipf's law, over 4", "tokens/s", values[CATALOGUE], values[4], OF_THROUGHPUT)]


async def _tokens_a_second(engine: VllmEngine, names: Sequence[str], seed: int) -> float:
    chance = random.Random(seed)
    asked = chance.choices(names, [1 / rank for rank in range(1, len(names) + 1)], k=ZIPF_REQUESTS)
    prompts = [[chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(PROMPT_TOKENS)] for _ in asked]

    began = time.perf_counter()
    made = await all_of((engine.generate(prompt, name, None, ANSWER_TOKENS) for prompt, name in zip(prompts, asked, strict=True)), ZIPF_AT_ONCE)
    return sum(one.token_count for one in made) / (time.perf_counter() - began)


@dataclass
class Published:
    """A served adapter whose versions come by the registry's topic, and what its answers were."""

    residency: Residency
    service: Service
    writer: EventWriter
    objects: Objects
    base_sha256: str
    folder: Path
    base: str

    async def publish(self, number: int) -> float:
        """Writes version `number`, and that it is live, as the coordinator does; when that began."""
        version = await random_version(self.base, self.base_sha256, self.folder, self.objects, "mood", number)
        made = (AdapterEvent(adapter="mood", kind=AdapterEventKind.VERSION, version=version), AdapterEvent(adapter="mood", kind=AdapterEventKind.ALIAS, alias=AdapterAlias(live_version=number)))
        began = time.perf_counter()
        await self.writer.write([Entry(ADAPTERS.name, "mood", event) for event in made])
        return began

    async def live(self, number: int) -> None:
        """Returns when version `number` answers."""
        async with asyncio.timeout(60):
            while (held := self.residency.live().get("mood")) is None or held.version != number:  # noqa: ASYNC110 - a residency sets no event for it
                await asyncio.sleep(0.001)


@asynccontextmanager
async def published(base: str, folder: Path) -> AsyncIterator[Published]:
    """A residency that follows a Kafka of its own."""
    (folder / "loom.toml").write_text(PROJECT.format(base=Path(base).resolve(), labels=", ".join(f'"{mood}"' for mood in MOODS)))
    project = load_project(folder / "loom.toml")
    broker = EmbeddedKafka(folder / "kafka", free_port())
    await asyncio.to_thread(broker.start)
    stop, objects, tokenizer = asyncio.Event(), Objects((folder / "objects").as_uri()), load_tokenizer(base)

    async def refuse(version: AdapterVersion, reason: str) -> None:
        raise BenchmarkFailed(f"{version.engine_name} was refused: {reason}")

    try:
        await apply_topics(broker.address, project.topics.values())
        writer = EventWriter(broker.address, "bench", "bench", CODEC)
        await writer.start()
        sha256 = base_sha256(Path(base))
        await writer.write([Entry(ADAPTERS.name, BASE, AdapterEvent(adapter=BASE, kind=AdapterEventKind.EPOCH, epoch=BaseEpoch(epoch=0, base_uri=base, base_sha256=sha256, live={})))])
        residency = Residency(project, broker.address, lambda base, _: VllmEngine(base), objects, tokenizer, folder / "fetched", refuse)
        no_router: Any = None
        following = asyncio.create_task(residency.run(stop))
        try:
            yield Published(residency, Service(project, no_router, residency, tokenizer, Shortlist(minilm().encode)), writer, objects, sha256, folder, base)
        finally:
            stop.set()
            await following
            await writer.stop()
    finally:
        broker.stop()


async def publish_rows(base: str, folder: Path, counts: Counts) -> list[Row]:
    """Versions published at half of the measured capacity. Raises BenchmarkFailed where one is refused or does not come."""
    async with published(base, folder) as here:
        await here.publish(1)
        asking = asyncio.create_task(_ask(here, "begin"))
        await here.live(1)
        await asking
        texts = [_long_text(number) for number in range(TEXTS)]
        capacity, newest = await _capacity(here, texts, counts)
        told, live_since = list[Told](), dict[int, float]()
        publishing = asyncio.create_task(_publish(here, range(newest + 1, newest + 1 + counts.publishes), counts.requests / (LOAD * capacity) / (counts.publishes + 1), live_since))
        await _load(here, texts, LOAD * capacity, counts.requests, told)
        await publishing
    most = 2 * rounding()  # two log probabilities move apart
    own, before = _off_by(base, folder, told, most)
    return [
        *told_rows(told, live_since, own, most),
        Row.of("share of the answers of the version before it that a version does not give alone", "", [statistics.mean(gap > most for gap in before)]),
    ]


def _off_by(base: str, folder: Path, told: Sequence[Told], most: float) -> tuple[Mapping[tuple[int, str, str], float], Sequence[float]]:
    """By how many nats each version, alone, is off what it said to each text; and off what the version before it said to that, which shows that one is told from another; `math.inf` above `most`."""
    spec, tokenizer = load_project(folder / "loom.toml").adapters["mood"].spec, load_tokenizer(base)
    reference = Reference(base, bfloat16=is_bfloat16_faster())
    pieces, said = reference.pieces(spec.labels), defaultdict[int, defaultdict[str, set[str]]](lambda: defaultdict(set))
    for version, text, output in (one.said for one in told if one.is_sound):
        said[version][text].add(output)
    own, of_before = dict[tuple[int, str, str], float](), list[float]()
    for before, version in itertools.pairwise((0, *sorted(said))):
        reference.take(folder / f"mood-{version}")
        for text, outputs in sorted(said[version].items()):
            logits = reference.after(prompt_ids(tokenizer, ask(spec, task_input(spec.task, text, {}))))
            own |= {(version, text, output): off_by(json.loads(output), spec.labels, pieces, logits, most) for output in outputs}
            of_before += [off_by(json.loads(output), spec.labels, pieces, logits, most) for output in said[before][text]]
    return own, of_before


def _long_text(number: int) -> str:
    """Over 128 tokens with the prompt's own: vLLM caches what prompts begin with in blocks of that size."""
    chance = random.Random(number)
    start = "my hub in the garden does not open the door any more and the lamp in the house will not light up when I ask it to do so. " * 3
    return start + " ".join(chance.choices(("good", "bad", "old", "new", "red", "late", "glad", "sad", "fine", "broken"), k=12)) + f" {number}"


async def _ask(here: Published, text: str, request_id: str = "begin") -> Told:
    began = time.perf_counter()
    answered = await here.service.answer(Request(request_id=request_id, conversation_id=request_id, text=text, adapter_id="mood"), int(time.time() * 1000))
    result = answered.results[0][1]
    return Told(began, time.perf_counter(), text, result.version, result.output, result.status)


async def _capacity(here: Published, texts: Sequence[str], counts: Counts) -> tuple[float, int]:
    """Answers a second, 64 at once, to as many requests a version as under load, since each version begins without a prefix cache; and the newest version."""
    asked = REPEATS * len(texts)
    of_one = counts.requests // counts.publishes

    async def one(number: int) -> None:
        if number % of_one == 0:
            await here.publish(2 + number // of_one)
        await _ask(here, texts[number % len(texts)])

    began = time.perf_counter()
    await all_of((one(number) for number in range(asked)), ZIPF_AT_ONCE)
    rate, newest = asked / (time.perf_counter() - began), 2 + (asked - 1) // of_one
    await here.live(newest)
    return rate, newest


async def _publish(here: Published, numbers: Iterable[int], every_seconds: float, live_since: dict[int, float]) -> None:
    for number in numbers:
        await asyncio.sleep(every_seconds)
        live_since[number] = await here.publish(number)
        await here.live(number)


async def _load(here: Published, texts: Sequence[str], rate: float, count: int, told: list[Told]) -> None:
    chance, running = random.Random(0), set[asyncio.Task[None]]()

    async def one(text: str, number: int) -> None:
        told.append(await _ask(here, text, str(number)))

    async for number in arrivals(count, rate, chance):
        task = asyncio.create_task(one(texts[number % len(texts)], number))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


def swap_rows(base: str, quick: bool) -> Iterator[list[Row]]:
    """The rows of the benchmark, part by part."""
    counts = QUICK if quick else WHOLE
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as name:
        folder = Path(name)
        for i in range(CATALOGUE):
            random_adapter(base, folder / "adapters" / str(i), i)
        (folder / "published").mkdir()
        yield asyncio.run(first_token_rows(base, folder / "adapters", counts))
        yield asyncio.run(catalogue_rows(base, folder / "adapters", counts))
        yield asyncio.run(publish_rows(base, folder / "published", counts))
