"""The streams' tables, made again from the topics where a database came back empty. Keys are not among them: they have a backup of their own.

`document_revisions` and `cut_revisions` come from `revisions`; `document_chunks` and `chunk_claims` from `chunks`, whose records say
who is a twin of whom; `question_claims` and `teacher_units` from `examples`. A teacher's words themselves are lost: it is asked again
if a chunk needs them again. One partition after the other is held in memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from aiokafka import TopicPartition

from runtime.errors import KeyDestroyed
from runtime.follower import read_whole
from runtime.kafka import Record, partitions_of
from runtime.sealing import HASH_OWNER, unseal
from schemas.events import Chunk, ChunkStatus, Example, ExampleStatus, Revision
from schemas.topics import CHUNKS, CPT, EXAMPLES, REVISIONS
from streams.context import Context, document_owner
from streams.synth import question_hash
from streams.teacher.units import Unit
from streams.twins import Print, prints, short_print

log = structlog.get_logger()
BY = "rebuilt"
"""Stands where a table names the record that caused a row; what has been committed is never read again by its worker."""
LOCK = "SELECT pg_advisory_xact_lock(713707)"
EMPTY = "SELECT NOT EXISTS (SELECT FROM document_revisions)"
REVISION = "INSERT INTO document_revisions (doc_id, revision, content_hash, origin) VALUES ($1, $2, $3, $4)"
CUT = "INSERT INTO cut_revisions (doc_id, revision, record) VALUES ($1, $2, $3)"
CHUNK = "INSERT INTO document_chunks (doc_id, chunk_id, ordinal, content_hash, judged_by, twin_id, similarity) VALUES ($1, $2, $3, $4, $5, $6, $7)"
CLAIM = "INSERT INTO chunk_claims (chunk_id, content_hash, signature, bands) VALUES ($1, $2, $3, $4)"
QUESTION = "INSERT INTO question_claims (input_hash, example_id, chunk_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
UNIT = """
INSERT INTO teacher_units (unit_id, chunk_id, adapter, task, version, teacher, item_count, key_owner, usd) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (unit_id) DO UPDATE SET item_count = teacher_units.item_count + excluded.item_count, usd = teacher_units.usd + excluded.usd
"""


Filled = Iterable[tuple[str, Sequence[tuple[Any, ...]]]]


async def rebuild(context: Context, broker: str) -> int:
    """Fills the tables if there is not one document in them; the rows that were made. One worker does, others wait for it."""
    sources = ((REVISIONS, Revision, "doc_id", _revisions), (CHUNKS, Chunk, "chunk_id", _chunks), (EXAMPLES, Example, "example_id", _examples))
    async with context.pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK)
        if not await connection.fetchval(EMPTY):
            return 0
        made = 0
        for topic, kind, name, fill in sources:
            for partition in await partitions_of(broker, [context.prefix + topic.name]):
                for statement, rows in await fill(context, await _last(context, broker, partition, kind, name)):
                    await connection.executemany(statement, rows)
                    made += len(rows)
        if made:
            log.warning("tables.rebuilt", rows=made)
        return made


async def _last(context: Context, broker: str, partition: TopicPartition, kind: type, name: str) -> list[tuple[Any, bytes]]:
    """The last record of each id, which is in the field `name`, on a partition: decoded, and its bytes."""
    last: dict[str, tuple[Any, bytes]] = {}

    def keep(record: Record) -> None:
        event: Any = context.codec.decode(kind, record.value)
        known = last.get(getattr(event, name))
        if known is None or not isinstance(event, Revision) or known[0].revision <= event.revision:  # one said again for a twin's sake may lie behind a newer one
            last[getattr(event, name)] = (event, record.value or b"")

    await read_whole(broker, [partition], keep)
    return list(last.values())


async def _revisions(context: Context, last: Sequence[tuple[Revision, bytes]]) -> Filled:
    return (
        (REVISION, [(r.doc_id, r.revision, r.content_hash, BY) for r, _ in last]),
        (CUT, [(r.doc_id, r.revision, value) for r, value in last]),
    )


async def _chunks(context: Context, last: Sequence[tuple[Chunk, bytes]]) -> Filled:
    there = [chunk for chunk, _ in last if chunk.status is not ChunkStatus.WITHDRAWN]
    live = [chunk for chunk in there if chunk.status is ChunkStatus.LIVE]
    secret = (await context.keys.key(HASH_OWNER)).secret
    texts = [await _text(context, chunk) for chunk in live]
    found = await asyncio.to_thread(_prints, texts, [chunk.content_hash for chunk in live], secret)
    return (
        (CHUNK, [(c.doc_id, c.chunk_id, c.ordinal, c.content_hash, BY, c.twin_id, c.similarity) for c in there]),
        (CLAIM, [(c.chunk_id, c.content_hash, p.signature.tobytes(), p.bands) for c, p in zip(live, found, strict=True)]),
    )


async def _text(context: Context, chunk: Chunk) -> str | None:
    """A chunk's text; None where it is forgotten."""
    if chunk.text is None:
        return None
    try:
        return unseal(await context.keys.key(document_owner(chunk.doc_id)), chunk.chunk_id, chunk.text)
    except KeyDestroyed:
        return None


def _prints(texts: Sequence[str | None], content_hashes: Sequence[str], secret: bytes) -> list[Print]:
    known = [(text, content_hash) for text, content_hash in zip(texts, content_hashes, strict=True) if text is not None]
    found = iter(prints([text for text, _ in known], [content_hash for _, content_hash in known], secret) if known else ())
    return [short_print(content_hash) if text is None else next(found) for text, content_hash in zip(texts, content_hashes, strict=True)]


async def _examples(context: Context, last: Sequence[tuple[Example, bytes]]) -> Filled:
    secret = (await context.keys.key(HASH_OWNER)).secret
    questions, units = [], []
    for example, _ in last:
        if example.chunk_id is None or example.doc_id is None or example.adapter == CPT or example.status is ExampleStatus.WITHDRAWN:
            continue  # of an upstream's, of raw text, or gone
        unit = Unit(example.chunk_id, example.adapter, example.task, example.prompt_version, example.teacher)
        units.append((unit.unit_id, unit.chunk_id, unit.adapter, unit.task, unit.version, unit.teacher, 1, document_owner(example.doc_id), example.teacher_usd or 0.0))
        if example.status is ExampleStatus.KEPT and example.input is not None and example.output is not None:
            try:
                key = await context.keys.key(document_owner(example.doc_id))
            except KeyDestroyed:
                continue
            given, wanted = (json.loads(unseal(key, example.example_id + place, sealed)) for place, sealed in (("", example.input), (":output", example.output)))
            questions.append((question_hash(secret, example.adapter, given, wanted), bytes.fromhex(example.example_id), bytes.fromhex(example.chunk_id)))
    return ((QUESTION, questions), (UNIT, units))
