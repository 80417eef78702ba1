"""Searching all that a system keeps for sentences, as the bytes lie there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource

from runtime.errors import IntegrityError, Transient
from runtime.follower import read_whole
from runtime.kafka import Record, admin_client, partitions_of
from runtime.objects import Objects

SENTENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,;:()%-]{38,}[A-Za-z0-9]")
"""A line's worth of characters that every encoding, JSON and SQL leave as they are."""
MOST = 32
TIMEOUT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Where sentences were found, in how many records, and when the last of these is deleted by itself; None: never."""

    place: str
    records: int
    until: datetime | None


def sentences(texts: Iterable[str]) -> tuple[bytes, ...]:
    """At most MOST sentences of `texts`, each once, evenly spread. Pure."""
    found = list(dict.fromkeys(match[0] for text in texts for match in SENTENCE.finditer(text)))
    step = max(1, -(-len(found) // MOST))
    return tuple(one.encode() for one in found[::step])


async def in_topics(broker: str, prefix: str, said: Sequence[bytes], counts: Callable[[Record], bool]) -> list[Finding]:
    """The topics that begin with `prefix` and have one of `said` in a record that `counts`. Raises Transient where the broker can't be reached."""
    keeps = await asyncio.to_thread(_retention, broker, prefix)
    found: dict[str, list[int]] = {}

    def look(record: Record) -> None:
        if counts(record) and _has(said, record.value or b"", *(value for _, value in record.headers)):
            found.setdefault(record.topic, []).append(record.timestamp_ms)

    await read_whole(broker, await partitions_of(broker, keeps), look)
    return [Finding(f"topic {topic}", len(times), _end(max(times), keeps[topic])) for topic, times in sorted(found.items())]


async def in_objects(objects: Objects, said: Sequence[bytes]) -> list[Finding]:
    """The objects that have one of `said`. Raises Transient where the store fails."""
    found = []
    for name in await objects.names():
        try:
            if _has(said, await objects.get(name)):
                found.append(Finding(f"object {name}", 1, None))
        except IntegrityError:
            continue  # deleted meanwhile
    return found


async def in_tables(pool: asyncpg.Pool, said: Sequence[bytes]) -> list[Finding]:
    """The tables that have one of `said` in a row, as text or as bytes."""
    words = [form for one in said for form in (one.decode(), one.hex())]
    tables = [row["tablename"] for row in await pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")]
    sql = 'SELECT count(*) FROM "{}" AS t WHERE EXISTS (SELECT FROM unnest($1::text[]) AS word WHERE position(word IN t::text) > 0)'
    counts = {table: await pool.fetchval(sql.format(table), words) for table in tables}
    return [Finding(f"table {table}", count, None) for table, count in counts.items() if count]


def in_files(folder: Path, besides: Sequence[Path], said: Sequence[bytes]) -> list[Finding]:
    """The files under `folder`, but not under one of `besides`, that have one of `said`."""
    return [Finding(f"file {path}", 1, None) for path in _files(folder, besides) if _has(said, path.read_bytes())]


def _files(folder: Path, besides: Sequence[Path]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path in besides or path.is_symlink():
            continue
        if path.is_dir():
            yield from _files(path, besides)
        elif path.is_file():
            yield path


def _has(said: Sequence[bytes], *texts: bytes) -> bool:
    return any(one in text for text in texts for one in said)


def _end(written_ms: int, keeps_ms: int) -> datetime | None:
    return None if keeps_ms < 0 else datetime.fromtimestamp(written_ms / 1000, UTC) + timedelta(milliseconds=keeps_ms)


def _retention(broker: str, prefix: str) -> dict[str, int]:
    """Every topic with its `retention.ms`."""
    admin = admin_client(broker)
    try:
        topics = [name for name in admin.list_topics(timeout=TIMEOUT_SECONDS).topics if name.startswith(prefix) and not name.startswith("__")]
        asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]) if topics else {}
        return {resource.name: int(config.result(TIMEOUT_SECONDS)["retention.ms"].value) for resource, config in asked.items()}
    except KafkaException as error:
        raise Transient(f"the topics of {broker} can't be listed: {error.args[0].str()}") from error
