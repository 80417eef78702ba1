"""`loom bench pipeline`: documents a second from `documents` to the datasets, with one worker a stage and more, and by replay.

Everything is on, in the workers' own processes: sealing, cuts, twins in PostgreSQL, the offline teacher, transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import asyncpg
import psutil
from confluent_kafka import KafkaException

from loom.bench.compare import BenchmarkFailed, Row, take_turns
from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from loom.processes import STREAM_TOPICS
from runtime.backlog import Backlog
from runtime.database import migrate
from runtime.kafka import admin_client, apply_topics, producer
from runtime.project import load_project
from schemas.codec import Codec
from schemas.events import Document
from schemas.topics import DOCUMENTS

DOCUMENTS_A_ROUND, QUICK_DOCUMENTS = 1000, 200
SECTIONS, SENTENCES = 3, 6
SECTIONS_FOR_MEMORY = 1  # a third of the time: what might be kept is kept of documents, chunks and examples, and here are a million of them
REPLAY_OVER_LIVE = 5.0
FLAT = 0.9
SENT_AT_ONCE = 1000
WARM = 20
"""Documents for each worker of a stage before the clock starts: the processes that cut documents end while other sides have their turn."""
START_SECONDS, END_SECONDS = 120.0, 3600.0
# partitions: Faust gives a worker the quotient, rounded up; where that does not come out even the last gets none
PROJECT = f"""
[kafka]
partitions = 8
[base]
model = "{Path(__file__).parents[2] / "models" / "base"}"
[adapters.chat]
task = "chat"
result = "chat"
min_examples = 1000000000
utterances = ["how does it work"]
"""
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "xu", "zan", "mer", "lok", "bri", "stel")
CODEC = Codec()


def document(doc_id: str, sections: int = SECTIONS) -> Document:
    """A page of words that no other page has in this order: with three sections about a kilobyte."""
    chance = random.Random(doc_id)

    def word() -> str:
        return "".join(chance.choices(SYLLABLES, k=chance.randint(2, 4)))

    texts = []
    for _ in range(sections):
        body = " ".join(f"The {word()} {word()} needs {chance.randint(2, 900)} {word()} when the {word()} is {word()}." for _ in range(SENTENCES))
        texts.append(f"## The {word()} of the {word()}\n\n{body}\n")
    return Document(doc_id=doc_id, revision=1, media_type="text/markdown", source="bench", content=f"# {word()} {word()}\n\n{''.join(texts)}".encode())


@dataclass(frozen=True, slots=True)
class Site:
    """Where the rounds run: servers, a folder for objects and logs, the project."""

    broker: str
    database: str
    folder: Path

    def environment(self, prefix: str, data: Path) -> dict[str, str]:
        """What a worker of a round is told."""
        own = {
            "LOOM_BROKER": self.broker, "LOOM_DATABASE": self.database, "LOOM_OBJECTS": (self.folder / "objects").as_uri(), "LOOM_PROJECT": str(self.folder / "loom.toml"),
            "LOOM_DATA": str(data), "LOOM_PREFIX": prefix,
        }  # fmt: skip
        return os.environ | own


@contextmanager
def site() -> Iterator[Site]:
    """A Kafka and a PostgreSQL of the benchmark's own."""
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as name:
        folder = Path(name)
        (folder / "loom.toml").write_text(PROJECT)
        broker, database = EmbeddedKafka(folder / "kafka", free_port()), EmbeddedPostgres(folder / "postgres")
        broker.start()
        try:
            database.start()
            migrate(database.url)
            yield Site(broker.address, database.url, folder)
        finally:
            database.stop()
            broker.stop()


@contextmanager
def workers(at: Site, prefix: str, each: int) -> Iterator[list[psutil.Process]]:
    """So many of each stream worker, every one with partitions of its own to read.

    Raises:
        BenchmarkFailed: one ended, or they are not all there in time.
    """
    asyncio.run(apply_topics(at.broker, load_project(at.folder / "loom.toml").topics.values(), prefix))
    log = (at.folder / f"{prefix}log").open("wb")
    running = [
        psutil.Popen([sys.executable, "-m", "loom", "worker", name], env=at.environment(prefix, at.folder / f"{prefix}{name}-{i}"), stdout=log, stderr=log) for name in STREAM_TOPICS for i in range(each)
    ]
    try:
        _until_all_read(at, prefix, each, running)
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)
        log.close()


def _until_all_read(at: Site, prefix: str, each: int, running: Sequence[psutil.Process]) -> None:
    admin = admin_client(at.broker)
    end = time.monotonic() + START_SECONDS
    groups = [prefix + name for name in STREAM_TOPICS]
    while True:
        with contextlib.suppress(KafkaException):  # groups that are new have no coordinator yet
            described = [answer.result() for answer in admin.describe_consumer_groups(groups).values()]
            if all(sum(bool(m.assignment and m.assignment.topic_partitions) for m in group.members) == each for group in described):
                return
        if time.monotonic() > end or not all(process.is_running() for process in running):
            raise BenchmarkFailed(f"the workers did not start:\n{(at.folder / f'{prefix}log').read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


async def pass_through(at: Site, prefix: str, first: int, last: int, sections: int = SECTIONS) -> None:
    """Sends the documents from `first` to before `last`, and returns when every stream worker has read all that came of them. Raises BenchmarkFailed after an hour."""
    client = producer(at.broker)
    await client.start()
    try:
        for start in range(first, last, SENT_AT_ONCE):
            pages = [document(f"{prefix}{i}", sections) for i in range(start, min(start + SENT_AT_ONCE, last))]
            await asyncio.gather(*[await client.send(prefix + DOCUMENTS.name, key=page.doc_id.encode(), value=CODEC.encode(page)) for page in pages])
    finally:
        await client.stop()
    backlog = Backlog(at.broker, {prefix + worker: [prefix + topic.name for topic in topics] for worker, topics in STREAM_TOPICS.items()})
    await backlog.start()
    end = time.monotonic() + END_SECONDS
    try:
        while await backlog.waits():
            if time.monotonic() > end:
                raise BenchmarkFailed("the workers did not read all documents within an hour")
            await asyncio.sleep(0.1)
    finally:
        await backlog.stop()


@dataclass(slots=True)
class Side:
    """So many workers a stage, which run as long as the benchmark does: starting them takes longer than a round."""

    at: Site
    prefix: str
    each: int
    running: Sequence[psutil.Process]
    sent: int = 0
    core_ms: list[dict[str, float]] = field(default_factory=list)
    compared: list[float] = field(default_factory=list)

    def live(self, number: int) -> float:
        """Documents a second, from the first of `number` new ones until the last record of a dataset is there; notes what they took of each worker's time, in milliseconds of a core a document."""
        asyncio.run(pass_through(self.at, self.prefix, self.sent, self.sent + WARM * self.each))
        self.sent += WARM * self.each
        before, began = [_cpu_seconds(process) for process in self.running], time.perf_counter()
        asyncio.run(pass_through(self.at, self.prefix, self.sent, self.sent + number))
        took = time.perf_counter() - began
        self.sent += number
        spent = dict.fromkeys(STREAM_TOPICS, 0.0)
        for process, already in zip(self.running, before, strict=True):
            spent[process.cmdline()[-1]] += 1000 * (_cpu_seconds(process) - already) / number
        self.core_ms.append(spent)
        return number / took

    def replayed(self) -> float:
        """Documents a second that `loom replay` makes again, of all that were sent. Raises BenchmarkFailed where a dataset differs."""
        command = [sys.executable, "-m", "loom", "replay", "--datasets", "--name", f"after-{self.sent}", "--json"]
        ended = subprocess.run(command, env=self.at.environment(self.prefix, self.at.folder / "replay"), capture_output=True, text=True, check=False)
        if ended.returncode:
            raise BenchmarkFailed(f"the replay ended with {ended.returncode}: {ended.stderr[-2000:]}{ended.stdout[-2000:]}")
        report = json.loads(ended.stdout)
        self.compared.append(self.sent / float(report["seconds"]))
        return self.sent / float(report["made_seconds"])


def pipeline_rows(number: int, counts: Sequence[int]) -> list[Row]:
    """Rows for each number of workers a stage in `counts`, each over the first, and for replay over live."""
    with ExitStack() as stack:
        at = stack.enter_context(site())
        sides: list[Side] = []
        for each in counts:
            prefix = f"by-{each}-"
            sides.append(Side(at, prefix, each, stack.enter_context(workers(at, prefix, each))))
        names = [f"{number} documents, {each} workers a stage" for each in counts]
        before = _kept_kib(at)
        values = take_turns({name: partial(side.live, number) for name, side in zip(names, sides, strict=True)} | {"replay": sides[0].replayed})
        documents = sum(side.sent for side in sides)
        kept = {store: (size - before[store]) / documents for store, size in _kept_kib(at).items()}
    alone = values[names[0]]
    rows = [Row.of(name, "documents/s", values[name], alone if name != names[0] else ()) for name in names]
    rows += [Row.of(f"core time of {name} a document", "ms", [spent[name] for spent in sides[0].core_ms[1:]]) for name in STREAM_TOPICS]
    rows += [Row.of(f"kept in {store} for a document", "KiB", [size]) for store, size in kept.items()]
    replays = [Row.of("replay, over the documents' first time", "documents/s", values["replay"], alone, REPLAY_OVER_LIVE), Row.of("replay with comparing", "documents/s", sides[0].compared[1:], alone)]
    return [*rows, *replays]


def memory_rows(number: int) -> list[Row]:
    """Memory of the stream workers after each tenth of `number` documents: does it grow?"""
    held: list[float] = []
    with site() as at, workers(at, "memory-", 1) as running:
        for tenth in range(10):
            asyncio.run(pass_through(at, "memory-", tenth * number // 10, (tenth + 1) * number // 10, SECTIONS_FOR_MEMORY))
            held.append(sum(_memory_mib(process) for process in running))
    return [Row.of(f"memory after a tenth, over that after {number} documents", "MiB", [held[0]], [held[-1]], FLAT), Row.of("memory after each tenth", "MiB", held)]


def _kept_kib(at: Site) -> dict[str, float]:
    """What the stores hold; of Kafka the logs, without those of replays."""
    logs = [file for file in (at.folder / "kafka").rglob("*.log") if "replay" not in file.parent.name and file.parent.name[-1:].isdigit()]
    objects = [file for file in (at.folder / "objects").rglob("*") if file.is_file()]
    return {"Kafka": _kib(logs), "the object store": _kib(objects), "PostgreSQL": asyncio.run(_database_kib(at.database))}


def _kib(files: Iterable[Path]) -> float:
    return sum(file.stat().st_size for file in files) / 1024


async def _database_kib(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        return float(await connection.fetchval("SELECT pg_database_size(current_database())")) / 1024
    finally:
        await connection.close()


def _cpu_seconds(process: psutil.Process) -> float:
    """Of the process and those that cut documents for it, also of such as have ended."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(float(t.user + t.system + t.children_user + t.children_system) for t in times)


def _memory_mib(process: psutil.Process) -> float:
    """Of the process alone: those that cut documents are replaced after some, and end when there are none."""
    return float(process.memory_full_info().pss) / 2**20
