"""The OpenAI API, driven by OpenAI's own client, on the real service with an engine whose answers are known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import uvicorn

from inference.api import build_api
from inference.engines import Generation, Hear
from inference.residency import Lease
from inference.routing.decision import Decision, Intent
from inference.service import Answer, Service
from runtime.errors import Transient
from runtime.project import load_project
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import AdapterVersion, Request, RouteStatus

PROJECT = load_project(Path(__file__).parents[3] / "examples/pebblewire/loom.toml")
TOKENIZER = load_tokenizer(PROJECT.base_folder)
MESSAGE = "I'm frustrated with the login error, can you reset my password?"
TOOL = {"type": "function", "function": {"name": "reset_password_flow", "parameters": {"type": "object", "properties": {"user_id": {"type": "string", "x-injected": True}}, "required": ["user_id"]}}}
TRACK = {"type": "function", "function": {"name": "track_order", "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}}}
ASKED: list[Any] = [{"role": "user", "content": MESSAGE}]


class Engine:
    """Answers by the adapter, a word at a time; notes prompts, grammars and who left."""

    def __init__(self) -> None:
        self.texts = {"tool": "reset_password_flow", "classifier": "NEGATIVE", "chat": "Hold the button down.", "ner": "none"}
        self.prompts: list[str] = []
        self.grammars: list[str | None] = []
        self.left = 0
        self.fails = self.hangs = False

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        if self.fails:
            raise Transient("the engine is not running")
        self.prompts.append(TOKENIZER.decode(list(prompt)))
        self.grammars.append(grammar)
        text = self.texts[(adapter or "").partition("@")[0]]
        if hear:
            for word in text.split(" "):
                hear(word if text.startswith(word) else f" {word}")
                await asyncio.sleep(0)
        try:
            await (asyncio.Event().wait() if self.hangs else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.left += 1
            raise
        return Generation(text, 5, 0.9)


class Live:
    """Version 7 of each adapter but NER."""

    epoch = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live = {
            name: AdapterVersion(version=7, engine_name=f"{name}@7-0123abcd", base_epoch=1, artifact_uri="", files=(), run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")
            for name in ("tool", "classifier", "chat")
        }  # fmt: skip

    def live(self) -> dict[str, AdapterVersion]:
        return self._live

    def expect(self, adapter: str) -> None: ...

    @asynccontextmanager
    async def lease(self, adapter: str, version: int | str | None = None, conversation: str | None = None) -> AsyncIterator[Lease]:
        held = self._live.get(adapter)
        yield Lease(self._engine, held if held and version in (None, 7) else None)  # type: ignore[arg-type]


class Router:
    """Finds sentiment and a call in everything, or what it is told."""

    decision = Decision(RouteStatus.CLASSIFIED, (Intent("classifier", MESSAGE, always=True), Intent("tool", MESSAGE, 0.9, 0.5, "reset my password")))

    async def route(self, text: str) -> Decision:
        return self.decision


class Notes:
    def __init__(self) -> None:
        self.requests: list[tuple[Request, Answer]] = []

    async def record(self, request: Request, answer: Answer) -> None:
        self.requests.append((request, answer))


class System:
    """A served API and its client."""

    def __init__(self, client: openai.AsyncOpenAI, engine: Engine, router: Router, notes: Notes) -> None:
        self.client, self.engine, self.router, self.notes = client, engine, router, notes

    async def complete(self, model: str, messages: list[Any] = ASKED, **options: Any) -> Any:
        return await self.client.chat.completions.create(model=model, messages=messages, **options)


@asynccontextmanager
async def system(at_once: int = 8) -> AsyncIterator[System]:
    engine, router, notes = Engine(), Router(), Notes()
    live = Live(engine)
    service = Service(PROJECT, router, live, TOKENIZER, Shortlist(lambda texts: np.zeros((len(texts), 4), np.float32)))
    server = uvicorn.Server(uvicorn.Config(build_api(PROJECT, service, live, notes, at_once), port=0, log_level="error", lifespan="off"))  # type: ignore[arg-type]
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=10) as client:
            yield System(client, engine, router, notes)
    finally:
        server.should_exit = True
        await running


@pytest.mark.asyncio
async def test_adapters_are_models_with_their_root_and_parent() -> None:
    async with system() as at:
        models = {model.id: model for model in (await at.client.models.list()).data}
        assert set(models) == {"auto", "tool", "tool@7", "classifier", "classifier@7", "chat", "chat@7"}
        assert (models["tool"].root, models["tool"].parent) == ("tool@7-0123abcd", "base@1")  # type: ignore[attr-defined]
        assert (await at.client.models.retrieve("chat")).id == "chat"
        with pytest.raises(openai.NotFoundError):
            await at.client.models.retrieve("nobody")


@pytest.mark.asyncio
async def test_auto_routes_and_answers_with_a_call() -> None:
    async with system() as at:
        made = await at.complete("auto", metadata={"user_id": "7"})
        choice = made.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == [("reset_password_flow", {"user_id": "7"})]
        assert made.usage.completion_tokens == 10
        assert made.usage.prompt_tokens > 20
        assert made.loraloom["route"] == "classified"
        ((request, answer),) = at.notes.requests
        assert (request.served, request.adapter_id, len(answer.results)) == ("http", None, 2)


@pytest.mark.asyncio
async def test_what_fits_nothing_is_an_empty_answer_not_a_sentiment() -> None:
    async with system() as at:
        at.router.decision = Decision(RouteStatus.UNKNOWN, (Intent("classifier", MESSAGE, always=True),))
        made = await at.complete("auto")
        assert (made.choices[0].message.content, made.choices[0].finish_reason, made.loraloom["status"]) == ("", "stop", "unknown")


@pytest.mark.asyncio
@pytest.mark.parametrize(("model", "content"), [("classifier", "NEGATIVE"), ("classifier@7", "NEGATIVE"), ("chat", "Hold the button down.")])
async def test_an_adapter_answers_by_its_name(model: str, content: str) -> None:
    async with system() as at:
        assert (await at.complete(model)).choices[0].message.content == content


@pytest.mark.asyncio
async def test_a_chat_comes_as_it_is_written() -> None:
    async with system() as at:
        chunks = [chunk async for chunk in await at.complete("chat", stream=True, stream_options={"include_usage": True})]
        pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        assert pieces == ["Hold", " the", " button", " down."]
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage.completion_tokens == 5
        assert len(at.notes.requests) == 1


@pytest.mark.asyncio
async def test_a_stream_of_a_call_has_it_whole() -> None:
    async with system() as at:
        deltas = [chunk.choices[0].delta async for chunk in await at.complete("auto", stream=True)]
        assert [(call.index, call.function.name) for delta in deltas for call in delta.tool_calls or ()] == [(0, "reset_password_flow")]


@pytest.mark.asyncio
async def test_a_listener_who_leaves_ends_the_request_and_frees_its_place() -> None:
    async with system(at_once=1) as at:
        at.engine.hangs = True
        stream = await at.complete("chat", stream=True)
        await anext(aiter(stream))
        with pytest.raises(openai.RateLimitError):
            await at.complete("chat")
        await stream.close()
        async with asyncio.timeout(5):
            while not at.engine.left:
                await asyncio.sleep(0.01)
        at.engine.hangs = False
        assert (await at.complete("chat")).choices[0].finish_reason == "stop"
        assert len(at.notes.requests) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [True, False], ids=["of a stream", "of an answer"])
async def test_who_leaves_before_there_is_anything_ends_the_request_too(*, stream: bool) -> None:
    async with system(at_once=1) as at:
        at.engine.hangs = True
        waiting = asyncio.create_task(at.complete("classifier", stream=stream))
        async with asyncio.timeout(5):
            while not at.engine.prompts:
                await asyncio.sleep(0.01)
            waiting.cancel()
            while not at.engine.left:
                await asyncio.sleep(0.01)
        at.engine.hangs = False
        assert (await at.complete("classifier")).choices[0].message.content == "NEGATIVE"
        assert len(at.notes.requests) == 1


@pytest.mark.asyncio
async def test_tools_of_the_request_are_on_offer_and_no_others() -> None:
    async with system() as at:
        made = await at.complete("tool", tools=[TOOL], metadata={"user_id": "9"})
        assert json.loads(made.choices[0].message.tool_calls[0].function.arguments) == {"user_id": "9"}
        assert "reset_password_flow" in at.engine.prompts[-1]
        assert "track_order" not in (at.engine.grammars[-1] or "")
        at.engine.texts["tool"] = "none"
        made = await at.complete("tool", tools=[TOOL], tool_choice="none")
        assert (made.choices[0].message.content, made.choices[0].message.tool_calls) == ("", None)
        assert "reset_password_flow" not in at.engine.prompts[-1]


@pytest.mark.asyncio
async def test_what_a_call_lacks_is_asked_for() -> None:
    async with system() as at:
        at.engine.texts["tool"] = "track_order\norder_id= ?"
        made = await at.complete("tool", [{"role": "user", "content": "where is it?"}], tools=[TRACK])
        assert (made.choices[0].message.tool_calls, made.choices[0].message.content) == (None, "To call track_order I need to know: order_id.")


@pytest.mark.asyncio
async def test_earlier_turns_and_the_system_s_words_are_in_the_prompt() -> None:
    async with system() as at:
        said = [{"role": "system", "content": "The lamp blinks twice."}, {"role": "user", "content": "Does it blink?"}, {"role": "assistant", "content": "It does."}, {"role": "user", "content": [{"type": "text", "text": "How often?"}]}]
        at.engine.texts["chat"] = "The lamp blinks twice."
        await at.complete("chat", said)
        assert at.engine.prompts[-1].startswith("<|bos|><|system|>passage: The lamp blinks twice.<|end|><|user|>Does it blink?<|end|><|assistant|>It does.<|end|><|user|>How often?<|end|>")


@pytest.mark.asyncio
async def test_a_chat_answer_follows_the_caller_s_schema() -> None:
    async with system() as at:
        at.engine.texts["chat"] = '{"often":2}'
        schema = {"type": "object", "properties": {"often": {"type": "integer"}}, "required": ["often"]}
        made = await at.complete("chat", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}, max_tokens=40)
        assert json.loads(made.choices[0].message.content) == {"often": 2}
        assert "often" in (at.engine.grammars[-1] or "")
        with pytest.raises(openai.BadRequestError, match="no grammar can be made of this schema"):
            await at.complete("chat", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        ("nobody", {}, openai.NotFoundError, "auto, or one of tool, classifier, ner, chat"),
        ("../etc", {}, openai.NotFoundError, "there is no model"),
        ("tool@6", {}, openai.NotFoundError, "adapter tool has no live version 6"),
        ("ner", {}, openai.NotFoundError, "adapter ner has no live version"),
        ("chat", {"messages": [{"role": "assistant", "content": "hi"}]}, openai.BadRequestError, "the last one must be a user's"),
        ("chat", {"messages": [{"role": "user", "content": " "}]}, openai.BadRequestError, "the last one must be a user's"),
        ("chat", {"messages": [{"role": "user", "content": "x" * 4001}]}, openai.BadRequestError, "4001 characters"),
        ("chat", {"messages": []}, openai.BadRequestError, "messages"),
        ("chat", {"n": 2}, openai.BadRequestError, "n: "),
        ("chat", {"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ("tool", {"tools": [{"type": "function", "function": {"name": "no name"}}]}, openai.BadRequestError, "name"),
        ("chat", {"response_format": {"type": "json_schema"}}, openai.BadRequestError, "json_schema is missing"),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["x" * 20_000]}}}}, openai.BadRequestError, "16384 characters at most"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["at once", "stream"])
async def test_bad_requests_are_refused_as_openai_refuses_them(model: str, options: dict[str, Any], error: type[openai.APIStatusError], words: str, stream: bool) -> None:
    async with system() as at:
        with pytest.raises(error, match=words):
            await at.complete(model, **({"messages": ASKED} | options), stream=stream)


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True], ids=["at once", "stream"])
async def test_a_failing_engine_is_a_503(stream: bool) -> None:
    async with system() as at:
        at.engine.fails = True
        with pytest.raises(openai.InternalServerError, match="the engine is not running") as raised:
            await at.complete("chat", stream=stream)
        assert (raised.value.status_code, raised.value.response.headers["Retry-After"]) == (503, "1")
        assert at.notes.requests == []


@pytest.mark.asyncio
async def test_the_user_is_the_conversation_and_the_tier_its_priority() -> None:
    async with system() as served:
        for tier in ("flex", "default", "priority"):
            await served.complete("classifier", user="mia", service_tier=tier)
        asked = [request for request, _ in served.notes.requests]
    assert [(request.conversation_id, request.priority) for request in asked] == [("mia", -2), ("mia", 0), ("mia", 2)]
