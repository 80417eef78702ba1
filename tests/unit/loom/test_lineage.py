"""Versions to documents and pages, and back, by their manifests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from loom.lineage import Learner, Lineage, Provenance, Source, pages_in_words
from runtime.errors import SettingsError
from runtime.objects import Objects
from runtime.project import Adapter, Project
from schemas.events import AdapterAlias, AdapterVersion, ArtifactFile, BaseEpoch, Chunk, ChunkStatus, Example, ExampleStatus
from streams.format import pair_id
from trainers.fleet import Fleet

PROJECT = Project(adapters={"talk": Adapter(task="chat", result="chat")})


def example(example_id: str, doc_id: str | None, chunk_id: str | None = None, teacher: str = "offline") -> Example:
    return Example(example_id=example_id, adapter="talk", task="chat", group_id="g", chunk_id=chunk_id, doc_id=doc_id, teacher=teacher, prompt_version="", status=ExampleStatus.KEPT)


def chunk(chunk_id: str, pages: tuple[int, int] | None) -> Chunk:
    first, last = pages or (None, None)
    return Chunk(chunk_id=chunk_id, doc_id="d", revision=1, ordinal=0, page_first=first, page_last=last, token_count=1, content_hash="", status=ChunkStatus.LIVE)


EXAMPLES = [example("a1", "a", "c1"), example("a2", "a", "c2"), example("b1", "b", "c3"), example("l", None, teacher="upstream"), example("u", None, teacher="user"), example("t", "b", "c3", "none")]
KNOWN = Provenance(
    {one.example_id: one for one in EXAMPLES} | {pair_id(one.example_id): one for one in EXAMPLES}, {"c1": chunk("c1", (2, 3)), "c2": chunk("c2", (3, 5)), "c3": chunk("c3", None)}
)


def add(fleet: Fleet, folder: Path, adapter: str, number: int, epoch: int, examples: Sequence[str], parent: str | None = None) -> None:
    place = folder / "objects" / f"{adapter}-{number}"
    place.mkdir(parents=True)
    data = json.dumps({"example_ids": list(examples), "dataset_sha256": "s", "ranges": [], "parent": parent}).encode()
    (place / "manifest.json").write_bytes(data)
    file = ArtifactFile(path="manifest.json", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    version = AdapterVersion(
        version=number, engine_name=f"{adapter}@{number}-00000000", base_epoch=epoch, artifact_uri=place.as_uri(), files=(file,), run_id=f"r{number}", recipe_hash="h", manifest_sha256="m", rank=8, metrics={}, verdict="",
    )  # fmt: skip
    (fleet.base if adapter == "base" else fleet.adapters[adapter]).versions[number] = version


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    fleet = Fleet(PROJECT)
    fleet.epoch = BaseEpoch(epoch=1, base_uri="", base_sha256="", live={})
    add(fleet, tmp_path, "base", 1, 0, ["t"])
    add(fleet, tmp_path, "talk", 1, 0, ["l"])
    add(fleet, tmp_path, "talk", 2, 1, ["a1", "a2", "l", "gone"])
    add(fleet, tmp_path, "talk", 3, 1, [pair_id("a1"), "u"], parent="talk@2-00000000")
    fleet.adapters["talk"].alias = AdapterAlias(live_version=3)
    return Lineage(fleet, Objects((tmp_path / "objects").as_uri()), KNOWN)


def test_a_version_is_traced_to_pages_through_what_it_goes_on_from_and_its_base(lineage: Lineage) -> None:
    steps = asyncio.run(lineage.of_version(("talk", 3)))
    assert [(step.name, step.as_what) for step in steps] == [("talk@3", "itself"), ("talk@2", "what it goes on from"), ("base@1", "its base")]
    own, parent, base = steps
    assert (own.documents, own.corrections) == ((Source("a", 1, (2, 3)),), 1)
    assert (parent.documents, parent.labels, parent.unknown) == ((Source("a", 2, (2, 3, 4, 5)),), 1, 1)
    assert base.documents == (Source("b", 1, ()),)


def test_a_document_is_traced_to_the_versions_that_learned_from_it(lineage: Lineage) -> None:
    assert asyncio.run(lineage.of_document("a")) == [Learner("talk", 2, 2, None, False), Learner("talk", 3, 1, None, True)]
    assert asyncio.run(lineage.of_document("b")) == [Learner("base", 1, 1, None, True), Learner("talk", 2, 0, "base@1", False), Learner("talk", 3, 0, "base@1", True)]


def test_what_is_not_known_is_said(lineage: Lineage) -> None:
    with pytest.raises(SettingsError, match="no version talk@9"):
        asyncio.run(lineage.of_version(("talk", 9)))
    with pytest.raises(SettingsError, match="no example was made of a document 'z'"):
        asyncio.run(lineage.of_document("z"))


def test_pages_are_said_in_runs() -> None:
    assert pages_in_words((1, 2, 3, 7, 9, 10)) == "1-3, 7, 9-10"
    assert pages_in_words(()) == ""
