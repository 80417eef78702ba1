"""A new base epoch while requests flow: retrained forks, one switch beside the old engine, no request lost or doubled. Then a document that all learned from is forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from runtime.kafka import Outgoing
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, DeadLetter, Label, Request, RequestCompleted, Result, Revision, RunStatus, RunTrigger, TrainingRun
from tests.support.kafka import publish
from tests.support.live import ROOT, Live, running

pytestmark = pytest.mark.timeout(1800)
HUNG = 800
"""Seconds after which a training or two have hung: half a minute each on two quiet cores, which here they share with another file's."""
CODEC = Codec()
PROJECT = f"""
[base]
model = "{ROOT / "models/base"}"
[base.cpt]
min_examples = 20
recipe = {{ max_steps = 12, max_tokens = 128, batch_size = 4, learning_rate = 1e-3 }}
[adapters.mood]
task = "classify"
result = "moods"
labels = ["KIND_A", "KIND_B"]
min_examples = 120
recipe = {{ max_steps = 40, epochs = 20 }}
gate = {{ min_score = 0.2, max_loss = 1.0 }}
"""
THINGS = ("lamp", "hub", "door", "lock", "plug", "app", "scene", "blind", "mower", "siren", "meter", "valve")


def labels() -> list[Label]:
    words = {"KIND_A": ("I love the {}", "the {} is great", "so happy with my {}", "I love my new {}", "what a great {}", "the {} makes me happy"), "KIND_B": ("I hate the {}", "the {} is awful", "so angry about my {}", "I hate this {}", "what an awful {}", "the {} makes me angry")}
    return [
        Label(example_id=f"{label}-{thing}-{i}", adapter="mood", input=json.dumps({"text": frame.format(thing)}), output=json.dumps({"label": label}), group_id=f"{label}-{thing}-{i}")
        for label, frames in words.items()
        for thing in THINGS
        for i, frame in enumerate(frames)
    ]


def documents(folder: Path, first: int) -> Path:
    """Twenty documents, of which one in ten is held out."""
    folder.mkdir()
    for i in range(first, first + 20):
        thing = THINGS[i % len(THINGS)]
        (folder / f"{i}.md").write_text(f"# The {thing} {i}\n\nThe {thing} number {i} of the house opens at {i % 12} and closes at {i % 7}. Keep the {thing} dry, and call the house when the {thing} fails.\n")
    return folder


def ask(system: Live, numbers: range) -> None:
    requests = [Request(request_id=str(i), conversation_id=str(i), text=f"I love request {i}", adapter_id="mood") for i in numbers]
    asyncio.run(publish(system.broker, [Outgoing("requests", r.conversation_id.encode(), CODEC.encode(r)) for r in requests]))


def epoch_of(system: Live) -> int | None:
    try:
        return int(httpx.get(f"{system.url}/readyz", timeout=10).json()["epoch"] or 0)
    except httpx.TransportError:
        return None


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    project = tmp_path_factory.mktemp("project") / "loom.toml"
    project.write_text(PROJECT)
    with running(project) as system:
        yield system


def test_a_new_epoch_switches_base_and_adapters_as_one(system: Live, tmp_path: Path) -> None:
    assert system.loom("publish", str(documents(tmp_path / "first", 0))).returncode == 0
    system.publish_labels(labels())
    system.until_live({"mood"}, HUNG)
    assert epoch_of(system) == 1
    assert system.loom("publish", str(documents(tmp_path / "second", 20))).returncode == 0
    asked, end = 0, time.monotonic() + HUNG
    while epoch_of(system) != 2:
        ask(system, range(asked, asked + 5))
        asked += 5
        time.sleep(1)
        runs = [run for run in system.read("training-runs", TrainingRun) if run.status in (RunStatus.REJECTED, RunStatus.FAILED)]
        assert not runs, runs[0].reason
        assert time.monotonic() < end, system.loom("runs").stdout
    ask(system, range(asked, asked + 5))
    wanted = {str(i) for i in range(asked + 5)}
    while (words := Counter(c.request_id for c in system.read("results.completed", RequestCompleted))).keys() != wanted:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert set(words.values()) == {1}
    results = system.read("results.moods", Result)
    assert Counter(r.request_id for r in results) == dict.fromkeys(wanted, 1)
    assert {r.status for r in results} == {"ok"}
    assert {r.version for r in results} == {1, 2}
    events = system.read("adapters", AdapterEvent)
    made = {e.version.version: e.version.base_epoch for e in events if e.kind is AdapterEventKind.VERSION and e.version and e.adapter == "mood"}
    assert made == {1: 1, 2: 2}
    assert [(e.epoch.epoch, dict(e.epoch.live)) for e in events if e.epoch] == [(0, {}), (1, {}), (2, {"mood": 2})]
    assert not [e for e in events if e.kind is AdapterEventKind.REFUSAL]


def test_a_forgotten_document_is_in_nothing_that_serves_and_nowhere_else(system: Live, tmp_path: Path) -> None:
    doc = "first/3.md"
    assert doc in {revision.doc_id for revision in system.read("revisions", Revision)}
    assert any(b"number 3 of the house" in path.read_bytes() for path in (system.data / "kafka").rglob("*.log")), "documents are plain while they are on their way"
    said = system.loom("forget", doc, "--json")
    report = json.loads(said.stdout or "{}")
    assert said.returncode == 1, said.stdout + said.stderr
    assert report["tainted"] == ["base@1", "base@2", "mood@1", "mood@2"]
    assert report["still_serving"] == ["base@2", "mood@2"]
    assert report["searched"] > 0
    assert report["findings"] == []
    assert report["deleted_objects"] >= 2
    system.until(lambda: any(run.trigger is RunTrigger.FORGET and run.status is RunStatus.STARTED for run in system.read("training-runs", TrainingRun)), 60, "the run that forgets")
    (tmp_path / "again/first").mkdir(parents=True)
    file = documents(tmp_path / "first", 0).joinpath("3.md").rename(tmp_path / "again" / doc)  # newer than its deletion
    again = system.loom("forget", doc, "--wait", str(HUNG), "--text", str(file), "--json")
    report = json.loads(again.stdout or "{}")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (report["cancelled_runs"], report["still_serving"], report["learned_live"], report["findings"]) == ([], [], [], [])
    assert report["searched"] > 0
    system.until(lambda: epoch_of(system) == 3, HUNG, "an engine on the base that has forgotten")
    assert [(e.epoch.epoch, dict(e.epoch.live)) for e in system.read("adapters", AdapterEvent) if e.epoch][-1] == (3, {"mood": 3})
    system.until(lambda: {path.name for path in (system.data / "objects/adapters").glob("*/[12]-*/*")} == {"manifest.json"}, 60, "the files to go from the store")
    system.until(lambda: not [path for path in system.data.rglob("*") if path.name.startswith(("base@1-", "base@2-", "mood@1-", "mood@2-"))], 60, "the files to go from the workers")
    tainted = {row["adapter"]: row["tainted"] for row in json.loads(system.loom("adapters", "--json").stdout) if row["version"] == 2}
    assert tainted == dict.fromkeys(("base", "mood"), f"learned from document:{doc}, which was forgotten")
    assert system.loom("publish", str(file.parent)).returncode == 0
    system.until(lambda: any(letter.error_type == "KeyDestroyed" for letter in system.read("dead-letters", DeadLetter)), 60, "a letter for the document under its key that is gone")
    assert "nothing of document:nobody is known" in system.loom("forget", "nobody").stderr


def test_what_a_forgotten_user_said_is_told_with_the_day_that_it_is_gone(system: Live) -> None:
    asked = system.loom("ask", "I love my garden lamp in the attic of house number nine", "--adapter", "mood", "--context", "user_id=ann", "--json")
    request = json.loads(asked.stdout)["request_id"]
    system.until(lambda: bool(json.loads(system.loom("forget", "--user", "ann", "--json").stdout)["deleted_rows"]), 60, "what the user said to be in the tables")
    said = system.loom("forget", "--user", "ann", "--json")
    report = json.loads(said.stdout)
    assert (said.returncode, report["examples"], report["tainted"]) == (0, 0, [])
    assert {found["place"] for found in report["findings"]} == {"topic requests", "topic results.moods"}
    days = [(datetime.fromisoformat(found["until"]) - datetime.now(UTC)).total_seconds() / 86400 for found in report["findings"]]
    assert all(6.9 < one <= 7 for one in days)
    assert system.loom("feedback", request, "--correct", "KIND_B").returncode == 2, "what a forgotten user says is not taken"
