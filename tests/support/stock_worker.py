"""The control: the echo of `echo_worker`, as Faust's documentation has an agent, with Faust's own commits.

    python -m tests.support.stock_worker BROKER GROUP FOLDER INSIDE WORK

INSIDE milliseconds are slept behind each hundredth record's echo.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import faust

from runtime.ids import digest
from runtime.logs import configure_logs
from schemas.codec import Codec
from schemas.events import Chunk, ChunkStatus, Document
from tests.support.until_stopped import until_stopped

CODEC = Codec()


async def main(broker: str, group: str, folder: Path, inside_seconds: float, work_seconds: float) -> None:
    """Runs until SIGTERM."""
    configure_logs("error")
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        group, broker=f"kafka://{broker}", store="memory://", web_enabled=False, topic_disable_leader=True, datadir=str(folder), topic_allow_declare=False,
        consumer_auto_offset_reset="earliest", broker_session_timeout=6, broker_heartbeat_interval=1.5,
    )  # fmt: skip
    source, sink = (app.topic(name, value_serializer="raw", key_serializer="raw") for name in ("documents", "chunks"))

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def echo(stream: Any) -> None:
        events: AsyncIterable[Any] = stream.events()
        async for event in events:
            message = event.message
            document = CODEC.decode(Document, message.value)
            await asyncio.sleep(work_seconds)
            chunk = Chunk(chunk_id=digest("echo", f"{message.topic}/{message.partition}/{message.offset}"), doc_id=document.doc_id, revision=document.revision, ordinal=0, token_count=0, content_hash="", status=ChunkStatus.LIVE)
            await sink.send(key=message.key, value=CODEC.encode(chunk))
            if message.offset % 100 == 0:
                print("open", flush=True)
                await asyncio.sleep(inside_seconds)

    await until_stopped(app.start, app.stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) / 1000, int(sys.argv[5]) / 1000))
