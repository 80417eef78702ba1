"""All stream workers on a cluster of three brokers, while workers, brokers, PostgreSQL and the teacher go away at random.

Documents come, change and go meanwhile. Then everything is read from the start: each record of `documents` has its revision or
its dead letter, each text of each document its chunk, each live chunk what the teacher makes of it, each kept example its record
of a dataset, once; what was withdrawn is withdrawn to the last record; and a replay makes the same datasets again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loom.bench import pipeline
from loom.bench.pipeline import document
from loom.embedded.kafka import free_port
from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import connect
from runtime.kafka import Outgoing, Record, apply_topics
from runtime.project import Project, load_project
from runtime.sealing import HASH_OWNER, PostgresKeys
from schemas.codec import Codec
from schemas.events import Chunk, ChunkStatus, DatasetRecord, DeadLetter, Document, Example, ExampleStatus, RecordStatus, Revision
from streams.chunk import candidates_of
from streams.cut import Cutting, cut
from streams.format import pair_id
from streams.privacy import Pii
from tests.support.cluster import Cluster
from tests.support.endpoint import Endpoint, Rows, serving
from tests.support.kafka import publish, read_all
from tests.support.postgres import running_postgres
from tests.support.storm import Fault, Fleet, broker_fault, storm, worker_faults

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
CODEC = Codec()
STORM_SECONDS = float(os.environ.get("LOOM_TEST_STORM_SECONDS", "150"))
BATCHES, A_BATCH = 15, 20
FEWEST, MOST = 2, 4
SETTLE_SECONDS = 400
OUTPUTS = ("revisions", "chunks", "examples", "datasets.cpt", "datasets.chat", "datasets.preferences")
SENTENCE = re.compile(r"[A-Z][^.]*\.")
A_CHUNK = Counter({"cpt": 1, "chat": 6})
"""Examples that `REPLIES` and the text of a chunk make."""


def sentences(prompt: str) -> list[str]:
    """Those of the passage in a teacher's prompt."""
    return SENTENCE.findall(prompt.partition("<passage>")[2])


def questions(prompt: str) -> Rows:
    return [{"question": f"Is it so that {said[:-1]}?", "answer": said, "topic": said} for said in sentences(prompt)[:3]]


def conversations(prompt: str) -> Rows:
    first, second = sentences(prompt)[3:5]
    return [{"turns": [{"question": f"Tell me: {first}", "answer": first}, {"question": "And then?", "answer": second}]}]


def preferences(prompt: str) -> Rows:
    said = sentences(prompt)[5]
    return [{"question": f"What of this: {said}", "answer": said, "wrong": "Nobody knows that."}]


def scores(prompt: str) -> Rows:
    return [{"score": 5} for line in prompt.splitlines() if re.match(r"[0-9]+\. ", line)]


class Teacher:
    """An OpenAI-compatible endpoint that can be down: nothing listens then."""

    def __init__(self) -> None:
        self.port = free_port()
        self._endpoint = Endpoint({"questions": questions, "conversations": conversations, "preferences": preferences, "scores": scores})

    def start(self) -> None:
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        up = threading.Event()

        async def serve() -> None:
            async with serving(self._endpoint, self.port):
                up.set()
                await self._stop.wait()

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[serve()])
        self._thread.start()
        assert up.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@dataclass
class Site:
    """Everything that runs."""

    folder: Path
    cluster: Cluster
    postgres: EmbeddedPostgres
    teacher: Teacher

    @property
    def project(self) -> Project:
        return load_project(self.folder / "loom.toml")

    def environment(self, data: Path) -> Mapping[str, str]:
        own = {"LOOM_SESSION_TIMEOUT_SECONDS": "6", "LOOM_TEACHER_URL": f"http://127.0.0.1:{self.teacher.port}/v1", "LOOM_TEACHER_MODEL": "told"}
        return pipeline.Site(self.cluster.address, self.postgres.url, self.folder).environment("", data) | own

    def fleet(self, worker: str) -> Fleet:
        return Fleet(lambda _: [sys.executable, "-m", "loom", "worker", worker], self.folder, lambda n: self.environment(self.folder / f"{worker}-{n}"), worker)

    def read(self, topic: str) -> list[Record]:
        return asyncio.run(read_all(self.cluster.address, topic))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    (folder / "loom.toml").write_text(pipeline.PROJECT + "[adapters.chat.dpo]\n")
    cluster, teacher = Cluster(folder), Teacher()
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        cluster.start()
        stack.callback(cluster.stop)
        teacher.start()
        stack.callback(teacher.stop)
        asyncio.run(apply_topics(cluster.address, load_project(folder / "loom.toml").topics.values()))
        yield Site(folder, cluster, postgres, teacher)


def gone(stop: Any, start: Any, most_seconds: float) -> Fault:
    """A server is away for a while."""

    def fault(rng: random.Random) -> None:
        stop()
        time.sleep(rng.uniform(0.5, most_seconds))
        start()

    return fault


def batch(number: int) -> list[Document]:
    """New documents, two of them with a text that the batch before has too, one that can't be read; changes and ends of the batch before."""
    pages = [document(f"{number}-{i}") for i in range(A_BATCH)]
    for i in (3, 5):
        pages[i] = Document(doc_id=pages[i].doc_id, revision=1, media_type="text/markdown", source="test", content=document(f"{number - 1}-2").content)
    pages[4] = Document(doc_id=pages[4].doc_id, revision=1, media_type="application/pdf", source="test", content=b"no PDF")
    if number:
        changed, other = document(f"{number - 1}-0"), document(f"{number - 1}-0 changed")
        assert changed.content is not None
        assert other.content is not None
        half = changed.content.rindex(b"## ")
        pages.append(Document(doc_id=changed.doc_id, revision=2, media_type="text/markdown", source="test", content=changed.content[:half] + other.content[other.content.rindex(b"## ") :]))
        pages += [Document(doc_id=f"{number - 1}-{i}", revision=2, media_type="", source="", deleted=True) for i in (1, 2)]  # 2: others have its text
    return pages


def test_everything_is_there_once(tmp_path: Path) -> None:
    with site(tmp_path) as at:
        fleets = [at.fleet(worker) for worker in ("chunk", "synth", "format")]
        sent: list[Document] = []

        def flow(stop: threading.Event) -> None:
            for number in range(BATCHES):
                documents = batch(number)
                asyncio.run(publish(at.cluster.address, [Outgoing("documents", d.doc_id.encode(), CODEC.encode(d)) for d in documents]))
                sent.extend(documents)
                stop.wait(STORM_SECONDS / BATCHES)

        faults = worker_faults(fleets, FEWEST, MOST) | {
            "broker": broker_fault(at.cluster), "postgres": gone(at.postgres.stop, at.postgres.start, 6), "teacher": gone(at.teacher.stop, at.teacher.start, 8),
        }  # fmt: skip
        try:
            for fleet in fleets:
                for _ in range(FEWEST):
                    fleet.start()
            done = storm(faults, ("kill", "kill", "pause", "pause", "join", "leave", "broker", "postgres", "teacher"), fleets, flow, STORM_SECONDS, (1.0, 5.0))
            found = settled(at, sent, fleets)
        finally:
            for fleet in fleets:
                fleet.end()
        print(f"{Counter(done)}: {len(sent)} documents in, {found}")
        once(at)
        environment = at.environment(tmp_path / "replay")
        replay = subprocess.run([sys.executable, "-m", "loom", "replay", "--datasets", "--name", "again", "--json"], env=environment, capture_output=True, text=True, check=False)
        assert replay.returncode == 0, replay.stderr + replay.stdout
        assert len(json.loads(replay.stdout)["datasets"]) == 3


def settled(at: Site, sent: list[Document], fleets: list[Fleet]) -> dict[str, int]:
    """What is there, once it is as it must be; else what is not."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        for fleet in fleets:
            fleet.heal()
        try:
            return accounted(at, sent)
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(5)


def accounted(at: Site, sent: list[Document]) -> dict[str, int]:
    """Counts of what is there. Raises AssertionError where something is missing, or is not as it must be."""
    letters = [CODEC.decode(DeadLetter, r.value) for r in at.read("dead-letters")]
    bad = [d.doc_id for d in sent if d.media_type == "application/pdf"]
    assert sorted((letter.key or b"").decode() for letter in letters) == sorted(bad), [letter.message for letter in letters]
    revisions = {(r.doc_id, r.revision) for r in (CODEC.decode(Revision, record.value) for record in at.read("revisions"))}
    assert revisions == {(d.doc_id, d.revision) for d in sent}

    chunks = {chunk.chunk_id: chunk for chunk in (CODEC.decode(Chunk, record.value) for record in at.read("chunks"))}
    standing = {chunk_id: chunk for chunk_id, chunk in chunks.items() if chunk.status is not ChunkStatus.WITHDRAWN}
    wanted = asyncio.run(texts(at, sent))
    assert standing.keys() == wanted.keys()
    live = {chunk_id for chunk_id, chunk in standing.items() if chunk.status is ChunkStatus.LIVE}
    by_text: dict[str, list[str]] = {}
    for chunk_id, text in wanted.items():
        by_text.setdefault(text, []).append(chunk_id)
    assert all(len(live.intersection(same)) == 1 for same in by_text.values())
    assert all(chunk.twin_id in live for chunk in standing.values() if chunk.status is ChunkStatus.DUPLICATE)

    examples = {example.example_id: example for example in (CODEC.decode(Example, record.value) for record in at.read("examples"))}
    kept = {example_id: e for example_id, e in examples.items() if e.status is ExampleStatus.KEPT}
    assert [(e.doc_id, e.prompt_version, e.reason) for e in examples.values() if e.status is ExampleStatus.REJECTED] == []
    made: dict[str, Counter[str]] = {}
    for e in kept.values():
        made.setdefault(str(e.chunk_id), Counter())[e.adapter] += 1
    assert made == dict.fromkeys(live, A_CHUNK)
    records = {d: live_records(at, d) for d in ("cpt", "chat", "preferences")}
    assert records["cpt"] | records["chat"] == kept.keys()
    given = {pair_id(i) for i, e in kept.items() if e.prompt_version.startswith("preferences")}
    assert given <= records["preferences"] <= {pair_id(i) for i, e in kept.items() if e.adapter == "chat"}  # some are made by rule
    return {"letters": len(letters), "revisions": len(revisions), "live": len(live), "twins": len(standing) - len(live), "withdrawn": len(chunks) - len(standing), "examples": len(kept), "gone": len(examples) - len(kept)}


def live_records(at: Site, dataset: str) -> set[str]:
    """The ids of those that were not withdrawn to the last record."""
    last = {row.example_id: row.status for row in (CODEC.decode(DatasetRecord, record.value) for record in at.read(f"datasets.{dataset}"))}
    return {i for i, status in last.items() if status is RecordStatus.LIVE}


async def texts(at: Site, sent: list[Document]) -> dict[str, str]:
    """The chunks that the documents should have now, by id, and the hash of each one's text."""
    pool = await connect(at.postgres.url)
    try:
        secret = (await PostgresKeys(pool).key(HASH_OWNER)).secret
    finally:
        await pool.close()
    how = Cutting(at.project.base_folder, Pii(at.project.documents.pii), secret)
    last = {d.doc_id: d for d in sent}
    made = {}
    for d in last.values():
        if not d.deleted and d.media_type == "text/markdown":
            made.update({c.chunk_id: c.print.content_hash for c in candidates_of(d.doc_id, cut(d.media_type, d.content or b"", how))})
    return made


def once(at: Site) -> None:
    """No event is there twice. That of dead letters is in `accounted`: they have no id of an event."""
    for topic in OUTPUTS:
        ids = Counter(dict(record.headers)["ce_id"] for record in at.read(topic))
        assert [(topic, event_id) for event_id, count in ids.items() if count > 1] == []
