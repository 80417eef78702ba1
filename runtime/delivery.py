"""How what is made of records is written, with the offset that says they are done: `PartitionTransactions` does both at once, `IdempotentDelivery` one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from runtime.errors import Fenced
from runtime.kafka import Outgoing, send_all

CommitOffsets = Callable[[Mapping[TopicPartition, OffsetAndMetadata]], Awaitable[None]]


class Delivery(Protocol):
    """What a member writes by."""

    @property
    def epoch(self) -> int:
        """Which hold of partitions this is; taken before work begins, given to `commit` after it."""

    async def fence(self, partitions: Iterable[TopicPartition]) -> None:
        """Takes over `partitions`, and lets go of all others."""

    async def drain(self) -> None:
        """Returns when nothing is being written."""

    async def close(self) -> None:
        """Drains and disconnects."""

    async def commit(self, epoch: int, partition: TopicPartition, outgoing: Sequence[Outgoing], next_offset: int, metadata: str = "") -> bool:
        """Writes `outgoing`, and the source's `next_offset` with `metadata`; False when `epoch` has passed and nothing was written.

        Raises:
            Fenced: the outcome is unknown, or somebody else owns the partition: start over from the committed offsets.
        """


class IdempotentDelivery:
    """At least once: records are acknowledged, and can be read, before their offset is committed. Who dies between the two writes them again, under the same ids, and so may
    a member whose partition went to another meanwhile; in return no reader waits for a transaction's end.

    `connect` makes a producer, `commit_offsets` commits for the member that reads.
    """

    def __init__(self, connect: Callable[[], AIOKafkaProducer], commit_offsets: CommitOffsets) -> None:
        self._connect, self._commit_offsets = connect, commit_offsets
        self._producer: AIOKafkaProducer | None = None
        self._locks: dict[TopicPartition, asyncio.Lock] = {}
        self._epoch = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    async def fence(self, partitions: Iterable[TopicPartition]) -> None:
        """Takes over `partitions`. Nobody is fenced: see above."""
        await self.drain()
        if self._producer is None:
            self._producer = self._connect()
            await self._producer.start()
        self._locks = {partition: asyncio.Lock() for partition in partitions}
        self._epoch += 1

    async def drain(self) -> None:
        self._epoch += 1
        for lock in self._locks.values():
            async with lock:
                pass

    async def close(self) -> None:
        await self.drain()
        producer, self._producer, self._locks = self._producer, None, {}
        if producer is not None:
            await producer.stop()

    async def commit(self, epoch: int, partition: TopicPartition, outgoing: Sequence[Outgoing], next_offset: int, metadata: str = "") -> bool:
        lock, producer = self._locks.get(partition), self._producer
        if lock is None or producer is None:
            return False
        async with lock:
            if epoch != self._epoch:
                return False
            try:
                await send_all(producer, outgoing)
                await self._commit_offsets({partition: OffsetAndMetadata(next_offset, metadata)})
            except KafkaError as error:
                raise Fenced(f"offset of {partition.topic}/{partition.partition}: {type(error).__name__}: {error}") from error
        return True
