"""Reading whole topics from the start and going on: for those who keep their state in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from runtime.kafka import PATIENT_MILLISECONDS, PROMPT_MILLISECONDS, Record, consumer, partitions_of
from schemas.codec import InvalidRecord

log = structlog.get_logger()


async def read_whole(broker: str, partitions: Sequence[TopicPartition], apply: Callable[[Record], None]) -> None:
    """Gives all that is on `partitions` now to `apply`, as `Follower.deliver` does."""
    follower = Follower(broker, (), PROMPT_MILLISECONDS)
    await follower.start(partitions)
    try:
        while not await follower.caught_up():
            await follower.deliver(apply)
    finally:
        await follower.stop()


class Follower:
    """Follows `topics` without a group, read_committed."""

    def __init__(self, broker: str, topics: Iterable[str], fetch_wait_milliseconds: int = PATIENT_MILLISECONDS) -> None:
        self._broker, self._topics = broker, list(topics)
        self._partitions: list[TopicPartition] = []
        self._client: AIOKafkaConsumer = consumer(broker, fetch_wait_milliseconds=fetch_wait_milliseconds)
        self._ends: dict[TopicPartition, int] = {}

    async def start(self, partitions: Sequence[TopicPartition] | None = None, since_seconds: float | None = None) -> None:
        """Connects, and notes where the topics, or just `partitions`, end now; begins with what was written at `since_seconds` of the epoch, or with all.

        Raises:
            Transient: the broker can't be reached or has not all topics.
        """
        self._partitions = await partitions_of(self._broker, self._topics) if partitions is None else list(partitions)
        await self._client.start()
        self._client.assign(self._partitions)
        self._ends = await self._client.end_offsets(self._partitions)
        await self._client.seek_to_beginning(*self._partitions)
        if since_seconds is not None:
            since = await self._client.offsets_for_times(dict.fromkeys(self._partitions, int(since_seconds * 1000)))
            for partition in self._partitions:
                self._client.seek(partition, since[partition].offset if since.get(partition) else self._ends[partition])

    async def stop(self) -> None:
        """Disconnects."""
        await self._client.stop()

    async def caught_up(self) -> bool:
        """Whether everything that was there at the start has been returned."""
        positions = await asyncio.gather(*(self._client.position(p) for p in self._partitions))
        return all(position >= self._ends[p] for p, position in zip(self._partitions, positions, strict=True))

    async def deliver(self, apply: Callable[[Record], None], refuse: Callable[[Record, InvalidRecord], None] | None = None, timeout_ms: int = 200) -> None:
        """Gives the next records to `apply`; foreign bytes among them change nothing, are told in the log, and go to `refuse`."""
        for record in await self.poll(timeout_ms):
            try:
                apply(record)
            except InvalidRecord as error:
                log.error("record.skipped", origin=record.origin, error=str(error))
                if refuse:
                    refuse(record, error)

    async def poll(self, timeout_ms: int = 200) -> Sequence[Record]:
        """The next records."""
        batches = await self._client.getmany(timeout_ms=timeout_ms)
        return [Record(m.topic, m.partition, m.offset, m.key, m.value, tuple(m.headers), m.timestamp) for batch in batches.values() for m in batch]
