"""chunk: `revisions` in, `chunks` out. Cuts (see cut.py); names exact and near twins; withdraws what a revision left out.

When the chunk that others are twins of leaves, their documents' revisions are written once more, so that each is judged
anew by the worker that owns it, in its own order.

State: `document_chunks` and `chunk_claims` (see verdicts.py), `cut_revisions`, the revision that each document was last cut from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from runtime.ids import digest
from runtime.kafka import Outgoing, Record
from runtime.sealing import Key, seal
from schemas.events import Chunk, ChunkStatus, Revision
from schemas.topics import CHUNKS, REVISIONS
from streams.context import Context, document_owner
from streams.cut import Piece
from streams.parses import Parses
from streams.pool import CutterPool
from streams.twins import Twin
from streams.verdicts import Candidate, Gone, VerdictStore


class ChunkStage:
    """The stage."""

    name = "chunk"
    topic = REVISIONS.name

    def __init__(self, context: Context, cutters: CutterPool) -> None:
        self._context = context
        self._parses = Parses(context, cutters)
        self._verdicts = VerdictStore(context.pool)

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        revision = self._context.codec.decode(Revision, record.value)
        pieces = [] if revision.deleted else await self._parses.pieces(revision)
        candidates = candidates_of(revision.doc_id, pieces)
        verdicts = await self._verdicts.judge(revision.doc_id, revision.revision, candidates, record.value or b"", record.origin)
        if verdicts is None:
            return ()  # an orphan's revision, said again behind a newer one
        chunks = [_withdrawal(revision, gone) for gone in verdicts.withdrawn]  # first, so that what left can be asked about anew
        chunks += await self._chunks(revision, [(c, p) for c, p in zip(candidates, pieces, strict=True) if c.chunk_id in verdicts.judged], verdicts.judged)
        out = [self._context.outgoing(self.name, CHUNKS.name, c.doc_id, digest(c.chunk_id, record.origin), c, record) for c in chunks]
        orphans = [(doc_id, self._context.codec.decode(Revision, value)) for doc_id, value in verdicts.orphaned.items()]
        return out + [self._context.outgoing(self.name, REVISIONS.name, doc_id, digest("again", doc_id, record.origin), orphan, record) for doc_id, orphan in orphans]

    async def _chunks(self, revision: Revision, judged: Sequence[tuple[Candidate, Piece]], twins: Mapping[str, Twin | None]) -> list[Chunk]:
        if not judged:
            return []  # a forgotten document, deleted, has no key any more
        key = await self._context.keys.key(document_owner(revision.doc_id))
        return [_chunk(revision, candidate, piece, twins[candidate.chunk_id], key) for candidate, piece in judged]


def candidates_of(doc_id: str, pieces: Sequence[Piece]) -> list[Candidate]:
    """Each piece with its id: a function of document, content, and how often that content came before."""
    seen: Counter[str] = Counter()
    candidates = []
    for ordinal, piece in enumerate(pieces):
        content_hash = piece.print.content_hash
        candidates.append(Candidate(digest("chunk", doc_id, content_hash, seen[content_hash]), ordinal, piece.print))
        seen[content_hash] += 1
    return candidates


def _chunk(revision: Revision, candidate: Candidate, piece: Piece, twin: Twin | None, key: Key) -> Chunk:
    chunk_id, cut = candidate.chunk_id, piece.text
    return Chunk(
        chunk_id=chunk_id, doc_id=revision.doc_id, revision=revision.revision, ordinal=candidate.ordinal, text=seal(key, chunk_id, cut.text),
        heading_path=seal(key, chunk_id + ":path", " > ".join(cut.heading_path)), page_first=cut.page_first, page_last=cut.page_last,
        token_count=cut.token_count, content_hash=candidate.print.content_hash, status=ChunkStatus.DUPLICATE if twin else ChunkStatus.LIVE,
        twin_id=twin.chunk_id if twin else None, similarity=twin.similarity if twin else None,
        language=piece.language, pii=piece.pii, overlap=cut.overlap,
    )  # fmt: skip


def _withdrawal(revision: Revision, gone: Gone) -> Chunk:
    return Chunk(
        chunk_id=gone.chunk_id, doc_id=revision.doc_id, revision=revision.revision, ordinal=gone.ordinal, token_count=0, content_hash=gone.content_hash, status=ChunkStatus.WITHDRAWN,
    )  # fmt: skip
