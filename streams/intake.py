"""intake: `documents` in, `revisions` out. Keeps a sealed copy of each new revision; refuses stale ones.

State: `document_revisions`, the last revision of each document and the record that brought it.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import InvalidInput
from runtime.ids import digest, keyed_hash
from runtime.kafka import Outgoing, Record
from runtime.objects import Sources
from runtime.sealing import HASH_OWNER, seal, seal_bytes
from schemas.events import ClaimCheck, Document, Revision
from schemas.topics import DOCUMENTS, REVISIONS
from streams.context import Context, document_owner

CLAIM = """
INSERT INTO document_revisions (doc_id, revision, content_hash, origin) VALUES ($1, $2, $3, $4)
ON CONFLICT (doc_id) DO UPDATE SET revision = $2, content_hash = $3, origin = $4
WHERE document_revisions.revision < $2 OR document_revisions.origin = $4
RETURNING revision
"""
CURRENT = "SELECT revision, content_hash, origin FROM document_revisions WHERE doc_id = $1"


class Intake:
    """The stage."""

    name = "intake"
    topic = DOCUMENTS.name

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sources = Sources(context.project.documents.sources)

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        document = await self._document(record)
        content = None if document.deleted else await self._content(document)
        hash_key = await self._context.keys.key(HASH_OWNER)
        content_hash = None if content is None else keyed_hash(hash_key.secret, content.hex())
        if not await self._claim(document, content_hash, record):
            return ()
        revision = await self._sealed(document, content, content_hash)
        event_id = digest("revision", document.doc_id, document.revision)
        return [self._context.outgoing(self.name, REVISIONS.name, document.doc_id, event_id, revision, record)]

    async def _document(self, record: Record) -> Document:
        """The document of `record`; a null value is a deletion at the revision behind the last one."""
        if record.value is not None:
            return self._context.codec.decode(Document, record.value)
        if record.key is None:
            raise InvalidInput("a null value without a key deletes nothing")
        doc_id = record.key.decode()
        row = await self._context.pool.fetchrow(CURRENT, doc_id)
        if row is None:
            raise InvalidInput(f"{doc_id} can't be deleted: it was never published")
        revision = row["revision"] + (row["origin"] != record.origin)
        return Document(doc_id=doc_id, revision=revision, media_type="", source="", title=None, content=None, claim_check=None, deleted=True)

    async def _content(self, document: Document) -> bytes:
        if document.content is not None:
            return document.content
        if document.claim_check is None:
            raise InvalidInput(f"{document.doc_id} has neither content nor a claim check")
        if self._context.objects.holds(document.claim_check.uri):
            return await self._context.objects.claim(document.claim_check)
        return await self._sources.fetch(document.claim_check)

    async def _claim(self, document: Document, content_hash: str | None, record: Record) -> bool:
        """True when this record brings the newest revision; False for the same revision once more."""
        claimed = await self._context.pool.fetchval(CLAIM, document.doc_id, document.revision, content_hash, record.origin)
        if claimed is not None:
            return True
        row = await self._context.pool.fetchrow(CURRENT, document.doc_id)
        if row["revision"] == document.revision and row["content_hash"] == content_hash:
            return False
        raise InvalidInput(f"stale revision {document.revision} of {document.doc_id}: revision {row['revision']} is already here, publish a higher one")

    async def _sealed(self, document: Document, content: bytes | None, content_hash: str | None) -> Revision:
        copy: ClaimCheck | None = None
        title = None
        if content is not None:  # a forgotten document may still be deleted
            key = await self._context.keys.key(document_owner(document.doc_id))
            title = seal(key, f"{document.doc_id}@{document.revision}:title", document.title) if document.title else None
            name = f"documents/{digest(document.doc_id)}/{document.revision}"
            nonce, ciphertext = seal_bytes(key, f"{document.doc_id}@{document.revision}", content)
            copy = await self._context.objects.put(name, nonce + ciphertext)
        return Revision(
            doc_id=document.doc_id, revision=document.revision, media_type=document.media_type, source=document.source,
            title=title, copy=copy, content_hash=content_hash, deleted=document.deleted,
        )  # fmt: skip
