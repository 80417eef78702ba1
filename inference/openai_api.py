"""The OpenAI API on adapters: each is a model, `auto` is the router, `alias@version` a version, `alias@base` the base under the adapter's prompt.

What the API has and adapters have not is left aside: answers are greedy, whatever `temperature` says. A system message is the passage that a chat answer rests on,
earlier turns are its history, `metadata` is the context (who the user is, say) of the request.

Source: OpenAI, "API Reference", chat completions and models.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, HTTPException
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.front import Front, attended
from inference.residency import Residency
from inference.service import MAX_TEXT_CHARACTERS, Answer, Offer, Usage
from runtime.project import Project, ToolDeclaration
from runtime.tasks.grammar import json_grammar
from schemas.events import AdapterVersion, CompletionStatus, Request, Result, ResultStatus

AUTO = "auto"
MAX_TOKENS = 512
MAX_SCHEMA_CHARACTERS = 1 << 14
"""Its grammar is made anew for each request."""
ERRORS = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable", 504: "timeout"}
STREAM = "text/event-stream"
PRIORITIES = {"flex": -2, "priority": 2}
"""Of OpenAI's tiers, those that say something of whose turn is next."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Part(_Lenient):
    """A piece of a message; text alone."""

    type: Literal["text"]
    text: str


class Message(_Lenient):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None

    @property
    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


class Function(_Lenient):
    """A tool's declaration."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class FunctionTool(_Lenient):
    """A tool on offer."""

    type: Literal["function"] = "function"
    function: Function


class Schema(_Lenient):
    """A JSON Schema that an answer follows."""

    name: str = "answer"
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Lenient):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class StreamOptions(_Lenient):
    """What a stream has beside the answer."""

    include_usage: bool = False


class ChatRequest(_Lenient):
    """A chat completion's request."""

    model: str = Field(max_length=64)
    messages: tuple[Message, ...] = Field(min_length=1, max_length=256)
    tools: tuple[FunctionTool, ...] | None = Field(None, max_length=64)
    tool_choice: Any = None
    response_format: ResponseFormat | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    metadata: dict[str, str] | None = None
    n: Literal[1] | None = None
    user: str | None = Field(None, max_length=256)
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


def openai_routes(project: Project, front: Front, residency: Residency) -> APIRouter:
    """`/v1/models` and `/v1/chat/completions`."""
    routes, began = APIRouter(prefix="/v1"), int(time.time())

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        """The router and every live adapter."""
        return {"object": "list", "data": _models(residency, began)}

    @routes.get("/models/{name}", response_model=None)
    async def model(name: str) -> dict[str, Any] | JSONResponse:
        found = next((known for known in _models(residency, began) if known["id"] == name), None)
        return found or _error(404, f"there is no model {name[:64]!r}")

    @routes.post("/chat/completions", response_model=None)
    async def complete(http: HttpRequest) -> dict[str, Any] | JSONResponse | StreamingResponse:
        """An answer to the last message, at once or as server-sent events."""
        try:
            body = ChatRequest.model_validate_json(await http.body())
            request, offer = _request(body), await asyncio.to_thread(_offer, body)
        except ValidationError as error:
            fault = error.errors()[0]
            return _error(400, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
        except ValueError as error:
            return _error(400, str(error))
        if body.model != AUTO and body.model.partition("@")[0] not in project.adapters:
            return _error(404, f"there is no model {body.model!r}: {AUTO}, or one of {', '.join(project.adapters)}, also with @version or @base")
        try:
            if not body.stream:
                return _completion(body.model, request, await front.answer(http, request, offer))
            pieces = front.stream(request, offer)
            first = await attended(http, _first(pieces))  # what is refused is refused before a stream begins
        except HTTPException as error:
            return _error(error.status_code, str(error.detail), dict(error.headers or {}))
        if isinstance(first, Answer) and (refused := _refusal(body.model, first)):
            return refused
        return StreamingResponse(_events(body, request, first, pieces), media_type=STREAM)

    return routes


def _models(residency: Residency, began: int) -> list[dict[str, Any]]:
    """The router, and each live adapter under its name and as the version that it stands for."""
    base = f"base@{residency.epoch}" if residency.epoch is not None else None
    found: list[tuple[str, AdapterVersion | None]] = [(AUTO, None)]
    for name, version in residency.live().items():
        found += [(name, version), (f"{name}@{version.version}", version)]
    return [{"id": name, "object": "model", "created": began, "owned_by": "loraloom", "root": version.engine_name if version else name, "parent": base if version else None} for name, version in found]


def _request(body: ChatRequest) -> Request:
    """Raises ValueError for messages that make no request."""
    *before, last = body.messages
    if last.role != "user" or not last.text.strip():
        raise ValueError("messages: the last one must be a user's, with a text")
    if len(last.text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"messages: the last one has {len(last.text)} characters, {MAX_TEXT_CHARACTERS} at most")
    context = {"user_id": "current", **(body.metadata or {})}
    if passage := "\n".join(message.text for message in before if message.role in ("system", "developer")):
        context["passage"] = passage
    if turns := _turns([message for message in before if message.role in ("user", "assistant")]):
        context["history"] = json.dumps(turns)
    request_id = uuid.uuid4().hex
    return Request(request_id=request_id, conversation_id=body.user or request_id, text=last.text, context=context, adapter_id=None if body.model == AUTO else body.model, priority=PRIORITIES.get(body.service_tier or "", 0), served="http")


def _turns(said: Sequence[Message]) -> list[dict[str, str]]:
    """Questions with their answers; what was asked several times in a row, or answered so, is one."""
    turns: list[dict[str, str]] = []
    for message in said:
        if message.role == "user":
            if turns and not turns[-1]["answer"]:
                turns[-1]["question"] += f" {message.text}"
            else:
                turns.append({"question": message.text, "answer": ""})
        elif turns:
            turns[-1]["answer"] = f"{turns[-1]['answer']} {message.text}".strip()
    return [turn for turn in turns if turn["answer"]]


def _offer(body: ChatRequest) -> Offer:
    """Raises ValueError for a schema or a tool that is none."""
    grammar = None
    if body.response_format and body.response_format.type != "text":
        schema = body.response_format.json_schema
        if body.response_format.type == "json_schema" and schema is None:
            raise ValueError("response_format: json_schema is missing")
        if schema and len(json.dumps(schema.schema_)) > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"response_format: a schema has {MAX_SCHEMA_CHARACTERS} characters at most")
        grammar = json_grammar(schema.schema_ if schema else None)
    tools = None if body.tools is None or body.tool_choice == "none" else tuple(ToolDeclaration(**tool.function.model_dump()).tool for tool in body.tools)
    return Offer(tools=() if body.tool_choice == "none" else tools, grammar=grammar, max_tokens=body.max_completion_tokens or body.max_tokens)


def _completion(model: str, request: Request, answer: Answer) -> dict[str, Any] | JSONResponse:
    """The answer as one completion; of several intents' results texts stand in lines, calls in a list."""
    if refused := _refusal(model, answer):
        return refused
    message, finish = _message(answer)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return _head("chat.completion", model, request) | {"choices": [choice], "usage": _usage(answer.usage), "loraloom": _own(answer)}


def _refusal(model: str, answer: Answer) -> JSONResponse | None:
    """The error of an answer with nothing good in it; a router that finds nothing has answered all the same."""
    if any(result.status is ResultStatus.OK for _, result in answer.results) or answer.completed.status is CompletionStatus.UNKNOWN:
        return None
    statuses = {result.status for _, result in answer.results}
    status = 504 if ResultStatus.EXPIRED in statuses else 404 if ResultStatus.REFUSED in statuses else 400
    return _error(status, answer.completed.error or f"{model} has no answer")


def _message(answer: Answer) -> tuple[dict[str, Any], str]:
    """The assistant's turn, and why it ended."""
    texts, calls = [], []
    for _, result in answer.results:
        output = json.loads(result.output) if result.status is ResultStatus.OK and result.output is not None else None
        if output is None or (answer.completed.route is not None and result.route_score is None):
            continue  # what sees every message is no answer to it
        if result.task != "tool":
            texts.append(output if isinstance(output, str) else json.dumps(output, ensure_ascii=False))
        elif missing := output.get("missing"):
            texts.append(f"To call {output['tool']} I need to know: {', '.join(missing)}.")
        else:
            calls.append(_call(result, output))
    content = "\n".join(texts) or None
    message: dict[str, Any] = {"role": "assistant", "content": content if calls else content or "", "refusal": None}
    return (message | {"tool_calls": calls}, "tool_calls") if calls else (message, "stop")


def _call(result: Result, output: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in output.items() if name != "tool"}
    return {"id": f"call_{result.result_id[:24]}", "type": "function", "function": {"name": output["tool"], "arguments": json.dumps(arguments, ensure_ascii=False)}}


async def _first(pieces: AsyncIterator[str | Answer]) -> str | Answer:
    return await anext(pieces)


async def _events(body: ChatRequest, request: Request, first: str | Answer, pieces: AsyncIterator[str | Answer]) -> AsyncIterator[str]:
    """A completion as server-sent events: the text as it comes, or, of what is no chat, all of it at once."""
    head, told = _head("chat.completion.chunk", body.model, request), ""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        return _event(head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    piece: str | Answer | None = first
    try:
        while isinstance(piece, str):
            told += piece
            yield chunk({"content": piece})
            piece = await anext(pieces)
    except HTTPException as error:
        yield _event(_error_body(error.status_code, str(error.detail)))
        return
    assert isinstance(piece, Answer)
    message, finish = _message(piece)
    if not told:
        for at, call in enumerate(message.get("tool_calls", ())):
            yield chunk({"tool_calls": [{"index": at, **call}]})
        if message["content"]:
            yield chunk({"content": message["content"]})
    yield chunk({}, finish)
    if body.stream_options and body.stream_options.include_usage:
        yield _event(head | {"choices": [], "usage": _usage(piece.usage)})
    yield "data: [DONE]\n\n"


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _head(kind: str, model: str, request: Request) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request.request_id}", "object": kind, "created": int(time.time()), "model": model}


def _usage(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": usage.prompt + usage.completion}


def _own(answer: Answer) -> dict[str, Any]:
    """What the API has no field for: who answered, and how sure everybody was."""
    results = [{"adapter": r.adapter, "version": r.version, "task": r.task, "status": r.status, "confidence": r.confidence, "route_score": r.route_score, "error": r.error} for _, r in answer.results]
    return {"status": answer.completed.status, "route": answer.completed.route, "results": results}


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(_error_body(status, message), status, headers)


def _error_body(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": ERRORS.get(status, "api_error"), "param": None, "code": None}}
