"""Topics into PostgreSQL, for `status`, `adapters`, `runs` and `dlq`: idempotent upserts by id, with the offset in the
same database transaction. A lost database rebuilds itself from the topics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from runtime.kafka import PATIENT_MILLISECONDS, consumer, partitions_of
from runtime.places import Place, forget_before, note
from runtime.project import Project
from schemas.codec import Codec, InvalidRecord
from schemas.events import AdapterEvent, DeadLetter, Request, RequestCompleted, Result, TrainingRun
from schemas.topics import ADAPTERS, COMPLETED, DAYS, DEAD_LETTERS, REQUESTS, TRAINING_RUNS, result_topic

ALIAS = (
    "INSERT INTO adapter_aliases VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (adapter) DO UPDATE SET live_version = $2, sequence = $3, candidate = $4, share = $5, shadow = $6 "
    "WHERE adapter_aliases.sequence < $3"
)
PRUNE_EVERY = 10_000
"""Requests of a partition after which the places of what is kept no more are forgotten."""
Write = Callable[[asyncpg.Connection, Any, datetime], Awaitable[None]]


class Projection:
    """Runs until `stop` is set."""

    def __init__(self, project: Project, broker: str, pool: asyncpg.Pool, prefix: str = "", codec: Codec | None = None) -> None:
        results = {result_topic(a.result).name for a in project.adapters.values()}
        self._topics = [prefix + name for name in sorted(results | {topic.name for topic in (REQUESTS, COMPLETED, TRAINING_RUNS, ADAPTERS, DEAD_LETTERS)})]
        self._broker, self._pool, self._prefix = broker, pool, prefix
        self._codec = codec or Codec()
        self._writers: dict[str, Write] = {REQUESTS.name: self._request, COMPLETED.name: self._completed, TRAINING_RUNS.name: self._run, ADAPTERS.name: self._adapter, DEAD_LETTERS.name: self._letter}

    async def run(self, stop: asyncio.Event) -> None:
        """Follows all topics from where the database stands. Raises Transient where the broker can't be reached or has not all of them."""
        partitions = await partitions_of(self._broker, self._topics)
        client: AIOKafkaConsumer = consumer(self._broker, fetch_wait_milliseconds=PATIENT_MILLISECONDS)
        try:
            await client.start()
            client.assign(partitions)
            rows = await self._pool.fetch("SELECT topic, partition, next_offset FROM projection_offsets")
            known = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
            for partition in partitions:
                if (partition.topic, partition.partition) in known:
                    client.seek(partition, known[partition.topic, partition.partition])
                else:
                    await client.seek_to_beginning(partition)
            while not stop.is_set():
                for partition, messages in (await client.getmany(timeout_ms=300)).items():
                    await self._project(partition, messages)
        finally:
            await client.stop()

    async def _project(self, partition: TopicPartition, messages: list[Any]) -> None:
        topic = partition.topic.removeprefix(self._prefix)
        write = self._writers.get(topic, self._result)
        async with self._pool.acquire() as connection, connection.transaction():
            for message in messages:
                try:
                    await write(connection, message, datetime.fromtimestamp(message.timestamp / 1000, UTC))
                except InvalidRecord:
                    continue  # foreign bytes on a topic of ours change nothing here
            await connection.execute(
                "INSERT INTO projection_offsets VALUES ($1, $2, $3) ON CONFLICT (topic, partition) DO UPDATE SET next_offset = $3",
                partition.topic, partition.partition, messages[-1].offset + 1,
            )  # fmt: skip

    async def _result(self, connection: asyncpg.Connection, message: Any, at: datetime) -> None:
        r = self._codec.decode(Result, message.value)
        await connection.execute(
            "INSERT INTO results VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            r.result_id, r.request_id, message.topic, r.adapter, r.version, r.status, r.output, r.intent_index, json.dumps(dict(r.timings_ms)), at,
        )  # fmt: skip

        await note(connection, Place(r.result_id, r.request_id, message.topic, message.partition, message.offset), at)

    async def _request(self, connection: asyncpg.Connection, message: Any, at: datetime) -> None:
        r = self._codec.decode(Request, message.value)
        await note(connection, Place(r.request_id, r.request_id, message.topic, message.partition, message.offset), at)
        if message.offset % PRUNE_EVERY == 0:
            await forget_before(connection, at - DAYS)

    async def _completed(self, connection: asyncpg.Connection, message: Any, at: datetime) -> None:
        c = self._codec.decode(RequestCompleted, message.value)
        await connection.execute("INSERT INTO completions VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", c.request_id, c.status, c.error, at)

    async def _run(self, connection: asyncpg.Connection, message: Any, at: datetime) -> None:
        r = self._codec.decode(TrainingRun, message.value)
        await connection.execute(
            "INSERT INTO runs VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT (run_id) DO UPDATE SET status = $4, step = coalesce($5, runs.step), "
            "steps = coalesce($6, runs.steps), loss = coalesce($7, runs.loss), metrics = $8, reason = $9, record_offset = $10, recorded_at = $11, "
            "tokens_per_second = coalesce($12, runs.tokens_per_second), seconds_left = $13, memory_bytes = coalesce($14, runs.memory_bytes), trigger = $15 "
            "WHERE runs.record_offset < $10 AND runs.status NOT IN ('published', 'rejected', 'failed', 'cancelled')",
            r.run_id, r.adapter, r.version, r.status, r.step, r.steps, r.loss, json.dumps(dict(r.metrics)), r.reason, message.offset, at,
            r.tokens_per_second, r.seconds_left, r.memory_bytes, r.trigger,
        )  # fmt: skip

        if r.step is not None and r.loss is not None:  # one that goes on from a checkpoint does some steps again
            await connection.execute(
                "INSERT INTO run_steps VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (run_id, step) DO UPDATE SET loss = $3, tokens_per_second = $4, memory_bytes = $5, recorded_at = $6",
                r.run_id, r.step, r.loss, r.tokens_per_second, r.memory_bytes, at,
            )  # fmt: skip

    async def _adapter(self, connection: asyncpg.Connection, message: Any, at: datetime) -> None:
        e = self._codec.decode(AdapterEvent, message.value)
        if e.version and e.kind == "version":
            v = e.version
            await connection.execute(
                "INSERT INTO adapter_versions VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
                e.adapter, v.version, v.engine_name, v.base_epoch, v.artifact_uri, v.run_id, json.dumps(dict(v.metrics)), v.verdict, at, v.files[0].sha256 if v.files else "",
            )  # fmt: skip
        if e.version and e.kind == "taint":
            await connection.execute("UPDATE adapter_versions SET tainted = $3 WHERE adapter = $1 AND version = $2", e.adapter, e.version.version, e.reason)
        if e.version and e.kind == "refusal":
            await connection.execute("UPDATE adapter_versions SET refused = $3 WHERE adapter = $1 AND version = $2", e.adapter, e.version.version, e.reason)
        if e.alias:
            await connection.execute(ALIAS, e.adapter, e.alias.live_version, e.sequence, e.alias.canary_version, e.alias.canary_share, e.alias.shadow)
        if e.epoch:
            b = e.epoch
            await connection.execute("INSERT INTO base_epochs VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", b.epoch, b.base_uri, b.base_sha256, e.sequence, at)
            await connection.execute("DELETE FROM adapter_aliases WHERE sequence < $1", e.sequence)
            await connection.executemany(ALIAS, [(adapter, version, e.sequence, None, 0.0, False) for adapter, version in b.live.items()])

    async def _letter(self, connection: asyncpg.Connection, message: Any, at: datetime) -> None:
        d = self._codec.decode(DeadLetter, message.value)
        await connection.execute(
            "INSERT INTO dead_letters VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            d.letter_id, d.topic, d.partition, d.offset, d.stage, d.error_type, d.message, at,
        )  # fmt: skip
