"""What every HTTP request goes through: how much is taken on at once, who went away, what is recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import HTTPException
from fastapi import Request as HttpRequest

from inference.engines import Hear
from inference.service import DECLARED, Answer, Offer, Service
from runtime.errors import Transient
from runtime.event_writer import Entry, EventWriter
from runtime.ids import digest
from schemas.events import Request
from schemas.topics import COMPLETED, REQUESTS

AT_ONCE = 256
CLIENT_GONE = 499
"""As nginx has it; nobody reads it."""
T = TypeVar("T")


class Recorder:
    """Writes an answered request and its answer in one transaction."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    async def record(self, request: Request, answer: Answer) -> None:
        """Writes all or nothing."""
        key = request.conversation_id
        results = [Entry(topic, key, result, result.result_id) for topic, result in answer.results]
        last = Entry(COMPLETED.name, key, answer.completed, digest("completed", request.request_id))
        await self._writer.write([Entry(REQUESTS.name, key, request, request.request_id), *results, last])


class Front:
    """Takes on `at_once` requests; who comes beyond that is told to come again."""

    def __init__(self, service: Service, recorder: Recorder, at_once: int = AT_ONCE) -> None:
        self._service, self._recorder, self._at_once, self._taken = service, recorder, at_once, 0

    async def answer(self, http: HttpRequest, request: Request, offer: Offer = DECLARED) -> Answer:
        """The recorded answer; when the client goes away, its request ends in the engine too.

        Raises:
            HTTPException: 429 beyond what is taken on, 503 while the engine or the router fails, 499 when the client went away.
        """
        with self._taken_on():
            answer = await attended(http, self._answered(request, offer))
        await self._recorder.record(request, answer)
        return answer

    async def stream(self, request: Request, offer: Offer) -> AsyncIterator[str | Answer]:
        """The pieces of a chat answer as they come, then the recorded answer; who stops listening ends the request.

        Raises:
            HTTPException: see `answer`; 429 before anything is given.
        """
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        with self._taken_on():
            working = asyncio.create_task(self._answered(request, offer, heard.put_nowait))
            working.add_done_callback(lambda _: heard.put_nowait(None))
            try:
                while (piece := await heard.get()) is not None:
                    yield piece
                answer = await working
            finally:
                working.cancel()
        await self._recorder.record(request, answer)
        yield answer

    async def _answered(self, request: Request, offer: Offer, hear: Hear | None = None) -> Answer:
        try:
            return await self._service.answer(request, now_ms(), offer, hear)
        except Transient as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error

    @contextmanager
    def _taken_on(self) -> Iterator[None]:
        if self._taken >= self._at_once:
            raise HTTPException(429, f"{self._at_once} requests are being answered: come again", headers={"Retry-After": "1"})
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


async def attended(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled when the client goes away.

    Raises:
        HTTPException: the client went away.
    """
    working, watching = asyncio.create_task(work), asyncio.create_task(_gone(http))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
    await asyncio.wait((working,))
    raise HTTPException(CLIENT_GONE, "the client went away")


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def now_ms() -> int:
    """Epoch milliseconds."""
    return int(time.time() * 1000)


def deadline(timeout_ms: int | None) -> int | None:
    """When `timeout_ms` from now is over."""
    return None if timeout_ms is None else now_ms() + timeout_ms
