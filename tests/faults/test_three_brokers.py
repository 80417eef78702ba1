"""A cluster of three brokers under random faults: workers killed, paused, joined and ended, brokers killed and started again.

What comes out is read from the start and compared with what went in: each input once, echoed or parked. Stock Faust, with its own
commits, goes through the same and does not hold; else the faults would prove nothing. `make cluster` runs these, four minutes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
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

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
CODEC = Codec()
SEED = int(os.environ.get("LOOM_TEST_SEED", "11"))
STORM_SECONDS = float(os.environ.get("LOOM_TEST_STORM_SECONDS", "75"))
A_BATCH, BATCHES = 400, 25
FEWEST, MOST = 2, 4


class Fleet:
    """Workers of one kind; those that ended by themselves or were killed are started again, as a supervisor would."""

    def __init__(self, module: str, broker: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", module, broker, "echo"]
        self._folder, self._started = folder, 0
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._started += 1
        log = (self._folder / f"worker-{self._started}.log").open("wb")
        self.workers.append(subprocess.Popen([*self._command, str(self._folder / f"faust-{self._started}"), "30", "1"], stdout=subprocess.DEVNULL, stderr=log))

    def heal(self) -> None:
        """Starts as many as have ended."""
        ended = [worker for worker in self.workers if worker.poll() is not None]
        self.workers = [worker for worker in self.workers if worker not in ended]
        for _ in range(len(ended)):
            self.start()

    def end(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()


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


def storm(cluster: Cluster, fleet: Fleet, rng: random.Random, *, bad: bool) -> list[str]:
    """Faults for a while, as documents flow in; what was done."""
    done: list[str] = []
    stop = threading.Event()
    fault: list[BaseException] = []

    def flow() -> None:
        try:
            for number in range(BATCHES):
                asyncio.run(publish(cluster.address, documents(number, bad=bad)))
                stop.wait(STORM_SECONDS / BATCHES)
        except BaseException as error:
            fault.append(error)

    flowing = threading.Thread(target=flow)
    flowing.start()
    end = time.monotonic() + STORM_SECONDS
    while time.monotonic() < end:
        action = rng.choice(("kill", "kill", "pause", "pause", "join", "leave", "broker"))
        done.append(action)
        worker = rng.choice(fleet.workers)
        if action == "kill":
            worker.kill()
        elif action == "pause":
            worker.send_signal(signal.SIGSTOP)
            time.sleep(rng.choice((0.5, 9.0)))
            worker.send_signal(signal.SIGCONT)
        elif action == "join" and len(fleet.workers) < MOST:
            fleet.start()
        elif action == "leave" and len(fleet.workers) > FEWEST:
            worker.terminate()
            worker.wait(60)
            fleet.workers.remove(worker)
        elif action == "broker":
            node = rng.choice(cluster.nodes)
            node.kill()
            time.sleep(rng.uniform(0.5, 5))
            node.start()
        time.sleep(rng.uniform(0.2, 2.5))
        fleet.heal()
    flowing.join(120)
    assert not fault, fault
    return done


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
    fleet = Fleet(module, cluster.address, folder)
    try:
        for _ in range(FEWEST):
            fleet.start()
        done = storm(cluster, fleet, random.Random(SEED), bad=bad)
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
