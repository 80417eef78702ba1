"""Documents, what is kept of them, and their chunks. The fields are explained in the .avsc files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.events.common import ClaimCheck, Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document of an upstream system, or its deletion. Key: doc_id. A null value deletes too."""

    doc_id: str
    revision: int
    media_type: str
    source: str
    title: str | None = None
    content: bytes | None = None
    claim_check: ClaimCheck | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What is kept of a document: metadata and a sealed copy. Key: doc_id."""

    doc_id: str
    revision: int
    media_type: str
    source: str
    title: Sealed | None = None
    copy: ClaimCheck | None = None
    content_hash: str | None = None
    deleted: bool = False


class ChunkStatus(StrEnum):
    """What became of it."""

    LIVE = "live"
    DUPLICATE = "duplicate"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A cleaned Markdown piece of a revision, or its withdrawal. Key: doc_id."""

    chunk_id: str
    doc_id: str
    revision: int
    ordinal: int
    text: Sealed | None = None
    heading_path: Sealed | None = None
    page_first: int | None = None
    page_last: int | None = None
    token_count: int
    content_hash: str
    status: ChunkStatus
    twin_id: str | None = None
    similarity: float | None = None
    language: str | None = None
    pii: Mapping[str, int] = field(default_factory=dict)
    overlap: int = 0
