"""A stream worker is killed or paused at the worst moments of a transaction: nothing lost, nothing twice.

The readers are read_committed. Every input is either echoed or in the dead letters, exactly once.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loom.embedded.kafka import EmbeddedKafka
from runtime.ids import digest
from runtime.kafka import Outgoing, apply_topics
from schemas.codec import Codec
from schemas.events import Chunk, DeadLetter, Document
from schemas.topics import CHUNKS, DEAD_LETTERS, DOCUMENTS
from streams.shell import StreamShell
from tests.support.echo_worker import Echo
from tests.support.kafka import publish, read_all

CODEC = Codec()
Start = Callable[..., subprocess.Popen[str]]


def documents(count: int, salt: str) -> list[Outgoing]:
    """`count` documents, every 50th of them without content."""
    return [
        Outgoing(
            "documents",
            f"{salt}-{i}".encode(),
            CODEC.encode(Document(doc_id=f"{salt}-{i}", revision=1, media_type="text/plain", source="test", title=None, content=None if i % 50 == 0 else b"x", claim_check=None)),
        )
        for i in range(count)
    ]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker of the test's own, so that a topic holds this test's records alone."""
    from loom.embedded.kafka import free_port

    kafka = EmbeddedKafka(tmp_path / "kafka", free_port())
    kafka.start()
    asyncio.run(apply_topics(kafka.address, (DOCUMENTS, CHUNKS, DEAD_LETTERS)))
    yield kafka
    kafka.stop()


@pytest.fixture
def start(broker: EmbeddedKafka, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker: `start(milliseconds_inside_each_transaction, milliseconds_of_work_a_record)`."""
    workers: list[subprocess.Popen[str]] = []

    def begin(inside: int, work: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.echo_worker", broker.address, "echo", str(tmp_path / f"faust-{len(workers)}"), str(inside), str(work)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(tmp_path / f"worker-{len(workers)}.log").open("w"), text=True))
        assert workers[-1].stdout is not None
        assert workers[-1].stdout.readline() == "up\n"
        return workers[-1]

    yield begin
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()


def until_open(worker: subprocess.Popen[str]) -> None:
    """Returns when the worker has a transaction open."""
    assert worker.stdout is not None
    assert worker.stdout.readline() == "open\n"


async def account(broker: str, inputs: list[Outgoing], seconds: float = 90) -> tuple[Counter[str], Counter[str]]:
    """How often each input was echoed and parked, once all have been, or after `seconds`."""
    expected = {(f"{r.topic}/{r.partition}/{r.offset}"): r for r in await read_all(broker, "documents")}
    assert len(expected) == len(inputs)
    end = time.monotonic() + seconds
    while True:
        echoed = Counter(CODEC.decode(Chunk, r.value).chunk_id for r in await read_all(broker, "chunks"))
        parked = Counter(CODEC.decode(DeadLetter, r.value).letter_id for r in await read_all(broker, "dead-letters"))
        if len(echoed) + len(parked) >= len(inputs) or time.monotonic() > end:
            assert set(echoed) | set(parked) == {digest("echo", o) for o, r in expected.items() if CODEC.decode(Document, r.value).content} | {
                digest("echo", o) for o, r in expected.items() if not CODEC.decode(Document, r.value).content
            }
            return echoed, parked
        await asyncio.sleep(1)


async def outputs(broker: str, count: int, seconds: float = 60) -> list[tuple[str, int]]:
    """The ids of all that came out, with how often, once there are `count` of them; also what came a little later."""
    end = time.monotonic() + seconds
    while True:
        out = Counter([CODEC.decode(Chunk, r.value).chunk_id for r in await read_all(broker, "chunks")] + [CODEC.decode(DeadLetter, r.value).letter_id for r in await read_all(broker, "dead-letters")])
        if len(out) >= count:
            return list(out.items())
        assert time.monotonic() < end, f"{len(out)} of {count}"
        await asyncio.sleep(0.5)


def assert_each_once(broker: EmbeddedKafka, inputs: list[Outgoing]) -> None:
    """Nothing lost, nothing twice."""
    echoed, parked = asyncio.run(account(broker.address, inputs))
    assert [i for i, n in (echoed + parked).items() if n != 1] == []
    assert len(parked) == sum(CODEC.decode(Document, r.value).content is None for r in inputs)


def test_killed_inside_transactions(broker: EmbeddedKafka, start: Start) -> None:
    inputs = documents(4000, "kill")
    asyncio.run(publish(broker.address, inputs))
    for _ in range(3):
        worker = start(300)
        until_open(worker)
        worker.kill()
    start(0)
    assert_each_once(broker, inputs)


@pytest.mark.parametrize("paused_for_seconds", [9])
def test_zombie_wakes_up_before_its_offsets_are_sent(broker: EmbeddedKafka, start: Start, paused_for_seconds: int) -> None:
    inputs = documents(3000, "zombie")
    asyncio.run(publish(broker.address, inputs))
    zombie = start(1500)
    until_open(zombie)
    zombie.send_signal(signal.SIGSTOP)
    heir = start(0)
    time.sleep(paused_for_seconds)
    zombie.send_signal(signal.SIGCONT)
    assert_each_once(broker, inputs)
    assert zombie.wait(20) == 70
    assert heir.poll() is None


def test_a_slow_document_holds_up_its_later_revisions_alone(broker: EmbeddedKafka, start: Start, tmp_path: Path) -> None:
    """What was done beyond it is not done again after a crash, and its own revisions stay in order."""
    gate = tmp_path / "go"
    slow = [
        Outgoing(
            "documents", b"slow", CODEC.encode(Document(doc_id="slow", revision=n, media_type="test/wait", source="test", title=None, content=str(gate).encode(), claim_check=None))
        )
        for n in (1, 2, 3)
    ]  # fmt: skip
    others = documents(2000, "other")
    asyncio.run(publish(broker.address, [*slow, *others]))
    worker = start(0)
    assert {n for _, n in asyncio.run(outputs(broker.address, len(others)))} == {1}
    worker.kill()
    heir = start(0)
    assert len(asyncio.run(outputs(broker.address, len(others)))) == len(others)
    gate.touch()
    assert_each_once(broker, [*slow, *others])
    echoed = [CODEC.decode(Chunk, r.value) for r in asyncio.run(read_all(broker.address, "chunks"))]
    assert [chunk.revision for chunk in echoed if chunk.doc_id == "slow"] == [1, 2, 3]
    assert heir.poll() is None


@pytest.mark.parametrize("work", [0, 100])
def test_workers_join_and_leave(broker: EmbeddedKafka, start: Start, work: int) -> None:
    """With slow work, a batch is begun after its partitions went, and ends after they came back: it must not commit."""
    rng = random.Random(7)
    first, second = documents(3000, "join"), documents(1500, "later")
    asyncio.run(publish(broker.address, first))
    start(50, work)
    for _ in range(2):
        guest = start(50, work)
        time.sleep(rng.uniform(2, 4))
        guest.terminate()
        assert guest.wait(20) == 0
    asyncio.run(publish(broker.address, second))
    assert_each_once(broker, first + second)


def test_a_part_of_faust_that_fails_ends_the_worker(broker: EmbeddedKafka, tmp_path: Path) -> None:
    """Faust only logs it, and reads nothing any more."""

    async def run() -> BaseException:
        failed: asyncio.Queue[BaseException] = asyncio.Queue()
        shell = StreamShell("crash", broker.address, [Echo(0)], folder=tmp_path / "faust", on_fatal=failed.put_nowait)
        await shell.start()
        await shell.app.consumer.crash(ValueError("the consumer's"))
        error = await asyncio.wait_for(failed.get(), 10)
        await shell.stop()
        return error

    assert str(asyncio.run(run())) == "the consumer's"
