"""Two replicas of `loom worker engine` behind the port of engines: the contract, one that is killed, one that hangs, and a new base epoch."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from inference.admission import has_effect
from inference.engines.remote import RemoteEngine
from inference.engines.vllm_server import VllmServer
from loom.bench.random_models import random_base
from loom.embedded.kafka import EmbeddedKafka, free_port
from runtime.artifacts import base_name, store
from runtime.errors import InvalidInput, Transient
from runtime.kafka import Outgoing, apply_topics
from runtime.objects import Objects
from runtime.project import load_project
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch
from schemas.topics import ADAPTERS, BASE
from tests.support.engine_contract import asked as prompt
from tests.support.engine_contract import check_engine, of_one_module
from tests.support.kafka import publish
from trainers.base_model import base_sha256

CODEC = Codec()
PROJECT = Path(__file__).parents[2] / "examples/pebblewire/loom.toml"
KEY = "kept-from-others"
START_SECONDS = 400
"""Of two vLLMs beside other tests."""
BASE_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass
class Fleet:
    """Running replicas, by their URLs in the order in which they change over."""

    broker: str
    prefix: str
    base: str
    urls: list[str]
    workers: list[asyncio.subprocess.Process]
    logs: Path

    async def epoch(self, number: int, sha256: str, version: AdapterVersion | None = None) -> str:
        """Makes base epoch `number` the current one; what its base is called."""
        events = [AdapterEvent(adapter="*", kind=AdapterEventKind.EPOCH, sequence=number + 1, epoch=BaseEpoch(epoch=number, base_uri=self.base, base_sha256=sha256, live={}))]
        if version:
            events.insert(0, AdapterEvent(adapter=BASE, kind=AdapterEventKind.VERSION, version=version))
        await publish(self.broker, [Outgoing(f"{self.prefix}{ADAPTERS.name}", event.adapter.encode(), CODEC.encode(event)) for event in events])
        return base_name(number, sha256)

    def engine(self, base: str) -> RemoteEngine:
        return RemoteEngine([VllmServer(url, base, key=KEY) for url in self.urls], base, Settings().engines_window)

    def processes(self, at: int) -> list[psutil.Process]:
        """What vLLM runs below a replica's worker, by the titles that it gives its processes."""
        return [child for child in psutil.Process(self.workers[at].pid).children(recursive=True) if " ".join(child.cmdline()).startswith("VLLM::")]


@asynccontextmanager
async def replicas(broker: str, prefix: str, folder: Path) -> AsyncIterator[Fleet]:
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    common = {"LOOM_BROKER": broker, "LOOM_PREFIX": prefix, "LOOM_PROJECT": str(PROJECT), "LOOM_OBJECTS": (folder / "objects").as_uri(), "LOOM_ENGINES": ", ".join(urls), "LOOM_ENGINES_KEY": KEY}
    workers = []
    for at, port in enumerate(ports):
        own = {"LOOM_ENGINE_PORT": str(port), "LOOM_DATA": str(folder / str(at)), "LOOM_SUPERVISOR": str(os.getpid())}
        with (folder / f"{at}.log").open("wb") as out:
            workers.append(await asyncio.create_subprocess_exec(sys.executable, "-m", "loom", "worker", "engine", env=os.environ | common | own, stdout=out, stderr=out))
    try:
        yield Fleet(broker, prefix, load_project(PROJECT).base_folder, urls, workers, folder)
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.terminate()
        await asyncio.wait_for(asyncio.gather(*(worker.wait() for worker in workers)), 60)


async def running(url: str) -> float:
    """Requests that a server says it works on."""
    async with httpx.AsyncClient() as client:
        told = (await client.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"})).text
    return sum(float(value) for value in re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", told, re.MULTILINE))


@pytest.mark.asyncio
@pytest.mark.timeout(900)
async def test_two_replicas_keep_the_contract_and_lose_no_request_as_they_die_hang_and_change_over(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    prefix = "replicas."
    await apply_topics(kafka.address, load_project(PROJECT).topics.values(), prefix)
    async with replicas(kafka.address, prefix, tmp_path) as fleet:
        first = await fleet.epoch(0, base_sha256(Path(fleet.base)))
        engine = fleet.engine(first)
        await asyncio.wait_for(engine.start(), START_SECONDS)
        async with asyncio.timeout(START_SECONDS):
            while len(engine.replicas()) < 2:
                await asyncio.sleep(0.2)
        try:
            await check_engine(engine, fleet.base, tmp_path / "contract", engines=len(fleet.urls))
            await no_request_outlives_its_client(engine, fleet)
            await a_key_is_asked_for(fleet, first)
            await requests_of_a_dead_replica_go_to_the_other(engine, fleet, tmp_path)
            await requests_of_a_replica_that_hangs_go_to_the_other(engine, fleet)
            await replicas_change_over_one_after_the_other(engine, fleet, tmp_path)
        finally:
            await engine.stop()


async def no_request_outlives_its_client(engine: RemoteEngine, fleet: Fleet) -> None:
    leaving = [asyncio.create_task(engine.generate(prompt(fleet.base, at), None, 'root ::= "b"{800}', 900)) for at in range(8)]
    async with asyncio.timeout(60):
        while sum([await running(url) for url in fleet.urls]) < len(leaving):
            await asyncio.sleep(0.05)
    assert all([await running(url) for url in fleet.urls]), "one replica has all requests"
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    async with asyncio.timeout(60):
        while any([await running(url) for url in fleet.urls]):
            await asyncio.sleep(0.05)


async def a_key_is_asked_for(fleet: Fleet, base: str) -> None:
    stranger = VllmServer(fleet.urls[0], base, key="another")
    with pytest.raises(Exception, match="401"):
        await stranger.generate(prompt(fleet.base), None, None, 4, None)
    await stranger.close()


async def requests_of_a_dead_replica_go_to_the_other(engine: RemoteEngine, fleet: Fleet, folder: Path) -> None:
    await engine.add("mood@1-aaaaaaaa", of_one_module(fleet.base, folder / "mood", 5))
    alone = await engine.generate(prompt(fleet.base), "mood@1-aaaaaaaa", None, 40)
    told: list[str] = []
    asked = [asyncio.create_task(engine.generate(prompt(fleet.base), "mood@1-aaaaaaaa", None, 40, told.append if at == 0 else None)) for at in range(300)]
    while not any(task.done() for task in asked):
        await asyncio.sleep(0.01)
    killed = fleet.processes(0)
    for process in killed:
        process.kill()
    answers = await asyncio.gather(*asked)
    assert {answer.text for answer in answers} == {alone.text}
    assert "".join(told) == alone.text
    await engine.add("mood@2-bbbbbbbb", of_one_module(fleet.base, folder / "mood2", 6))
    async with asyncio.timeout(START_SECONDS):
        while len(engine.replicas()) < 2:
            await asyncio.sleep(0.1)
    server = VllmServer(fleet.urls[0], "", key=KEY)
    assert not {*killed} & {*fleet.processes(0)}, "nothing died"
    assert (await server.look())[1] == engine.names() >= {"mood@1-aaaaaaaa", "mood@2-bbbbbbbb"}, "the replica that came back lacks what was added meanwhile"
    # another client of the same replica takes an adapter away: who still names it brings it back
    await server.unload("mood@1-aaaaaaaa")
    assert [(await engine.generate(prompt(fleet.base), "mood@1-aaaaaaaa", None, 40)).text for _ in range(2)] == [alone.text] * 2
    await server.close()


async def requests_of_a_replica_that_hangs_go_to_the_other(engine: RemoteEngine, fleet: Fleet) -> None:
    stopped = psutil.Process(fleet.workers[1].pid)
    asked = [asyncio.create_task(engine.generate(prompt(fleet.base, at), None, None, 24)) for at in range(40)]
    await asyncio.sleep(0.05)
    stopped.suspend()
    try:
        answers = await asyncio.wait_for(asyncio.gather(*asked), 60)
    finally:
        stopped.resume()
    assert all(answer.token_count for answer in answers)
    async with asyncio.timeout(60):
        while len(engine.replicas()) < 2:
            await asyncio.sleep(0.1)


async def replicas_change_over_one_after_the_other(engine: RemoteEngine, fleet: Fleet, folder: Path) -> None:
    objects = Objects((folder / "objects").as_uri())
    other = random_base(fleet.base, folder / "other", 128, 2)
    files = await store(objects, "adapters/base/1", other, [name for name in BASE_FILES if (other / name).exists()])
    version = AdapterVersion(
        version=1, engine_name="base@1-cccccccc", base_epoch=0, artifact_uri=f"{objects.url}/adapters/base/1", files=files, run_id="", recipe_hash="", manifest_sha256="", rank=0, metrics={}, verdict="",
    )  # fmt: skip
    before = await engine.probe(prompt(fleet.base), None)
    second = await fleet.epoch(1, base_sha256(other), version)
    new = fleet.engine(second)
    failures, answered, at_once = 0, 0, time.monotonic()

    async def ask_on(stop: asyncio.Event) -> None:
        """As those do who hold a lease: until the new engine serves."""
        nonlocal failures, answered
        while not stop.is_set():
            try:
                await engine.generate(prompt(fleet.base), None, None, 4)
                answered += 1
            except Transient:
                failures += 1
            await asyncio.sleep(0.02)

    stop = asyncio.Event()
    asking = asyncio.create_task(ask_on(stop))
    await asyncio.wait_for(new.start(), START_SECONDS)
    stop.set()
    await asking
    assert (failures, answered > 0) == (0, True), f"{failures} of {failures + answered} were not answered as the first replica changed over, {time.monotonic() - at_once:.0f} s"
    try:
        assert new.replicas() == [fleet.urls[0]]
        assert has_effect(before, before, await new.probe(prompt(fleet.base), None)), "the new engine answers with the old base"
        async with asyncio.timeout(START_SECONDS):
            while len(new.replicas()) < 2:
                await asyncio.sleep(0.1)
        assert not engine.healthy
        with pytest.raises(Transient, match=re.escape(second)):
            await engine.generate(prompt(fleet.base), None, None, 4)
        with pytest.raises(InvalidInput, match="not loaded"):
            await new.generate(prompt(fleet.base), "mood@1-aaaaaaaa", None, 4)
    finally:
        await new.stop()
