"""An OpenAI-compatible endpoint that writes what a test tells it to, in the place of a model that can't run here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

Rows = Sequence[Mapping[str, Any]]
Reply = Rows | int


@dataclass
class Endpoint:
    """What it writes under each reply schema's name, and what it was asked. It fails the first `failing` requests with status 429."""

    replies: Mapping[str, Callable[[str], Reply]]
    failing: int = 0
    asked: list[str] = field(default_factory=list)
    refused: int = 0

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        if self.refused < self.failing:
            self.refused += 1
            return Response(status_code=429, headers={"retry-after-ms": "20"})
        name = asked["response_format"]["json_schema"]["name"]
        self.asked.append(name)
        prompt = asked["messages"][0]["content"]
        reply = json.dumps({name: self.replies[name](prompt)})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(reply) // 4, "total_tokens": (len(prompt) + len(reply)) // 4}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice], "usage": usage}
        return Response(json.dumps(body), media_type="application/json")


@asynccontextmanager
async def serving(endpoint: Endpoint, port: int) -> AsyncIterator[None]:
    """The endpoint on a port of this machine."""
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", endpoint.complete, methods=["POST"])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    try:
        yield
    finally:
        server.should_exit = True
        await task
