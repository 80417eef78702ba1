"""Documents are cut in processes of their own: a parser that hangs, dies or eats the memory costs its document, and nobody else waits."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as TimedOut

from pebble import ProcessExpired, ProcessPool

from runtime.errors import InvalidInput
from streams.cut import Cutting, Piece, cut

WORKERS = 2
TIMEOUT_SECONDS = 120.0
SLOWEST_BYTES_A_SECOND = 100_000
"""Long documents may take longer: 650 pages are 2 MB and take 9 s."""
MEMORY_BYTES = 4 << 30
"""Address space of a parser's process; without torch, 0.4 GiB of it is taken before the first document."""
DOCUMENTS_A_PROCESS = 500
"""Then a fresh one takes its place, with what libraries leave behind gone."""
IDLE_SECONDS = 60.0
"""Then the processes end: each holds 0.4 GB, which training can use."""
ATTEMPTS = 2
"""A process may have died of something else than its document."""

CutDocument = Callable[[str, bytes, Cutting], list[Piece]]


class CutterPool:
    """Cuts a few documents at once."""

    def __init__(
        self, cut_document: CutDocument = cut, workers: int = WORKERS, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._cut, self._workers, self._timeout, self._memory, self._idle = cut_document, workers, timeout_seconds, memory_bytes, idle_seconds
        self._pool: ProcessPool | None = None
        self._busy = 0
        self._rest: asyncio.TimerHandle | None = None

    async def cut(self, media_type: str, data: bytes, how: Cutting) -> list[Piece]:
        """The pieces of a document; what is cancelled is stopped.

        Raises:
            InvalidInput: as `cut` does, and where its parser takes too long, too much memory, or dies.
        """
        self._busy += 1
        try:
            return await self._attempt(media_type, data, how)
        finally:
            self._busy -= 1
            if self._rest:
                self._rest.cancel()
            self._rest = asyncio.get_running_loop().call_later(self._idle, self._end_idle)

    async def _attempt(self, media_type: str, data: bytes, how: Cutting) -> list[Piece]:
        limit = self._timeout + len(data) // SLOWEST_BYTES_A_SECOND
        for attempt in range(ATTEMPTS):
            try:
                found: list[Piece] = await asyncio.wrap_future(self._running.schedule(self._cut, args=[media_type, data, how], timeout=limit))
            except TimedOut as error:
                raise InvalidInput(f"the parser of {media_type} did not end within {limit:.0f} s") from error
            except MemoryError as error:
                raise InvalidInput(f"the parser of {media_type} needs more memory than it may have") from error
            except ProcessExpired as error:
                if attempt + 1 == ATTEMPTS:
                    raise InvalidInput(f"the parser of {media_type} died on this document, {ATTEMPTS} times (exit code {error.exitcode})") from error
            else:
                return found
        raise AssertionError

    @property
    def _running(self) -> ProcessPool:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            self._pool = ProcessPool(max_workers=self._workers, max_tasks=DOCUMENTS_A_PROCESS, initializer=_confine, initargs=[self._memory], context=context)
        return self._pool

    def _end_idle(self) -> None:
        if not self._busy and self._pool is not None:
            idle, self._pool = self._pool, None
            asyncio.get_running_loop().run_in_executor(None, _end, idle)

    def close(self) -> None:
        """Ends the processes and whatever they do."""
        if self._rest:
            self._rest.cancel()
        if self._pool is not None:
            _end(self._pool)


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _confine(memory_bytes: int) -> None:
    """Bounds the process's memory."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


