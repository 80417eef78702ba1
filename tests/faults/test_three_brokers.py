"""A cluster of three brokers under random faults: workers killed, paused, joined and ended, brokers killed and started again.

What comes out is read from the start and compared with what went in: each input once, echoed or parked. Stock Faust, with its own
commits, goes through the same and does not hold; else the faults would prove nothing. `make cluster` runs these.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.ids import digest
from runtime.kafka import Outgoing, apply_topics
from schemas.codec import Codec
from schemas.events import Chunk, DeadLetter, Document
from schemas.topics import CHUNKS, DEAD_LETTERS, DOCUMENTS
from tests.support.cluster import Cluster
from tests.support.kafka import publish, read_all
from tests.support.storm import Fleet, broker_fault, storm, worker_faults

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
CODEC = Codec()
STORM_SECONDS = float(os.environ.get("LOOM_TEST_STORM_SECONDS", "75"))
A_BATCH, BATCHES = 400, 25
FEWEST, MOST = 2, 4


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    brokers = Cluster(tmp_path)
    brokers.start()
    asyncio.run(apply_topics(brokers.address, (DOCUMENTS, CHUNKS, DEAD_LETTERS)))
    yield brokers
    brokers.stop()


def documents(number: int, *, bad: bool) -> list[Outgoing]:
    """A batch; of every 50 documents one has no content where there may be `bad` ones."""
    made = []
    for i in range(A_BATCH):
        document = Document(doc_id=f"{number}-{i}", revision=1, media_type="text/plain", source="test", content=None if bad and i % 50 == 0 else b"x")
        made.append(Outgoing(DOCUMENTS.name, document.doc_id.encode(), CODEC.encode(document)))
    return made


async def account(broker: str) -> tuple[Counter[str], set[str]]:
    """How often each output is there, and the ids of those that must be."""
    wanted = {digest("echo", record.origin) for record in await read_all(broker, DOCUMENTS.name)}
    found = Counter(CODEC.decode(Chunk, record.value).chunk_id for record in await read_all(broker, CHUNKS.name))
    parked = Counter(CODEC.decode(DeadLetter, record.value).letter_id for record in await read_all(broker, DEAD_LETTERS.name))
    return found + parked, wanted


def until_settled(cluster: Cluster, fleet: Fleet, seconds: float) -> tuple[Counter[str], set[str]]:
    """What came of all, once it is all there, or once nothing has come for 20 seconds."""
    end, last, since = time.monotonic() + seconds, 0, time.monotonic()
    while True:
        fleet.heal()
        found, wanted = asyncio.run(account(cluster.address))
        if len(found) != last:
            last, since = len(found), time.monotonic()
        if wanted <= found.keys() or time.monotonic() > min(end, since + 20):
            return found, wanted
        time.sleep(1)


def run(cluster: Cluster, module: str, folder: Path, *, bad: bool) -> tuple[Counter[str], set[str], list[str]]:
    fleet = Fleet(lambda n: [sys.executable, "-m", module, cluster.address, "echo", str(folder / f"faust-{n}"), "30", "1"], folder)

    def flow(stop: threading.Event) -> None:
        for number in range(BATCHES):
            asyncio.run(publish(cluster.address, documents(number, bad=bad)))
            stop.wait(STORM_SECONDS / BATCHES)

    try:
        for _ in range(FEWEST):
            fleet.start()
        faults = worker_faults([fleet], FEWEST, MOST) | {"broker": broker_fault(cluster)}
        done = storm(faults, ("kill", "kill", "pause", "pause", "join", "leave", "broker"), [fleet], flow, STORM_SECONDS, (0.2, 2.5))
        found, wanted = until_settled(cluster, fleet, 180)
    finally:
        fleet.end()
    assert len(wanted) >= A_BATCH * BATCHES
    print(f"{Counter(done)}: {len(wanted)} in, {len(wanted - found.keys())} lost, {sum(n > 1 for n in found.values())} twice")
    return found, wanted, done


def test_each_input_is_accounted_for_once(cluster: Cluster, tmp_path: Path) -> None:
    found, wanted, done = run(cluster, "tests.support.echo_worker", tmp_path, bad=True)
    assert wanted - found.keys() == set(), done
    assert [i for i, n in found.items() if n > 1] == [], done
    assert found.keys() == wanted


def test_stock_faust_does_not_hold(cluster: Cluster, tmp_path: Path) -> None:
    found, wanted, _ = run(cluster, "tests.support.stock_worker", tmp_path, bad=False)
    assert wanted - found.keys() or [i for i, n in found.items() if n > 1]
