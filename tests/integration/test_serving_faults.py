"""The request shell under faults, with a service that answers at once: paused owners are fenced, nothing is answered twice."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing.forkserver
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from inference.engines.lorax import LoraxServer
from inference.engines.remote import RemoteEngine
from inference.engines.vllm import CPU_CACHE_BYTES, VllmEngine, slots
from inference.service import Answer
from inference.worker import AnswerStage, RequestShell
from loom.bench import events
from loom.embedded.kafka import EmbeddedKafka, free_port
from runtime.errors import InvalidInput, Transient
from runtime.in_flight import WAITING_RECORDS
from runtime.kafka import Outgoing, apply_topics, committed_offsets, consumer, partitions_of
from runtime.machine import COMPUTE_NICENESS, cores
from runtime.precision import is_bfloat16_faster
from runtime.project import load_project
from runtime.tasks.prompt import load_tokenizer
from runtime.transactions import PartitionTransactions
from schemas.codec import Codec
from schemas.events import CompletionStatus, Request, RequestCompleted
from tests.support.engine_contract import SLOTS, asked, check_engine, of_one_module
from tests.support.kafka import publish, read_all
from tests.support.lorax_server import lorax
from trainers.plan import FULL, HALF, serving, shape_of

CODEC = Codec()
IN_MEMORY = 12
"""Adapters that the engine's memory has room for."""
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROJECT = Path(__file__).parents[2] / "examples/pebblewire/loom.toml"


class Instant:
    """Answers every request with an empty last word."""

    async def answer(self, request: Request, now_ms: int) -> Answer:
        return Answer((), RequestCompleted(request_id=request.request_id, status=CompletionStatus.UNKNOWN, error=None))


async def until_answered(broker: str, prefix: str, count: int, seconds: float = 60) -> Counter[str]:
    for _ in range(int(seconds / 0.5)):
        words = Counter(CODEC.decode(RequestCompleted, r.value).request_id for r in await read_all(broker, f"{prefix}results.completed"))
        if len(words) >= count:
            return words
        await asyncio.sleep(0.5)
    raise AssertionError(f"{len(words)} of {count} answered")


async def send(broker: str, prefix: str, numbers: range) -> None:
    requests = [Request(request_id=str(i), conversation_id=str(i), text="hi", tools=None, adapter_id=None, deadline_ms=None, served=None) for i in numbers]
    await publish(broker, [Outgoing(f"{prefix}requests", r.conversation_id.encode(), CODEC.encode(r)) for r in requests])


@pytest.mark.asyncio
async def test_members_join_and_leave_and_every_request_is_answered_once(kafka: EmbeddedKafka) -> None:
    prefix = "join."
    await apply_topics(kafka.address, load_project(PROJECT).topics.values(), prefix)
    await send(kafka.address, prefix, range(400))
    stops, tasks = [], []
    for member in range(3):
        stop = asyncio.Event()
        shell = RequestShell(f"{prefix}inference", kafka.address, AnswerStage(Instant(), CODEC, prefix), CODEC, prefix, 6)  # type: ignore[arg-type]
        stops.append(stop)
        tasks.append(asyncio.create_task(shell.run(stop)))
        await asyncio.sleep(1.0)
        await send(kafka.address, prefix, range(400 + 100 * member, 500 + 100 * member))
        if member:
            stops[member - 1].set()
    words = await until_answered(kafka.address, prefix, 700)
    stops[-1].set()
    await asyncio.gather(*tasks)
    assert {i: n for i, n in words.items() if n != 1} == {}
    assert len(words) == 700


@pytest.mark.asyncio
async def test_a_fenced_shell_starts_over_and_its_open_transaction_counts_for_nothing(kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "fence."
    await apply_topics(kafka.address, load_project(PROJECT).topics.values(), prefix)
    await send(kafka.address, prefix, range(200))
    commit = PartitionTransactions.commit
    stolen: list[Any] = []

    async def steal(self: PartitionTransactions, epoch: int, partition: Any, *arguments: Any) -> bool:
        if len(stolen) < 2:
            stolen.append(partition)
            thief = self._connect(f"{prefix}inference.{partition.topic}.{partition.partition}")
            await thief.start()
            await thief.stop()
        return await commit(self, epoch, partition, *arguments)

    monkeypatch.setattr(PartitionTransactions, "commit", steal)
    stop = asyncio.Event()
    shell = RequestShell(f"{prefix}inference", kafka.address, AnswerStage(Instant(), CODEC, prefix), CODEC, prefix, 6)  # type: ignore[arg-type]
    task = asyncio.create_task(shell.run(stop))
    words = await until_answered(kafka.address, prefix, 200)
    stop.set()
    await task
    assert len(stolen) == 2
    assert {i: n for i, n in words.items() if n != 1} == {}
    assert len(words) == 200


@pytest.mark.asyncio
async def test_idempotent_delivery_loses_nothing_and_writes_again_what_was_not_noted_as_done(kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "again."
    await apply_topics(kafka.address, load_project(PROJECT).topics.values(), prefix)
    await send(kafka.address, prefix, range(200))
    commit, failed = AIOKafkaConsumer.commit, list[dict[TopicPartition, OffsetAndMetadata]]()

    async def fail_twice(self: AIOKafkaConsumer, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        if len(failed) < 2:
            failed.append(offsets)
            raise CommitFailedError
        await commit(self, offsets)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", fail_twice)
    stops = [asyncio.Event(), asyncio.Event()]
    shells = [RequestShell(f"{prefix}inference", kafka.address, AnswerStage(Instant(), CODEC, prefix), CODEC, prefix, 6, "idempotent") for _ in stops]  # type: ignore[arg-type]
    tasks = [asyncio.create_task(shells[0].run(stops[0]))]
    await until_answered(kafka.address, prefix, 200)
    tasks.append(asyncio.create_task(shells[1].run(stops[1])))  # a rebalance, as more requests come
    await send(kafka.address, prefix, range(200, 500))
    words = await until_answered(kafka.address, prefix, 500)
    for stop in stops:
        stop.set()
    await asyncio.gather(*tasks)
    assert len(failed) == 2
    assert len(words) == 500
    assert max(words.values()) > 1, "what was written before its offset failed is written again"
    noted = await committed_offsets(kafka.address, f"{prefix}inference", await partitions_of(kafka.address, [f"{prefix}requests"]))
    assert sum(at.offset for at in noted.values() if at) == 500


class Starting:
    """Has no engine yet."""

    async def answer(self, request: Request, now_ms: int) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.asyncio
async def test_a_worker_stops_though_more_requests_wait_for_its_engine_than_it_takes_in(kafka: EmbeddedKafka) -> None:
    prefix = "full."
    await apply_topics(kafka.address, load_project(PROJECT).topics.values(), prefix)
    await send(kafka.address, prefix, range(WAITING_RECORDS + 400))
    stop = asyncio.Event()
    shell = RequestShell(f"{prefix}inference", kafka.address, AnswerStage(Starting(), CODEC, prefix), CODEC, prefix, 6)  # type: ignore[arg-type]
    running = asyncio.create_task(shell.run(stop))
    while shell._work._records < WAITING_RECORDS:
        await asyncio.sleep(0.1)
    stop.set()
    await asyncio.wait_for(running, 10)


class Held(Instant):
    """Answers when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def answer(self, request: Request, now_ms: int) -> Answer:
        await self.may.wait()
        return await super().answer(request, now_ms)


@pytest.mark.asyncio
async def test_while_more_waits_than_may_partitions_pause_and_their_owner_stays_one(kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    # a broker that other tests leave no core to for six seconds takes members for dead too, by their heartbeats: that is another test's matter
    session_seconds = 60
    prefix, count, service, stop = "pause.", WAITING_RECORDS + 400, Held(), asyncio.Event()

    def impatient(*arguments: Any, **options: Any) -> AIOKafkaConsumer:
        """A member that is taken for dead when it asks for nothing in three seconds, instead of five minutes."""
        client = consumer(*arguments, **options)
        client._max_poll_interval_ms = 3000
        return client

    monkeypatch.setattr("inference.worker.consumer", impatient)
    await apply_topics(kafka.address, load_project(PROJECT).topics.values(), prefix)
    await send(kafka.address, prefix, range(count))
    shell = RequestShell(f"{prefix}inference", kafka.address, AnswerStage(service, CODEC, prefix), CODEC, prefix, session_seconds)  # type: ignore[arg-type]
    holds, take_over = list[int](), shell.take_over

    async def counted(assigned: Sequence[TopicPartition]) -> None:
        holds.append(len(assigned))
        await take_over(assigned)

    monkeypatch.setattr(shell, "take_over", counted)
    running = asyncio.create_task(shell.run(stop))
    async with asyncio.timeout(60):
        while not (shell._client and shell._client.paused()):
            await asyncio.sleep(0.1)
    await asyncio.sleep(6)
    assert len(holds) == 1, "the member was taken for dead while it waited"
    service.may.set()
    words = await until_answered(kafka.address, prefix, count)
    assert not shell._client.paused()
    stop.set()
    await running
    assert (len(words), max(words.values())) == (count, 1)


@pytest.fixture
def own_fork_server() -> None:
    """Python has one fork server a process: that of an earlier test's trainer has not imported what keeps vLLM from spinning."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.mark.asyncio
@pytest.mark.usefixtures("own_fork_server")
async def test_an_engine_that_starts_can_be_stopped_and_leaves_no_process() -> None:
    def command(process: psutil.Process) -> str:
        try:
            return " ".join(process.cmdline())
        except psutil.NoSuchProcess:  # or one that has ended and nobody waited for
            return ""

    def running() -> set[psutil.Process]:
        """What runs below this process, without the servers that Python's multiprocessing keeps."""
        servers = {child for child in psutil.Process().children() if "multiprocessing" in command(child)}
        return {process for process in psutil.Process().children(recursive=True) if process not in servers and command(process)}

    def engines() -> list[psutil.Process]:
        """By the title that vLLM gives its processes: an import too runs programs, which say what machine this is."""
        return [process for process in running() if command(process).startswith("VLLM::")]

    before = running()
    starting = asyncio.create_task(VllmEngine(load_project(PROJECT).base_folder).start())
    while not engines():
        assert not starting.done()
        await asyncio.sleep(0.2)
    began = time.monotonic()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert time.monotonic() - began < 20
    assert not engines()
    while left := running() - before:
        assert time.monotonic() - began < 20, left
        await asyncio.sleep(0.2)


@pytest.mark.asyncio
@pytest.mark.usefixtures("own_fork_server")
async def test_an_engine_compiles_nothing_leaves_the_cores_alone_between_requests_and_a_second_one_starts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    others = set(psutil.Process().children(recursive=True))  # brokers of earlier tests have work of their own

    def spent() -> float:
        """Seconds of the processor that the engine's processes have had."""
        times = [child.cpu_times() for child in psutil.Process().children(recursive=True) if child not in others]
        return float(sum(t.user + t.system for t in times))

    base = load_project(PROJECT).base_folder
    first, second = VllmEngine(base), VllmEngine(base)
    await first.start()
    try:
        await first.generate([5, 6, 7], None, None, 4)
        imported_too = spent()
        assert list(tmp_path.iterdir()) == []
        before = spent()
        await asyncio.sleep(1)  # for so long vLLM would try whether there is more to do
        assert spent() - before < 0.3
        before = spent()
        await second.start()
        assert spent() - before < imported_too / 2  # of the processor's time: engines are behind all that runs beside them
        assert (await second.generate([5, 6, 7], None, None, 4)).token_count == 4
    finally:
        await first.stop()
        await second.stop()


@pytest.mark.asyncio
@pytest.mark.usefixtures("own_fork_server")
@pytest.mark.parametrize(("how", "left"), [({"cores_left": 0}, 0), ({}, 1)], ids=["alone", "as in a worker"])
async def test_an_engine_on_a_cpu_leaves_cores_to_others(monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], left: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores()))  # tests side by side have one each
    engine = VllmEngine(load_project(PROJECT).base_folder, **how)
    await engine.start()
    try:
        assert await engine.client.collective_rpc("threads") == [max(1, cores() - left)]
        assert (await engine.generate([5, 6, 7], None, None, 2)).token_count == 2
    finally:
        await engine.stop()


@pytest.mark.asyncio
async def test_vllm_keeps_the_contract_of_engines(tmp_path: Path, kafka: EmbeddedKafka) -> None:
    base = load_project(PROJECT).base_folder
    assert slots(base, 16) > SLOTS
    engine = VllmEngine(base, max_loras=SLOTS, max_cpu_loras=IN_MEMORY)
    await engine.start()
    try:
        assert gc.get_freeze_count() > 100_000, "what vLLM imports is looked at again and again, half a second each time"
        shape = shape_of(base)
        assert abs(engine.cache_tokens - CPU_CACHE_BYTES // serving(shape, 16, 4, 24 << 30, 1024, HALF if is_bfloat16_faster() else FULL).token_bytes) < 256  # of what `loom plan` says, to a block
        its_processes_compute_behind_this_one_in_large_pages()
        await check_engine(engine, base, tmp_path / "vllm")
        await a_lorax_client_keeps_it_too(engine, base, tmp_path / "lorax")
        await what_is_pinned_stays_and_what_is_expected_comes_back(engine, base, tmp_path / "many")
        await who_does_not_listen_is_told_once(engine, base)
        await requests_reach_it_as_the_benchmark_sends_them(engine, base, kafka.address, tmp_path)
        await one_that_dies_as_it_loads_refuses_nothing(engine, base, tmp_path / "last")
    finally:
        await engine.stop()


def its_processes_compute_behind_this_one_in_large_pages() -> None:
    found = [child for child in psutil.Process().children(recursive=True) if " ".join(child.cmdline()).startswith("VLLM::")]
    assert len(found) > 1
    for process in found:
        assert process.nice() == max(psutil.Process().nice(), COMPUTE_NICENESS)
    if LARGE_PAGES.exists() and "[never]" not in LARGE_PAGES.read_text():
        assert any(not line.endswith(" 0 kB") for process in found for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines() if line.startswith("AnonHugePages"))


async def what_is_pinned_stays_and_what_is_expected_comes_back(engine: VllmEngine, base: str, folder: Path) -> None:
    """In a memory with less room than there are adapters."""

    async def in_memory() -> set[str]:
        there = await engine.client.list_loras()
        return {name for name, request in engine._loaded.items() if request.lora_int_id in there}

    names = [f"many@{number}-0123abcd" for number in range(IN_MEMORY + 4)]
    for number, name in enumerate(names):
        await engine.add(name, of_one_module(base, folder / name, number))
        if number < SLOTS:
            assert await engine.pin(name) is (number < SLOTS - 1), "one place is for those that are not pinned"
    assert await engine.pin(names[0])
    for name in names:
        await engine.probe(asked(base), name)
    assert await in_memory() == {*names[: SLOTS - 1], *names[-(IN_MEMORY - SLOTS + 1) :]}
    told = await engine.probe(asked(base), names[-1])
    out = names[SLOTS]
    engine.expect(out)
    engine.expect(names[-1])
    async with asyncio.timeout(30):
        while out not in await in_memory():
            await asyncio.sleep(0.05)
    assert {*names[: SLOTS - 1]} <= await in_memory()
    assert await engine.probe(asked(base), names[-1]) == told
    for name in names:
        await engine.remove(name)
    assert not await engine.client.list_loras()


async def who_does_not_listen_is_told_once(engine: VllmEngine, base: str) -> None:
    """Each output wakes the process that asks, which takes a core from the engine."""
    told: list[int] = []
    generate = engine.client.generate

    async def counted(*given: Any, **named: Any) -> AsyncIterator[Any]:
        told.append(0)
        async for output in generate(*given, **named):
            told[-1] += 1
            yield output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.client, "generate", counted)
        for hear in (None, lambda _: None):
            assert (await engine.generate(asked(base), None, 'root ::= "a"{20}', 28, hear)).text == "a" * 20
    assert told[0] == 1 < told[1]


async def requests_reach_it_as_the_benchmark_sends_them(engine: VllmEngine, base: str, broker: str, folder: Path) -> None:
    project = folder / "loom.toml"
    project.write_text(events.PROJECT.format(base=Path(base).resolve()))
    bench = events.Bench(engine, broker, project)
    for way in ("idempotent", "exactly-once"):
        found = await bench.through(way, 0, 5)
        assert len(found.took) == 5
        assert all(0 < inside < whole for whole, inside in zip(found.took, found.in_engine, strict=True))
    assert await bench.short_before_long(await bench.answered_at_length()) > 0, "a short request waited for a long one that came before it through Kafka"
    bound, free, valid = await bench.structured("act", 3)
    assert (len(bound), valid) == (len(free), 1.0)


async def one_that_dies_as_it_loads_refuses_nothing(engine: VllmEngine, base: str, folder: Path) -> None:
    """A version that it was just loading is none that it can't load."""
    core = [child for child in psutil.Process().children(recursive=True) if " ".join(child.cmdline()).startswith("VLLM::")]
    for process in core:
        process.suspend()
    loading = asyncio.create_task(engine.add("last@1-0123abcd", of_one_module(base, folder, 1)))
    await asyncio.sleep(0.5)
    assert not loading.done()
    for process in core:
        process.kill()
    with pytest.raises(Transient, match="the engine died"):
        await asyncio.wait_for(loading, 60)
    assert not engine.healthy


async def a_lorax_client_keeps_it_too(engine: VllmEngine, base: str, folder: Path) -> None:
    """Against a server that speaks LoRAX's protocol over the same vLLM."""
    name, port = "base@0-0123abcd", free_port()
    async with lorax(engine, base, name, port) as server:
        remote = RemoteEngine([LoraxServer(f"http://127.0.0.1:{port}", load_tokenizer(base))], name, 64)
        await asyncio.wait_for(remote.start(), 30)
        try:
            await check_engine(remote, base, folder, steers=False)
            assert all(asked["parameters"]["do_sample"] is False for asked in server.asked)
            with pytest.raises(InvalidInput, match="no text has just these tokens"):
                await remote.generate([token for letter in "lamp" for token in load_tokenizer(base).encode(letter)], None, None, 4)
        finally:
            await remote.stop()
        stranger = RemoteEngine([LoraxServer(f"http://127.0.0.1:{port}", load_tokenizer(base))], "base@1-0123abcd", 64)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stranger.start(), 1)


STOPPED_EARLY = """
import asyncio, time
from inference.engines.vllm import VllmEngine

async def main():
    starting = asyncio.create_task(VllmEngine("models/base").start())
    await asyncio.sleep(1)
    starting.cancel()
    began = time.monotonic()
    await asyncio.wait([starting])
    print(starting.cancelled(), time.monotonic() - began < 1)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_who_is_told_to_stop_does_not_wait_for_the_import_of_vllm(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:  # no pipe, which the fork server would hold open
        ended = subprocess.run([sys.executable, "-W", "ignore", "-c", STOPPED_EARLY], cwd=PROJECT.parents[2], stdout=out, timeout=10, check=True)
    assert (ended.returncode, (tmp_path / "out").read_text().strip()) == (0, "True True")
