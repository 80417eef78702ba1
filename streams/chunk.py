"""chunk: `revisions` in, `chunks` out. Parses, cleans, splits; drops exact twins; withdraws what a revision left out.

State: `document_chunks`, which chunks a document has and which record added or withdrew each, so that the same record
read twice gives the same output; `chunk_claims`, which chunk holds a text first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import asyncpg

from runtime.errors import InvalidInput
from runtime.ids import digest, keyed_hash
from runtime.kafka import Outgoing, Record
from runtime.sealing import HASH_OWNER, Key, open_bytes, seal
from schemas.events import Chunk, ChunkStatus, Revision
from schemas.topics import CHUNKS, REVISIONS
from streams.chunking import ChunkText, chunk
from streams.context import Context, document_owner
from streams.parse import parse

BUDGET_TOKENS = 256
ADD = """
INSERT INTO document_chunks (doc_id, chunk_id, ordinal, content_hash, added_by) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (doc_id, chunk_id) DO UPDATE SET ordinal = $3, added_by = CASE WHEN document_chunks.withdrawn_by IS NULL THEN document_chunks.added_by ELSE $5 END, withdrawn_by = NULL
RETURNING added_by
"""
WITHDRAW = """
UPDATE document_chunks SET withdrawn_by = $3 WHERE doc_id = $1 AND NOT chunk_id = ANY($2) AND withdrawn_by IS NULL
"""
WITHDRAWN = "SELECT chunk_id, ordinal, content_hash FROM document_chunks WHERE doc_id = $1 AND withdrawn_by = $2 ORDER BY ordinal"
FIRST = """
WITH claimed AS (INSERT INTO chunk_claims (content_hash, chunk_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING chunk_id)
SELECT chunk_id FROM claimed UNION ALL SELECT chunk_id FROM chunk_claims WHERE content_hash = $1 LIMIT 1
"""


def normalised(text: str) -> str:
    """What counts for being the same text: words and signs, not white space or case."""
    return " ".join(text.split()).casefold()


class ChunkStage:
    """The stage."""

    name = "chunk"
    topic = REVISIONS.name

    def __init__(self, context: Context) -> None:
        self._context = context

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        revision = self._context.codec.decode(Revision, record.value)
        if revision.deleted:
            chunks = await self._withdraw(revision, [], record)
        else:
            chunks = await self._split(revision, record)
        return [self._context.outgoing(self.name, CHUNKS.name, c.doc_id, digest(c.chunk_id, c.revision, c.status), c, record) for c in chunks]

    async def _split(self, revision: Revision, record: Record) -> list[Chunk]:
        if revision.copy is None:
            raise InvalidInput(f"revision {revision.revision} of {revision.doc_id} has no copy")
        key = await self._context.keys.key(document_owner(revision.doc_id))
        sealed = await self._context.objects.claim(revision.copy)
        data = open_bytes(key, f"{revision.doc_id}@{revision.revision}", sealed[:12], sealed[12:])
        pieces = await asyncio.to_thread(self._pieces, revision.media_type, data)
        hash_key = await self._context.keys.key(HASH_OWNER)
        seen: Counter[str] = Counter()
        added, present = [], []
        for ordinal, piece in enumerate(pieces):
            content_hash = keyed_hash(hash_key.secret, normalised(piece.text))
            chunk_id = digest("chunk", revision.doc_id, content_hash, seen[content_hash])
            seen[content_hash] += 1
            present.append(chunk_id)
            added_by = await self._context.pool.fetchval(ADD, revision.doc_id, chunk_id, ordinal, content_hash, record.origin)
            if added_by == record.origin:
                added.append(await self._chunk(revision, chunk_id, ordinal, content_hash, piece, key))
        return [*added, *await self._withdraw(revision, present, record)]

    def _pieces(self, media_type: str, data: bytes) -> list[ChunkText]:
        return chunk(parse(media_type, data), BUDGET_TOKENS, self._context.count_tokens)

    async def _chunk(self, revision: Revision, chunk_id: str, ordinal: int, content_hash: str, piece: ChunkText, key: Key) -> Chunk:
        first = await self._first(content_hash, chunk_id)
        twin = None if first == chunk_id else first
        return Chunk(
            chunk_id=chunk_id, doc_id=revision.doc_id, revision=revision.revision, ordinal=ordinal, text=seal(key, chunk_id, piece.text),
            heading_path=seal(key, chunk_id + ":path", " > ".join(piece.heading_path)), page_first=piece.page_first, page_last=piece.page_last,
            token_count=piece.token_count, content_hash=content_hash, status=ChunkStatus.DUPLICATE if twin else ChunkStatus.LIVE,
            twin_id=twin, similarity=1.0 if twin else None,
        )  # fmt: skip

    async def _first(self, content_hash: str, chunk_id: str) -> str:
        """The chunk that holds this text first; two that claim at once agree on one."""
        while (first := await self._context.pool.fetchval(FIRST, content_hash, chunk_id)) is None:
            pass  # another's claim is being committed: it is visible to the next statement
        return str(first)

    async def _withdraw(self, revision: Revision, present: Sequence[str], record: Record) -> list[Chunk]:
        """The withdrawals of chunks that are not `present` any more."""
        pool: asyncpg.Pool = self._context.pool
        await pool.execute(WITHDRAW, revision.doc_id, list(present), record.origin)
        rows = await pool.fetch(WITHDRAWN, revision.doc_id, record.origin)
        await pool.execute("DELETE FROM chunk_claims WHERE chunk_id = ANY($1)", [row["chunk_id"] for row in rows])
        return [
            Chunk(
                chunk_id=row["chunk_id"], doc_id=revision.doc_id, revision=revision.revision, ordinal=row["ordinal"], text=None, heading_path=None,
                page_first=None, page_last=None, token_count=0, content_hash=row["content_hash"], status=ChunkStatus.WITHDRAWN, twin_id=None, similarity=None,
            )
            for row in rows
        ]
