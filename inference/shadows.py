"""Candidates that answer behind what is served: what they would have said goes to `shadows`, and holds up nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from runtime.cloudevents import headers
from runtime.errors import LoomError
from runtime.kafka import Outgoing, send_all
from runtime.metrics import SHADOWED
from schemas.codec import RECORDS, Codec
from schemas.events import Result
from schemas.topics import SHADOWS

log = structlog.get_logger()
AT_ONCE = 32
"""More are not asked: a shadow may miss messages, and must not hold up answers."""


class Shadows:
    """Asks candidates in the background. `connect` makes an idempotent producer."""

    def __init__(self, connect: Callable[[], AIOKafkaProducer], codec: Codec, prefix: str) -> None:
        self._connect, self._codec, self._topic = connect, codec, prefix + SHADOWS.name
        self._client: AIOKafkaProducer | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, key: str, answer: Callable[[], Awaitable[Result]]) -> None:
        """Has `answer` made and written under `key`, unless many are in work."""
        if len(self._asking) >= AT_ONCE:
            SHADOWED.labels("dropped").inc()
            return
        task = asyncio.create_task(self._ask(key, answer))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, key: str, answer: Callable[[], Awaitable[Result]]) -> None:
        try:
            result = await answer()
            if self._client is None:
                client = self._connect()
                await client.start()
                self._client = client
            await send_all(self._client, [Outgoing(self._topic, key.encode(), self._codec.encode(result), headers(RECORDS[Result], result.result_id, "inference", None))])
        except (LoomError, KafkaError) as error:
            SHADOWED.labels("failed").inc()
            log.warning("shadow.failed", reason=str(error))
            return
        SHADOWED.labels("written").inc()

    async def stop(self) -> None:
        """Gives up what is in work."""
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)
        if self._client is not None:
            with contextlib.suppress(KafkaError):
                await self._client.stop()
