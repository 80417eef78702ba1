"""The Kafka shell of inference: `requests` in, `results.*` and `results.completed` out, in the transaction of the
request's offset, or before it is committed, by `[inference] delivery`. The engine outlives this shell: when it is fenced, it re-joins and re-reads its offsets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from inference.service import Service
from runtime.cloudevents import headers
from runtime.delivery import Delivery, IdempotentDelivery
from runtime.errors import Fenced
from runtime.ids import digest
from runtime.in_flight import InFlight
from runtime.kafka import Outgoing, Record, committed_offsets, consumer, producer
from runtime.metrics import PAUSED
from runtime.stage import run_stage
from runtime.transactions import PartitionTransactions
from schemas.codec import RECORDS, Codec
from schemas.events import Event, Request
from schemas.topics import COMPLETED, REQUESTS

log = structlog.get_logger()
BATCH = 64
CONCURRENT = 256
"""Requests that the engine has, to put in its own order."""


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

    def __init__(self, group: str, broker: str, stage: AnswerStage, codec: Codec, prefix: str = "", session_timeout_seconds: int = 10, delivery: str = "exactly-once") -> None:
        self._group, self._broker, self._stage, self._codec, self._prefix, self._session = group, broker, stage, codec, prefix, session_timeout_seconds
        self._client: AIOKafkaConsumer | None = None
        self._fatal: BaseException | None = None
        self._delivery: Delivery
        if delivery == "exactly-once":
            self._delivery = PartitionTransactions(group, lambda name: producer(broker, name, session_timeout_seconds, linger_milliseconds=0))
            self._work = InFlight(self._delivery, self._answer, self._note, CONCURRENT)
        else:
            self._delivery = IdempotentDelivery(lambda: producer(broker, linger_milliseconds=0), self._commit_offsets)
            self._work = InFlight(self._delivery, self._answer, self._note, CONCURRENT, linger_seconds=0)

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        assert self._client is not None
        await self._client.commit(dict(offsets))

    async def _answer(self, record: Record) -> Sequence[Outgoing]:
        return await run_stage(self._stage, record, self._codec, self._prefix)

    def _note(self, error: BaseException) -> None:
        self._fatal = self._fatal or error

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set; starts over after a fencing."""
        releasing = asyncio.create_task(self._release_at(stop))
        try:
            while not stop.is_set():
                try:
                    await self._consume(stop)
                except Fenced as error:
                    log.warning("shell.fenced", error=str(error))
        finally:
            releasing.cancel()

    async def _release_at(self, stop: asyncio.Event) -> None:
        """Gives up at once what waits for an engine, and may wait for ever: it is read again."""
        await stop.wait()
        self._work.release()

    async def release(self) -> None:
        """Before partitions are revoked: cancels what is in work, waits for open transactions."""
        self._work.release()
        await self._delivery.drain()

    async def take_over(self, assigned: Sequence[TopicPartition]) -> None:
        """After partitions were assigned: fences former owners, then goes to what they had committed.

        What the client returns before that was read from offsets that a former owner may have passed since; it is
        dropped, and read again from the right place.
        """
        await self._delivery.fence(assigned)
        assert self._client is not None
        first = await self._client.beginning_offsets(assigned) if assigned else {}
        committed = await committed_offsets(self._broker, self._group, assigned)
        # nothing is awaited from the first seek on, so that no record comes in between
        for partition in assigned:
            at = committed[partition]
            self._client.seek(partition, at.offset if at else first[partition])
        self._work.take_over(committed)

    def _pause(self, full: frozenset[TopicPartition]) -> None:
        """Reads on but in the partitions `full`, while heartbeats go on."""
        assert self._client is not None
        paused, held = self._client.paused(), self._client.assignment()
        if bool(full) != bool(paused):
            log.warning("requests.paused" if full else "requests.go_on", partitions=len(full or paused))
        self._client.pause(*(full - paused) & held)
        self._client.resume(*(paused - full) & held)
        PAUSED.set(len(full & held))

    async def _consume(self, stop: asyncio.Event) -> None:
        self._fatal = None
        self._client = consumer(self._broker, group=self._group, session_timeout_seconds=self._session)
        self._client.subscribe([self._prefix + self._stage.topic], listener=_Assignment(self))
        await self._client.start()
        try:
            while not stop.is_set():
                batches = await self._client.getmany(timeout_ms=200, max_records=BATCH)
                if self._fatal:
                    raise self._fatal
                self._pause(self._work.offer(Record(m.topic, m.partition, m.offset, m.key, m.value, tuple(m.headers)) for batch in batches.values() for m in batch))
        finally:
            await self.release()
            await self._client.stop()  # waits for a rebalance under way, which may be starting producers
            await self._delivery.close()
