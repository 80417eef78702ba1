"""What is kept for ever is enough: every dataset is made again, byte for byte, beside a system that goes on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.replay import Rebuilt, ReplayEnded, Report, replay_system
from runtime.database import connect
from runtime.errors import KeyDestroyed, SettingsError
from runtime.project import load_project
from runtime.sealing import PostgresKeys
from runtime.settings import Settings, load_settings
from schemas.events import Chunk, ChunkStatus, DatasetRecord, DeadLetter, Example, ExampleStatus, Label, RecordStatus
from streams.context import document_owner
from streams.rebuild import rebuild
from streams.teacher.by_distilabel import offline_teacher
from tests.support.live import EXAMPLE, ROOT
from tests.support.streams import CODEC, System, document, streams

BASE_MODEL = "../../models/base"
PAGE = b"# Hub\n\nThe hub pairs with sixty devices at most. Concrete walls shorten the radio range considerably.\n\n## Ring\n\nA violet ring means that an update is being installed now.\n"
LAMP = b"# Lamp\n\nThe lamp dims in eleven steps when the dial is turned slowly. It remembers the last step for a year.\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example's, with as many partitions as nobody expects."""
    written = tmp_path / "loom.toml"
    written.write_text(f"{EXAMPLE.read_text().replace(BASE_MODEL, str(ROOT / 'models/base'))}\n[kafka]\npartitions = 4\n")
    return written


@pytest_asyncio.fixture
async def system(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path, project: Path) -> AsyncIterator[System]:
    async with streams(kafka.address, postgres.url, tmp_path, offline_teacher(), load_project(project)) as running:
        yield running


async def label(system: System, example_id: str, withdrawn: bool = False) -> None:
    given = {"text": f"the {example_id} does nothing"}
    event = Label(example_id=example_id, adapter="classifier", input=json.dumps(given), output='{"label": "NEGATIVE"}', withdrawn=withdrawn)
    await system.send("labels", example_id.encode(), CODEC.encode(event))


async def a_history(system: System) -> None:
    """Twins, a change, a withdrawal, a deletion, labels."""
    await system.publish(document("hub", PAGE), document("copy", PAGE), document("lamp", LAMP), document("gone", LAMP.replace(b"Lamp", b"Dimmer")), document("secret", b"# Secret\n\nThe safe opens with nine turns to the left only.\n"))
    for name in ("remote", "sensor", "siren"):
        await label(system, name)
    await system.settled("datasets.chat", DatasetRecord)
    await system.publish(document("hub", PAGE.replace(b"violet", b"green"), revision=2), document("gone", None, revision=2, deleted=True))
    await label(system, "siren", withdrawn=True)
    await system.settled("datasets.chat", DatasetRecord)


async def forget(system: System) -> None:
    await system.context.keys.destroy(document_owner("secret"))


@pytest.fixture
def settings(system: System, postgres: EmbeddedPostgres, tmp_path: Path, project: Path) -> Settings:
    return load_settings(prefix=system.prefix, data=tmp_path / "data", project=project, broker=system.broker, database=postgres.url, objects=system.context.objects.url)


async def replay(settings: Settings) -> Report:
    return await replay_system(settings, "one", lambda *_: None)


def by_name(report: Report) -> dict[str, Rebuilt]:
    return {dataset.dataset: dataset for dataset in report.datasets}


@pytest.mark.asyncio
async def test_every_dataset_is_made_again_byte_for_byte(system: System, settings: Settings, postgres: EmbeddedPostgres, tmp_path: Path, project: Path) -> None:
    await a_history(system)
    await forget(system)
    report = await replay(settings)
    assert all(dataset.same for dataset in report.datasets), report
    sizes = {name: dataset.live for name, dataset in by_name(report).items()}
    assert sizes["cpt"] == 4  # of hub its two sections, of its copy the one that hub changed, of lamp one
    assert sizes["classifier"] == 2
    assert sizes["chat"] > 10
    assert sizes["preferences"] > 5
    assert report.counts["cut_otherwise"] == report.counts["refused"] == report.counts["copies_lost"] == 0
    assert report.counts["forgotten"] > 1
    with pytest.raises(SettingsError, match="give the replay another name"):
        await replay(settings)
    # the system goes on, unfenced
    await system.publish(document("lamp", LAMP + b"\nIts cable is two metres long and may be replaced by anybody.\n", revision=2))
    await system.settled("datasets.chat", DatasetRecord)
    # by its command
    environment = os.environ | {"LOOM_PREFIX": system.prefix, "LOOM_DATA": str(tmp_path / "data"), "LOOM_PROJECT": str(project), "LOOM_BROKER": system.broker, "LOOM_DATABASE": postgres.url}
    environment["LOOM_OBJECTS"] = system.context.objects.url
    told = await asyncio.to_thread(subprocess.run, [sys.executable, "-m", "loom", "replay", "--datasets", "--name", "two", "--json"], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    assert all(d["same"] for d in answer["datasets"]), answer
    assert {d["dataset"]: d["live"] for d in answer["datasets"]}["chat"] > sizes["chat"]


@pytest.mark.asyncio
async def test_what_has_changed_since_is_told(system: System, settings: Settings) -> None:
    await a_history(system)
    await forget(system)
    # a record that came from nowhere, and a copy that says something else
    stray = (await system.settled("datasets.classifier", DatasetRecord))[0]
    await system.send("datasets.classifier", b"stray", CODEC.encode(DatasetRecord(
        example_id="stray", adapter="classifier", task="classify", split=stray.split, group_id="stray", body=stray.body, status=RecordStatus.LIVE,
    )))  # fmt: skip
    folder = Path(system.context.objects.url.removeprefix("file://"))
    for file in [f for f in folder.rglob("*") if f.is_file()]:
        file.write_bytes(b"damaged" * 10)
    report = await replay(settings)
    assert not by_name(report)["classifier"].same
    assert by_name(report)["chat"].same  # the teacher's words are on the topic
    assert report.counts["copies_lost"] == 3
    assert report.counts["cut_otherwise"] == report.counts["chunks"] - 1  # all but the forgotten one, which nobody can cut


@pytest.mark.asyncio
async def test_a_replay_whose_process_dies_ends_with_the_way_out(system: System, settings: Settings) -> None:
    await system.publish(document("lamp", LAMP))
    await system.settled("datasets.chat", DatasetRecord)

    def kill(phase: str, done: int, of: int) -> None:
        if done == 1:
            for child in psutil.Process().children():
                if any("spawn_main" in part for part in child.cmdline()):
                    child.kill()

    with pytest.raises(ReplayEnded, match="start it again under another name"):
        await replay_system(settings, "one", kill)
    again = await replay_system(settings, "two", lambda *_: None)
    assert all(dataset.same for dataset in again.datasets), again


TABLES = {
    "document_revisions": "SELECT doc_id, revision, content_hash FROM document_revisions",
    "cut_revisions": "SELECT doc_id, revision, record FROM cut_revisions",
    "document_chunks": "SELECT doc_id, chunk_id, ordinal, content_hash, twin_id, similarity FROM document_chunks WHERE withdrawn_by IS NULL",
    "chunk_claims": "SELECT chunk_id, content_hash, signature, bands FROM chunk_claims",
    "question_claims": "SELECT input_hash, example_id, chunk_id FROM question_claims",
    "teacher_units": "SELECT unit_id, chunk_id, adapter, task, version, teacher, item_count, key_owner FROM teacher_units WHERE item_count > 0 AND chunk_id IN (SELECT chunk_id FROM chunk_claims)",
}


async def tables(system: System) -> dict[str, set[str]]:
    return {name: {str(tuple(row)) for row in await system.context.pool.fetch(sql)} for name, sql in TABLES.items()}


async def verdicts_on(system: System, doc_id: str) -> list[ChunkStatus]:
    """What was said of a document's chunks."""
    return [chunk.status for chunk in await system.settled("chunks", Chunk) if chunk.doc_id == doc_id]


@pytest.mark.asyncio
async def test_tables_that_were_lost_are_made_again(system: System) -> None:
    await a_history(system)
    before = await tables(system)
    assert await rebuild(system.context, system.broker) == 0  # nothing was lost
    for name in TABLES:
        await system.context.pool.execute(f"TRUNCATE {name}")
    made = await asyncio.gather(rebuild(system.context, system.broker), rebuild(system.context, system.broker))
    assert sorted(made)[0] == 0
    after = await tables(system)
    for name in TABLES:
        assert after[name] == before[name], name
        assert after[name]
    # the system goes on as if nothing had been lost: what it has is a twin, what is stale is refused, what leaves takes its examples with it
    await system.publish(document("another", LAMP), document("hub", PAGE, revision=1))
    assert await verdicts_on(system, "another") == [ChunkStatus.DUPLICATE]
    await system.publish(document("lamp", None, revision=2, deleted=True))
    assert await verdicts_on(system, "another") == [ChunkStatus.DUPLICATE, ChunkStatus.LIVE]
    withdrawn = {e.example_id for e in await system.settled("examples", Example) if e.status is ExampleStatus.WITHDRAWN and e.doc_id == "lamp"}
    assert {e.example_id for e in await system.settled("examples", Example) if e.doc_id == "lamp"} == withdrawn
    assert "stale revision" in (await system.settled("dead-letters", DeadLetter))[0].message


@pytest.mark.asyncio
async def test_keys_of_many_owners_are_read_at_once(postgres: EmbeddedPostgres) -> None:
    pool = await connect(postgres.url)
    keys, others = PostgresKeys(pool), PostgresKeys(pool)
    wanted = [await keys.key(owner) for owner in ("document:one", "document:two")]
    await keys.key("document:gone")
    await keys.destroy("document:gone")
    await others.hold(["document:one", "document:gone", "document:two", "document:unknown"])
    with pytest.raises(KeyDestroyed):
        await others.key("document:gone")
    await pool.close()
    assert [await others.key(owner) for owner in ("document:one", "document:two")] == wanted  # without the database
