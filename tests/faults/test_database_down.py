"""PostgreSQL goes away in the middle of documents, twice, and they wait for it: nothing is lost, nothing is there twice, nothing is parked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.bench.pipeline import document
from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import DATABASE_DOWN, connect
from schemas.events import Chunk, DatasetRecord, DeadLetter, Example, ExampleStatus, Revision
from streams.teacher.by_distilabel import offline_teacher
from tests.support.postgres import running_postgres
from tests.support.streams import streams

COUNT = 90
DOWN_SECONDS = 4
OUTAGES = 10


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    with running_postgres() as server:
        yield server


@pytest.mark.asyncio
async def test_documents_wait_for_the_database(kafka: EmbeddedKafka, own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with streams(kafka.address, own_postgres.url, tmp_path, offline_teacher()) as system:
        pages = [document(f"page-{i}") for i in range(COUNT)]
        for part in (pages[: COUNT // 3], pages[COUNT // 3 : 2 * COUNT // 3]):
            await system.publish(*part)
            await asyncio.sleep(1)
            await asyncio.to_thread(own_postgres.stop)
            seen = len(await system.now("revisions", Revision))
            await asyncio.sleep(DOWN_SECONDS)
            await asyncio.to_thread(own_postgres.start)
            assert seen < COUNT  # it went while there was work
        await system.publish(*pages[2 * COUNT // 3 :])
        revisions = Counter(r.doc_id for r in await system.settled("revisions", Revision, seconds=120))
        assert revisions == dict.fromkeys((page.doc_id for page in pages), 1)
        chunks = await system.settled("chunks", Chunk)
        assert set(Counter(c.chunk_id for c in chunks).values()) == {1}
        assert {c.doc_id for c in chunks} == set(revisions)
        texts = await system.settled("datasets.cpt", DatasetRecord)
        assert Counter(t.example_id for t in texts).total() == len({t.example_id for t in texts}) == len(chunks)
        kept = {e.example_id for e in await system.settled("examples", Example) if e.status is ExampleStatus.KEPT and e.adapter == "chat"}
        assert Counter(r.example_id for r in await system.settled("datasets.chat", DatasetRecord)) == dict.fromkeys(kept, 1)
        assert await system.now("dead-letters", DeadLetter) == []


@pytest.mark.asyncio
async def test_whatever_a_query_meets_when_the_server_goes_is_waited_for(own_postgres: EmbeddedPostgres) -> None:
    pool = await connect(own_postgres.url)
    answered: Counter[int] = Counter()

    async def ask(outage: int, owner: str) -> None:
        """Asks until the server is gone, whatever it is in the middle of then; any other error ends the test."""
        try:
            while True:
                await pool.fetchrow("SELECT secret FROM keys WHERE owner = $1", owner)
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("INSERT INTO keys (owner, secret) VALUES ($1, $2) ON CONFLICT (owner) DO NOTHING", owner, bytes(32))
                answered[outage] += 1
        except DATABASE_DOWN:
            return

    for outage in range(OUTAGES):
        asking = [asyncio.create_task(ask(outage, f"owner-{n}")) for n in range(16)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_postgres.stop)
        await asyncio.wait_for(asyncio.gather(*asking), 10)
        await asyncio.to_thread(own_postgres.start)
    assert set(answered) == set(range(OUTAGES))  # it answered again after each
    await pool.close()
