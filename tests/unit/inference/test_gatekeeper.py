"""Keys, scopes, rates and bodies, in front of an application that says yes to all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

from inference.gatekeeper import LOOK_SECONDS, MAX_BODY_BYTES, Bucket, Gatekeeper, load_keys, new_key
from loom.cli import app
from runtime.errors import SettingsError


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says how long the body was."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def client(keeper: Gatekeeper) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(keeper), base_url="http://test")


def entry(name: str, digest: str, more: str = "") -> str:
    return f'[keys.{name}]\nsha256 = "{digest}"\n{more}\n'


@pytest.fixture
def key_file(tmp_path: Path) -> tuple[Path, str]:
    key, digest = new_key()
    (tmp_path / "keys.toml").write_text(entry("frontend", digest, 'scopes = ["ask"]\nrequests_per_minute = 2'))
    return tmp_path / "keys.toml", key


@pytest.mark.asyncio
async def test_without_a_file_everybody_may_ask() -> None:
    async with client(Gatekeeper(echo)) as http:
        assert (await http.post("/ask", content=b"xyz")).text == "3"


@pytest.mark.asyncio
async def test_keys_open_what_they_are_for_so_often_a_minute(key_file: tuple[Path, str]) -> None:
    file, key = key_file
    clock = Clock()
    async with client(Gatekeeper(echo, file, clock)) as http:
        bearer = {"Authorization": f"Bearer {key}"}
        assert (await http.get("/healthz")).status_code == 200
        for headers in ({}, {"Authorization": "Bearer loom_other"}, {"Authorization": f"Basic {key}"}, {"Authorization": key}):
            refused = await http.post("/ask", headers=headers)
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        for path in ("/generate", "/v1/models", "/metrics", "/asking", "/"):
            assert (await http.get(path, headers=bearer)).status_code == 403
        assert [(await http.post("/ask", headers=bearer)).status_code for _ in range(3)] == [200, 200, 429]
        assert (await http.post("/ask", headers=bearer)).headers["Retry-After"] == "30"
        clock.now = 30.0
        assert [(await http.post("/ask", headers=bearer)).status_code for _ in range(2)] == [200, 429]


@pytest.mark.asyncio
async def test_a_changed_file_is_read_and_a_broken_one_changes_nothing(key_file: tuple[Path, str]) -> None:
    file, key = key_file
    clock = Clock()
    other, digest = new_key()
    async with client(Gatekeeper(echo, file, clock)) as http:

        async def status(secret: str) -> int:
            clock.now += LOOK_SECONDS
            return (await http.post("/ask", headers={"Authorization": f"Bearer {secret}"})).status_code

        assert (await status(key), await status(other)) == (200, 401)
        file.write_text("[keys")
        assert await status(key) == 200
        file.write_text(entry("other", digest))
        assert (await status(other), await status(key)) == (200, 401)


@pytest.mark.asyncio
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_limited_whether_it_says_its_length_or_not(chunked: bool) -> None:
    def pieces(size: int) -> Iterator[bytes]:
        yield b"x" * (size // 2)
        yield b"x" * (size - size // 2)

    async with client(Gatekeeper(echo)) as http:
        for size, status in ((MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)):

            async def body(size: int = size) -> object:
                for piece in pieces(size):
                    yield piece

            reply = await http.post("/ask", content=body() if chunked else b"x" * size)  # type: ignore[arg-type]
            assert (reply.status_code, reply.text == str(size)) == (status, status == 200)


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 120))
def test_no_more_is_taken_than_a_minute_s_worth_and_what_has_filled_since(pauses: list[float], per_minute: int) -> None:
    bucket, now, taken = Bucket(per_minute, float(per_minute), 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        taken += not wait
        assert wait >= 0
        assert taken <= per_minute + now * per_minute / 60 + 1e-6
        if wait:
            assert Bucket(per_minute, bucket.tokens, now).take(now + wait + 1e-6) == 0.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "can't be read"), ("[keys", "can't be read"), ("", "keys: Field required"), ("[keys]", "keys: "), ('[keys.a]\nsha256 = "abc"', "keys.a.sha256"),
        (entry("a", "0" * 64, 'scopes = ["all"]'), "keys.a.scopes"), (entry("a", "0" * 64, "rate = 3"), "keys.a.rate"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_says_where(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "keys.toml").write_text(content)
    with pytest.raises(SettingsError, match=f"LOOM_API_KEYS: .*keys.toml.*{reason}"):
        load_keys(tmp_path / "keys.toml")


def test_the_command_makes_what_the_file_has(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["keys", "frontend", "--scope", "ask", "--per-minute", "5"])
    (tmp_path / "keys.toml").write_text(made.stdout)
    key = load_keys(tmp_path / "keys.toml")["frontend"]
    assert (sorted(key.scopes), key.requests_per_minute) == (["ask"], 5)
    assert "shown once: loom_" in made.stderr
    assert isinstance(CliRunner().invoke(app, ["keys", "Front End"]).exception, SettingsError)
    assert isinstance(CliRunner().invoke(app, ["keys", "a", "--scope", "all"]).exception, SettingsError)
