"""How `loom bench quality` asks a system that has keys and gives so many answers a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference.gatekeeper import Gatekeeper, new_key
from loom.bench.quality import Asker, Names, quality
from runtime.errors import SettingsError

ROWS = [{"text": f"text {number}"} for number in range(40)]
NAMES = Names("classifier", "tool", "ner", "chat")


def system(full: Sequence[Mapping[str, str]] = ()) -> Starlette:
    """Answers with what it is asked, after it has been full once for each of these headers."""
    full = list(full)

    async def generate(request: Request) -> Response:
        if full:
            return Response("come again", 429, full.pop())
        return JSONResponse({"output": (await request.json())["prompt"]})

    async def healthz(_: Request) -> Response:
        return JSONResponse({})

    return Starlette(routes=[Route("/generate", generate, methods=["POST"]), Route("/healthz", healthz)])


@pytest.mark.asyncio
async def test_answers_come_in_order_also_from_a_system_that_is_full_meanwhile() -> None:
    full = [*[{"retry-after": "0"}] * 48, {}, {"retry-after": "Sun, 29 Nov 2026 08:00:00 GMT"}]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(system(full)), base_url="http://test") as http:
        assert await Asker(http).one("chat", ROWS, lambda _: {}) == [row["text"] for row in ROWS]


def test_the_key_goes_with_each_request_and_a_wrong_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, digest = new_key()
    (tmp_path / "keys.toml").write_text(f'[keys.bench]\nsha256 = "{digest}"\nscopes = ["generate"]\n')
    guarded, client = Gatekeeper(system(), tmp_path / "keys.toml"), httpx.AsyncClient

    def reached(**given: Any) -> httpx.AsyncClient:
        return client(transport=httpx.ASGITransport(guarded), **given)

    monkeypatch.setattr(httpx, "AsyncClient", reached)
    rows = [{"text": text, "label": text} for text in ("GOOD", "BAD")]
    scores = asyncio.run(quality(rows, [], "http://test", NAMES, key=key))
    assert {(score.what, score.mode): score.value for score in scores}["label is right", "adapter alone"] == 1.0
    for wrong in ("loom_other", None):
        with pytest.raises(SettingsError, match="no key, or none that is known"):
            asyncio.run(quality(rows, [], "http://test", NAMES, key=wrong))
