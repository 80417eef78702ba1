"""Datasets made once more, from what is kept for ever, into topics of their own; equal byte for byte where nothing of loraloom or of the project has changed.

Text for pre-training comes from the sealed copies: cut again (or as it was cut by the same code, `streams.parses`), judged as `chunks` say.
What teachers and upstreams wrote comes from `examples`. Nothing is decided anew and nobody is asked. One partition after the other is read
to its end and held in memory, encoded and sealed. The writer has a name of its own and no group: no worker is fenced.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from loom.processes import broker_of, codec_of, database_of
from runtime.database import connect
from runtime.errors import IntegrityError, InvalidInput, KeyDestroyed, SettingsError, Transient
from runtime.follower import read_whole
from runtime.kafka import Outgoing, Record, apply_topics, partitions_of, producer
from runtime.objects import Objects
from runtime.project import load_project
from runtime.sealing import PostgresKeys, seal, unseal
from runtime.settings import Settings
from schemas.codec import InvalidRecord
from schemas.events import Chunk, ChunkStatus, DatasetRecord, Example, ExampleStatus, RecordStatus, Revision
from schemas.topics import CHUNKS, CPT, EXAMPLES, PREFERENCES, REVISIONS, dataset_topic
from streams.chunk import candidates_of
from streams.context import Context, document_owner, held_out
from streams.format import FormatStage
from streams.parses import Parses
from streams.pool import CutterPool
from streams.synth import text_example

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
A_TRANSACTION = 500
"""Examples."""
PHASES = ("documents", "examples", "comparing")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A dataset as it is live and as it was made again: live records, and the hash of their bytes in the order of partitions and ids."""

    dataset: str
    live: int
    live_sha256: str
    replayed: int
    replayed_sha256: str

    @property
    def same(self) -> bool:
        """Whether both are equal byte for byte."""
        return self.live_sha256 == self.replayed_sha256


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay did. `counts`: documents, those whose copy is lost, live chunks, those that today's code cuts otherwise, examples formatted, refused, forgotten."""

    prefix: str
    datasets: tuple[Rebuilt, ...]
    counts: dict[str, int]
    seconds: float


async def replay_system(settings: Settings, name: str, progress: Progress) -> Report:
    """Replays the system that `settings` name into topics whose names begin with `replay-NAME.`, behind the system's own prefix.

    Raises:
        SettingsError: a name that no topic can have, or that a replay had before.
        Transient: the broker fails.
    """
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} can't be in a topic's name: letters, digits, - and _, up to 64")
    project = load_project(settings.project)
    pool = await connect(database_of(settings), size=4)
    try:
        context = Context(project, codec_of(settings, project), PostgresKeys(pool), Objects(settings.objects_url), pool, held_out(project), settings.prefix)
        return await Replay(context, broker_of(settings), f"{settings.prefix}replay-{name}.", progress).run()
    finally:
        await pool.close()


class Replay:
    """Replays the system of `context` into topics whose names begin with `side`; `progress` hears of what is done, how far, of how much."""

    def __init__(self, context: Context, broker: str, side: str, progress: Progress) -> None:
        self._context, self._broker, self._side, self._progress = context, broker, side, progress
        self._format = FormatStage(replace(context, prefix=side))
        self._counts = Counter(dict.fromkeys(("documents", "copies_lost", "chunks", "cut_otherwise", "examples", "refused", "forgotten"), 0))

    async def run(self) -> Report:
        """Makes every dataset again and compares it with the live one.

        Raises:
            SettingsError: something was replayed to that prefix before.
            Transient: the broker fails.
        """
        began = time.monotonic()
        names, topics = (CPT, PREFERENCES, *self._context.project.adapters), self._context.project.topics
        chunks, examples = [await partitions_of(self._broker, [self._context.prefix + topic.name]) for topic in (CHUNKS, EXAMPLES)]
        if len(await apply_topics(self._broker, (topics[dataset_topic(name).name] for name in names), self._side)) < len(names):
            raise SettingsError(f"there are topics {self._side}datasets.* already: give the replay another name")
        client = producer(self._broker, f"{self._side}replay", transaction_timeout_seconds=60)
        cutters = CutterPool()
        try:
            await client.start()
            for done, place in enumerate(chunks):
                self._progress(PHASES[0], done, len(chunks))
                await self._write(client, [record async for record in self._texts(Parses(self._context, cutters), place.partition)], texts=True)
            for done, place in enumerate(examples):
                self._progress(PHASES[1], done, len(examples))
                await self._write(client, await self._examples(place), texts=False)
            rebuilt = []
            for done, name in enumerate(names):
                self._progress(PHASES[2], done, len(names))
                rebuilt.append(Rebuilt(name, *await self._digest(self._context.prefix, name), *await self._digest(self._side, name)))
        except KafkaError as error:
            raise Transient(f"the broker at {self._broker}: {type(error).__name__}: {error}") from error
        finally:
            await client.stop()
            await asyncio.to_thread(cutters.close)
        return Report(self._side, tuple(rebuilt), dict(self._counts), time.monotonic() - began)

    async def _texts(self, parses: Parses, partition: int) -> AsyncIterator[Record]:
        """What pre-training learns of the documents on a partition: their chunks that are live."""
        codec, prefix = self._context.codec, self._context.prefix
        revisions: dict[str, Revision] = {}
        chunks: dict[str, dict[str, Chunk]] = {}

        def keep(record: Record) -> None:
            if record.topic == prefix + REVISIONS.name:
                revision = codec.decode(Revision, record.value)
                if (known := revisions.get(revision.doc_id)) is None or known.revision <= revision.revision:
                    revisions[revision.doc_id] = revision
            else:
                chunk = codec.decode(Chunk, record.value)
                chunks.setdefault(chunk.doc_id, {})[chunk.chunk_id] = chunk

        await read_whole(self._broker, [TopicPartition(prefix + topic.name, partition) for topic in (REVISIONS, CHUNKS)], keep)
        for doc_id, own in chunks.items():
            live = {chunk_id: chunk for chunk_id, chunk in own.items() if chunk.status is ChunkStatus.LIVE}
            self._counts["documents"] += 1
            self._counts["chunks"] += len(live)
            try:
                key = await self._context.keys.key(document_owner(doc_id))
                await self._check_cut(parses, revisions.get(doc_id), live)
            except KeyDestroyed:
                self._counts["forgotten"] += len(live)
                continue
            for chunk_id, chunk in live.items():
                if chunk.text is not None and chunk.heading_path is not None:
                    example = text_example(chunk, unseal(key, chunk_id, chunk.text), unseal(key, chunk_id + ":path", chunk.heading_path), key)
                    yield Record(EXAMPLES.name, partition, 0, example.example_id.encode(), codec.encode(example))

    async def _check_cut(self, parses: Parses, revision: Revision | None, live: dict[str, Chunk]) -> None:
        """Counts the chunks of `live` that their document, cut by today's code, would not have in the same words."""
        same = 0
        if revision is not None and not revision.deleted:
            key = await self._context.keys.key(document_owner(revision.doc_id))
            try:
                pieces = await parses.pieces(revision)
            except IntegrityError:
                pieces = []
                self._counts["copies_lost"] += 1
            except InvalidInput:
                pieces = []  # it could be parsed once, and can't be any more
            for candidate, piece in zip(candidates_of(revision.doc_id, pieces), pieces, strict=True):
                sealed = seal(key, candidate.chunk_id, piece.text.text), seal(key, candidate.chunk_id + ":path", " > ".join(piece.text.heading_path))
                known = live.get(candidate.chunk_id)
                same += known is not None and (known.text, known.heading_path) == sealed
        self._counts["cut_otherwise"] += len(live) - same

    async def _examples(self, place: TopicPartition) -> list[Record]:
        """What teachers and upstreams wrote, on a partition: the last word on each example."""
        last: dict[bytes, Record] = {}

        def keep(record: Record) -> None:
            last[record.key or b""] = record

        await read_whole(self._broker, [place], keep)
        return list(last.values())

    async def _write(self, client: AIOKafkaProducer, examples: list[Record], *, texts: bool) -> None:
        """Formats examples, those of texts or all others, and writes their records."""
        for start in range(0, len(examples), A_TRANSACTION):
            made = [outgoing for record in examples[start : start + A_TRANSACTION] for outgoing in await self._formatted(record, texts)]
            async with client.transaction():
                await asyncio.gather(*[await client.send(o.topic, key=o.key, value=o.value, headers=list(o.headers)) for o in made])

    async def _formatted(self, record: Record, texts: bool) -> list[Outgoing]:
        try:
            example = self._context.codec.decode(Example, record.value)
            if example.status is not ExampleStatus.KEPT or (example.adapter == CPT) is not texts:
                return []
            made = list(await self._format.handle(record))
        except KeyDestroyed:
            self._counts["forgotten"] += 1
            return []
        except (InvalidInput, InvalidRecord):
            self._counts["refused"] += 1
            return []
        self._counts["examples"] += 1
        return made

    async def _digest(self, prefix: str, name: str) -> tuple[int, str]:
        """How many live records a dataset has, and the hash of their bytes; what was forgotten is none of them."""
        count, whole = 0, hashlib.sha256()
        for place in await partitions_of(self._broker, [prefix + dataset_topic(name).name]):
            last: dict[bytes, bytes] = {}

            def keep(record: Record, last: dict[bytes, bytes] = last) -> None:
                last[record.key or b""] = record.value or b""

            await read_whole(self._broker, [place], keep)
            for record_id in sorted(last):
                if await self._is_live(last[record_id]):
                    count += 1
                    whole.update(hashlib.sha256(last[record_id]).digest())
        return count, whole.hexdigest()

    async def _is_live(self, value: bytes) -> bool:
        try:
            record = self._context.codec.decode(DatasetRecord, value)
            if record.status is not RecordStatus.LIVE or record.body is None:
                return False
            await self._context.keys.key(record.body.key_id)
        except (InvalidRecord, KeyDestroyed):
            return False
        return True
