"""What every stage of the streams works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import asyncpg

from runtime.cloudevents import headers
from runtime.encoder import minilm
from runtime.kafka import Outgoing, Record
from runtime.objects import Objects
from runtime.project import Project
from runtime.sealing import KeyStore
from schemas.codec import RECORDS, Codec
from schemas.events import Event, Request
from streams.held_out import HeldOut, read_texts

UPSTREAM, USER = "upstream", "user"
"""Who made an example, where it was an upstream's label, or a user accepted or corrected an answer."""
CURRENT = "current"
"""What a frontend sends that knows its user by the session alone."""


@dataclass(frozen=True, slots=True)
class Context:
    """Collaborators, wired once by the worker."""

    project: Project
    codec: Codec
    keys: KeyStore
    objects: Objects
    pool: asyncpg.Pool
    held_out: HeldOut
    prefix: str = ""

    def outgoing(self, stage: str, topic: str, key: str, event_id: str, event: Event, parent: Record) -> Outgoing:
        """`event` as a record for `topic`, with CloudEvents and trace headers."""
        return Outgoing(self.prefix + topic, key.encode(), self.codec.encode(event), headers(RECORDS[type(event)], event_id, stage, parent))


def held_out(project: Project) -> HeldOut:
    """The texts of the project's evaluation sets. Raises SettingsError where one can't be read."""
    patterns = [project.root / pattern for pattern in project.evaluation.files]
    files = [file for pattern in patterns for file in sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))) or [pattern]]
    return HeldOut(read_texts(files), project.evaluation.similarity, lambda texts: minilm().encode(texts))


def user_owner(request: Request) -> str:
    """The key owner of what a user asked: the context's user, else the conversation."""
    user = request.context.get("user_id", CURRENT)
    return f"user:{request.conversation_id if user == CURRENT else user}"


def document_owner(doc_id: str) -> str:
    """The key owner of a document's text."""
    return f"document:{doc_id}"
