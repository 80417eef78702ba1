"""Parsers that misbehave, in real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from runtime.errors import InvalidInput
from streams.chunking import ChunkText
from streams.cut import Cutting, Piece, cut
from streams.pool import CutterPool
from streams.privacy import Pii
from streams.twins import prints

MEGABYTE = 1 << 20
HOW = Cutting(str(Path(__file__).parents[3] / "models" / "base"), Pii.OFF, b"s" * 32)


def piece(text: str) -> Piece:
    return Piece(ChunkText(text, (), None, None, 1), prints([text], ["h"], b"s")[0], "en", {})


def misbehave(_media_type: str, data: bytes, _how: Cutting) -> list[Piece]:
    """Does what the document says."""
    if data == b"hang":
        time.sleep(600)
    if data == b"die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"eat":
        return [piece(str(len(bytearray(2000 * MEGABYTE))))]
    if data == b"refuse":
        raise InvalidInput("no")
    return [piece(str(os.getpid()) if data == b"pid" else data.decode())]


async def told(pool: CutterPool, data: bytes) -> list[str]:
    return [found.text.text for found in await pool.cut("text/plain", data, HOW)]


@pytest.fixture(scope="module")
def pool() -> Iterator[CutterPool]:
    pool = CutterPool(misbehave, timeout_seconds=3, memory_bytes=1500 * MEGABYTE)
    yield pool
    pool.close()


@pytest.mark.parametrize(("data", "fault"), [(b"hang", "did not end within 3 s"), (b"die", "died on this document"), (b"eat", "more memory"), (b"refuse", "no")])
def test_a_bad_document_costs_itself_alone(pool: CutterPool, data: bytes, fault: str) -> None:
    async def both() -> None:
        bad = asyncio.create_task(pool.cut("text/plain", data, HOW))
        assert await told(pool, b"neighbour") == ["neighbour"]
        with pytest.raises(InvalidInput, match=fault):
            await bad
        assert await told(pool, b"next") == ["next"]

    asyncio.run(both())


def test_a_cancelled_document_frees_its_parser() -> None:
    pool = CutterPool(misbehave, workers=1, timeout_seconds=600)

    async def cancel() -> None:
        assert await told(pool, b"first") == ["first"]
        hanging = asyncio.create_task(pool.cut("text/plain", b"hang", HOW))
        await asyncio.sleep(0.5)
        hanging.cancel()
        assert await asyncio.wait_for(told(pool, b"next"), 60) == ["next"]

    try:
        asyncio.run(cancel())
    finally:
        pool.close()


def cut_and_tell(media_type: str, data: bytes, how: Cutting) -> list[Piece]:
    return [*cut(media_type, data, how), piece(f"torch: {'torch' in sys.modules}")]


def test_real_documents_are_parsed_without_torch() -> None:
    pool = CutterPool(cut_and_tell, workers=1)
    try:
        found, torch = asyncio.run(pool.cut("text/html", b"<html><body><p>Kafka is a log of records.</p></body></html>", replace(HOW, pii=Pii.TAG)))
    finally:
        pool.close()
    assert (found.text.text, found.language) == ("Kafka is a log of records.", "en")
    assert torch.text.text == "torch: False"


def test_idle_processes_end_and_come_back() -> None:
    pool = CutterPool(misbehave, workers=1, idle_seconds=0.2)

    async def rest() -> None:
        (first,) = await told(pool, b"pid")
        async with asyncio.timeout(3):
            while psutil.pid_exists(int(first)):
                await asyncio.sleep(0.05)
        (second,) = await told(pool, b"pid")
        assert second != first

    try:
        asyncio.run(rest())
    finally:
        pool.close()
