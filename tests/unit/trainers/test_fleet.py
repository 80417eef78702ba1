"""When the coordinator requests a run, and what it makes live."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.project import Adapter, Project
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch, DatasetRecord, RecordStatus, RunStatus, Split
from trainers.fleet import QUIET_SECONDS, Fleet

PROJECT = Project(adapters={"mood": Adapter(task="classify", result="sentiment", labels=("A", "B"), min_examples=3)})
TOPIC = "datasets.mood"


def record(i: int, status: RecordStatus = RecordStatus.LIVE) -> DatasetRecord:
    return DatasetRecord(example_id=f"e{i}", adapter="mood", task="classify", split=Split.TRAIN, group_id="g", body=None, status=status)


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet(PROJECT)
    made.apply_adapter(AdapterEvent(adapter="*", kind=AdapterEventKind.EPOCH, sequence=1, version=None, alias=None, epoch=BaseEpoch(epoch=0, base_uri="", base_sha256="", live={}), reason=None))
    return made


def feed(fleet: Fleet, ids: list[int], now: float = 0.0) -> None:
    start = fleet.adapters["mood"].ends.get((TOPIC, 0), 0)
    for offset, i in enumerate(ids):
        fleet.apply_example(record(i), (TOPIC, 0), start + offset, now)


def version(number: int) -> AdapterVersion:
    return AdapterVersion(version=number, engine_name=f"mood@{number}-00000000", base_epoch=0, artifact_uri="", files=(), run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")


def test_enough_distinct_examples_and_a_pause_start_one_run(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 2, 2])
    assert list(fleet.decide(QUIET_SECONDS)) == []
    feed(fleet, [3], now=5.0)
    assert list(fleet.decide(5.0)) == []
    (run,) = fleet.decide(5.0 + QUIET_SECONDS)
    assert (run.version, run.ranges[0].end) == (1, 5)
    fleet.apply_run(run)
    assert list(fleet.decide(100.0)) == []


def test_withdrawn_examples_do_not_count(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    fleet.apply_example(record(3, RecordStatus.WITHDRAWN), (TOPIC, 0), 3, 0.0)
    assert list(fleet.decide(100.0)) == []


@given(st.permutations([1, 2, 3, 4]))
def test_the_run_id_is_a_function_of_what_was_seen(ids: list[int]) -> None:
    runs = []
    for order in (ids, sorted(ids)):
        made = Fleet(PROJECT)
        made.epoch = 0
        feed(made, order)
        runs.append(made.request("mood"))
    assert runs[0] == runs[1]


def test_a_published_version_becomes_live_a_rejected_one_does_not(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    (run,) = fleet.decide(100.0)
    fleet.apply_run(run)
    fleet.apply_adapter(AdapterEvent(adapter="mood", kind=AdapterEventKind.VERSION, version=version(1), alias=None, epoch=None, reason=None))
    fleet.apply_run(replace(run, status=RunStatus.REJECTED, ranges=()))
    assert list(fleet.due_aliases()) == []
    fleet.apply_run(replace(run, status=RunStatus.PUBLISHED, ranges=()))
    (alias,) = fleet.due_aliases()
    assert alias.alias is not None
    assert (alias.alias.live_version, alias.sequence) == (1, 2)
    fleet.apply_adapter(alias)
    assert list(fleet.due_aliases()) == []


def test_examples_that_a_run_has_seen_count_no_more_after_a_restart(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    (run,) = fleet.decide(100.0)
    restarted = Fleet(PROJECT)
    restarted.epoch = 0
    restarted.apply_run(run)
    restarted.apply_run(replace(run, status=RunStatus.PUBLISHED, ranges=()))
    feed(restarted, [1, 2, 3])
    assert list(restarted.decide(100.0)) == []
    feed(restarted, [4, 5, 6])
    assert [r.version for r in restarted.decide(100.0)] == [2]
