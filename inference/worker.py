"""The Kafka shell of inference: `requests` in, `results.*` and `results.completed` out, in the transaction of the
request's offset. The engine outlives this shell: when it is fenced, it re-joins and re-reads its offsets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from inference.service import Service
from runtime.cloudevents import headers
from runtime.errors import Fenced
from runtime.ids import digest
from runtime.kafka import Outgoing, Record, consumer, producer
from runtime.stage import run_stage
from runtime.transactions import PartitionTransactions
from schemas.codec import RECORDS, Codec
from schemas.events import Event, Request
from schemas.topics import COMPLETED, REQUESTS

log = structlog.get_logger()
BATCH = 64


class AnswerStage:
    """requests → results."""

    name = "inference"
    topic = REQUESTS.name

    def __init__(self, service: Service, codec: Codec, prefix: str) -> None:
        self._service, self._codec, self._prefix = service, codec, prefix

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        request = self._codec.decode(Request, record.value)
        if request.served is not None:
            return ()
        answer = await self._service.answer(request, int(time.time() * 1000))
        made: list[tuple[str, str, Event]] = [(topic, result.result_id, result) for topic, result in answer.results]
        made.append((COMPLETED.name, digest("completed", request.request_id), answer.completed))
        return [
            Outgoing(self._prefix + topic, record.key, self._codec.encode(event), headers(RECORDS[type(event)], event_id, self.name, record)) for topic, event_id, event in made
        ]


class _Assignment(ConsumerRebalanceListener):
    """Drains before partitions go; fences, then reads the committed offsets, before anything new is processed."""

    def __init__(self, shell: RequestShell) -> None:
        self._shell = shell

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._shell.release()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._shell.take_over(list(assigned))


class RequestShell:
    """Runs the stage over its partitions."""

    def __init__(self, group: str, broker: str, stage: AnswerStage, codec: Codec, prefix: str = "", session_timeout_seconds: int = 10) -> None:
        self._group, self._broker, self._stage, self._codec, self._prefix, self._session = group, broker, stage, codec, prefix, session_timeout_seconds
        self._transactions = PartitionTransactions(group, lambda name: producer(broker, name, session_timeout_seconds))
        self._client: AIOKafkaConsumer | None = None
        self._settled = False
        self._slow: asyncio.Future[list[Sequence[Outgoing]]] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set; starts over after a fencing."""
        while not stop.is_set():
            try:
                await self._consume(stop)
            except Fenced as error:
                log.warning("shell.fenced", error=str(error))

    async def release(self) -> None:
        """Before partitions are revoked: cancels slow work, waits for open transactions."""
        self._settled = False
        if self._slow:
            self._slow.cancel()
        await self._transactions.drain()

    async def take_over(self, assigned: Sequence[TopicPartition]) -> None:
        """After partitions were assigned: fences former owners, then goes to what they had committed.

        What the client returns before that was read from offsets that a former owner may have passed since; it is
        dropped, and read again from the right place.
        """
        await self._transactions.fence(assigned)
        assert self._client is not None
        first = await self._client.beginning_offsets(assigned) if assigned else {}
        committed = {partition: await self._client.committed(partition) for partition in assigned}
        # nothing is awaited from the first seek on, so that no record comes in between
        for partition in assigned:
            offset = committed[partition]
            self._client.seek(partition, first[partition] if offset is None else offset)
        self._settled = True

    async def _consume(self, stop: asyncio.Event) -> None:
        self._client = consumer(self._broker, group=self._group, session_timeout_seconds=self._session)
        self._client.subscribe([self._prefix + self._stage.topic], listener=_Assignment(self))
        await self._client.start()
        try:
            while not stop.is_set():
                batches = await self._client.getmany(timeout_ms=200, max_records=BATCH)
                if batches and self._settled:
                    await self._process(batches)
        finally:
            await self.release()
            await self._client.stop()  # waits for a rebalance under way, which may be starting producers
            await self._transactions.close()

    async def _process(self, batches: dict[TopicPartition, list[Any]]) -> None:
        epoch = self._transactions.epoch
        records = {p: [Record(m.topic, m.partition, m.offset, m.key, m.value, tuple(m.headers)) for m in messages] for p, messages in batches.items()}
        flat = [record for group in records.values() for record in group]
        self._slow = slow = asyncio.gather(*(run_stage(self._stage, record, self._codec, self._prefix) for record in flat))
        try:
            made = dict(zip(flat, await slow, strict=True))
        except asyncio.CancelledError:
            if epoch == self._transactions.epoch:
                raise
            return
        finally:
            self._slow = None
        for partition, group in records.items():
            outgoing = [o for record in group for o in made[record]]
            await self._transactions.commit(epoch, partition, outgoing, group[-1].offset + 1)
