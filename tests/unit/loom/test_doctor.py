"""What `loom doctor` says of the servers that are to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from inference.http_server import WorkerServer
from loom.doctor import checks
from loom.embedded.kafka import free_port
from runtime.settings import load_settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def url() -> Iterator[str]:
    """A server that says what a vLLM server says of itself, to who has the key."""
    app, port = FastAPI(), free_port()

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/v1/models", response_model=None)
    async def models(request: Request) -> dict[str, object] | Response:
        if request.headers.get("authorization") != "Bearer right":
            return Response('{"error": "Unauthorized"}', 401)
        return {"data": [{"id": "base@0-0123abcd"}, {"id": "tool@7-0123abcd", "parent": "base@0-0123abcd"}]}

    server = WorkerServer(uvicorn.Config(app, port=port, log_level="error"))
    thread = Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_each_server_is_asked_and_told_of(url: str, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for key, ok, said in (("right", True, "serves base@0-0123abcd with 1 adapters"), ("wrong", False, "HTTP 401: Unauthorized: is `loom worker engine` up there")):
        settings = load_settings(project=ROOT / "examples/pebblewire/loom.toml", data=tmp_path, engines=f"{url}, {nobody}", engines_key=key)
        found = {check.name: check for check in checks(settings)}
        assert (found[f"engine {url}"].ok, said in found[f"engine {url}"].detail) == (ok, True)
        assert (found[f"engine {nobody}"].ok, "ConnectError" in found[f"engine {nobody}"].detail) == (False, True)
