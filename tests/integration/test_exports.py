"""Datasets out of the topics: they load, they say where they come from, and what came and went is named."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.exports import Exporter, Moment, snapshot
from runtime.errors import SettingsError
from schemas.events import DatasetRecord, RecordStatus, RunStatus, TrainingRun
from streams.context import document_owner
from streams.teacher.by_distilabel import offline_teacher
from tests.support.live import EXAMPLE, ROOT
from tests.support.streams import CODEC, System, document, streams

PAGE = b"# Hub\n\nThe hub pairs with sixty devices at most. Concrete walls shorten the radio range considerably.\n\n## Ring\n\nA violet ring means that an update is being installed now.\n"


@pytest_asyncio.fixture
async def system(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[System]:
    async with streams(kafka.address, postgres.url, tmp_path, offline_teacher()) as running:
        yield running


def exporter_of(system: System) -> Exporter:
    return Exporter(system.context.project, system.broker, CODEC, system.prefix)


async def run_at(system: System, version: int, moment: Moment) -> None:
    run = TrainingRun(run_id=f"run-{version}", adapter="chat", base_epoch=0, status=RunStatus.REQUESTED, version=version, ranges=moment.ranges)
    await system.send("training-runs", run.run_id.encode(), CODEC.encode(run))


def live(records: Sequence[DatasetRecord]) -> set[str]:
    """The examples whose last record is no withdrawal."""
    last = {record.example_id: record.status for record in records}
    return {example_id for example_id, status in last.items() if status is RecordStatus.LIVE}


@pytest.mark.asyncio
async def test_snapshots_load_and_differences_are_named(system: System, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    exporter = exporter_of(system)
    await system.publish(document("hub", PAGE), document("lamp", PAGE.replace(b"violet", b"green").replace(b"sixty", b"eight")))
    made = await system.settled("datasets.chat", DatasetRecord)
    first = await exporter.moment("chat")
    await run_at(system, 1, first)
    between = datetime.now(UTC).isoformat()
    await asyncio.sleep(0.1)
    await system.publish(document("hub", PAGE.replace(b"violet", b"blue"), revision=2))
    changed = await system.settled("datasets.chat", DatasetRecord)
    await run_at(system, 2, await exporter.moment("chat"))

    manifest = await snapshot(exporter, system.context.keys, first, tmp_path / "first", "chat")
    again = await snapshot(exporter, system.context.keys, await exporter.moment("chat", between), tmp_path / "again", "chat")
    assert manifest["files"] == again["files"]
    assert manifest["dataset_sha256"] == again["dataset_sha256"]
    assert sum(f["rows"] for f in manifest["files"].values()) == len({r.example_id for r in made})

    from datasets import load_dataset

    rows = [row for part in load_dataset(str(tmp_path / "first"), cache_dir=str(tmp_path / "cache")).values() for row in part]
    assert {row["doc_id"] for row in rows} == {"hub", "lamp"}
    assert all(json.loads(row["output"])["answer"] and row["teacher"] and row["chunk_id"] for row in rows)
    card = (tmp_path / "first" / "README.md").read_text()
    assert "| hub | " in card
    assert manifest["dataset_sha256"] in card

    environment = os.environ | {"LOOM_PREFIX": system.prefix, "LOOM_DATA": str(tmp_path / "data"), "LOOM_PROJECT": str(EXAMPLE), "LOOM_BROKER": system.broker, "LOOM_DATABASE": postgres.url}

    async def loom(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(subprocess.run, [sys.executable, "-m", "loom", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)

    told = await loom("diff", "chat@1", "chat@2", "--json")
    assert told.returncode == 0, told.stderr
    changes = json.loads(told.stdout)
    assert {(c["change"], c["doc_id"]) for c in changes} == {("came", "hub"), ("went", "hub")}
    assert {c["why"] for c in changes if c["change"] == "went"} == {"its chunk was withdrawn"}
    assert {c["example_id"] for c in changes} == live(made) ^ live(changed)
    assert len(changes) > 5
    written = await loom("snapshot", "chat@1", "--out", str(tmp_path / "third"))
    assert written.returncode == 0, written.stderr
    assert json.loads((tmp_path / "third" / "manifest.json").read_text())["files"] == manifest["files"]

    await system.context.keys.destroy(document_owner("lamp"))
    after = await snapshot(exporter, system.context.keys, first, tmp_path / "forgotten", "chat")
    assert after["forgotten"] == sum(row["doc_id"] == "lamp" for row in rows)


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "at", "fault"), [("none", "now", "no dataset"), ("chat", "yesterday", "is no moment"), ("chat@9", "now", "no run made chat@9"), ("chat", "now", "is empty")])
async def test_what_is_not_there_says_so(system: System, tmp_path: Path, name: str, at: str, fault: str) -> None:
    exporter = exporter_of(system)
    with pytest.raises(SettingsError, match=fault):
        await snapshot(exporter, system.context.keys, await exporter.moment(name, at), tmp_path / "out", "chat")
