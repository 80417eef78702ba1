"""Who may ask over HTTP, what, how much and how often: keys with scopes, a limit on bodies, a rate a key. Without a file of keys everybody may ask everything.

Keys are kept as SHA-256 digests alone: they are random, so that nothing slower is needed. Source: RFC 6750 (bearer tokens), RFC 6585 (429).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import SettingsError

log = structlog.get_logger()
MAX_BODY_BYTES = 1 << 20
LOOK_SECONDS = 2.0
PREFIX = "loom_"
OPEN = ("/healthz", "/readyz")
"""What probes of an orchestrator ask."""
ScopeName = Literal["ask", "generate", "openai", "metrics", "docs"]
SCOPES: dict[str, ScopeName] = {"/ask": "ask", "/generate": "generate", "/v1": "openai", "/metrics": "metrics", "/docs": "docs", "/openapi.json": "docs", "/redoc": "docs"}
"""What a path needs, by its beginning."""


class Key(BaseModel):
    """A key's holder may ask this, so often."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[ScopeName] = frozenset({"ask", "generate", "openai"})
    requests_per_minute: int = Field(default=600, ge=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    keys: dict[str, Key] = Field(min_length=1)


@dataclass(slots=True)
class Bucket:
    """Tokens that requests take; it holds a minute's worth, and fills evenly."""

    per_minute: int
    tokens: float
    filled: float

    def take(self, now: float) -> float:
        """0 where there was a token; else the seconds until there is one. `now` is in seconds of a clock that never goes back."""
        self.tokens = min(float(self.per_minute), self.tokens + (now - self.filled) * self.per_minute / 60)
        self.filled = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) * 60 / self.per_minute


def new_key() -> tuple[str, str]:
    """A new key, and its digest for the file of keys."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def load_keys(path: Path) -> dict[str, Key]:
    """The keys in the TOML file `path`, by name: `[keys.frontend]` tables.

    Raises:
        SettingsError: it can't be read, or says something else.
    """
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).keys
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"LOOM_API_KEYS: {path} can't be read: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise SettingsError(f"LOOM_API_KEYS: {path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; `loom keys NAME` makes one") from error


class Gatekeeper:
    """ASGI middleware. The file is read again when it changes; one that is broken leaves the keys as they were."""

    def __init__(self, app: ASGIApp, file: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._file, self._clock = app, file, clock
        self._keys = load_keys(file) if file else {}
        self._buckets: dict[str, Bucket] = {}
        self._looked, self._stamp = clock(), _stamp(file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refusal(scope["path"], headers):
            await refusal(send)
            return
        body = await _body(receive)
        if body is None:
            await Refusal(413, f"a body has {MAX_BODY_BYTES} bytes at most")(send)
            return
        await self._app(scope, _again(body, receive), send)

    def _refusal(self, path: str, headers: dict[str, str]) -> Refusal | None:
        if self._file is None or path in OPEN:
            return None
        self._look()
        kind, _, secret = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(secret.strip().encode("latin-1", "replace")).hexdigest()
        name = next((name for name, key in self._keys.items() if hmac.compare_digest(key.sha256, digest)), None)
        if kind.lower() != "bearer" or name is None:
            return Refusal(401, "no key, or none that is known: send Authorization: Bearer KEY", {"www-authenticate": "Bearer"})
        needed = next((scope for beginning, scope in SCOPES.items() if path == beginning or path.startswith(f"{beginning}/")), None)
        if needed is None or needed not in self._keys[name].scopes:
            return Refusal(403, f"the key {name!r} has no scope {needed!r}" if needed else f"nobody may ask for {path[:64]!r}")
        if wait := self._bucket(name).take(self._clock()):
            return Refusal(429, f"the key {name!r} may ask {self._keys[name].requests_per_minute} times a minute", {"retry-after": str(math.ceil(wait))})
        return None

    def _bucket(self, name: str) -> Bucket:
        per_minute = self._keys[name].requests_per_minute
        if name not in self._buckets or self._buckets[name].per_minute != per_minute:
            self._buckets[name] = Bucket(per_minute, float(per_minute), self._clock())
        return self._buckets[name]

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._file and (stamp := _stamp(self._file)) != self._stamp:
            self._stamp = stamp
            try:
                self._keys = load_keys(self._file)
            except SettingsError as error:
                log.error("keys.kept", reason=str(error))


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer before anybody was asked, in OpenAI's form and FastAPI's."""

    status: int
    message: str
    headers: dict[str, str] | None = None

    async def __call__(self, send: Send) -> None:
        body = json.dumps({"detail": self.message, "error": {"message": self.message, "type": "request_refused", "param": None, "code": None}}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **(self.headers or {})}
        await send({"type": "http.response.start", "status": self.status, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})
        await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> Message | None:
    """The request's body as one message, whatever length it claims; None for one that is too long. A client that left meanwhile is told of as it is."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return {"type": "http.request", "body": b"".join(parts), "more_body": False}


def _again(body: Message, receive: Receive) -> Receive:
    """`receive` with a body that was read already."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return body

    return read


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """What changes with a file."""
    try:
        return None if file is None else ((found := file.stat()).st_mtime_ns, found.st_size)
    except OSError:
        return None
