"""The HTTP side before the service: how much is taken on, who waits, who left. On a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from inference.api import build_api
from inference.engines import Hear
from inference.service import DECLARED, Answer, Offer
from runtime.errors import Transient
from runtime.project import Project
from schemas.events import CompletionStatus, Request, RequestCompleted, Result, ResultReference, ResultStatus, RouteStatus


class Held:
    """A service that answers when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.asked: list[Request] = []
        self.left = 0
        self.fails = False
        self.status = ResultStatus.OK

    async def answer(self, request: Request, now_ms: int, offer: Offer = DECLARED, hear: Hear | None = None) -> Answer:
        if self.fails:
            raise Transient("the engine is not running")
        self.asked.append(request)
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        result = Result(result_id="1", request_id=request.request_id, task="tool", intent_index=0, intent_count=1, text=request.text, status=self.status, error="why")
        completed = RequestCompleted(request_id=request.request_id, status=CompletionStatus.OK, results=(ResultReference(result_id="1", topic="results.x"),), route=RouteStatus.CLASSIFIED)
        return Answer((("results.x", result),), completed)


class Notes:
    """What was recorded."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def record(self, request: Request, answer: Answer) -> None:
        self.requests.append(request)


@asynccontextmanager
async def served(service: Held, notes: Notes, at_once: int = 2) -> AsyncIterator[httpx.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(build_api(Project(), service, None, notes, at_once), port=0, log_level="error", lifespan="off"))  # type: ignore[arg-type]
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_who_comes_beyond_what_can_be_answered_is_told_to_come_again() -> None:
    service, notes = Held(), Notes()
    async with served(service, notes) as client:
        first = [asyncio.create_task(client.post("/ask", json={"text": f"{i}"})) for i in range(2)]
        await until(lambda: len(service.asked) == 2)
        refused = await client.post("/ask", json={"text": "one more"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        service.may.set()
        answers = await asyncio.gather(*first)
        assert [answer.json()["route"] for answer in answers] == ["classified", "classified"]
        assert (await client.post("/ask", json={"text": "again"})).status_code == 200
    assert [request.text for request in notes.requests] == ["0", "1", "again"]


@pytest.mark.asyncio
async def test_a_client_that_goes_away_takes_its_request_along() -> None:
    service, notes = Held(), Notes()
    async with served(service, notes, at_once=1) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/generate", json={"adapter_id": "tool", "prompt": "x"}, timeout=0.3)
        await until(lambda: service.left == 1)
        service.may.set()
        assert (await client.post("/ask", json={"text": "next"})).status_code == 200
    assert [request.text for request in notes.requests] == ["next"]


@pytest.mark.asyncio
async def test_a_timeout_becomes_a_deadline_and_a_failing_engine_a_503() -> None:
    service, notes = Held(), Notes()
    service.may.set()
    async with served(service, notes) as client:
        await client.post("/ask", json={"text": "a", "timeout_ms": 500})
        assert (await client.post("/ask", json={"text": "a", "timeout_ms": 0})).status_code == 422
        service.status = ResultStatus.EXPIRED
        assert (await client.post("/generate", json={"adapter_id": "tool", "prompt": "x", "timeout_ms": 5})).status_code == 504
        service.fails = True
        failed = await client.post("/ask", json={"text": "a"})
        assert (failed.status_code, failed.headers["Retry-After"], failed.json()["detail"]) == (503, "1", "the engine is not running")
        assert "loom_requests_completed" in (await client.get("/metrics")).text
    assert [request.deadline_ms is not None for request in service.asked] == [True, True]
