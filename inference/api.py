"""HTTP beside Kafka, for those who wait for an answer. What is asked here is written to the log with its answer:
request (marked `served`), results and the last word in one transaction."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from inference.residency import Residency
from inference.service import DECLARED, MAX_TEXT_CHARACTERS, Answer, Offer, Service
from runtime.errors import Transient
from runtime.event_writer import Entry, EventWriter
from runtime.ids import digest
from runtime.project import ToolDeclaration
from schemas.events import Request, Result, ResultStatus
from schemas.topics import COMPLETED, REQUESTS

AT_ONCE = 256
T = TypeVar("T")


class Ask(BaseModel):
    """A message to route."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    context: dict[str, str] = Field(default_factory=lambda: {"user_id": "current"})
    tools: tuple[str, ...] | None = None
    conversation_id: str | None = Field(None, max_length=256)
    timeout_ms: int | None = Field(None, ge=1)


class Generate(BaseModel):
    """A message for one adapter; the caller may put other labels (entity types) or tools on offer than the declared ones."""

    model_config = ConfigDict(extra="forbid")
    adapter_id: str = Field(max_length=64)
    prompt: str = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    context: dict[str, str] = Field(default_factory=lambda: {"user_id": "current"})
    labels: tuple[str, ...] | None = Field(None, min_length=1, max_length=256)
    tools: tuple[ToolDeclaration, ...] | None = Field(None, max_length=64)
    timeout_ms: int | None = Field(None, ge=1)


class Recorder:
    """Writes an answered request and its answer in one transaction."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    async def record(self, request: Request, answer: Answer) -> None:
        """Writes all or nothing."""
        key = request.conversation_id
        results = [Entry(topic, key, result, result.result_id) for topic, result in answer.results]
        last = Entry(COMPLETED.name, key, answer.completed, digest("completed", request.request_id))
        await self._writer.write([Entry(REQUESTS.name, key, request, request.request_id), *results, last])


def result_json(result: Result) -> dict[str, Any]:
    """A result as HTTP answers show it."""
    return {
        "adapter": result.adapter, "version": result.version, "task": result.task, "status": result.status, "text": result.text,
        "output": None if result.output is None else json.loads(result.output), "confidence": result.confidence, "timings_ms": dict(result.timings_ms), "error": result.error,
        "route_score": result.route_score, "route_margin": result.route_margin, "route_nearest": result.route_nearest,
    }  # fmt: skip


async def attended(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled when the client goes away.

    Raises:
        HTTPException: the client went away (499, as nginx has it); nobody reads that.
    """
    working, watching = asyncio.create_task(work), asyncio.create_task(_gone(http))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
    await asyncio.wait((working,))
    raise HTTPException(499, "the client went away")


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def build_api(service: Service, residency: Residency, recorder: Recorder, at_once: int = AT_ONCE) -> FastAPI:
    """The application, which takes on `at_once` requests; who comes beyond that is told to come again."""
    app, taken = FastAPI(title="loraloom"), 0

    async def serve(http: HttpRequest, request: Request, offer: Offer = DECLARED) -> Answer:
        nonlocal taken
        if taken >= at_once:
            raise HTTPException(429, f"{at_once} requests are being answered: come again", headers={"Retry-After": "1"})
        taken += 1
        try:
            answer = await attended(http, service.answer(request, _now_ms(), offer))
        except Transient as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error
        finally:
            taken -= 1
        await recorder.record(request, answer)
        return answer

    @app.post("/ask")
    async def ask(body: Ask, http: HttpRequest) -> dict[str, Any]:
        """Routes the message and answers every intent of it."""
        request_id = uuid.uuid4().hex
        conversation = body.conversation_id or request_id
        answer = await serve(http, Request(request_id=request_id, conversation_id=conversation, text=body.text, context=body.context, tools=body.tools, deadline_ms=_deadline(body.timeout_ms), served="http"))
        return {"request_id": request_id, "status": answer.completed.status, "route": answer.completed.route, "error": answer.completed.error, "results": [{"topic": topic, **result_json(r)} for topic, r in answer.results]}

    @app.post("/generate")
    async def generate(body: Generate, http: HttpRequest) -> dict[str, Any]:
        """Asks one adapter."""
        request_id = uuid.uuid4().hex
        answer = await serve(
            http,
            Request(request_id=request_id, conversation_id=request_id, text=body.prompt, context=body.context, adapter_id=body.adapter_id, deadline_ms=_deadline(body.timeout_ms), served="http"),
            Offer(body.labels, None if body.tools is None else tuple(t.tool for t in body.tools)),
        )
        if not answer.results:
            raise HTTPException(404, answer.completed.error)
        _, result = answer.results[0]
        if result.status in (ResultStatus.REFUSED, ResultStatus.EXPIRED):
            raise HTTPException(404 if result.status is ResultStatus.REFUSED else 504, result.error)
        return {"request_id": request_id, **result_json(result)}

    @app.get("/metrics")
    async def metrics() -> Response:
        """What Prometheus reads."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        """Ready unless an engine is being started: who asks then waits for it."""
        response.status_code = 503 if residency.state == "starting" else 200
        return {"state": residency.state, "epoch": residency.epoch, "adapters": {name: v.engine_name for name, v in residency.live().items()}}

    return app


def _now_ms() -> int:
    return int(time.time() * 1000)


def _deadline(timeout_ms: int | None) -> int | None:
    return None if timeout_ms is None else _now_ms() + timeout_ms
