"""A new base epoch while requests flow: retrained forks, one switch beside the old engine, no request lost or doubled."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from runtime.kafka import Outgoing
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, Label, Request, RequestCompleted, Result, RunStatus, TrainingRun
from tests.support.kafka import publish
from tests.support.live import ROOT, Live, running

pytestmark = pytest.mark.timeout(900)
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
recipe = {{ max_steps = 80, epochs = 20 }}
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


def test_a_new_epoch_switches_base_and_adapters_as_one(tmp_path: Path) -> None:
    project = tmp_path / "loom.toml"
    project.write_text(PROJECT)
    with running(project) as system:
        assert system.loom("publish", str(documents(tmp_path / "first", 0))).returncode == 0
        system.publish_labels(labels())
        system.until_live({"mood"}, 300)
        assert epoch_of(system) == 1
        assert system.loom("publish", str(documents(tmp_path / "second", 20))).returncode == 0
        asked, end = 0, time.monotonic() + 300
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
