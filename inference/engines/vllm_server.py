"""A `vllm serve` process as one replica. Source: vLLM's OpenAI-compatible server and its LoRA routes, which it has with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from inference.engines import Generation, Hear
from inference.engines.remote import Failing, Gone, NotLoaded
from runtime.errors import InvalidInput

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 2.0
"""Shorter than servers keep an idle connection (vLLM: 5), so that none is closed as it is used."""
LIKELIEST = 10
ID_PREFIX = "token_id:"


def client(url: str, key: str | None) -> httpx.AsyncClient:
    """Connections to a server: as many as are asked for, and no limit on how long an answer takes."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=httpx.Timeout(None, connect=CONNECT_SECONDS), limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS))


@asynccontextmanager
async def sent(client: httpx.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None = None) -> AsyncIterator[httpx.Response]:
    """The answer to a request, whose body is still to be read. Raises Gone where there is none, or it ends too early."""
    try:
        async with client.stream(method, path, json=body) as response:
            yield response
    except (httpx.TransportError, httpx.StreamError) as error:
        raise Gone(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


def check(status: int, body: bytes, named: str | None = None) -> None:
    """Raises what an answer that is no answer stands for; `named` is the adapter that was asked."""
    if status < 400:
        return
    said = _reason(body)
    if status == 404 and b'"detail"' in body and b'"error"' not in body:
        raise Gone("it knows no such path: is it a vLLM server, and started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1?")
    if status == 404 and named:
        raise NotLoaded(said)
    if status in (400, 404, 413, 422):
        raise InvalidInput(f"the engine refuses the request: {said}")
    raise Failing(f"HTTP {status}: {said}")


def _reason(body: bytes) -> str:
    try:
        said = json.loads(body)
        error = said.get("error", said)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError):
        return body.decode("utf-8", "replace")[:500]


class VllmServer:
    """The server at `url`, which knows its base by name (`--served-model-name`), and sees the files of adapters in `folder`; where this process does when that is None."""

    def __init__(self, url: str, base: str, folder: str | None = None, key: str | None = None) -> None:
        self.url, self._base, self._folder = url.rstrip("/"), base, folder
        self._client = client(self.url, key)

    async def close(self) -> None:
        await self._client.aclose()

    async def look(self) -> tuple[str, frozenset[str]]:
        await self._json("GET", "/health")
        models = (await self._json("GET", "/v1/models"))["data"]
        return next((m["id"] for m in models if not m.get("parent")), ""), frozenset(m["id"] for m in models if m.get("parent"))

    async def load(self, name: str, folder: Path) -> None:
        path = f"{self._folder}/{folder.name}" if self._folder else str(folder.resolve())
        try:
            await self._json("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        except InvalidInput:  # it says so of a name that it has, which stands for the same weights for ever
            if name not in (await self.look())[1]:
                raise

    async def unload(self, name: str) -> None:
        try:
            await self._json("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except InvalidInput:
            if name in (await self.look())[1]:
                raise

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None) -> Generation:
        asked = self._completion(prompt, adapter, max_tokens, 0) | ({"structured_outputs": {"grammar": grammar}} if grammar else {})
        texts, logprobs = [], list[float]()
        async for choice in self._choices(asked, adapter, hear is not None):
            texts.append(choice["text"])
            logprobs += (choice.get("logprobs") or {}).get("token_logprobs") or []
            if hear and choice["text"]:
                hear(choice["text"])
        return Generation("".join(texts), len(logprobs), math.exp(math.fsum(logprobs) / max(1, len(logprobs))))

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        (choice,) = [one async for one in self._choices(self._completion(prompt, adapter, 1, LIKELIEST), adapter, False)]
        likeliest = choice["logprobs"]["top_logprobs"][0]
        return {int(token.removeprefix(ID_PREFIX)): logprob for token, logprob in likeliest.items()}

    def _completion(self, prompt: Sequence[int], adapter: str | None, max_tokens: int, likeliest: int) -> dict[str, Any]:
        return {
            "model": adapter or self._base, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0.0, "logprobs": likeliest, "return_tokens_as_token_ids": True,
        }  # fmt: skip

    async def _choices(self, asked: Mapping[str, Any], adapter: str | None, stream: bool) -> AsyncIterator[dict[str, Any]]:
        """The answer, whole or piece by piece."""
        async with sent(self._client, "POST", "/v1/completions", {**asked, "stream": stream}) as response:
            if response.status_code >= 400 or not stream:
                body = await response.aread()
                check(response.status_code, body, adapter)
                yield json.loads(body)["choices"][0]
                return
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if line and data != "[DONE]":
                    piece = json.loads(data)
                    if "error" in piece:
                        raise Failing(str(piece["error"].get("message", piece["error"])))
                    yield piece["choices"][0]

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        async with sent(self._client, method, path, body) as response:
            content = await response.aread()
            check(response.status_code, content)
            return json.loads(content) if "json" in response.headers.get("content-type", "") else None
