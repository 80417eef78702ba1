"""chunk: `revisions` in, `chunks` out. Parses, cleans, splits; names exact and near twins; withdraws what a revision left out.

When the chunk that others are twins of leaves, their documents' revisions are written once more, so that each is judged
anew by the worker that owns it, in its own order.

State: `document_chunks` and `chunk_claims` (see verdicts.py), `cut_revisions`, the revision that each document was last cut from.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from runtime.errors import InvalidInput
from runtime.ids import digest, keyed_hash
from runtime.kafka import Outgoing, Record
from runtime.sealing import HASH_OWNER, Key, open_bytes, seal
from schemas.events import Chunk, ChunkStatus, Revision
from schemas.topics import CHUNKS, REVISIONS
from streams.chunking import ChunkText, chunk
from streams.context import Context, document_owner
from streams.parse.pool import ParserPool
from streams.twins import Twin, prints
from streams.verdicts import Candidate, Gone, VerdictStore

BUDGET_TOKENS = 256


def normalised(text: str) -> str:
    """What counts for being the same text: words and signs, not white space or case."""
    return " ".join(text.split()).casefold()


class ChunkStage:
    """The stage."""

    name = "chunk"
    topic = REVISIONS.name

    def __init__(self, context: Context, parsers: ParserPool) -> None:
        self._context, self._parsers = context, parsers
        self._verdicts = VerdictStore(context.pool)

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        revision = self._context.codec.decode(Revision, record.value)
        pieces = [] if revision.deleted else await self._pieces(revision)
        candidates = await self._candidates(revision.doc_id, pieces)
        verdicts = await self._verdicts.judge(revision.doc_id, revision.revision, candidates, record.value or b"", record.origin)
        if verdicts is None:
            return ()  # an orphan's revision, said again behind a newer one
        chunks = await self._chunks(revision, [(c, p) for c, p in zip(candidates, pieces, strict=True) if c.chunk_id in verdicts.judged], verdicts.judged)
        chunks += [_withdrawal(revision, gone) for gone in verdicts.withdrawn]
        out = [self._context.outgoing(self.name, CHUNKS.name, c.doc_id, digest(c.chunk_id, record.origin), c, record) for c in chunks]
        orphans = [(doc_id, self._context.codec.decode(Revision, value)) for doc_id, value in verdicts.orphaned.items()]
        return out + [self._context.outgoing(self.name, REVISIONS.name, doc_id, digest("again", doc_id, record.origin), orphan, record) for doc_id, orphan in orphans]

    async def _chunks(self, revision: Revision, judged: Sequence[tuple[Candidate, ChunkText]], twins: Mapping[str, Twin | None]) -> list[Chunk]:
        if not judged:
            return []  # a forgotten document, deleted, has no key any more
        key = await self._context.keys.key(document_owner(revision.doc_id))
        return [_chunk(revision, candidate, piece, twins[candidate.chunk_id], key) for candidate, piece in judged]

    async def _pieces(self, revision: Revision) -> list[ChunkText]:
        if revision.copy is None:
            raise InvalidInput(f"revision {revision.revision} of {revision.doc_id} has no copy")
        key = await self._context.keys.key(document_owner(revision.doc_id))
        sealed = await self._context.objects.claim(revision.copy)
        data = open_bytes(key, f"{revision.doc_id}@{revision.revision}", sealed[:12], sealed[12:])
        blocks = await self._parsers.parse(revision.media_type, data)
        return await asyncio.to_thread(chunk, blocks, BUDGET_TOKENS, self._context.count_tokens)

    async def _candidates(self, doc_id: str, pieces: Sequence[ChunkText]) -> list[Candidate]:
        secret = (await self._context.keys.key(HASH_OWNER)).secret
        hashes = [keyed_hash(secret, normalised(piece.text)) for piece in pieces]
        seen: Counter[str] = Counter()
        candidates = []
        for ordinal, found in enumerate(await asyncio.to_thread(prints, [piece.text for piece in pieces], hashes, secret)):
            candidates.append(Candidate(digest("chunk", doc_id, found.content_hash, seen[found.content_hash]), ordinal, found))
            seen[found.content_hash] += 1
        return candidates


def _chunk(revision: Revision, candidate: Candidate, piece: ChunkText, twin: Twin | None, key: Key) -> Chunk:
    chunk_id = candidate.chunk_id
    return Chunk(
        chunk_id=chunk_id, doc_id=revision.doc_id, revision=revision.revision, ordinal=candidate.ordinal, text=seal(key, chunk_id, piece.text),
        heading_path=seal(key, chunk_id + ":path", " > ".join(piece.heading_path)), page_first=piece.page_first, page_last=piece.page_last,
        token_count=piece.token_count, content_hash=candidate.print.content_hash, status=ChunkStatus.DUPLICATE if twin else ChunkStatus.LIVE,
        twin_id=twin.chunk_id if twin else None, similarity=twin.similarity if twin else None,
    )  # fmt: skip


def _withdrawal(revision: Revision, gone: Gone) -> Chunk:
    return Chunk(
        chunk_id=gone.chunk_id, doc_id=revision.doc_id, revision=revision.revision, ordinal=gone.ordinal, token_count=0, content_hash=gone.content_hash, status=ChunkStatus.WITHDRAWN,
    )  # fmt: skip
