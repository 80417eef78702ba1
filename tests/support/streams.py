"""The streams with every stage in one process, under a prefix of a test's own."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.backlog import Backlog
from runtime.database import connect
from runtime.kafka import Outgoing, apply_topics
from runtime.objects import Objects
from runtime.places import read_at
from runtime.project import Project, load_project
from runtime.sealing import PostgresKeys
from runtime.stage import Stage
from schemas.codec import Codec
from schemas.events import DeadLetter, Document
from streams.chunk import ChunkStage
from streams.context import Context, held_out
from streams.feedback import FeedbackStage
from streams.format import FormatStage, LabelStage
from streams.intake import Intake
from streams.pool import CutterPool
from streams.shell import StreamShell
from streams.synth import SynthStage
from streams.teacher.teachers import Teacher
from tests.support.kafka import publish, read_all

ROOT = Path(__file__).parents[2]
CODEC = Codec()
EXAMPLE = load_project(ROOT / "examples/pebblewire/loom.toml")


@dataclass(frozen=True)
class System:
    """Running streams."""

    broker: str
    prefix: str
    group: str
    topics: tuple[str, ...]
    """What the stages read."""
    context: Context
    fatal: list[BaseException]

    async def publish(self, *documents: Document) -> None:
        await publish(self.broker, [Outgoing(self.prefix + "documents", d.doc_id.encode(), CODEC.encode(d)) for d in documents])

    async def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        await publish(self.broker, [Outgoing(self.prefix + topic, key, value)])

    async def now(self, topic: str, kind: type[Any]) -> list[Any]:
        """The records of a topic that are there now."""
        assert self.fatal == []
        return [CODEC.decode(kind, r.value) for r in await read_all(self.broker, self.prefix + topic)]

    async def settled(self, topic: str, kind: type[Any], seconds: float = 60) -> list[Any]:
        """The records of a topic, once all that was sent, and what was made of it, has been worked on."""
        end = time.monotonic() + seconds
        backlog = Backlog(self.broker, {self.group: self.topics})
        await backlog.start()
        try:
            while await backlog.waits():
                assert self.fatal == []
                letters = [letter.message for letter in await self.now("dead-letters", DeadLetter)] if time.monotonic() > end else None
                assert letters is None, f"not worked on in {seconds} seconds; dead letters: {letters}"
                await asyncio.sleep(0.2)
        finally:
            await backlog.stop()
        return await self.now(topic, kind)


def document(doc_id: str, content: bytes | None, revision: int = 1, media_type: str = "text/markdown", deleted: bool = False) -> Document:
    return Document(doc_id=doc_id, revision=revision, media_type=media_type, source="test", title=None, content=content, claim_check=None, deleted=deleted)


@asynccontextmanager
async def streams(broker: str, database: str, folder: Path, teacher: Teacher, project: Project = EXAMPLE) -> AsyncIterator[System]:
    """Streams that run, and must not have failed at the end."""
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await apply_topics(broker, project.topics.values(), prefix)
    pool = await connect(database)
    for table in ("keys", "document_revisions", "document_chunks", "chunk_claims", "cut_revisions", "teacher_units", "teacher_usage", "question_claims", "record_places"):
        await pool.execute(f"TRUNCATE {table}")
    context = Context(project, CODEC, PostgresKeys(pool), Objects((folder / "objects").as_uri()), pool, held_out(project), prefix)
    cutters = CutterPool(workers=1)
    stages: Sequence[Stage] = [Intake(context), ChunkStage(context, cutters), SynthStage(context, teacher), LabelStage(context), FormatStage(context), FeedbackStage(context, partial(read_at, broker))]
    fatal: list[BaseException] = []
    group = f"{prefix}all"
    shell = StreamShell(group, broker, stages, folder=folder / "faust", on_fatal=fatal.append, prefix=prefix)
    await shell.start()
    try:
        yield System(broker, prefix, group, tuple(prefix + stage.topic for stage in stages), context, fatal)
    finally:
        await shell.stop()
        cutters.close()
        await pool.close()
    assert fatal == []
