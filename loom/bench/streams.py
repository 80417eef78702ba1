"""`loom bench streams`: records a second through a worker, beside what Faust and aiokafka do alone, on a real Kafka.

    python -m loom.bench.streams SIDE BROKER FOLDER ROUND COUNT

runs one side in a process of its own, from the first record of the topic to the last, and prints the seconds that it took.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from loom.bench.compare import BenchmarkFailed, Row, take_turns
from loom.embedded.kafka import EmbeddedKafka, free_port
from runtime.cloudevents import headers
from runtime.collector import collect_less
from runtime.errors import Transient
from runtime.ids import digest
from runtime.kafka import Outgoing, Record, apply_topics, committed_offsets, consumer, producer
from schemas.codec import RECORDS, Codec
from schemas.events import Chunk, ChunkStatus, Document
from schemas.topics import CHUNKS, DOCUMENTS

RECORDS_A_ROUND, QUICK_RECORDS = 40_000, 8_000
CONTENT_BYTES = 1000
FILL_BATCH = 2000
OVER_NAIVE, OF_READING = 3.0, 0.85
CODEC = Codec()


class Clock:
    """Counts records; says how long they took, from the first on."""

    def __init__(self, count: int) -> None:
        self.count, self.left, self.began = count, count, 0.0
        self.ended = asyncio.Event()

    def tick(self, records: int = 1) -> None:
        """So many more have been."""
        self.began = self.began or time.perf_counter()
        self.left -= records
        if self.left <= 0:
            self.ended.set()


class Relay:
    """The least that a stage of ours does: a record decoded, one made of it with its id and its headers."""

    name = "relay"
    topic = DOCUMENTS.name

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        self._clock.tick()
        document = CODEC.decode(Document, record.value)
        chunk = Chunk(chunk_id=digest("relay", record.origin), doc_id=document.doc_id, revision=document.revision, ordinal=0, token_count=0, content_hash="", status=ChunkStatus.LIVE)
        return [Outgoing(CHUNKS.name, record.key, CODEC.encode(chunk), headers(RECORDS[Chunk], chunk.chunk_id, self.name, record))]


async def ours(broker: str, folder: Path, group: str, clock: Clock) -> float:
    """The shell with all that is on: Avro, ids, trace headers, dead letters, order by key, transactions with their offsets."""
    from streams.shell import StreamShell

    def fatal(error: BaseException) -> None:
        raise BenchmarkFailed(str(error))

    shell = StreamShell(group, broker, [Relay(clock)], folder=folder, on_fatal=fatal)
    collect_less()  # as its worker does
    await shell.start()
    await clock.ended.wait()
    while await _committed(broker, group) < clock.count:  # noqa: ASYNC110 - Kafka tells nobody
        await asyncio.sleep(0.01)
    took = time.perf_counter() - clock.began
    await shell.stop()
    return took


async def _committed(broker: str, group: str) -> int:
    """The records whose transactions have ended."""
    places = [TopicPartition(DOCUMENTS.name, p) for p in range(DOCUMENTS.partitions)]
    try:
        return sum(at.offset for at in (await committed_offsets(broker, group, places)).values() if at)
    except Transient:  # one is being committed
        return 0


async def faust_alone(broker: str, folder: Path, group: str, clock: Clock, *, sends: bool) -> float:
    """Faust as its documentation shows it: an agent that reads, and sends each event on where it `sends`."""
    import faust

    app = faust.App(group, broker=f"kafka://{broker}", store="memory://", web_enabled=False, topic_disable_leader=True, datadir=str(folder), topic_allow_declare=False, consumer_auto_offset_reset="earliest")
    source, sink = (app.topic(name, value_serializer="raw", key_serializer="raw") for name in (DOCUMENTS.name, CHUNKS.name))

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def agent(stream: Any) -> None:
        async for event in stream.events():
            if sends:
                await sink.send(key=event.key, value=event.value)
            clock.tick()

    await app.start()
    await clock.ended.wait()
    took = time.perf_counter() - clock.began
    await app.stop()
    return took


async def aiokafka_alone(broker: str, folder: Path, group: str, clock: Clock) -> float:
    """aiokafka's own loop: batches read, sent on and committed, at least once."""
    source, sink = consumer(broker, DOCUMENTS.name, group=group), producer(broker)
    await source.start()
    await sink.start()
    while clock.left > 0:
        batches = await source.getmany(timeout_ms=100, max_records=500)
        messages = [message for batch in batches.values() for message in batch]
        if messages:
            await asyncio.gather(*[await sink.send(CHUNKS.name, key=m.key, value=m.value) for m in messages])
            await source.commit()
            clock.tick(len(messages))
    took = time.perf_counter() - clock.began
    await source.stop()
    await sink.stop()
    return took


async def run_side(side: str, broker: str, folder: Path, group: str, count: int) -> float:
    """The seconds that one side takes for all records."""
    clock = Clock(count)
    if side == "ours":
        return await ours(broker, folder, group, clock)
    if side == "aiokafka":
        return await aiokafka_alone(broker, folder, group, clock)
    return await faust_alone(broker, folder, group, clock, sends=side == "faust sends")


async def fill(broker: str, count: int) -> None:
    """Puts `count` documents on their topic, each of its own key."""
    await apply_topics(broker, (DOCUMENTS, CHUNKS))
    client = producer(broker)
    await client.start()
    content = ("The hub pairs with sixty devices at most. " * (CONTENT_BYTES // 40)).encode()[:CONTENT_BYTES]
    for start in range(0, count, FILL_BATCH):
        documents = [Document(doc_id=f"doc-{n}", revision=1, media_type="text/plain", source="bench", content=content) for n in range(start, min(count, start + FILL_BATCH))]
        await asyncio.gather(*[await client.send(DOCUMENTS.name, key=d.doc_id.encode(), value=CODEC.encode(d)) for d in documents])
    await client.stop()


def streams_rows(quick: bool) -> list[Row]:
    """The rows of the benchmark. Raises BenchmarkFailed where a side fails or does not end."""
    count = QUICK_RECORDS if quick else RECORDS_A_ROUND
    with tempfile.TemporaryDirectory() as folder:
        broker = EmbeddedKafka(Path(folder) / "kafka", free_port())
        broker.start()
        try:
            asyncio.run(fill(broker.address, count))
            rounds = iter(range(1 << 20))

            def side(name: str) -> float:
                return count / _timed(name, broker.address, Path(folder), next(rounds), count)

            values = take_turns({name: partial(side, name) for name in ("ours", "faust sends", "faust reads", "aiokafka")})
        finally:
            broker.stop()
    return [
        Row.of("a naive Faust agent that sends on", "records/s", values["ours"], values["faust sends"], OVER_NAIVE),
        Row.of("Faust reading alone", "records/s", values["ours"], values["faust reads"], OF_READING),
        Row.of("aiokafka, at least once, no Avro", "records/s", values["ours"], values["aiokafka"]),
    ]


def _timed(side: str, broker: str, folder: Path, number: int, count: int) -> float:
    command = [sys.executable, "-m", "loom.bench.streams", side, broker, str(folder / f"round-{number}"), str(number), str(count)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    except subprocess.SubprocessError as error:
        raise BenchmarkFailed(f"{side} did not end: {(getattr(error, 'stderr', '') or '')[-2000:]}") from error
    return float(json.loads(ended.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    _side, _broker, _folder, _round, _count = sys.argv[1:]
    Path(_folder).mkdir(parents=True, exist_ok=True)
    print(json.dumps(asyncio.run(run_side(_side, _broker, Path(_folder), f"bench-{_round}", int(_count)))))
