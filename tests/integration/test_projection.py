"""The projection: rows are a function of the topics, so that a lost database comes back from them."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from loom.commands.runs import EVERY
from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.projection import Projection
from runtime.database import connect, migrate
from runtime.dead_letters import letter_of
from runtime.errors import SettingsError
from runtime.kafka import Outgoing, Record, apply_topics
from runtime.project import load_project
from schemas.codec import Codec
from schemas.events import (
    AdapterAlias,
    AdapterEvent,
    AdapterEventKind,
    AdapterVersion,
    BaseEpoch,
    CompletionStatus,
    Request,
    RequestCompleted,
    Result,
    ResultStatus,
    RunStatus,
    TrainingRun,
)
from tests.support.kafka import publish

PROJECT = load_project(Path(__file__).parents[2] / "examples/pebblewire/loom.toml")
CODEC = Codec()
TABLES = ("results", "completions", "runs", "adapter_versions", "adapter_aliases", "base_epochs", "dead_letters", "record_places", "run_steps", "projection_offsets")


def records(prefix: str) -> list[Outgoing]:
    """A small history: an epoch, two versions of an adapter, one of them tainted and one refused, their runs, one that was cancelled too late, an answered request, a dead letter, foreign bytes."""
    run = TrainingRun(run_id="r1", adapter="tool", base_epoch=0, status=RunStatus.REQUESTED, version=1)
    version = AdapterVersion(
        version=1, engine_name="tool@1-aa", base_epoch=0, artifact_uri="file:///a", files=(), run_id="r0", recipe_hash="", manifest_sha256="", rank=16, metrics={"a": 0.5}, verdict="good",
    )  # fmt: skip
    event = AdapterEvent(adapter="tool", kind=AdapterEventKind.VERSION, version=version, alias=None, epoch=None, reason=None)
    aliases = [
        replace(event, kind=AdapterEventKind.ALIAS, version=None, alias=AdapterAlias(live_version=1, canary_version=2), sequence=2),
        replace(event, kind=AdapterEventKind.ALIAS, version=None, alias=AdapterAlias(live_version=2, canary_version=3, canary_share=0.25, shadow=True), sequence=3),
    ]
    epoch = replace(event, adapter="base", kind=AdapterEventKind.EPOCH, version=None, epoch=BaseEpoch(epoch=0, base_uri="u", base_sha256="s", live={}), sequence=1)
    result = Result(result_id="x", request_id="q", task="tool", adapter="tool", version=1, intent_index=0, intent_count=1, text="hi", output="null", status=ResultStatus.OK)
    letter = letter_of("chunk", Record("revisions", 0, 7, b"k", b"v", ()), ValueError("no"))
    events: list[tuple[str, str, Any]] = [
        ("adapters", "base", epoch), ("training-runs", "r1", run), ("training-runs", "r1", replace(run, status=RunStatus.PROGRESS, step=3, steps=9, loss=1.5, tokens_per_second=4096.5, seconds_left=12.5, memory_bytes=1 << 31)),
        ("adapters", "tool", event), ("adapters", "tool", replace(event, version=replace(version, version=2, engine_name="tool@2-bb", run_id="r1"))), *(("adapters", "tool", alias) for alias in aliases),
        ("adapters", "tool", replace(event, kind=AdapterEventKind.TAINT, reason="learned from what was forgotten")),
        ("adapters", "tool", replace(event, kind=AdapterEventKind.REFUSAL, version=replace(version, version=2), reason="it answers as the base does")),
        ("training-runs", "r1", replace(run, status=RunStatus.PUBLISHED)), ("training-runs", "r1", replace(run, status=RunStatus.CANCELLED)), ("results.tool-calls", "q", result),
        ("requests", "q", Request(request_id="q", conversation_id="q", text="hi")), ("results.completed", "q", RequestCompleted(request_id="q", status=CompletionStatus.OK)), ("dead-letters", "k", letter),
    ]  # fmt: skip
    return [Outgoing(prefix + topic, key.encode(), CODEC.encode(e)) for topic, key, e in events] + [Outgoing(prefix + "training-runs", b"k", b"no avro")]


async def project_until(pool: asyncpg.Pool, broker: str, prefix: str, count: int) -> dict[str, list[tuple[Any, ...]]]:
    """Every table's rows once the offsets say that `count` records were read."""
    stop = asyncio.Event()
    running = asyncio.create_task(Projection(PROJECT, broker, pool, prefix).run(stop))
    for _ in range(120):
        if (await pool.fetchval("SELECT coalesce(sum(next_offset), 0) FROM projection_offsets WHERE topic LIKE $1", prefix + "%")) >= count:
            break
        await asyncio.sleep(0.25)
    stop.set()
    await running
    return {table: sorted((tuple(row) for row in await pool.fetch(f"SELECT * FROM {table}")), key=str) for table in TABLES}


@pytest.mark.asyncio
async def test_a_lost_database_comes_back_from_the_topics_and_a_record_read_twice_changes_nothing(kafka: EmbeddedKafka, postgres: EmbeddedPostgres) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    await apply_topics(kafka.address, PROJECT.topics.values(), prefix)
    history = records(prefix)
    for record in history:
        await publish(kafka.address, [record])
    kept = []
    for name in ("first", "second"):
        database = f"{name}_{uuid.uuid4().hex[:8]}"
        server = await connect(postgres.url, size=1)
        await server.execute(f"CREATE DATABASE {database}")
        await server.close()
        url = postgres.url.replace("/postgres?", f"/{database}?")
        assert url != postgres.url
        await asyncio.to_thread(migrate, url)
        pool = await connect(url, size=2)
        kept.append(await project_until(pool, kafka.address, prefix, len(history)))
        await pool.execute("DELETE FROM projection_offsets")
        assert await project_until(pool, kafka.address, prefix, len(history)) == kept[-1]
        assert [(row["run_id"], row["status"], row["reason"]) for row in await pool.fetch(EVERY)] == [("r1", "published", "a server refused it: it answers as the base does")]
        await pool.close()
    assert kept[0] == kept[1]
    assert [(r[0], r[3], r[4]) for r in kept[0]["runs"]] == [("r1", "published", 3)]
    assert [r[:2] for r in kept[0]["record_places"]] == [("q", "q"), ("x", "q")]
    assert [r[-4:] for r in kept[0]["runs"]] == [(4096.5, None, 1 << 31, "examples")]  # nothing is left of a run that has ended
    assert [r[:4] for r in kept[0]["run_steps"]] == [("r1", 3, 1.5, 4096.5)]
    assert [(r[1], *r[-2:]) for r in kept[0]["adapter_versions"]] == [(1, "learned from what was forgotten", None), (2, None, "it answers as the base does")]
    assert [tuple(r) for r in kept[0]["adapter_aliases"]] == [("tool", 2, 3, 3, 0.25, True)]
    assert {table: len(rows) for table, rows in kept[0].items() if table != "projection_offsets"} == dict.fromkeys(TABLES[:-1], 1) | {"adapter_versions": 2, "record_places": 2}


@pytest.mark.asyncio
async def test_tables_of_a_newer_version_are_refused_with_a_word(postgres: EmbeddedPostgres) -> None:
    server = await connect(postgres.url, size=1)
    await server.execute("CREATE DATABASE newer")
    await server.close()
    url = postgres.url.replace("/postgres?", "/newer?")
    await asyncio.to_thread(migrate, url)
    pool = await connect(url, size=1)
    await pool.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"of another version of loraloom.*9999.*name another database"):
        await asyncio.to_thread(migrate, url)
    await pool.close()
