"""Records in work: those of a key in order, others past one another, and a bound on what may begin beyond one that does not end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.in_flight import Handle, InFlight
from runtime.kafka import Outgoing, Record
from runtime.window import SPAN, Window

PLACE, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)


class Committed:
    """Stands for the transactions of one hold: keeps what was committed, as a broker would."""

    epoch = 1

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = {}

    async def commit(self, epoch: int, place: TopicPartition, outgoing: Sequence[Outgoing], next_offset: int, metadata: str) -> bool:
        await asyncio.sleep(0)
        self.written += [one.key or b"" for one in outgoing]
        self.offsets[place] = OffsetAndMetadata(next_offset, metadata)
        return True

    def window(self, place: TopicPartition) -> Window:
        at = self.offsets[place]
        return Window(at.offset, at.metadata)


def record(offset: int, key: bytes | None = None, place: TopicPartition = PLACE) -> Record:
    return Record(place.topic, place.partition, offset, key, b"v", ())


def echoed(of: Record) -> list[Outgoing]:
    return [Outgoing("out", f"{of.partition}:{of.offset}".encode(), b"", ())]


def of_hold(transactions: Committed, handle: Handle, places: Sequence[TopicPartition] = (PLACE,)) -> InFlight:
    def fatal(error: BaseException) -> None:
        raise error

    flight = InFlight(transactions, handle, fatal)  # type: ignore[arg-type]
    flight.take_over(dict.fromkeys(places))
    return flight


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([None, b"a", b"b", b"c"]), st.integers(0, 3)), min_size=1, max_size=30))
def test_each_is_done_once_and_a_key_in_order(records: list[tuple[bytes | None, int]]) -> None:
    async def run() -> None:
        ended: dict[bytes | None, list[int]] = defaultdict(list)

        async def handle(of: Record) -> list[Outgoing]:
            await asyncio.sleep(records[of.offset][1] / 1000)
            ended[of.key].append(of.offset)
            return echoed(of)

        transactions = Committed()
        await of_hold(transactions, handle).add(record(offset, key) for offset, (key, _) in enumerate(records))
        await until(lambda: len(transactions.written) == len(records))
        assert sorted(transactions.written) == sorted(f"0:{offset}".encode() for offset in range(len(records)))
        assert all(offsets == sorted(offsets) for key, offsets in ended.items() if key is not None)
        assert (transactions.offsets[PLACE].offset, transactions.offsets[PLACE].metadata) == (len(records), "")

    asyncio.run(run())


@pytest.mark.asyncio
async def test_beyond_one_that_does_not_end_a_bounded_number_begins_and_a_new_owner_does_none_of_them_again() -> None:
    stuck, begun = asyncio.Event(), set()

    async def handle(of: Record) -> list[Outgoing]:
        begun.add(of.offset)
        if of.offset == 0:
            await stuck.wait()
        return echoed(of)

    transactions = Committed()
    flight = of_hold(transactions, handle)
    adding = asyncio.create_task(flight.add(record(offset) for offset in range(SPAN + 3)))
    await until(lambda: len(transactions.written) == SPAN - 1)
    assert not adding.done()
    assert begun == set(range(SPAN))
    assert transactions.offsets[PLACE].offset == 0
    heir = transactions.window(PLACE)
    assert [offset for offset in range(SPAN + 3) if heir.begin(offset)] == [0, SPAN, SPAN + 1, SPAN + 2]
    stuck.set()
    await adding
    await until(lambda: transactions.offsets[PLACE].offset == SPAN + 3)
    assert transactions.offsets[PLACE].metadata == ""
    assert len(transactions.written) == SPAN + 3


@pytest.mark.asyncio
async def test_a_lost_hold_frees_who_waits_for_room() -> None:
    async def never(_: Record) -> list[Outgoing]:
        await asyncio.Event().wait()
        return []

    flight = of_hold(Committed(), never)
    adding = asyncio.create_task(flight.add([record(0), record(SPAN)]))
    await asyncio.sleep(0.01)
    assert not adding.done()
    flight.release()
    await asyncio.wait_for(adding, 1)


@pytest.mark.asyncio
async def test_another_partition_is_not_held_up() -> None:
    async def handle(of: Record) -> list[Outgoing]:
        if of.partition == PLACE.partition:
            await asyncio.Event().wait()
        return echoed(of)

    transactions = Committed()
    flight = of_hold(transactions, handle, (PLACE, OTHER))
    await flight.add([record(0), *(record(offset, place=OTHER) for offset in range(100))])
    await until(lambda: len(transactions.written) == 100)
    assert transactions.offsets == {OTHER: OffsetAndMetadata(100, "")}


@pytest.mark.asyncio
async def test_what_finds_no_room_waits_in_its_partition_alone_and_begins_when_there_is() -> None:
    stuck, begun = asyncio.Event(), list[tuple[int, int]]()

    async def handle(of: Record) -> list[Outgoing]:
        begun.append((of.partition, of.offset))
        if (of.partition, of.offset) == (0, 0):
            await stuck.wait()
        return echoed(of)

    transactions = Committed()
    flight = of_hold(transactions, handle, (PLACE, OTHER))
    assert flight.offer([record(0), record(SPAN), record(SPAN + 1), record(0, place=OTHER)]) == {PLACE}
    assert flight.offer([record(1, place=OTHER), record(0, place=TopicPartition("t", 7))]) == {PLACE}
    await until(lambda: len(transactions.written) == 2)
    assert begun == [(0, 0), (1, 0), (1, 1)]
    stuck.set()
    await until(lambda: len(transactions.written) == 3)
    assert flight.offer([]) == frozenset()
    await until(lambda: len(transactions.written) == 5)
    assert sorted(begun) == [(0, 0), (0, SPAN), (0, SPAN + 1), (1, 0), (1, 1)]


@pytest.mark.asyncio
async def test_what_waits_is_forgotten_with_its_hold() -> None:
    async def never(_: Record) -> list[Outgoing]:
        await asyncio.Event().wait()
        return []

    flight = of_hold(Committed(), never)
    assert flight.offer([record(0), record(SPAN)]) == {PLACE}
    flight.release()
    assert flight.offer([record(SPAN + 1)]) == frozenset()
    flight.take_over({PLACE: None})
    assert flight.offer([]) == frozenset()
