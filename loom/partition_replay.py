"""One partition of a replay, in a process of its own: what is kept of it becomes dataset records once more, and is compared."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from loom.processes import broker_of, codec_of, database_of
from runtime.database import connect
from runtime.errors import IntegrityError, InvalidInput, KeyDestroyed, Transient
from runtime.follower import read_whole
from runtime.kafka import Outgoing, Record, producer
from runtime.objects import Objects
from runtime.project import Project, load_project
from runtime.sealing import PostgresKeys, seal, unseal
from runtime.settings import Settings
from schemas.codec import Codec, InvalidRecord
from schemas.events import Chunk, ChunkStatus, DatasetRecord, Example, ExampleStatus, RecordStatus, Revision
from schemas.topics import CHUNKS, CPT, EXAMPLES, REVISIONS
from streams.chunk import candidates_of
from streams.context import Context, document_owner, held_out
from streams.format import FormatStage
from streams.held_out import HeldOut
from streams.parses import Parses
from streams.pool import CutterPool
from streams.synth import text_example

COUNTS = ("documents", "copies_lost", "chunks", "cut_otherwise", "examples", "refused", "forgotten")
A_TRANSACTION = 500
"""Examples."""
DIGESTS = 1 << 256
T = TypeVar("T")
E = TypeVar("E", DatasetRecord, Example)


@dataclass(frozen=True, slots=True)
class Digest:
    """Live records, and the sum of their SHA-256 modulo 2^256: neither their order nor their partitions count. What was forgotten is not live.

    Bellare and Micciancio 1997, "A New Paradigm for Collision-free Hashing", AdHash: good against accidents, not against forgers.
    """

    count: int
    total: int

    @classmethod
    def of(cls, record: bytes) -> Digest:
        """Of one live record."""
        return cls(1, int.from_bytes(hashlib.sha256(record).digest(), "big"))

    def __add__(self, other: Digest) -> Digest:
        return Digest(self.count + other.count, (self.total + other.total) % DIGESTS)

    @property
    def hexadecimal(self) -> str:
        """Of the sum, 64 digits."""
        return f"{self.total:064x}"


NOTHING = Digest(0, 0)


def write_texts(settings: Settings, side: str, place: TopicPartition) -> Counter[str]:
    """Makes the records for pre-training of the chunks on `place` again, on topics that begin with `side`; what `COUNTS` name.

    Raises:
        Transient: broker or database fail.
    """
    return _in_process(settings, side, lambda part: part.write_texts(place))


def write_examples(settings: Settings, side: str, place: TopicPartition) -> Counter[str]:
    """The same for what teachers and upstreams wrote, on `place`."""
    return _in_process(settings, side, lambda part: part.write_examples(place))


def digest(settings: Settings, side: str, place: TopicPartition) -> Digest:
    """Of a dataset's partition, live or made again. Raises Transient as `write_texts` does."""
    return _in_process(settings, side, lambda part: part.digest(place))


def get_ready(settings: Settings) -> None:
    """Has a process read what all its partitions need."""
    _declared(settings)


def _in_process(settings: Settings, side: str, work: Callable[[PartitionReplay], Awaitable[T]]) -> T:
    async def run() -> T:
        project, codec, texts = _declared(settings)
        pool = await connect(database_of(settings), size=1)
        try:
            context = Context(project, codec, PostgresKeys(pool), Objects(settings.objects_url), pool, texts, settings.prefix)
            return await work(PartitionReplay(context, broker_of(settings), side))
        except KafkaError as error:
            raise Transient(f"the broker at {settings.broker}: {type(error).__name__}: {error}") from error
        finally:
            await pool.close()

    return asyncio.run(run())


@cache
def _declared(settings: Settings) -> tuple[Project, Codec, HeldOut]:
    """What files and registry say, read once a process and not for each partition."""
    project = load_project(settings.project)
    return project, codec_of(settings, project), held_out(project)


class PartitionReplay:
    """Replays partitions of the system of `context` into topics whose names begin with `side`."""

    def __init__(self, context: Context, broker: str, side: str) -> None:
        self._context, self._broker, self._side = context, broker, side
        self._format = FormatStage(replace(context, prefix=side))
        self._counts = Counter(dict.fromkeys(COUNTS, 0))

    async def write_texts(self, place: TopicPartition) -> Counter[str]:
        """As the function of this name."""
        cutters = CutterPool(workers=1)
        try:
            texts = [record async for record in self._texts(Parses(self._context, cutters), place.partition)]
        finally:
            await asyncio.to_thread(cutters.close)
        return await self._write(texts, f"texts-{place.partition}", texts=True)

    async def write_examples(self, place: TopicPartition) -> Counter[str]:
        """As the function of this name."""
        return await self._write(list((await self._last(place)).values()), f"examples-{place.partition}", texts=False)

    async def digest(self, place: TopicPartition) -> Digest:
        """As the function of this name."""
        found = NOTHING
        for batch in _batched([record.value or b"" for record in (await self._last(place)).values()], A_TRANSACTION):
            records = [(value, self._decoded(DatasetRecord, value)) for value in batch]
            await self._context.keys.hold(record.body.key_id for _, record in records if record and record.body)
            for value, record in records:
                if record and await self._is_live(record):
                    found += Digest.of(value)
        return found

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
        owners = _batched(list(map(document_owner, chunks)), A_TRANSACTION)
        for place, (doc_id, own) in enumerate(chunks.items()):
            if place % A_TRANSACTION == 0:
                await self._context.keys.hold(next(owners))
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

    async def _last(self, place: TopicPartition) -> dict[bytes, Record]:
        """The last record of each key."""
        last: dict[bytes, Record] = {}

        def keep(record: Record) -> None:
            last[record.key or b""] = record

        await read_whole(self._broker, [place], keep)
        return last

    async def _write(self, examples: Sequence[Record], name: str, *, texts: bool) -> Counter[str]:
        """Formats examples, those of texts or all others, and writes their records."""
        client = producer(self._broker, f"{self._side}replay-{name}", transaction_timeout_seconds=60)
        try:
            await client.start()
            for batch in _batched(examples, A_TRANSACTION):
                read = [(record, example) for record in batch if (example := self._decoded(Example, record.value)) and _is_kept(example, texts)]
                await self._context.keys.hold(example.input.key_id for _, example in read if example.input)
                made = [outgoing for record, example in read for outgoing in await self._formatted(example, record)]
                async with client.transaction():
                    await asyncio.gather(*[await client.send(o.topic, key=o.key, value=o.value, headers=list(o.headers)) for o in made])
        finally:
            await client.stop()
        return self._counts

    def _decoded(self, kind: type[E], value: bytes | None) -> E | None:
        """The event in `value`; None where it is none, which is counted."""
        try:
            return self._context.codec.decode(kind, value)
        except InvalidRecord:
            self._counts["refused"] += 1
            return None

    async def _formatted(self, example: Example, record: Record) -> Sequence[Outgoing]:
        try:
            made = await self._format.formatted(example, record)
        except KeyDestroyed:
            self._counts["forgotten"] += 1
            return ()
        except (InvalidInput, InvalidRecord):
            self._counts["refused"] += 1
            return ()
        self._counts["examples"] += 1
        return made

    async def _is_live(self, record: DatasetRecord) -> bool:
        if record.status is not RecordStatus.LIVE or record.body is None:
            return False
        try:
            await self._context.keys.key(record.body.key_id)
        except KeyDestroyed:
            return False
        return True


def _is_kept(example: Example, texts: bool) -> bool:
    """Whether it makes records, of texts or of the others."""
    return example.status is ExampleStatus.KEPT and (example.adapter == CPT) is texts


def _batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
