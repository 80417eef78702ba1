"""Parsers that misbehave, in real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from runtime.errors import InvalidInput
from streams.parse import Block, BlockKind
from streams.parse.pool import ParserPool

MEGABYTE = 1 << 20


def misbehave(_media_type: str, data: bytes) -> list[Block]:
    """Does what the document says."""
    if data == b"hang":
        time.sleep(600)
    if data == b"die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"eat":
        return [Block(BlockKind.TEXT, str(len(bytearray(2000 * MEGABYTE))))]
    if data == b"refuse":
        raise InvalidInput("no")
    return [Block(BlockKind.TEXT, data.decode())]


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    pool = ParserPool(misbehave, timeout_seconds=3, memory_bytes=1500 * MEGABYTE)
    yield pool
    pool.close()


@pytest.mark.parametrize(("data", "fault"), [(b"hang", "did not end within 3 s"), (b"die", "died on this document"), (b"eat", "more memory"), (b"refuse", "no")])
def test_a_bad_document_costs_itself_alone(pool: ParserPool, data: bytes, fault: str) -> None:
    async def both() -> None:
        bad = asyncio.create_task(pool.parse("text/plain", data))
        assert [b.text for b in await pool.parse("text/plain", b"neighbour")] == ["neighbour"]
        with pytest.raises(InvalidInput, match=fault):
            await bad
        assert [b.text for b in await pool.parse("text/plain", b"next")] == ["next"]

    asyncio.run(both())


def test_a_cancelled_document_frees_its_parser(pool: ParserPool) -> None:
    async def cancel() -> None:
        hanging = [asyncio.create_task(pool.parse("text/plain", b"hang")) for _ in range(2)]
        await asyncio.sleep(0.5)
        for task in hanging:
            task.cancel()
        began = time.monotonic()
        assert [b.text for b in await pool.parse("text/plain", b"next")] == ["next"]
        assert time.monotonic() - began < 2.5

    asyncio.run(cancel())


def test_real_documents_are_parsed_without_torch() -> None:
    pool = ParserPool(workers=1)
    try:
        (block,) = asyncio.run(pool.parse("text/html", b"<html><body><p>Kafka is a log of records.</p></body></html>"))
    finally:
        pool.close()
    assert block.text == "Kafka is a log of records."
