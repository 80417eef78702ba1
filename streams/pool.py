"""Documents are cut in processes of their own: a parser that hangs, dies or eats the memory costs its document, and nobody else waits."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import TimeoutError as TimedOut

from pebble import ProcessExpired, ProcessPool

from runtime.errors import InvalidInput
from streams.cut import Cutting, Piece, cut

WORKERS = 2
TIMEOUT_SECONDS = 120.0
MEMORY_BYTES = 4 << 30
"""Address space of a parser's process; without torch, 0.4 GiB of it is taken before the first document."""
DOCUMENTS_A_PROCESS = 500
"""Then a fresh one takes its place, with what libraries leave behind gone."""
ATTEMPTS = 2
"""A process may have died of something else than its document."""

CutDocument = Callable[[str, bytes, Cutting], list[Piece]]


class CutterPool:
    """Cuts a few documents at once."""

    def __init__(self, cut_document: CutDocument = cut, workers: int = WORKERS, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._cut, self._timeout = cut_document, timeout_seconds
        self._pool = ProcessPool(max_workers=workers, max_tasks=DOCUMENTS_A_PROCESS, initializer=_confine, initargs=[memory_bytes], context=context)

    async def cut(self, media_type: str, data: bytes, how: Cutting) -> list[Piece]:
        """The pieces of a document; what is cancelled is stopped.

        Raises:
            InvalidInput: as `cut` does, and where its parser takes too long, too much memory, or dies.
        """
        for attempt in range(ATTEMPTS):
            try:
                found: list[Piece] = await asyncio.wrap_future(self._pool.schedule(self._cut, args=[media_type, data, how], timeout=self._timeout))
            except TimedOut as error:
                raise InvalidInput(f"the parser of {media_type} did not end within {self._timeout:.0f} s") from error
            except MemoryError as error:
                raise InvalidInput(f"the parser of {media_type} needs more memory than it may have") from error
            except ProcessExpired as error:
                if attempt + 1 == ATTEMPTS:
                    raise InvalidInput(f"the parser of {media_type} died on this document, {ATTEMPTS} times (exit code {error.exitcode})") from error
            else:
                return found
        raise AssertionError

    def close(self) -> None:
        """Ends the processes and whatever they do."""
        self._pool.stop()
        self._pool.join()


def _confine(memory_bytes: int) -> None:
    """Bounds the process's memory, and keeps torch out of it: spaCy loads it where it can, half a gigabyte for nothing."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    sys.modules["torch"] = None  # type: ignore[assignment]


