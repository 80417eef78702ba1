"""The Faust shell of the streams: Faust reads, our own fenced transactions write, and Faust never commits.

Records are worked on side by side and committed as they end (`runtime.in_flight`), so that a slow document holds up
nobody. Measured: without this, Faust delivers 20 to 30 % twice after kills, acknowledges the events of an agent that raises,
and loses offsets with tables. See docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from runtime.in_flight import CONCURRENT, InFlight
from runtime.kafka import Outgoing, Record, committed_offsets, producer
from runtime.stage import Stage, run_stage
from runtime.transactions import PartitionTransactions
from schemas.codec import Codec

BATCH = 500
WITHIN_SECONDS = 0.02


class _ReadCommittedThread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer


class _NeverCommittingConsumer(Consumer):
    """Fences before Faust reads committed offsets, drains before it gives partitions up, never commits."""

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Any) -> bool:
        return True

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self.app.shell.drain()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        await self.app.shell.fence(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_stop(self) -> None:
        await self.app.shell.drain()
        await super().on_stop()


class StreamShell:
    """Runs stages over their topics in one Faust app, `concurrent` records of each at once.

    `on_fatal` is called when the outcome of a transaction is unknown, or a stage has a bug: the process must end and
    start over from the committed offsets.
    """

    def __init__(
        self, group: str, broker: str, stages: Sequence[Stage], *, folder: Path, on_fatal: Callable[[BaseException], None],
        prefix: str = "", session_timeout_seconds: int = 10, codec: Codec | None = None, concurrent: int = CONCURRENT,
    ) -> None:  # fmt: skip
        self._codec = codec or Codec()
        self._prefix = prefix
        self._group, self._broker, self._on_fatal, self._concurrent = group, broker, on_fatal, concurrent
        self._work: dict[str, InFlight] = {}
        self._transactions = PartitionTransactions(group, lambda name: producer(broker, name, session_timeout_seconds))
        folder.mkdir(parents=True, exist_ok=True)
        self.app = faust.App(
            group, broker=f"kafka://{broker}", store="memory://", web_enabled=False, topic_disable_leader=True, datadir=str(folder),
            broker_session_timeout=session_timeout_seconds, broker_heartbeat_interval=session_timeout_seconds / 4,
            topic_allow_declare=False, consumer_auto_offset_reset="earliest", value_serializer="raw", key_serializer="raw",
            consumer_max_fetch_size=16 << 20, stream_wait_empty=False,
        )  # fmt: skip
        self.app.shell = self
        self.app.transport.Consumer = _NeverCommittingConsumer
        for stage in stages:
            self._add_agent(stage)

    async def start(self) -> None:
        """Joins the group and begins to work."""
        await self.app.start()

    async def stop(self) -> None:
        """Drains, leaves the group, disconnects."""
        await self.app.stop()
        await self._transactions.close()

    async def fence(self, assigned: Iterable[Any]) -> None:
        """Takes the assigned partitions over from whoever had them, at what was committed then."""
        places = [TopicPartition(tp.topic, tp.partition) for tp in assigned]
        try:
            await self._transactions.fence(places)
            committed = await committed_offsets(self._broker, self._group, places)
            for topic, work in self._work.items():
                work.take_over({place: at for place, at in committed.items() if place.topic == topic})
        except BaseException as error:
            self._on_fatal(error)
            raise

    async def drain(self) -> None:
        """Cancels what is in work, then waits for open transactions."""
        for work in self._work.values():
            work.release()
        await self._transactions.drain()

    def _add_agent(self, stage: Stage) -> None:
        name = self._prefix + stage.topic
        topic = self.app.topic(name, value_serializer="raw", key_serializer="raw")

        async def handle(record: Record) -> Sequence[Outgoing]:
            return await run_stage(stage, record, self._codec, self._prefix)

        work = self._work[name] = InFlight(self._transactions, handle, self._on_fatal, self._concurrent)

        async def take_in(stream: Any) -> None:
            async for batch in stream.take_events(BATCH, WITHIN_SECONDS):
                # what Faust buffered before a rebalance is read again after it
                fresh = [event.message for event in batch if event.message.generation_id == self.app.consumer_generation_id]
                await work.add([Record(m.topic, m.partition, m.offset, m.key, m.value, _headers(m.headers)) for m in fresh])

        self.app.agent(topic, name=f"streams.{stage.name}", concurrency=1)(take_in)


def _headers(headers: Any) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return tuple((name, bytes(value)) for name, value in pairs if value is not None)
