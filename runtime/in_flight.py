"""The records that a member of a group works on: side by side, those of one key in order, each committed when it ends.

A slow record holds up the later ones of its key and nobody else: what ends beyond it is committed in the offset's
metadata (`runtime.window`), so that a crash does not do it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from runtime.delivery import Delivery
from runtime.errors import Fenced
from runtime.kafka import Outgoing, Record
from runtime.window import Window

CONCURRENT = 16
WAITING_RECORDS, WAITING_BYTES = 4096, 64 << 20
"""What may have begun and is not committed, before no more is taken in."""
LINGER_SECONDS = 0.005
"""What ends within this time shares a transaction, which costs several words with the broker, whatever is in it."""
Handle = Callable[[Record], Awaitable[Sequence[Outgoing]]]


@dataclass(slots=True)
class _Partition:
    window: Window
    done: list[tuple[Record, Sequence[Outgoing]]] = field(default_factory=list)
    committing: bool = False


class InFlight:
    """The work on one topic. `handle` gives what is to be written for a record.

    `on_fatal` is called when a transaction's outcome is unknown, or `handle` raises: start over from the committed offsets. What ends within `linger_seconds` is committed together.
    """

    def __init__(self, delivery: Delivery, handle: Handle, on_fatal: Callable[[BaseException], None], concurrent: int = CONCURRENT, linger_seconds: float = LINGER_SECONDS) -> None:
        self._delivery, self._handle, self._on_fatal, self._linger = delivery, handle, on_fatal, linger_seconds
        self._gate = asyncio.Semaphore(concurrent)
        self._epoch = -1
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._later: dict[bytes, deque[Record]] = {}
        self._offered: dict[TopicPartition, deque[Record]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._commits: set[asyncio.Task[None]] = set()
        """Not cancelled: a transaction ends by its own word."""
        self._records = self._bytes = 0
        self._room = asyncio.Event()

    def take_over(self, committed: Mapping[TopicPartition, OffsetAndMetadata | None]) -> None:
        """Begins a hold, after the fencing, at what was committed before.

        Raises:
            Fenced: the metadata of an offset can't be read.
        """
        self.release()
        try:
            windows = {p: Window(at.offset, at.metadata) if at else Window() for p, at in committed.items()}
        except ValueError as error:
            raise Fenced(f"committed offset of {', '.join(str(p) for p in committed)}: {error}") from error
        self._partitions = {p: _Partition(window) for p, window in windows.items()}
        self._epoch = self._delivery.epoch

    def release(self) -> None:
        """Ends the hold: cancels what is in work. What is being committed is for the transactions to drain."""
        for task in self._tasks:
            task.cancel()
        self._partitions, self._later, self._offered = {}, {}, {}
        self._records = self._bytes = 0
        self._epoch = -1
        self._room.set()

    async def add(self, records: Iterable[Record]) -> None:
        """Begins work on `records`; waits while there is too much of it. What is not of this hold is dropped: it is read again."""
        epoch = self._delivery.epoch
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            while epoch == self._epoch and place in self._partitions and not self._fits(self._partitions[place], record):
                self._room.clear()
                await self._room.wait()
            if epoch != self._epoch or place not in self._partitions:
                return
            if self._partitions[place].window.begin(record.offset):
                self._begin(record)

    def offer(self, records: Iterable[Record]) -> frozenset[TopicPartition]:
        """Begins work on those of `records`, and of those offered before, for which there is room; the partitions of which some wait: who reads should read these no further.

        For those who must go on asking the broker, which takes a member that asks for nothing in five minutes for dead. What is not of this hold is dropped: it is read again.
        """
        for record in records:
            if self._delivery.epoch == self._epoch and (place := TopicPartition(record.topic, record.partition)) in self._partitions:
                self._offered.setdefault(place, deque()).append(record)
        for place, waiting in list(self._offered.items()):
            while waiting and self._fits(self._partitions[place], waiting[0]):
                record = waiting.popleft()
                if self._partitions[place].window.begin(record.offset):
                    self._begin(record)
            if not waiting:
                del self._offered[place]
        return frozenset(self._offered)

    def _fits(self, partition: _Partition, record: Record) -> bool:
        return not self._records or (self._records < WAITING_RECORDS and self._bytes < WAITING_BYTES and partition.window.fits(record.offset))

    def _begin(self, record: Record) -> None:
        self._records += 1
        self._bytes += len(record.value or b"")
        if record.key is None:
            self._spawn(record)
        elif record.key in self._later:
            self._later[record.key].append(record)
        else:
            self._later[record.key] = deque()
            self._spawn(record)

    def _spawn(self, record: Record) -> None:
        self._start(self._tasks, self._work(record, self._epoch))

    def _start(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error:
                self._on_fatal(error)

        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(ended)

    async def _work(self, record: Record, epoch: int) -> None:
        async with self._gate:
            made = await self._handle(record)
        if epoch != self._epoch:
            return
        self._go_on(record.key)
        place = TopicPartition(record.topic, record.partition)
        partition = self._partitions[place]
        partition.done.append((record, made))
        if not partition.committing:
            partition.committing = True
            self._start(self._commits, self._commit(place, partition, epoch))

    def _go_on(self, key: bytes | None) -> None:
        """Begins the next record of a key."""
        if key is None:
            return
        if self._later[key]:
            self._spawn(self._later[key].popleft())
        else:
            del self._later[key]

    async def _commit(self, place: TopicPartition, partition: _Partition, epoch: int) -> None:
        """Commits what has ended, until nothing has."""
        await asyncio.sleep(self._linger)
        while partition.done and epoch == self._epoch:
            done, partition.done = partition.done, []
            partition.window.finish(record.offset for record, _ in done)
            outgoing = [o for _, made in done for o in made]
            held = await self._delivery.commit(epoch, place, outgoing, partition.window.next_offset, partition.window.metadata)
            if held and epoch == self._epoch:
                self._records -= len(done)
                self._bytes -= sum(len(record.value or b"") for record, _ in done)
                self._room.set()
        partition.committing = False
