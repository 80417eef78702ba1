"""What every stage of the streams works with."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from runtime.cloudevents import headers
from runtime.kafka import Outgoing, Record
from runtime.objects import Objects
from runtime.project import Project
from runtime.sealing import KeyStore
from schemas.codec import RECORDS, Codec
from schemas.events import Event


@dataclass(frozen=True, slots=True)
class Context:
    """Collaborators, wired once by the worker."""

    project: Project
    codec: Codec
    keys: KeyStore
    objects: Objects
    pool: asyncpg.Pool
    prefix: str = ""

    def outgoing(self, stage: str, topic: str, key: str, event_id: str, event: Event, parent: Record) -> Outgoing:
        """`event` as a record for `topic`, with CloudEvents and trace headers."""
        return Outgoing(self.prefix + topic, key.encode(), self.codec.encode(event), headers(RECORDS[type(event)], event_id, stage, parent))


def document_owner(doc_id: str) -> str:
    """The key owner of a document's text."""
    return f"document:{doc_id}"
