"""Writing to and reading from a broker in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from runtime.kafka import Outgoing, Record, consumer, producer


async def publish(broker: str, records: Iterable[Outgoing]) -> None:
    """Writes `records` and waits for all acknowledgements."""
    client = producer(broker)
    await client.start()
    try:
        await asyncio.gather(*[await client.send(r.topic, key=r.key, value=r.value, headers=list(r.headers)) for r in records])
    finally:
        await client.stop()


async def read_all(broker: str, *topics: str) -> list[Record]:
    """Every committed record of `topics`, from the first to the last one there is now."""
    client: AIOKafkaConsumer = consumer(broker)
    await client.start()
    try:
        await client._client.force_metadata_update()
        partitions: Sequence[TopicPartition] = [TopicPartition(t, p) for t in topics for p in await _partitions(client, t)]
        client.assign(partitions)
        ends = {p: end for p, end in (await client.end_offsets(partitions)).items() if end}
        await client.seek_to_beginning(*partitions)
        records: list[Record] = []
        while any([await client.position(p) < end for p, end in ends.items()]):
            for batch in (await client.getmany(timeout_ms=200)).values():
                records += [Record(m.topic, m.partition, m.offset, m.key, m.value, tuple(m.headers)) for m in batch]
        return records
    finally:
        await client.stop()


async def _partitions(client: AIOKafkaConsumer, topic: str) -> list[int]:
    await client._client.add_topic(topic)
    while not (found := client.partitions_for_topic(topic)):
        await asyncio.sleep(0.05)
    return sorted(found)
