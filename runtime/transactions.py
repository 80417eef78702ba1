"""Exactly-once between topics: one fenced transactional producer a partition.

The id of a partition's producer is `group.topic.partition`. Its start fences the former owner, so that a paused one
that wakes up can commit nothing (one id a worker leaves that hole: aiokafka sends no generation with its offsets).
Start it *before* committed offsets are read. Source: KIP-98, KIP-447 (problem), docs/decisions/0003.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from runtime.errors import Fenced
from runtime.kafka import Outgoing, send_all
from runtime.metrics import TRANSACTIONS

Connect = Callable[[str], AIOKafkaProducer]


class PartitionTransactions:
    """The transactions of one group member. `connect` makes a producer for a transactional id."""

    def __init__(self, group: str, connect: Connect) -> None:
        self._group = group
        self._connect = connect
        self._producers: dict[TopicPartition, AIOKafkaProducer] = {}
        self._locks: dict[TopicPartition, asyncio.Lock] = {}
        self._live = False
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """Which hold of partitions this is; taken before work begins, given to `commit` after it."""
        return self._epoch

    async def fence(self, partitions: Iterable[TopicPartition]) -> None:
        """Takes over `partitions`, and lets go of all others."""
        await self.close()
        self._producers = {p: self._connect(f"{self._group}.{p.topic}.{p.partition}") for p in partitions}
        self._locks = {p: asyncio.Lock() for p in self._producers}
        await asyncio.gather(*(producer.start() for producer in self._producers.values()))
        self._epoch += 1
        self._live = True

    async def drain(self) -> None:
        """Returns when no transaction is open; those that have not reached their offsets are aborted."""
        self._live = False
        self._epoch += 1
        for lock in self._locks.values():
            async with lock:
                pass

    async def close(self) -> None:
        """Drains and disconnects."""
        await self.drain()
        producers, self._producers, self._locks = self._producers, {}, {}
        await asyncio.gather(*(producer.stop() for producer in producers.values()))

    async def commit(self, epoch: int, partition: TopicPartition, outgoing: Sequence[Outgoing], next_offset: int, metadata: str = "") -> bool:
        """Writes `outgoing` and the source's `next_offset` (with `metadata`) in one transaction.

        False when `epoch` has passed and nothing was written. Work that began before a hand-over must not be committed
        after it, even where the partition came back: it is read again, and what lay before it may have been dropped.

        Raises:
            Fenced: the outcome is unknown or a newer owner exists: start over from the committed offsets.
        """
        lock = self._locks.get(partition)
        if lock is None:
            return False
        async with lock:
            if not self._live or epoch != self._epoch:
                return False
            producer, began = self._producers[partition], time.perf_counter()
            try:
                await producer.begin_transaction()
                await send_all(producer, outgoing)
                if not self._live:
                    await producer.abort_transaction()
                    return False
                offsets = {partition: OffsetAndMetadata(next_offset, metadata)}
                await producer.send_offsets_to_transaction(offsets, self._group)
                await producer.commit_transaction()
            except KafkaError as error:
                raise Fenced(f"transaction of {partition.topic}/{partition.partition}: {type(error).__name__}: {error}") from error
            TRANSACTIONS.labels(partition.topic).observe(time.perf_counter() - began)
        return True
