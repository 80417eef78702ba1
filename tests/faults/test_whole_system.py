"""Every worker of a whole system is killed, then paused while another takes over, as 5,000 documents and requests flow:
counted on the topics by a read_committed reader, nothing is lost and nothing is there twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loom.embedded.kafka import free_port
from loom.processes import ON_ONE_MACHINE
from runtime.kafka import Outgoing
from schemas.codec import Codec
from schemas.events import Chunk, DatasetRecord, DeadLetter, Example, ExampleStatus, Request, RequestCompleted, Result, Revision
from streams.synth import ASKED_BEFORE
from tests.support.kafka import publish, read_all
from tests.support.live import ROOT, Live, running

pytestmark = pytest.mark.timeout(1500)
CODEC = Codec()
COUNT = 5000
PROJECT = f"""
[base]
model = "{ROOT / "models/base"}"
[adapters.mood]
task = "classify"
result = "moods"
labels = ["GLAD", "SAD"]
min_examples = 1000000
[adapters.chat]
task = "chat"
result = "chat"
min_examples = 1000000
utterances = ["how does it work"]
"""
PAUSE_SECONDS = 14  # longer than the session timeout


def write_documents(folder: Path) -> None:
    folder.mkdir()
    for i in range(COUNT):
        (folder / f"{i}.md").write_text(f"# Device {i}\n\nThe device number {i} needs charging every {i % 97} hours.\n")


def send_requests(broker: str) -> None:
    for first in range(0, COUNT, 100):
        requests = [Request(request_id=f"r{i}", conversation_id=f"c{i}", text=f"I love device {i}", adapter_id="mood@base") for i in range(first, first + 100)]
        asyncio.run(publish(broker, [Outgoing("requests", r.conversation_id.encode(), CODEC.encode(r)) for r in requests]))
        time.sleep(2)


def second(system: Live, worker: str, folder: Path) -> subprocess.Popen[bytes]:
    """Another process of `worker`, started by its command as on another machine."""
    known = json.loads((system.data / "connection.json").read_text())
    own = {"LOOM_BROKER": known["broker"], "LOOM_DATABASE": known["database"], "LOOM_OBJECTS": (system.data / "objects").as_uri(), "LOOM_DATA": str(folder), "LOOM_HTTP_PORT": str(free_port())}
    log = (folder.parent / f"second-{worker}.log").open("wb")
    return subprocess.Popen([sys.executable, "-m", "loom", "worker", worker], env=system.environment | own, cwd=ROOT, stdout=log, stderr=log)


def counted(system: Live, topic: str, kind: type, field: str) -> Counter[str]:
    return Counter(getattr(CODEC.decode(kind, r.value), field) for r in asyncio.run(read_all(system.broker, topic)))


def until(system: Live, topic: str, wanted: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (found := len(asyncio.run(read_all(system.broker, topic)))) < wanted:
        logs = "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-800:]}" for p in sorted((system.data / "logs").glob("*.log")))
        assert time.monotonic() < end, f"{topic} holds {found} of {wanted}\n{logs}"
        time.sleep(2)


def test_each_worker_dies_and_is_paused_and_every_record_counts_once(tmp_path: Path) -> None:
    project = tmp_path / "loom.toml"
    project.write_text(PROJECT)
    write_documents(tmp_path / "documents")
    with running(project) as system:
        feeders: list[Any] = [
            threading.Thread(target=system.loom, args=("publish", str(tmp_path / "documents"))),
            threading.Thread(target=send_requests, args=(system.broker,)),
        ]
        for feeder in feeders:
            feeder.start()
        time.sleep(10)
        for worker in ON_ONE_MACHINE:
            os.kill(system.worker_pid(worker), signal.SIGKILL)
            time.sleep(4)
        for worker in ON_ONE_MACHINE:
            paused = system.worker_pid(worker)
            os.kill(paused, signal.SIGSTOP)
            other = second(system, worker, tmp_path / f"data-{worker}")
            time.sleep(PAUSE_SECONDS)
            os.kill(paused, signal.SIGCONT)
            time.sleep(2)
            other.terminate()
            other.wait(60)
        for feeder in feeders:
            feeder.join()
        for topic in ("revisions", "chunks", "datasets.cpt", "results.completed"):
            until(system, topic, COUNT, 600)
        time.sleep(5)
        assert counted(system, "dead-letters", DeadLetter, "letter_id") == {}
        for topic, kind, field in (
            ("revisions", Revision, "doc_id"), ("chunks", Chunk, "chunk_id"), ("datasets.cpt", DatasetRecord, "example_id"),
            ("results.moods", Result, "request_id"), ("results.completed", RequestCompleted, "request_id"),
        ):  # fmt: skip
            found = counted(system, topic, kind, field)
            assert (len(found), set(found.values())) == (COUNT, {1}), topic
        examples = system.read("examples", Example)
        assert len({e.example_id for e in examples}) == len(examples)
        assert {e.reason for e in examples if e.status is not ExampleStatus.KEPT} == {ASKED_BEFORE}  # each device's charging hours, if the words are another's too
        kept = {e.example_id for e in examples if e.status is ExampleStatus.KEPT and e.adapter == "chat"}
        until(system, "datasets.chat", len(kept), 600)
        assert counted(system, "datasets.chat", DatasetRecord, "example_id") == dict.fromkeys(kept, 1)
