"""What consumer groups have not read yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

from runtime.errors import Transient
from runtime.kafka import admin_client, consumer, partitions_of

POLL_MILLISECONDS = 100
TIMEOUT_SECONDS = 20


class Backlog:
    """Whether records of `groups` (each with its topics) wait to be read.

    Looked up by reading from the committed offsets: a difference of offsets would count transaction markers and
    aborted records, which nobody ever reads.
    """

    def __init__(self, broker: str, groups: Mapping[str, Sequence[str]]) -> None:
        self._broker, self._topics = broker, groups
        self._groups: dict[str, list[TopicPartition]] = {}
        self._all: list[TopicPartition] = []
        self._admin = admin_client(broker)
        self._client: AIOKafkaConsumer = consumer(broker)

    async def start(self) -> None:
        """Connects. Raises Transient where the broker can't be reached or has not all topics."""
        self._all = await partitions_of(self._broker, [topic for topics in self._topics.values() for topic in topics])
        self._groups = {group: [p for p in self._all if p.topic in topics] for group, topics in self._topics.items()}
        await self._client.start()
        self._client.assign(self._all)
        self._client.pause(*self._all)  # nothing is fetched while nobody asks

    async def stop(self) -> None:
        """Disconnects."""
        await self._client.stop()

    async def waits(self) -> bool:
        """Whether a record stands behind what a group has committed. Raises Transient when the broker can't say what that is."""
        for group, partitions in self._groups.items():
            await self._seek(group, partitions)
        ends = await self._client.end_offsets(self._all)
        self._client.resume(*self._all)
        try:
            while not await self._client.getmany(timeout_ms=POLL_MILLISECONDS):
                if all([await self._client.position(p) >= end for p, end in ends.items()]):
                    return False
            return True
        finally:
            self._client.pause(*self._all)

    async def _seek(self, group: str, partitions: Sequence[TopicPartition]) -> None:
        committed = await asyncio.to_thread(committed_offsets, self._admin, group)
        for partition in partitions:
            if partition in committed:
                self._client.seek(partition, committed[partition])
            else:
                await self._client.seek_to_beginning(partition)


def committed_offsets(admin: AdminClient, group: str) -> dict[TopicPartition, int]:
    """Where `group` goes on, for each partition that it has committed; transactions under way are waited for. Raises Transient when the broker can't say."""
    ((_, asked),) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], require_stable=True).items()
    try:
        found = asked.result(TIMEOUT_SECONDS).topic_partitions
    except KafkaException as error:
        raise Transient(f"the offsets of {group} can't be read: {error.args[0].str()}") from error
    except TimeoutError as error:
        raise Transient(f"the offsets of {group} can't be read: no answer in {TIMEOUT_SECONDS} s") from error
    return {TopicPartition(p.topic, p.partition): p.offset for p in found or () if p.offset >= 0}
