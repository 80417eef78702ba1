"""Candidates beside what is live, on a real broker and a real engine: rolled back by what users say, promoted by it, shadowed; also by a coordinator that starts anew. And the engine is killed under load."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.engines.vllm import VllmEngine
from inference.residency import Residency
from inference.service import Service
from inference.shadows import Shadows
from inference.worker import AnswerStage, RequestShell
from loom.bench.random_models import random_version
from loom.embedded.kafka import EmbeddedKafka
from runtime.encoder import minilm
from runtime.kafka import Outgoing, apply_topics, producer
from runtime.objects import Objects
from runtime.project import Adapter, Canary, Project, load_project
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, Feedback, FeedbackVerdict, Request, RequestCompleted, Result, ResultStatus, RunStatus, TrainingRun
from tests.support.kafka import publish, read_all
from trainers.base_model import base_sha256
from trainers.coordinator import Coordinator

CODEC = Codec()
HUNG_SECONDS = 240
"""The first answer waits for vLLM, which other tests on these cores may slow down to minutes."""
PREFIX = "trials."
BASE = load_project(Path(__file__).parents[2] / "examples/pebblewire/loom.toml").base_folder
CANARY = Canary(share=0.5, min_answers=20, min_feedback=15, max_worse=0.35)
SHADOW = Canary(share=0.5, shadow=True, min_answers=20, max_worse=0.35)


def project_with(canary: Canary) -> Project:
    return Project(base={"model": BASE}, adapters={"mood": Adapter(task="classify", result="moods", labels=("NEGATIVE", "NEUTRAL", "POSITIVE", "MIXED"), canary=canary)})  # type: ignore[arg-type]


@dataclass
class System:
    """A broker with an inference worker's parts."""

    broker: str
    residency: Residency
    engines: list[VllmEngine]
    objects: Objects
    folder: Path
    asked: int = 0

    async def send(self, topic: str, key: str, *events: Any) -> None:
        await publish(self.broker, [Outgoing(PREFIX + topic, key.encode(), CODEC.encode(event)) for event in events])

    async def publish(self, number: int) -> AdapterVersion:
        """What a trainer writes of a version that passed its gate."""
        version = await random_version(BASE, base_sha256(Path(BASE)), self.folder, self.objects, "mood", number)
        run = TrainingRun(run_id=version.run_id, adapter="mood", base_epoch=0, status=RunStatus.REQUESTED, version=number)
        await self.send("training-runs", run.run_id, run)
        await self.send("adapters", "mood", AdapterEvent(adapter="mood", kind=AdapterEventKind.VERSION, version=version))
        await self.send("training-runs", run.run_id, replace(run, status=RunStatus.PUBLISHED))
        return version

    async def ask(self, conversations: int, turns: int) -> list[Result]:
        """What so many new conversations are answered."""
        first, self.asked = self.asked, self.asked + conversations
        requests = [Request(request_id=f"{at}/{turn}", conversation_id=f"c{at}", text=f"this is number {at}", adapter_id="mood") for at in range(first, self.asked) for turn in range(turns)]
        for request in requests:
            await self.send("requests", request.conversation_id, request)
        wanted = {request.request_id for request in requests}
        return await self.until("results.moods", lambda results: wanted <= {result.request_id for result in results}, wanted)

    async def until(self, topic: str, holds: Callable[[Sequence[Result]], bool], requests: set[str]) -> list[Result]:
        async with asyncio.timeout(HUNG_SECONDS):
            while not holds(found := [one for one in [CODEC.decode(Result, r.value) for r in await read_all(self.broker, PREFIX + topic)] if one.request_id in requests]):
                await asyncio.sleep(0.2)
        return found

    async def say(self, results: Sequence[Result], verdicts: dict[int | None, FeedbackVerdict]) -> None:
        """What users say of results, by the version that gave them."""
        for result in results:
            await self.send("feedback", result.request_id, Feedback(feedback_id=f"f{result.result_id}", request_id=result.request_id, result_id=result.result_id, verdict=verdicts[result.version]))

    async def alias(self, holds: Callable[[AdapterEvent], bool]) -> AdapterEvent:
        """The registry's last alias record, once it is such a one."""
        async with asyncio.timeout(HUNG_SECONDS):
            while True:
                events = [CODEC.decode(AdapterEvent, r.value) for r in await read_all(self.broker, f"{PREFIX}adapters")]
                last = [event for event in events if event.kind is AdapterEventKind.ALIAS][-1:]
                if last and holds(last[0]):
                    return last[0]
                await asyncio.sleep(0.2)

    async def answers(self, live: AdapterVersion, candidate: AdapterVersion | None = None) -> None:
        """Returns when these answer, and the engine has no other."""
        both = frozenset(one.engine_name for one in (live, candidate) if one)
        async with asyncio.timeout(HUNG_SECONDS):
            while (self.residency.live(), self.residency.candidates(), self.engines[-1].names()) != ({"mood": live}, {"mood": candidate} if candidate else {}, both):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def serving(broker: str, folder: Path) -> AsyncIterator[System]:
    project, engines, stop, nobody = project_with(CANARY), list[VllmEngine](), asyncio.Event(), list[str]()
    await apply_topics(broker, project.topics.values(), PREFIX)

    def engine(base: str, _: str) -> VllmEngine:
        engines.append(VllmEngine(base))
        return engines[-1]

    async def refuse(version: AdapterVersion, reason: str) -> None:
        nobody.append(f"{version.engine_name}: {reason}")

    objects, tokenizer, shadows = Objects((folder / "objects").as_uri()), load_tokenizer(BASE), Shadows(lambda: producer(broker), CODEC, PREFIX)
    residency = Residency(project, broker, engine, objects, tokenizer, folder / "fetched", refuse, PREFIX)
    no_router: Any = None
    service = Service(project, no_router, residency, tokenizer, Shortlist(minilm().encode), shadows)
    running = [asyncio.create_task(one.run(stop)) for one in (residency, RequestShell(f"{PREFIX}inference", broker, AnswerStage(service, CODEC, PREFIX), CODEC, PREFIX))]
    try:
        yield System(broker, residency, engines, objects, folder)
    finally:
        stop.set()
        await asyncio.gather(*running)
        await shadows.stop()
    assert not nobody


@asynccontextmanager
async def coordinating(broker: str, canary: Canary) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(Coordinator(project_with(canary), broker, PREFIX).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


@pytest.mark.asyncio
@pytest.mark.timeout(900)
async def test_a_candidate_is_tried_beside_the_live_version_and_stays_or_goes_by_its_answers(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    async with serving(kafka.address, tmp_path) as system:
        async with coordinating(kafka.address, CANARY):
            first = await system.publish(1)
            await system.alias(lambda event: event.alias is not None and event.alias.live_version == 1)
            assert {result.version for result in await system.ask(2, 1)} == {1}
            second = await system.publish(2)
            await system.alias(lambda event: event.alias is not None and event.alias.canary_version == 2)
            await system.answers(first, second)
            # each conversation stays with its version; users don't like the candidate's
            results = await system.ask(60, 2)
            by_conversation = defaultdict(set)
            for result in results:
                by_conversation[result.text].add(result.version)
            assert all(len(versions) == 1 for versions in by_conversation.values())
            counts = Counter(result.version for result in results)
            assert counts.keys() == {1, 2}
            assert counts[2] > 30, "half of sixty conversations"
            await system.say(results, {1: FeedbackVerdict.ACCEPTED, 2: FeedbackVerdict.CORRECTED})
            event = await system.alias(lambda event: event.alias is not None and not event.alias.canary_version)
            assert (event.alias and event.alias.live_version, (event.reason or "").startswith("worse than the live version")) == (1, True)
            await system.answers(first)
            assert {result.version for result in await system.ask(10, 1)} == {1}
            third = await system.publish(3)
            await system.alias(lambda event: event.alias is not None and event.alias.canary_version == 3)
            await system.answers(first, third)
            results = await system.ask(60, 1)
        # a coordinator that starts anew finds what was answered before
        await system.say(results, {1: FeedbackVerdict.ACCEPTED, 3: FeedbackVerdict.ACCEPTED})
        async with coordinating(kafka.address, CANARY):
            event = await system.alias(lambda event: event.alias is not None and event.alias.live_version == 3)
            assert (event.reason or "").startswith("no worse than the live version")
            await system.answers(third)
        async with coordinating(kafka.address, SHADOW):
            fourth = await system.publish(4)
            event = await system.alias(lambda event: event.alias is not None and event.alias.canary_version == 4)
            assert event.alias and event.alias.shadow
            await system.answers(third, fourth)
        # nobody decides meanwhile: twenty of its answers would do, and who asks after that is answered by what has become live
        results = await system.ask(60, 1)
        assert {result.version for result in results} == {3}, "a shadow answers nobody"
        async with coordinating(kafka.address, SHADOW):
            event = await system.alias(lambda event: event.alias is not None and event.alias.live_version == 4)
            assert " answers are the live one's" in (event.reason or "")
            await system.answers(fourth)
            requests = {result.request_id for result in results}
            shadows = await system.until("shadows", lambda found: len(found) > 20, requests)
            assert {(result.version, result.engine_name, result.status) for result in shadows} == {(4, fourth.engine_name, ResultStatus.OK)}
            assert len({result.request_id for result in shadows}) == len(shadows)
            await an_engine_that_is_killed_comes_back_and_every_request_has_its_one_result(system, fourth)


async def an_engine_that_is_killed_comes_back_and_every_request_has_its_one_result(system: System, live: AdapterVersion) -> None:
    first, count = system.asked, 300
    requests = [Request(request_id=f"k{at}", conversation_id=f"k{at}", text=f"this is number {at}", adapter_id="mood") for at in range(first, first + count)]
    await publish(system.broker, [Outgoing(f"{PREFIX}requests", request.conversation_id.encode(), CODEC.encode(request)) for request in requests])
    wanted = {request.request_id for request in requests}
    await system.until("results.moods", lambda found: len(found) > 0, wanted)
    killed = [child for child in psutil.Process().children(recursive=True) if " ".join(child.cmdline()).startswith("VLLM::")]
    for process in killed:
        process.kill()
    results = await system.until("results.moods", lambda found: wanted <= {result.request_id for result in found}, wanted)
    assert len(killed) >= 2
    assert len(results) == count, "a result came twice"
    assert {(result.status, result.engine_name) for result in results} == {(ResultStatus.OK, live.engine_name)}
    assert len(system.engines) == 2
    await system.answers(live)
    words = Counter(CODEC.decode(RequestCompleted, record.value).request_id for record in await read_all(system.broker, f"{PREFIX}results.completed"))
    assert {words[request_id] for request_id in wanted} == {1}
