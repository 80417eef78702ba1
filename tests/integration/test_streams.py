"""Documents and labels through the real stages, Kafka and PostgreSQL: what becomes of good, changed and bad input."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from runtime.kafka import Record
from runtime.objects import Objects
from runtime.project import Evaluation
from runtime.sealing import unseal
from runtime.stage import run_stage
from schemas.events import Chunk, ChunkStatus, DatasetRecord, DeadLetter, Document, Example, ExampleStatus, Label, RecordStatus, Revision
from streams.context import document_owner
from streams.held_out import NEAR, SAME_WORDS
from streams.intake import Intake
from streams.synth import ASKED_BEFORE
from streams.teacher.by_distilabel import offline_teacher
from tests.support.streams import CODEC, EXAMPLE, System, document, streams

PAGE = b"# Hub\n\nThe hub pairs with sixty devices at most. Concrete walls shorten the radio range considerably.\n\n## Ring\n\nA violet ring means that an update is being installed now.\n"


@pytest_asyncio.fixture
async def system(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[System]:
    async with streams(kafka.address, postgres.url, tmp_path, offline_teacher()) as running:
        yield running


@pytest.mark.asyncio
async def test_a_document_becomes_sealed_training_records(system: System) -> None:
    await system.publish(document("hub", PAGE))
    chunks = await system.settled("chunks", Chunk)
    key = await system.context.keys.key(document_owner("hub"))
    assert [c.text and b"sixty" not in c.text.ciphertext for c in chunks] == [True, True]
    texts = {unseal(key, c.chunk_id + ":path", c.heading_path): unseal(key, c.chunk_id, c.text) for c in chunks}
    assert texts["Hub > Ring"] == "A violet ring means that an update is being installed now."
    records = await system.settled("datasets.chat", DatasetRecord)
    bodies = [json.loads(unseal(key, r.example_id + ":body", r.body)) for r in records]
    open_book = [b for b in bodies if "passage" in b["input"]]
    assert 2 * len(open_book) == len(bodies)
    assert all(b["output"]["answer"] in " ".join(b["input"]["passage"].split()) for b in open_book)
    assert len(await system.settled("datasets.cpt", DatasetRecord)) == 2


@pytest.mark.asyncio
async def test_a_new_revision_touches_only_what_changed(system: System) -> None:
    await system.publish(document("hub", PAGE))
    await system.settled("chunks", Chunk)
    await system.publish(document("hub", PAGE.replace(b"violet", b"green"), revision=2), document("hub", PAGE, revision=2), document("hub", PAGE.replace(b"violet", b"green"), revision=2))
    chunks = await system.settled("chunks", Chunk)
    assert [c.status for c in chunks if c.revision == 2] == [ChunkStatus.WITHDRAWN, ChunkStatus.LIVE]
    (letter,) = await system.settled("dead-letters", DeadLetter)
    assert "stale revision 2" in letter.message
    examples = await system.settled("examples", Example)
    assert {e.status for e in examples} == {ExampleStatus.KEPT, ExampleStatus.WITHDRAWN}


@pytest.mark.asyncio
async def test_a_deletion_withdraws_everything(system: System) -> None:
    await system.publish(document("hub", PAGE))
    made = await system.settled("datasets.chat", DatasetRecord)
    await system.send("documents", b"hub", None)
    after = await system.settled("datasets.chat", DatasetRecord)
    assert len(after) == 2 * len(made)
    assert {r.example_id for r in after if r.status is RecordStatus.WITHDRAWN} == {r.example_id for r in made}


@pytest.mark.asyncio
async def test_an_exact_twin_is_named_and_makes_no_examples(system: System) -> None:
    await system.publish(document("one", PAGE))
    first = await system.settled("chunks", Chunk)
    await system.publish(document("two", PAGE.upper()))
    twins = [c for c in await system.settled("chunks", Chunk) if c.doc_id == "two"]
    assert {(c.status, c.similarity) for c in twins} == {(ChunkStatus.DUPLICATE, 1.0)}
    assert {c.twin_id for c in twins} == {c.chunk_id for c in first}


LONG = " ".join(f"The number {i} valve of the boiler opens at {i * 3 % 17} bar." for i in range(12))


@pytest.mark.asyncio
async def test_a_near_twin_is_named_and_takes_the_place_of_the_one_that_leaves(system: System) -> None:
    await system.publish(document("one", LONG.encode()))
    (first,) = await system.settled("chunks", Chunk)
    await system.publish(document("two", LONG.replace("number 7 valve", "number 7 tap").encode()))
    (twin,) = [c for c in await system.settled("chunks", Chunk) if c.doc_id == "two"]
    assert (twin.status, twin.twin_id) == (ChunkStatus.DUPLICATE, first.chunk_id)
    assert 0.8 <= twin.similarity < 1.0
    await system.publish(document("three", LONG.replace("number 7 valve", "number 7 tap").encode()))
    (third,) = [c for c in await system.settled("chunks", Chunk) if c.doc_id == "three"]
    assert (third.status, third.twin_id) == (ChunkStatus.DUPLICATE, first.chunk_id)

    await system.publish(document("one", None, revision=2, deleted=True))
    last = {c.chunk_id: c for c in await system.settled("chunks", Chunk)}
    assert last[first.chunk_id].status is ChunkStatus.WITHDRAWN
    heirs = [last[twin.chunk_id], last[third.chunk_id]]
    assert sorted(c.status for c in heirs) == [ChunkStatus.DUPLICATE, ChunkStatus.LIVE]
    (heir,) = [c for c in heirs if c.status is ChunkStatus.LIVE]
    assert {c.twin_id for c in heirs if c is not heir} == {heir.chunk_id}
    assert heir.chunk_id in {e.chunk_id for e in await system.settled("examples", Example) if e.status is ExampleStatus.KEPT}


@pytest.mark.asyncio
async def test_an_orphan_that_has_moved_on_is_not_set_back(system: System) -> None:
    await system.publish(document("one", LONG.encode()))
    await system.settled("chunks", Chunk)
    await system.publish(document("two", LONG.encode()), document("two", PAGE, revision=2))
    await system.settled("chunks", Chunk)
    first = next(r for r in await system.settled("revisions", Revision) if r.doc_id == "two")
    await system.send("revisions", b"two", CODEC.encode(first))
    await system.publish(document("last", PAGE.replace(b"violet", b"blue")))
    chunks = await system.settled("chunks", Chunk)
    assert {c.status for c in chunks if c.doc_id == "two" and c.revision == 2} == {ChunkStatus.LIVE, ChunkStatus.WITHDRAWN}
    assert len([c for c in chunks if c.doc_id == "two"]) == 4


@pytest.mark.asyncio
async def test_a_question_is_learned_once_and_falls_to_who_else_asks_it(system: System) -> None:
    """Two documents share a sentence, not the chunk: without a passage, its questions are the same."""
    shared = b"A violet ring means that an update is being installed now."
    await system.publish(document("one", b"# One\n\nThe hub pairs with sixty devices at most. " + shared), document("two", b"# Two\n\nBatteries of sensors last about four years. " + shared))
    made = [e for e in await system.settled("examples", Example) if e.task == "chat"]
    reasons = {(e.doc_id, e.reason) for e in made}
    (second,) = {doc_id for doc_id, reason in reasons if reason == ASKED_BEFORE}
    first = "one" if second == "two" else "two"
    assert {e.status for e in made if e.reason == ASKED_BEFORE} == {ExampleStatus.REJECTED}
    # the first leaves, and a new document asks the same
    await system.publish(document(first, None, revision=2, deleted=True))
    await system.settled("examples", Example)
    await system.publish(document("three", b"# Three\n\nCurtains open at sunrise if you ask them to. " + shared))
    third = [e for e in await system.settled("examples", Example) if e.doc_id == "three"]
    assert third
    assert {e.reason for e in third} == {None}


@pytest.mark.asyncio
async def test_nothing_near_an_evaluation_set_is_learned(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    (tmp_path / "held-out.jsonl").write_text('{"text": "please restart the greenhouse hub"}\n{"question": "What means that an update is being installed now?"}\n')
    project = EXAMPLE.model_copy(update={"evaluation": Evaluation(files=(str(tmp_path / "*.jsonl"),))})
    async with streams(kafka.address, postgres.url, tmp_path, offline_teacher(), project) as system:
        await system.publish(document("hub", PAGE))
        for text in ("restart the greenhouse hub please", "Please restart the greenhouse hub!", "where is my invoice"):
            label = Label(example_id=text, adapter="classifier", input=json.dumps({"text": text}), output='{"label": "NEUTRAL"}')
            await system.send("labels", text.encode(), CODEC.encode(label))
        examples = await system.settled("examples", Example)
        assert {e.example_id: e.reason for e in examples if e.task == "classify"} == {"restart the greenhouse hub please": NEAR, "Please restart the greenhouse hub!": SAME_WORDS, "where is my invoice": None}
        assert {e.example_id for e in await system.settled("datasets.classifier", DatasetRecord)} == {"where is my invoice"}
        assert 0 < len([e for e in examples if e.task == "chat" and e.reason in (SAME_WORDS, NEAR)]) < len([e for e in examples if e.task == "chat" and e.reason is None])


@pytest.mark.asyncio
async def test_labels_become_records_and_bad_ones_dead_letters(system: System) -> None:
    def label(example_id: str, adapter: str, given: object, wanted: object) -> Label:
        return Label(example_id=example_id, adapter=adapter, input=json.dumps(given), output=json.dumps(wanted), group_id=None)

    for one in (
        label("a", "classifier", {"text": "great"}, {"label": "POSITIVE"}),
        label("b", "classifier", {"text": "great"}, {"label": "GREAT"}),
        label("c", "nobody", {"text": "great"}, {"label": "POSITIVE"}),
        label("d", "tool", {"message": "reset it", "context": {"user_id": "current"}}, {"calls": [{"tool": "reset_password_flow", "user_id": "current"}]}),
    ):
        await system.send("labels", one.example_id.encode(), CODEC.encode(one))
    assert [r.example_id for r in await system.settled("datasets.classifier", DatasetRecord)] == ["a"]
    assert [r.example_id for r in await system.settled("datasets.tool", DatasetRecord)] == ["d"]
    letters = {letter.message for letter in await system.settled("dead-letters", DeadLetter)}
    assert letters == {"'GREAT' is none of NEGATIVE, NEUTRAL, POSITIVE", "no adapter 'nobody' is declared: one of tool, classifier, ner, chat"}


@pytest.mark.asyncio
@pytest.mark.parametrize("topic", ["documents", "labels", "revisions", "chunks", "examples"])
async def test_foreign_bytes_cost_one_record(system: System, topic: str) -> None:
    await system.send(topic, b"hub", b"these are no Avro bytes")
    (letter,) = await system.settled("dead-letters", DeadLetter)
    assert letter.topic == system.prefix + topic
    assert "Confluent framing" in letter.message
    await system.publish(document("hub", PAGE))
    assert len(await system.settled("datasets.cpt", DatasetRecord)) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(("media_type", "content", "fault"), [("application/pdf", b"PK\3\4", "zip"), ("text/markdown", b"", "empty"), ("application/pdf", b"%PDF-1.7 cut", "cut short")], ids=["zip", "empty", "cut"])
async def test_bad_documents_are_parked_with_a_reason(system: System, media_type: str, content: bytes, fault: str) -> None:
    await system.publish(document("bad", content, media_type=media_type))
    (letter,) = await system.settled("dead-letters", DeadLetter)
    assert (letter.stage, fault in letter.message) == ("chunk", True)
    await system.publish(document("good", PAGE))
    assert len(await system.settled("chunks", Chunk)) == 2


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount a small one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.asyncio
async def test_a_full_disk_at_the_store_waits_and_goes_on(system: System, tiny_disk: Path) -> None:
    (tiny_disk / "filler").write_bytes(b"x" * (250 << 10))
    stage = Intake(replace(system.context, objects=Objects((tiny_disk / "objects").as_uri())))
    document = Document(doc_id="full", revision=1, media_type="text/markdown", source="t", content=PAGE * 200)
    record = Record("documents", 0, 0, b"full", CODEC.encode(document))
    waiting = asyncio.create_task(run_stage(stage, record, CODEC, system.prefix))
    await asyncio.sleep(3)
    assert not waiting.done()
    (tiny_disk / "filler").unlink()
    (made,) = await asyncio.wait_for(waiting, 20)
    assert made.topic == system.prefix + "revisions"
