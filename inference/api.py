"""HTTP beside Kafka, for those who wait for an answer. What is asked here is written to the log with its answer:
request (marked `served`), results and the last word in one transaction."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from inference.front import AT_ONCE, Front, Recorder, deadline
from inference.gatekeeper import Gatekeeper
from inference.openai_api import openai_routes
from inference.residency import Residency
from inference.service import MAX_TEXT_CHARACTERS, Offer, Service
from runtime.project import Project, ToolDeclaration
from schemas.events import Request, Result, ResultStatus

ENDED = {ResultStatus.REFUSED: 404, ResultStatus.EXPIRED: 504}
"""The status of a single adapter's answer that there is none of."""


class Ask(BaseModel):
    """A message to route."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    context: dict[str, str] = Field(default_factory=lambda: {"user_id": "current"})
    tools: tuple[str, ...] | None = None
    conversation_id: str | None = Field(None, max_length=256)
    timeout_ms: int | None = Field(None, ge=1)
    priority: int = Field(0, ge=-8, le=8)


class Generate(BaseModel):
    """A message for one adapter; the caller may put other labels (entity types) or tools on offer than the declared ones."""

    model_config = ConfigDict(extra="forbid")
    adapter_id: str = Field(max_length=64)
    prompt: str = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    context: dict[str, str] = Field(default_factory=lambda: {"user_id": "current"})
    labels: tuple[str, ...] | None = Field(None, min_length=1, max_length=256)
    tools: tuple[ToolDeclaration, ...] | None = Field(None, max_length=64)
    conversation_id: str | None = Field(None, max_length=256)
    timeout_ms: int | None = Field(None, ge=1)
    priority: int = Field(0, ge=-8, le=8)


def result_json(result: Result) -> dict[str, Any]:
    """A result as HTTP answers show it."""
    return {
        "adapter": result.adapter, "version": result.version, "task": result.task, "status": result.status, "text": result.text,
        "output": None if result.output is None else json.loads(result.output), "confidence": result.confidence, "timings_ms": dict(result.timings_ms), "error": result.error, "instead_of": result.instead_of,
        "route_score": result.route_score, "route_margin": result.route_margin, "route_nearest": result.route_nearest,
    }  # fmt: skip


def build_api(project: Project, service: Service, residency: Residency, recorder: Recorder, at_once: int = AT_ONCE, keys: Path | None = None) -> FastAPI:
    """The application, which takes on `at_once` requests, from holders of `keys` where there is such a file. Raises SettingsError where it can't be read."""
    app, front = FastAPI(title="loraloom"), Front(service, recorder, at_once)
    app.add_middleware(Gatekeeper, file=keys)
    for routes in (_own_routes(front), _health_routes(residency), openai_routes(project, front, residency)):
        app.include_router(routes)
    return app


def _own_routes(front: Front) -> APIRouter:
    routes = APIRouter()

    @routes.post("/ask")
    async def ask(body: Ask, http: HttpRequest) -> dict[str, Any]:
        """Routes the message and answers every intent of it."""
        request_id = uuid.uuid4().hex
        conversation = body.conversation_id or request_id
        request = Request(request_id=request_id, conversation_id=conversation, text=body.text, context=body.context, tools=body.tools, deadline_ms=deadline(body.timeout_ms), priority=body.priority, served="http")
        answer = await front.answer(http, request)
        completed = answer.completed
        return {"request_id": request_id, "status": completed.status, "route": completed.route, "error": completed.error, "results": [{"topic": topic, **result_json(r)} for topic, r in answer.results]}

    @routes.post("/generate")
    async def generate(body: Generate, http: HttpRequest) -> dict[str, Any]:
        """Asks one adapter."""
        request_id = uuid.uuid4().hex
        request = Request(
            request_id=request_id, conversation_id=body.conversation_id or request_id, text=body.prompt, context=body.context, adapter_id=body.adapter_id, deadline_ms=deadline(body.timeout_ms),
            priority=body.priority, served="http",
        )  # fmt: skip
        answer = await front.answer(http, request, Offer(body.labels, None if body.tools is None else tuple(t.tool for t in body.tools)))
        if not answer.results:
            raise HTTPException(404, answer.completed.error)
        _, result = answer.results[0]
        if result.status in ENDED:
            raise HTTPException(ENDED[result.status], result.error)
        return {"request_id": request_id, **result_json(result)}

    return routes


def _health_routes(residency: Residency) -> APIRouter:
    routes = APIRouter()

    @routes.get("/metrics")
    async def metrics() -> Response:
        """What Prometheus reads."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz(response: Response) -> dict[str, Any]:
        """Ready unless an engine is being started: who asks then waits for it."""
        response.status_code = 503 if residency.state == "starting" else 200
        return {"state": residency.state, "epoch": residency.epoch, "adapters": {name: v.engine_name for name, v in residency.live().items()}, "candidates": {name: v.engine_name for name, v in residency.candidates().items()}}

    return routes
