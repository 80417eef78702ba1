"""What groups have committed, as it is read from the broker."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.offsets import check_groups, known_groups
from runtime.kafka import apply_topics, committed_offsets
from runtime.window import SPAN, Window
from schemas.topics import DOCUMENTS

ROUNDS = 100


@pytest.mark.asyncio
async def test_what_is_done_is_read_as_it_was_committed(kafka: EmbeddedKafka) -> None:
    await apply_topics(kafka.address, [DOCUMENTS])
    places = [TopicPartition(DOCUMENTS.name, partition) for partition in range(DOCUMENTS.partitions)]
    rng = random.Random(3)
    client = AIOKafkaConsumer(bootstrap_servers=kafka.address, group_id="offsets", enable_auto_commit=False)
    await client.start()
    client.assign(places)
    try:
        for _ in range(ROUNDS):
            windows = {place: Window(0) for place in places}
            for window in windows.values():
                first, last = 1, rng.randrange(2, SPAN)
                for offset in range(last + 1):
                    window.begin(offset)
                window.finish(rng.sample(range(first, last + 1), rng.randrange(1, last)))
            await client.commit({place: OffsetAndMetadata(window.next_offset, window.metadata) for place, window in windows.items()})
            read = await committed_offsets(kafka.address, "offsets", places)
            for place, window in windows.items():
                at = read[place]
                assert at is not None
                assert Window(at.offset, at.metadata).metadata == window.metadata
    finally:
        await client.stop()


@pytest.mark.asyncio
async def test_a_broker_that_loads_its_groups_has_not_lost_their_offsets(tmp_path: Path) -> None:
    groups = [f"group-{n}" for n in range(4)]
    broker = EmbeddedKafka(tmp_path / "kafka", free_port())
    broker.start()
    await apply_topics(broker.address, [DOCUMENTS])
    place = TopicPartition(DOCUMENTS.name, 0)
    for group in groups:
        client = AIOKafkaConsumer(bootstrap_servers=broker.address, group_id=group, enable_auto_commit=False)
        await client.start()
        client.assign([place])
        for offset in range(1, 200):
            await client.commit({place: OffsetAndMetadata(offset, "x" * 1000)})
        await client.stop()
    await check_groups(broker.address, groups, tmp_path)
    assert known_groups(tmp_path) == set(groups)
    for _ in range(4):
        broker.stop()
        broker.start()
        await check_groups(broker.address, groups, tmp_path, patience_seconds=15)
    assert known_groups(tmp_path) == set(groups)
    broker.stop()
