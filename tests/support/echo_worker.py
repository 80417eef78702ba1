"""A stream worker that tests kill and pause: `documents` in, one chunk a document out, through the real shell.

    python -m tests.support.echo_worker BROKER GROUP FOLDER INSIDE WORK

INSIDE milliseconds are slept inside each transaction just before its offsets are sent, so that a signal meets it open;
the line `open` on standard output says that one is; the first line is `up`, from when on SIGTERM is heeded. WORK
milliseconds are what a record's handling takes; a document of media type `test/wait` takes until the file that its
content names is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer

from runtime.errors import InvalidInput
from runtime.ids import digest
from runtime.kafka import Outgoing, Record
from runtime.logs import configure_logs
from schemas.codec import Codec
from schemas.events import Chunk, ChunkStatus, Document
from streams.shell import StreamShell
from tests.support.until_stopped import until_stopped

CODEC = Codec()


class Echo:
    """One chunk a document; a document without content is invalid."""

    name = "echo"
    topic = "documents"

    def __init__(self, work_seconds: float) -> None:
        self._work_seconds = work_seconds

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        await asyncio.sleep(self._work_seconds)
        document = CODEC.decode(Document, record.value)
        while document.media_type == "test/wait" and document.content and not Path(document.content.decode()).exists():
            await asyncio.sleep(0.05)
        if document.content is None:
            raise InvalidInput("no content")
        chunk = Chunk(
            chunk_id=digest("echo", record.origin), doc_id=document.doc_id, revision=document.revision, ordinal=0, text=None, heading_path=None,
            page_first=None, page_last=None, token_count=0, content_hash="", status=ChunkStatus.LIVE, twin_id=None, similarity=None,
        )  # fmt: skip
        return [Outgoing("chunks", record.key, CODEC.encode(chunk))]


def slow_down(milliseconds: int) -> None:
    """Makes every transaction of this process pause before it sends offsets."""
    send = AIOKafkaProducer.send_offsets_to_transaction

    async def slow(self: AIOKafkaProducer, *arguments: object) -> None:
        print("open", flush=True)
        await asyncio.sleep(milliseconds / 1000)
        await send(self, *arguments)

    AIOKafkaProducer.send_offsets_to_transaction = slow


async def main(broker: str, group: str, folder: Path, work_seconds: float) -> None:
    """Runs until SIGTERM."""
    configure_logs("error")
    shell = StreamShell(group, broker, [Echo(work_seconds)], folder=folder, on_fatal=lambda _: os._exit(70), session_timeout_seconds=6)
    await until_stopped(shell.start, shell.stop)


if __name__ == "__main__":
    slow_down(int(sys.argv[4]))
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[5]) / 1000))
