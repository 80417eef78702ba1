"""A training run whose broker and database are down waits for them, as long as its worker lives."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import connect, migrate
from runtime.ids import canonical_json
from runtime.kafka import Outgoing, apply_topics
from runtime.project import load_project
from runtime.sealing import PostgresKeys, seal
from schemas.codec import Codec
from schemas.events import DatasetRecord, OffsetRange, RecordStatus, Split
from schemas.topics import dataset_topic
from tests.support.kafka import publish
from trainers.run import RunSpec, read_rows

PROJECT = load_project(Path(__file__).parents[2] / "examples/pebblewire/loom.toml")
TOPIC = replace(dataset_topic("classifier"), partitions=1)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="loom-test-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def write_one(broker: str, database: str) -> None:
    await apply_topics(broker, [TOPIC])
    pool = await connect(database, size=1)
    key = await PostgresKeys(pool).key("upstream")
    await pool.close()
    body = seal(key, "e1:body", canonical_json({"input": {"text": "so sad"}, "output": {"label": "NEGATIVE"}}))
    record = DatasetRecord(example_id="e1", adapter="classifier", task="classify", split=Split.TRAIN, group_id="g", body=body, status=RecordStatus.LIVE)
    await publish(broker, [Outgoing(TOPIC.name, b"e1", Codec().encode(record))])


WORKER = """
import multiprocessing, pickle, sys, time
from trainers.run import child

if __name__ == "__main__":
    processes = multiprocessing.get_context("forkserver")
    _, theirs = processes.Pipe(duplex=False)
    run = processes.Process(target=child, args=(pickle.loads(bytes.fromhex(sys.argv[1])), theirs), daemon=True)
    run.start()
    print(run.pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_with_its_worker(folder: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    spec = RunSpec("run", "classifier", 1, 0, PROJECT.base_folder, PROJECT.adapters["classifier"], (OffsetRange(topic=TOPIC.name, partition=0, first=0, end=1),), None, nowhere, f"postgresql://u@{nowhere}/d", folder.as_uri(), folder)
    (folder / "worker.py").write_text(WORKER)
    worker = subprocess.Popen([sys.executable, folder / "worker.py", pickle.dumps(spec).hex()], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    run = psutil.Process(int(worker.stdout.readline()))
    with pytest.raises(psutil.TimeoutExpired):
        run.wait(6)  # it waits for its broker
    worker.kill()
    run.wait(10)


def test_it_waits_for_both(folder: Path) -> None:
    kafka, postgres = EmbeddedKafka(folder / "kafka", free_port(), free_port()), EmbeddedPostgres(folder / "postgres")
    kafka.start()
    postgres.start()
    migrate(postgres.url)
    asyncio.run(write_one(kafka.address, postgres.url))
    ranges = (OffsetRange(topic=TOPIC.name, partition=0, first=0, end=1),)
    spec = RunSpec("run", "classifier", 1, 0, PROJECT.base_folder, PROJECT.adapters["classifier"], ranges, None, kafka.address, postgres.url, folder.as_uri(), folder)
    postgres.stop()
    kafka.kill()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read_rows, spec)
        for service in (postgres, kafka):
            with pytest.raises(TimeoutError):
                waiting.result(4)
            service.start()
        (row,) = waiting.result(60)
    assert row.body["output"] == {"label": "NEGATIVE"}
    postgres.stop()
    kafka.stop()
