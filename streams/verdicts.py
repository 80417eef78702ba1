"""The verdict on each chunk of a document: live, or the twin of one that is. Shared by all workers, in PostgreSQL.

One worker judges at a time (an advisory lock), so that two documents that hold the same text agree on who was first.
A verdict names the record that brought it: when that record is read again, it says the same again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import numpy as np

from streams.twins import SLOT, Claim, Index, Print, Twin

LOCK = "SELECT pg_advisory_xact_lock(713706)"
BY_INDEX = "SET LOCAL enable_seqscan = off"
"""The planner thinks that the bands of a whole document fit half of the table, and would read all of it."""
LAST = "SELECT revision FROM cut_revisions WHERE doc_id = $1"
KEEP = "INSERT INTO cut_revisions (doc_id, revision, record) VALUES ($1, $2, $3) ON CONFLICT (doc_id) DO UPDATE SET revision = $2, record = $3"
WITHDRAW = "UPDATE document_chunks SET withdrawn_by = $3 WHERE doc_id = $1 AND NOT chunk_id = ANY($2) AND withdrawn_by IS NULL"
UNCLAIM = "DELETE FROM chunk_claims WHERE chunk_id IN (SELECT chunk_id FROM document_chunks WHERE doc_id = $1 AND withdrawn_by = $2)"
WITHDRAWN = "SELECT chunk_id, ordinal, content_hash FROM document_chunks WHERE doc_id = $1 AND withdrawn_by = $2 ORDER BY ordinal"
STANDING = """
SELECT d.chunk_id, d.judged_by, d.twin_id, d.similarity, d.twin_id IS NULL OR c.chunk_id IS NOT NULL AS holds
FROM document_chunks d LEFT JOIN chunk_claims c ON c.chunk_id = d.twin_id WHERE d.doc_id = $1 AND d.withdrawn_by IS NULL
"""
CANDIDATES = """
SELECT chunk_id, content_hash, signature, bands FROM chunk_claims WHERE content_hash = ANY($1)
UNION SELECT chunk_id, content_hash, signature, bands FROM chunk_claims WHERE bands && $2
"""
JUDGE = """
INSERT INTO document_chunks (doc_id, chunk_id, ordinal, content_hash, judged_by, twin_id, similarity) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (doc_id, chunk_id) DO UPDATE SET ordinal = $3, judged_by = $5, twin_id = $6, similarity = $7, withdrawn_by = NULL
"""
CLAIM = "INSERT INTO chunk_claims (chunk_id, content_hash, signature, bands) VALUES ($1, $2, $3, $4) ON CONFLICT (chunk_id) DO NOTHING"
ORPHANED = """
SELECT DISTINCT r.doc_id, r.record FROM document_chunks o JOIN cut_revisions r USING (doc_id)
WHERE o.withdrawn_by IS NULL AND o.doc_id <> $1 AND o.twin_id IN (SELECT chunk_id FROM document_chunks WHERE doc_id = $1 AND withdrawn_by = $2)
ORDER BY r.doc_id
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk of the document as it is now."""

    chunk_id: str
    ordinal: int
    print: Print


@dataclass(frozen=True, slots=True)
class Gone:
    """A chunk that the document had."""

    chunk_id: str
    ordinal: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a record changed: chunks judged by it with their twins, chunks that left, and the records of other
    documents, by document, whose twins were among these."""

    judged: dict[str, Twin | None]
    withdrawn: tuple[Gone, ...]
    orphaned: dict[str, bytes]


class VerdictStore:
    """The shared store."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._turn = asyncio.Lock()  # those that wait in this process hold no connection

    async def judge(self, doc_id: str, revision: int, present: Sequence[Candidate], record: bytes, origin: str) -> Verdicts | None:
        """The verdicts on `present`, all chunks of `revision`, which `record` brought; None where a newer one was judged before."""
        async with self._turn, self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK)
            await connection.execute(BY_INDEX)
            last = await connection.fetchval(LAST, doc_id)
            if last is not None and last > revision:
                return None
            await connection.execute(KEEP, doc_id, revision, record)
            await connection.execute(WITHDRAW, doc_id, [c.chunk_id for c in present], origin)
            await connection.execute(UNCLAIM, doc_id, origin)
            withdrawn = tuple(Gone(*row) for row in await connection.fetch(WITHDRAWN, doc_id, origin))
            judged = await self._judge(connection, doc_id, present, origin)
            orphaned = {row["doc_id"]: row["record"] for row in await connection.fetch(ORPHANED, doc_id, origin)}
            return Verdicts(judged, withdrawn, orphaned)

    async def _judge(self, connection: asyncpg.Connection, doc_id: str, present: Sequence[Candidate], origin: str) -> dict[str, Twin | None]:
        standing = {row["chunk_id"]: row for row in await connection.fetch(STANDING, doc_id)}
        judged: dict[str, Twin | None] = {}
        fresh = []
        for candidate in present:
            row = standing.get(candidate.chunk_id)
            if row is None or not row["holds"]:
                fresh.append(candidate)
            elif row["judged_by"] == origin:
                judged[candidate.chunk_id] = Twin(row["twin_id"], row["similarity"]) if row["twin_id"] else None
        index = Index(await self._claims(connection, fresh))
        for candidate in fresh:
            twin = judged[candidate.chunk_id] = index.twin(candidate.print)
            if twin is None:
                index.add(Claim(candidate.chunk_id, candidate.print))
        await connection.executemany(JUDGE, [(doc_id, c.chunk_id, c.ordinal, c.print.content_hash, origin, *_pair(judged[c.chunk_id])) for c in fresh])
        live = [c for c in fresh if judged[c.chunk_id] is None]
        await connection.executemany(CLAIM, [(c.chunk_id, c.print.content_hash, c.print.signature.tobytes(), c.print.bands) for c in live])
        return judged

    async def _claims(self, connection: asyncpg.Connection, fresh: Sequence[Candidate]) -> list[Claim]:
        """The claims that one of `fresh` may be a twin of."""
        rows = await connection.fetch(CANDIDATES, [c.print.content_hash for c in fresh], [band for c in fresh for band in c.print.bands])
        return [Claim(row["chunk_id"], Print(row["content_hash"], np.frombuffer(row["signature"], SLOT), tuple(row["bands"]))) for row in rows]


def _pair(twin: Twin | None) -> tuple[str | None, float | None]:
    return (twin.chunk_id, twin.similarity) if twin else (None, None)
