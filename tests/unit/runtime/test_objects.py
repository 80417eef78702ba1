"""Claim checks: what may be read, and what is done with a store that fails."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime.errors import IntegrityError, InvalidInput
from runtime.objects import MAX_FETCHED_BYTES, Objects, Sources
from schemas.events import ClaimCheck

DATA = b"a long document"


def check(uri: str, data: bytes = DATA, size: int | None = None) -> ClaimCheck:
    return ClaimCheck(uri=uri, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data) if size is None else size)


def fetch(sources: Sources, claim: ClaimCheck) -> bytes:
    return asyncio.run(sources.fetch(claim))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("inbox/a b.pdf", "inbox/deep/c.pdf", "inbox-2/no.pdf", "secret.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DATA)
    return tmp_path


def test_what_lies_under_a_declared_prefix_is_fetched(folder: Path) -> None:
    sources = Sources([f"{folder.as_uri()}/inbox/"])
    assert fetch(sources, check(f"{folder.as_uri()}/inbox/a%20b.pdf")) == DATA
    assert fetch(sources, check(f"{folder.as_uri()}/inbox/deep/c.pdf")) == DATA


@pytest.mark.parametrize("name", ["inbox-2/no.pdf", "secret.txt", "inbox/../secret.txt", "inbox/%2e%2e/secret.txt", "inbox/deep/../../secret.txt", "inbox", "inbox/"])
def test_nothing_else_is_read(folder: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match=r"under none of \[documents\] sources"):
        fetch(Sources([f"{folder.as_uri()}/inbox"]), check(f"{folder.as_uri()}/{name}"))


def test_bytes_that_are_not_what_was_promised_are_refused(folder: Path) -> None:
    sources = Sources([folder.as_uri()])
    for claim, fault in ((check(f"{folder.as_uri()}/secret.txt", b"another text"), "has changed"), (check(f"{folder.as_uri()}/secret.txt", size=MAX_FETCHED_BYTES + 1), "at most")):
        with pytest.raises(IntegrityError, match=fault):
            fetch(sources, claim)


def test_what_is_not_there_is_given_up_after_some_attempts(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="could not be fetched in 3 attempts"):
        fetch(Sources([folder.as_uri()], attempts=3, wait_seconds=0.01), check(f"{folder.as_uri()}/none.pdf"))


class Flaky(BaseHTTPRequestHandler):
    """Fails twice, then serves."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(404 if type(self).asked < 3 else 200)
        self.send_header("content-length", str(len(DATA)))
        self.send_header("last-modified", "Tue, 24 Nov 2026 00:00:00 GMT")
        self.send_header("etag", '"1"')
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def served() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_store_that_fails_is_asked_again(served: str) -> None:
    assert fetch(Sources([f"{served}/inbox"], wait_seconds=0.01), check(f"{served}/inbox/a.pdf")) == DATA
    assert Flaky.asked == 3


def test_the_own_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    async def there_and_back() -> bytes:
        objects = Objects((tmp_path / "objects").as_uri())
        claim = await objects.put("inbox/a", DATA)
        assert objects.holds(claim.uri)
        assert not objects.holds(f"{objects.url}/../x")
        return await objects.claim(claim)

    assert asyncio.run(there_and_back()) == DATA
