"""Where requests and results stand on their topics, so that feedback finds them again while they are kept. The table `record_places` holds no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from runtime.errors import InvalidInput, Transient
from runtime.kafka import Record, consumer

READ_MILLISECONDS = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """A record's id, the request that it belongs to (its own, for a request), and where it stands."""

    record_id: str
    request_id: str
    topic: str
    partition: int
    offset: int


async def note(connection: asyncpg.Connection, place: Place, at: datetime) -> None:
    """Remembers a record's place; `at` is when it was written."""
    await connection.execute(
        "INSERT INTO record_places VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING", place.record_id, place.request_id, place.topic, place.partition, place.offset, at
    )


async def forget_before(connection: asyncpg.Connection, at: datetime) -> None:
    """Forgets the places of what was written before `at`."""
    await connection.execute("DELETE FROM record_places WHERE written_at < $1", at)


async def places_of(pool: asyncpg.Pool, request_id: str) -> tuple[Place | None, Sequence[Place]]:
    """The request's place, and those of its results; None and none where they are not known."""
    rows = await pool.fetch("SELECT record_id, request_id, topic, partition, record_offset FROM record_places WHERE request_id = $1 ORDER BY topic, record_offset", request_id)
    places = [Place(*row) for row in rows]
    return next((place for place in places if place.record_id == request_id), None), [place for place in places if place.record_id != request_id]


def meant(results: Sequence[Place], request_id: str, result: str | None, prefix: str) -> Place | None:
    """The one of a request's `results` that is named by its id or topic, or the only one; None where there is none. Pure.

    Raises:
        InvalidInput: there are several.
    """
    chosen = [place for place in results if result in (None, place.record_id, place.topic.removeprefix(prefix))]
    if len(chosen) > 1:
        names = ", ".join(f"{place.record_id} ({place.topic.removeprefix(prefix)})" for place in chosen)
        raise InvalidInput(f"request {request_id} has several results, name one: {names}")
    return chosen[0] if chosen else None


async def read_at(broker: str, place: Place) -> Record | None:
    """The record at `place`; None when it is kept no more. Raises Transient where the broker can't be reached."""
    client, at = consumer(broker), TopicPartition(place.topic, place.partition)
    try:
        await client.start()
        client.assign([at])
        (first,) = (await client.beginning_offsets([at])).values()
        if place.offset < first:
            return None
        client.seek(at, place.offset)
        found = (await client.getmany(timeout_ms=READ_MILLISECONDS, max_records=1)).get(at, ())
    except KafkaError as error:
        raise Transient(f"{place.topic}/{place.partition}/{place.offset} can't be read: {error}") from error
    finally:
        await client.stop()
    return next((Record(m.topic, m.partition, m.offset, m.key, m.value, tuple(m.headers), m.timestamp) for m in found if m.offset == place.offset), None)
