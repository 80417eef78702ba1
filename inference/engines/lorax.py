"""A LoRAX server as one replica. Source: the types of lorax-client 0.6.3 (`Request`, `Parameters`, `Response`, `StreamResponse`) and its errors.

LoRAX takes text, not tokens, loads an adapter when it is asked for first, and can't be held to a grammar: prompts go as the text that gives the same tokens again, and what it answered is
held to the grammar here. No LoRAX runs where this is tested: the client is held to the contract of engines against a server that speaks its protocol over vLLM.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from inference.engines import Generation, Hear
from inference.engines.remote import Failing, NotLoaded
from inference.engines.vllm_server import LIKELIEST, client, sent
from runtime.errors import InvalidInput

REFUSED = frozenset({"validation"})
"""LoRAX's `error_type` for what is the request's own fault."""


class LoraxServer:
    """The server at `url`, whose base is a folder of the base's name (`--model-id /bases/base@1-0123abcd`), and which sees the files of adapters in `folder`."""

    def __init__(self, url: str, tokenizer: Any, folder: str | None = None, key: str | None = None) -> None:
        self.url, self._tokenizer, self._folder = url.rstrip("/"), tokenizer, folder
        self._client = client(self.url, key)
        self._adapters: dict[str, str] = {}

    async def close(self) -> None:
        await self._client.aclose()

    async def look(self) -> tuple[str, frozenset[str]]:
        async with self._sent("GET", "/health", None):
            pass
        async with self._sent("GET", "/info", None) as response:
            told = json.loads(await response.aread())
        return PurePosixPath(str(told["model_id"])).name, frozenset(self._adapters)

    async def load(self, name: str, folder: Path) -> None:
        self._adapters[name] = f"{self._folder}/{folder.name}" if self._folder else str(folder.resolve())
        try:
            await self._answer("Hello", name, 1)
        except BaseException:
            del self._adapters[name]
            raise

    async def unload(self, name: str) -> None:
        self._adapters.pop(name, None)  # LoRAX drops what is not asked for by itself

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None) -> Generation:
        text = self._text(prompt)
        if hear:
            tokens, said = await self._heard(text, adapter, max_tokens, hear)
        else:
            answer = await self._answer(text, adapter, max_tokens)
            tokens, said = answer["details"]["tokens"], answer["generated_text"]
        if grammar and not _follows(grammar, said):
            raise InvalidInput(f"the engine can't be held to a grammar, and its answer does not follow it: {said[:200]!r}")
        return Generation(said, len(tokens), math.exp(math.fsum(token["logprob"] for token in tokens) / max(1, len(tokens))))

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        answer = await self._answer(self._text(prompt), adapter, 1, LIKELIEST)
        return {token["id"]: token["logprob"] for token in answer["details"]["tokens"][0]["alternative_tokens"]}

    def _text(self, prompt: Sequence[int]) -> str:
        """The text whose tokens, as the server makes them, are `prompt`."""
        whole = self._tokenizer.decode(prompt, skip_special_tokens=False)
        for text in (whole, whole.removeprefix(self._tokenizer.bos_token or "")):
            if self._tokenizer.encode(text) == list(prompt):
                return str(text)
        raise InvalidInput("the engine takes text, and no text has just these tokens")

    def _request(self, text: str, adapter: str | None, max_tokens: int, alternatives: int | None) -> dict[str, Any]:
        parameters: dict[str, Any] = {"max_new_tokens": max_tokens, "do_sample": False, "details": True, "return_k_alternatives": alternatives}
        if adapter:
            if adapter not in self._adapters:
                raise NotLoaded(adapter)
            parameters |= {"adapter_id": self._adapters[adapter], "adapter_source": "local"}
        return {"inputs": text, "parameters": parameters}

    async def _answer(self, text: str, adapter: str | None, max_tokens: int, alternatives: int | None = None) -> dict[str, Any]:
        async with self._sent("POST", "/generate", self._request(text, adapter, max_tokens, alternatives)) as response:
            answer: dict[str, Any] = json.loads(await response.aread())
            return answer

    async def _heard(self, text: str, adapter: str | None, max_tokens: int, hear: Hear) -> tuple[list[dict[str, Any]], str]:
        tokens = list[dict[str, Any]]()
        async with self._sent("POST", "/generate_stream", self._request(text, adapter, max_tokens, None)) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                piece = json.loads(line.removeprefix("data:"))
                if "error" in piece:
                    raise Failing(str(piece["error"]))
                tokens.append(piece["token"])
                if not piece["token"]["special"]:
                    hear(piece["token"]["text"])
                if piece.get("generated_text") is not None:
                    return tokens, piece["generated_text"]
        raise Failing("the stream ended before the text did")

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[httpx.Response]:
        async with sent(self._client, method, path, body) as response:
            if response.status_code >= 400:
                _raise(response.status_code, await response.aread())
            yield response


def _raise(status: int, body: bytes) -> None:
    """Raises InvalidInput for what is the request's fault, else Failing."""
    try:
        said = json.loads(body)
        kind, reason = said.get("error_type"), str(said.get("error", said))[:500]
    except (ValueError, AttributeError):
        kind, reason = None, body.decode("utf-8", "replace")[:500]
    if kind in REFUSED:
        raise InvalidInput(f"the engine refuses the request: {reason}")
    raise Failing(f"HTTP {status}: {reason}")


@lru_cache(maxsize=256)
def _compiled(grammar: str) -> Any:
    """`grammar` for texts, with no tokens."""
    from xgrammar import Grammar, GrammarCompiler, TokenizerInfo

    return GrammarCompiler(TokenizerInfo([])).compile_grammar(Grammar.from_ebnf(grammar))


def _follows(grammar: str, text: str) -> bool:
    """Whether `text` as a whole is one that `grammar` gives."""
    from xgrammar import GrammarMatcher

    matcher = GrammarMatcher(_compiled(grammar), terminate_without_stop_token=True)
    return bool(matcher.accept_string(text) and matcher.is_terminated())
