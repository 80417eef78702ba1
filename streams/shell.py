"""The Faust shell of the streams: Faust reads, our own fenced transactions write, and Faust never commits.

What Faust fetches comes here in whole batches, past its streams, which take longer over a record than all that we do with
it. Records are worked on side by side and committed as they end (`runtime.in_flight`), so that a slow document holds up
nobody. Measured: without this, Faust delivers 20 to 30 % twice after kills, acknowledges the events of an agent that
raises, and loses offsets with tables. See docs/decisions/0003.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import faust
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from runtime.errors import Transient
from runtime.in_flight import CONCURRENT, InFlight
from runtime.kafka import Outgoing, Record, committed_offsets, producer
from runtime.stage import Stage, run_stage
from runtime.transactions import PartitionTransactions
from schemas.codec import Codec

WAITING_BATCHES = 4
"""Of a topic, before Faust fetches no more of it."""
BATCH = 500
FULL_WAIT_SECONDS = 0.02
"""For records of other partitions while one is full: it is not among those that are waited for, and may have room meanwhile."""
REWIND_AGAIN_SECONDS = 0.2
log = structlog.get_logger()


class _ReadCommittedThread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer


class _NeverCommittingConsumer(Consumer):
    """Fences before Faust reads committed offsets, drains before it gives partitions up, never commits; hands batches to the shell."""

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Any) -> bool:
        return True

    async def getmany(self, timeout: float) -> AsyncIterator[Any]:
        if self._buffered_partitions and not self._get_active_partitions():
            await self.app.shell.until_room(timeout)  # Faust would sleep for a second
            return
        await self._until_flowing()
        held = self.app.shell.hold
        records, _ = await self._wait_next_records(FULL_WAIT_SECONDS if self._buffered_partitions else timeout)
        if not records or self.should_stop:
            return
        if not self.flow_active or held != self.app.shell.hold:
            await self._rewind()
            return
        for place, batch in records.items():
            tp = ensure_TP(place)  # Faust's own kind, which it insists on later
            self.app.shell.take(tp, batch)
            self._read_offset[tp] = batch[-1].offset
        return
        yield  # Faust iterates it, over nothing

    async def _until_flowing(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)

    async def _rewind(self) -> None:
        """What was fetched and not taken is fetched again. Faust's own seek does not move where nothing is committed, or 0."""
        while not self.should_stop:
            await self._until_flowing()
            hold = self.app.shell.hold
            try:
                await self.seek_wait(await self.app.shell.committed(self.assignment()))
            except (KafkaError, Transient, TimeoutError) as error:  # a rebalance took the partitions away
                log.warning("consumer.rewind_failed", error=f"{type(error).__name__}: {error}")
                await self.sleep(REWIND_AGAIN_SECONDS)
                continue
            if hold == self.app.shell.hold:
                return

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
        self._waiting: dict[str, asyncio.Queue[tuple[int, list[Record]]]] = {}
        self._full: dict[str, set[Any]] = {}
        self._room = asyncio.Event()
        self._transactions = PartitionTransactions(group, lambda name: producer(broker, name, session_timeout_seconds))
        folder.mkdir(parents=True, exist_ok=True)
        self.app = faust.App(
            group, broker=f"kafka://{broker}", store="memory://", web_enabled=False, topic_disable_leader=True, datadir=str(folder),
            broker_session_timeout=session_timeout_seconds, broker_heartbeat_interval=session_timeout_seconds / 4,
            topic_allow_declare=False, consumer_auto_offset_reset="earliest", value_serializer="raw", key_serializer="raw",
            consumer_max_fetch_size=16 << 20, broker_max_poll_records=BATCH, stream_wait_empty=False,
        )  # fmt: skip
        self.app.shell = self
        self.app.transport.Consumer = _NeverCommittingConsumer
        for stage in stages:
            self._add_agent(stage)

    async def start(self) -> None:
        """Joins the group and begins to work."""
        await self.app.start()
        self._watch = asyncio.create_task(self._end_with_faust())

    async def stop(self) -> None:
        """Drains, leaves the group, disconnects."""
        self._watch.cancel()
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

    async def committed(self, assigned: Iterable[Any]) -> dict[Any, int]:
        """Where the work on each of `assigned` begins."""
        places = {TopicPartition(tp.topic, tp.partition): tp for tp in assigned}
        found = await committed_offsets(self._broker, self._group, list(places))
        return {places[place]: at.offset if at else 0 for place, at in found.items()}

    async def drain(self) -> None:
        """Cancels what is in work, then waits for open transactions."""
        for work in self._work.values():
            work.release()
        for topic, waiting in self._waiting.items():
            while not waiting.empty():
                waiting.get_nowait()
            self.app.consumer._buffered_partitions.difference_update(self._full.pop(topic, ()))
        await self._transactions.drain()

    async def _end_with_faust(self) -> None:
        """A service of Faust's that fails ends in silence; without it nothing is read any more."""
        await self.app._crashed.wait()
        self._on_fatal(self.app.crash_reason or RuntimeError("Faust has crashed"))

    def _add_agent(self, stage: Stage) -> None:
        name = self._prefix + stage.topic
        topic = self.app.topic(name, value_serializer="raw", key_serializer="raw")

        async def handle(record: Record) -> Sequence[Outgoing]:
            return await run_stage(stage, record, self._codec, self._prefix)

        work = self._work[name] = InFlight(self._transactions, handle, self._on_fatal, self._concurrent)
        waiting = self._waiting[name] = asyncio.Queue()

        async def take_in(_: Any) -> None:
            """Takes what the consumer hands over; that there is a stream makes Faust subscribe."""
            while True:
                hold, records = await waiting.get()
                if waiting.qsize() < WAITING_BATCHES:
                    self._go_on(name)
                if hold == self.hold:
                    await work.add(records)

        self.app.agent(topic, name=f"streams.{stage.name}", concurrency=1)(take_in)

    @property
    def hold(self) -> int:
        """Which hold of partitions this is."""
        return self._transactions.epoch

    def take(self, tp: Any, batch: Sequence[Any]) -> None:
        """Takes what was fetched of a partition in this hold."""
        waiting = self._waiting[tp.topic]
        waiting.put_nowait((self.hold, [Record(m.topic, m.partition, m.offset, m.key, m.value, _headers(m.headers)) for m in batch]))
        if waiting.qsize() >= WAITING_BATCHES:
            self._full.setdefault(tp.topic, set()).add(tp)
            self.app.consumer.on_buffer_full(tp)

    async def until_room(self, seconds: float) -> None:
        """Returns when more of a topic can be taken, or after `seconds`."""
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), seconds)

    def _go_on(self, topic: str) -> None:
        """Faust fetches of `topic` again."""
        self._room.set()
        for tp in self._full.pop(topic, ()):
            self.app.consumer.on_buffer_drop(tp)


def _headers(headers: Any) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return tuple((name, bytes(value)) for name, value in pairs if value is not None)
