"""Kafka clients as loraloom wants them: acknowledged by all, idempotent, read_committed; and topics from the catalogue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import confluent_kafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.errors import SettingsError, Transient
from schemas.topics import Topic

MAX_MESSAGE_BYTES = 1 << 20
BATCH_BYTES = 256 << 10
"""Of one partition, sent as one: an idempotent producer of aiokafka has one batch of a partition on its way at a time."""
PROMPT_MILLISECONDS = 50
PATIENT_MILLISECONDS = 500
"""How long a fetch waits for a record: an idle consumer costs broker and itself 20 fetches a second at the first, 2 at the second."""
_SILENT = logging.getLogger("librdkafka")
_SILENT.setLevel(logging.CRITICAL)
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A consumed record."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def origin(self) -> str:
        """`topic/partition/offset`: where it first stood, also after a redrive."""
        return next((value.decode() for name, value in self.headers if name == "loom-origin"), f"{self.topic}/{self.partition}/{self.offset}")

    @property
    def target_stage(self) -> str | None:
        """The only stage that should handle it; None for all."""
        return next((value.decode() for name, value in self.headers if name == "loom-stage"), None)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to write."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def producer(broker: str, transactional_id: str | None = None, transaction_timeout_seconds: int = 10, linger_milliseconds: int = 2) -> AIOKafkaProducer:
    """An idempotent producer; transactional when it gets an id. It waits `linger_milliseconds` for more to send along."""
    return AIOKafkaProducer(
        bootstrap_servers=broker, acks="all", enable_idempotence=True, linger_ms=linger_milliseconds, max_request_size=4 * MAX_MESSAGE_BYTES, max_batch_size=BATCH_BYTES,
        transactional_id=transactional_id, transaction_timeout_ms=transaction_timeout_seconds * 1000,
    )  # fmt: skip


async def send_all(client: AIOKafkaProducer, outgoing: Sequence[Outgoing]) -> None:
    """Sends `outgoing`; returns when all are acknowledged."""
    await asyncio.gather(*[await client.send(o.topic, key=o.key, value=o.value, headers=list(o.headers)) for o in outgoing])


def consumer(broker: str, *topics: str, group: str | None = None, session_timeout_seconds: int = 10, fetch_wait_milliseconds: int = PROMPT_MILLISECONDS) -> AIOKafkaConsumer:
    """A read_committed consumer from the earliest record on, which never commits by itself.

    The broker answers a fetch that finds nothing after `fetch_wait_milliseconds`. A partition whose records were handed out meanwhile waits for that answer.
    """
    return AIOKafkaConsumer(
        *topics, bootstrap_servers=broker, group_id=group, isolation_level="read_committed", enable_auto_commit=False,
        auto_offset_reset="earliest", session_timeout_ms=session_timeout_seconds * 1000, heartbeat_interval_ms=session_timeout_seconds * 250,
        fetch_max_wait_ms=fetch_wait_milliseconds, max_partition_fetch_bytes=4 * MAX_MESSAGE_BYTES,
    )  # fmt: skip


async def committed_offsets(broker: str, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata | None]:
    """What `group` last committed of `partitions`; None where it never did. Transactions that are being committed are waited for.

    aiokafka's own administrator takes a coordinator that is loading for a group without offsets.

    Raises:
        Transient: the broker can't be reached, or does not know yet.
    """
    return await asyncio.to_thread(_committed_offsets, broker, group, partitions) if partitions else {}


def _committed_offsets(broker: str, group: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata | None]:
    asked = ConsumerGroupTopicPartitions(group, [confluent_kafka.TopicPartition(p.topic, p.partition) for p in partitions])
    admin = admin_client(broker)  # what it promised never comes when it is gone
    try:
        found = admin.list_consumer_group_offsets([asked], require_stable=True, request_timeout=10)[group].result()
    except KafkaException as error:
        raise Transient(f"the offsets of group {group} can't be read: {error.args[0].str()}") from error
    if faults := [f"{p.topic}/{p.partition}: {p.error.str()}" for p in found.topic_partitions if p.error]:
        raise Transient(f"the offsets of group {group} can't be read: {', '.join(faults)}")
    return {TopicPartition(p.topic, p.partition): OffsetAndMetadata(p.offset, p.metadata or "") if p.offset >= 0 else None for p in found.topic_partitions}


async def partitions_of(broker: str, topics: Iterable[str]) -> list[TopicPartition]:
    """The partitions of `topics`, as many as the broker says.

    Raises:
        Transient: the broker can't be reached, or a topic is not there (yet).
    """
    topics = list(topics)
    known = await asyncio.to_thread(_known, admin_client(broker), broker)
    if missing := [name for name in topics if name not in known]:
        raise Transient(f"the broker at {broker} has no topic {', '.join(missing)}: `loom topics apply` makes what is missing")
    return [TopicPartition(name, p) for name in topics for p in range(known[name])]


async def apply_topics(broker: str, topics: Iterable[Topic], prefix: str = "") -> list[str]:
    """Creates the topics that are missing; the names of the new ones.

    Raises:
        Transient: the broker can't be reached.
        SettingsError: a topic exists with another number of partitions, or can't be created.
    """
    return await asyncio.to_thread(_apply_topics, broker, {prefix + topic.name: topic for topic in topics})


def admin_client(broker: str) -> AdminClient:
    """An administrator; what it can't do it raises, and its log is silent."""
    return AdminClient({"bootstrap.servers": broker, "logger": _SILENT})


def _known(admin: AdminClient, broker: str) -> dict[str, int]:
    """Every topic with its number of partitions."""
    try:
        return {name: len(row.partitions) for name, row in admin.list_topics(timeout=10).topics.items()}
    except KafkaException as error:
        raise Transient(f"the broker at {broker} can't be reached: {error.args[0].str()}") from error


def _apply_topics(broker: str, wanted: dict[str, Topic]) -> list[str]:
    admin = admin_client(broker)
    known = _known(admin, broker)
    faults = [f"{name} has {known[name]} partitions, the project says {topic.partitions}" for name, topic in wanted.items() if name in known and known[name] != topic.partitions]
    if faults:
        raise SettingsError("topics: " + "; ".join(faults) + ": growing a topic is a migration (`[kafka] partitions` in loom.toml)")
    missing = [name for name in wanted if name not in known]
    settings = {"cleanup.policy": "delete", "max.message.bytes": str(4 * MAX_MESSAGE_BYTES)}
    new = [NewTopic(name, wanted[name].partitions, config={**settings, "retention.ms": str(wanted[name].retention_ms)}) for name in missing]
    for name, created in (admin.create_topics(new) if new else {}).items():
        try:
            created.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise SettingsError(f"topic {name} can't be created: {error.args[0].str()}") from error
    return missing
