"""Writing events outside of a stage: whole batches, each in a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from runtime.cloudevents import headers
from runtime.errors import Fenced
from runtime.ids import digest
from runtime.kafka import producer
from schemas.codec import RECORDS, Codec
from schemas.events import Event


@dataclass(frozen=True, slots=True)
class Entry:
    """An event for a topic (without prefix). Its id is a function of topic, key and content where none is given."""

    topic: str
    key: str | bytes | None
    event: Event
    event_id: str | None = None


class EventWriter:
    """The writer `name`; a second one of that name fences the first."""

    def __init__(self, broker: str, name: str, stage: str, codec: Codec, prefix: str = "") -> None:
        self._name, self._stage, self._codec, self._prefix = name, stage, codec, prefix
        self._client = producer(broker, f"{prefix}{name}")
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connects, and fences the former writer of this name."""
        await self._client.start()

    async def stop(self) -> None:
        """Disconnects."""
        await self._client.stop()

    async def write(self, entries: Sequence[Entry]) -> None:
        """Writes all of `entries` or none.

        Raises:
            Fenced: another writer took over, or the outcome is unknown.
        """
        async with self._lock:
            try:
                async with self._client.transaction():
                    await asyncio.gather(*[await self._send(entry) for entry in entries])
            except KafkaError as error:
                raise Fenced(f"{self._name}: {type(error).__name__}: {error}") from error

    async def _send(self, entry: Entry) -> asyncio.Future[object]:
        value = self._codec.encode(entry.event)
        key = entry.key.encode() if isinstance(entry.key, str) else entry.key
        event_id = entry.event_id or digest(entry.topic, key or b"", value)
        extra = headers(RECORDS[type(entry.event)], event_id, self._stage, None)
        sent: asyncio.Future[object] = await self._client.send(self._prefix + entry.topic, key=key, value=value, headers=list(extra))
        return sent
