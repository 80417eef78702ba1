"""LoRAX's protocol over an engine, in the place of a LoRAX, which needs a GPU. Source: the types of lorax-client 0.6.3 and its errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from inference.engines import Engine, Generation
from inference.http_server import WorkerServer
from runtime.errors import InvalidInput, Transient
from runtime.tasks.prompt import load_tokenizer


class Lorax:
    """Adapters are loaded as they are asked for, by their paths."""

    def __init__(self, engine: Engine, base: str, name: str) -> None:
        self._engine, self._name, self._tokenizer = engine, name, load_tokenizer(base)
        self._names: dict[str, str] = {}
        self._loading = asyncio.Lock()
        self.asked: list[dict[str, Any]] = []

    async def _adapter(self, parameters: dict[str, Any]) -> str | None:
        path = parameters.get("adapter_id")
        if path is None:
            return None
        assert parameters["adapter_source"] == "local"
        async with self._loading:
            if path not in self._names:
                name = f"lorax{len(self._names)}@1-00000000"
                await self._engine.add(name, Path(path))
                self._names[path] = name
        return self._names[path]

    async def generate(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        parameters, ids = asked["parameters"], self._tokenizer.encode(asked["inputs"])
        try:
            adapter = await self._adapter(parameters)
        except InvalidInput as error:
            return self._error(424, f"Request failed during generation: {error}", "generation")
        try:
            if alternatives := parameters.get("return_k_alternatives"):
                likeliest = sorted((await self._engine.probe(ids, adapter)).items(), key=lambda item: -item[1])[:alternatives]
                tokens = [self._token(likeliest[0], [{"id": token, "text": self._tokenizer.decode([token]), "logprob": logprob} for token, logprob in likeliest])]
                return self._json({"generated_text": tokens[0]["text"], "details": self._details(tokens, len(ids))})
            made = await _attended(request, self._engine.generate(ids, adapter, None, parameters["max_new_tokens"]))
        except InvalidInput as error:
            return self._error(422, f"Input validation error: {error}", "validation")
        except Transient as error:
            return self._error(424, str(error), "generation")
        return self._json({"generated_text": made.text, "details": self._details(self._tokens(made), len(ids))})

    async def stream(self, request: Request) -> Response:
        asked = await request.json()
        parameters, heard = asked["parameters"], asyncio.Queue[str | None]()
        adapter = await self._adapter(parameters)

        async def pieces() -> AsyncIterator[str]:
            working = asyncio.create_task(self._engine.generate(self._tokenizer.encode(asked["inputs"]), adapter, None, parameters["max_new_tokens"], heard.put_nowait))
            working.add_done_callback(lambda _: heard.put_nowait(None))
            try:
                while (piece := await heard.get()) is not None:
                    yield self._event({"id": 0, "text": piece, "logprob": -0.5, "special": False})
                made = await working
                yield self._event({"id": 2, "text": "", "logprob": -0.5, "special": True}, made.text)
            finally:
                working.cancel()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    def _tokens(self, made: Generation) -> list[dict[str, Any]]:
        return [{"id": 0, "text": "", "logprob": -0.5, "special": False} for _ in range(made.token_count)]

    def _token(self, likeliest: tuple[int, float], alternatives: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": likeliest[0], "text": self._tokenizer.decode([likeliest[0]]), "logprob": likeliest[1], "special": False, "alternative_tokens": alternatives}

    def _details(self, tokens: list[dict[str, Any]], prompt: int) -> dict[str, Any]:
        return {"finish_reason": "length", "prompt_tokens": prompt, "generated_tokens": len(tokens), "seed": None, "prefill": [], "tokens": tokens}

    def _event(self, token: dict[str, Any], whole: str | None = None) -> str:
        return f"data:{json.dumps({'token': token, 'generated_text': whole, 'details': None})}\n\n"

    def _json(self, body: dict[str, Any], status: int = 200) -> Response:
        return Response(json.dumps(body), status, media_type="application/json")

    def _error(self, status: int, error: str, kind: str) -> Response:
        return self._json({"error": error, "error_type": kind}, status)

    async def health(self) -> Response:
        return Response()

    async def info(self) -> dict[str, Any]:
        return {"model_id": f"/bases/{self._name}", "model_dtype": "torch.float16", "max_input_length": 1023, "max_total_tokens": 1024, "version": "0.12.1"}


async def _attended(request: Request, work: Any) -> Generation:
    """What `work` gives; it ends when the client goes away, as LoRAX's does."""
    working = asyncio.create_task(work)
    while not (await asyncio.wait([working], timeout=0.05))[0]:
        if await request.is_disconnected():
            working.cancel()
    made: Generation = await working
    return made


@asynccontextmanager
async def lorax(engine: Engine, base: str, name: str, port: int) -> AsyncIterator[Lorax]:
    """A server whose base is called `name`."""
    made, app = Lorax(engine, base, name), FastAPI()
    app.post("/generate")(made.generate)
    app.post("/generate_stream")(made.stream)
    app.get("/info")(made.info)
    app.get("/health")(made.health)
    server = WorkerServer(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.02)
        yield made
    finally:
        server.should_exit = True
        await serving
