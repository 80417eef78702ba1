"""When the coordinator requests a run, and what it makes live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.project import Adapter, Base, Cpt, Dpo, Project
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch, DatasetRecord, RecordStatus, RunStatus, RunTrigger, Split, TrainingRun
from trainers.fleet import LONGEST_WAIT_SECONDS, MOST_DOUBLINGS, QUIET_SECONDS, Fleet

PROJECT = Project(adapters={"mood": Adapter(task="classify", result="sentiment", labels=("A", "B"), min_examples=3)})
TOPIC = "datasets.mood"
EPOCH_0 = BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})


def record(i: int, status: RecordStatus = RecordStatus.LIVE) -> DatasetRecord:
    return DatasetRecord(example_id=f"e{i}", adapter="mood", task="classify", split=Split.TRAIN, group_id="g", body=None, status=status)


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet(PROJECT)
    made.apply_adapter(AdapterEvent(adapter="*", kind=AdapterEventKind.EPOCH, sequence=1, version=None, alias=None, epoch=EPOCH_0, reason=None))
    return made


def feed(fleet: Fleet, ids: Sequence[int], now: float = 0.0) -> None:
    start = fleet.adapters["mood"].ends.get((TOPIC, 0), 0)
    for offset, i in enumerate(ids):
        fleet.apply_example(record(i), "mood", (TOPIC, 0), start + offset, now, now)


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


def test_a_run_waits_for_examples_on_their_way_but_not_for_ever(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    (due,) = fleet.decide(QUIET_SECONDS)
    for second in range(int(QUIET_SECONDS), int(QUIET_SECONDS + LONGEST_WAIT_SECONDS)):
        fleet.stir(float(second))
        feed(fleet, [second], now=float(second))
        assert list(fleet.decide(float(second))) == []
    fleet.stir(QUIET_SECONDS + LONGEST_WAIT_SECONDS)
    (run,) = fleet.decide(QUIET_SECONDS + LONGEST_WAIT_SECONDS)
    assert run.ranges[0].end > due.ranges[0].end


def test_withdrawn_examples_do_not_count(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    fleet.apply_example(record(3, RecordStatus.WITHDRAWN), "mood", (TOPIC, 0), 3, 0.0, 0.0)
    assert list(fleet.decide(100.0)) == []


@given(st.permutations([1, 2, 3, 4]))
def test_the_run_id_is_a_function_of_what_was_seen(ids: list[int]) -> None:
    runs = []
    for order in (ids, sorted(ids)):
        made = Fleet(PROJECT)
        made.epoch = EPOCH_0
        feed(made, order)
        runs.append(made.request("mood", 0, RunTrigger.EXAMPLES))
    assert runs[0] == runs[1]


def test_a_published_version_becomes_live_a_rejected_one_does_not(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    finish(fleet, next(fleet.decide(100.0)), RunStatus.REJECTED)
    assert list(fleet.due_aliases()) == []
    feed(fleet, range(4, 10))
    finish(fleet, next(fleet.decide(100.0)))
    (alias,) = fleet.due_aliases()
    assert alias.alias is not None
    assert (alias.alias.live_version, alias.sequence) == (2, 2)
    fleet.apply_adapter(alias)
    assert list(fleet.due_aliases()) == []


def test_examples_that_a_run_has_seen_count_no_more_after_a_restart(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    (run,) = fleet.decide(100.0)
    restarted = Fleet(PROJECT)
    restarted.epoch = EPOCH_0
    restarted.apply_run(run)
    restarted.apply_run(replace(run, status=RunStatus.PUBLISHED, ranges=()))
    feed(restarted, [1, 2, 3])
    assert list(restarted.decide(100.0)) == []
    feed(restarted, [4, 5, 6])
    assert [r.version for r in restarted.decide(100.0)] == [2]


def test_the_first_last_word_of_a_run_stands(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    (run,) = fleet.decide(100.0)
    finish(fleet, run, RunStatus.CANCELLED)
    fleet.apply_run(replace(run, status=RunStatus.PUBLISHED, ranges=()))
    assert list(fleet.due_aliases()) == []


def test_each_rejection_in_a_row_doubles_what_starts_a_run_until_a_version_passes(fleet: Fleet) -> None:
    taken, waited = 0, []
    for status in [*[RunStatus.REJECTED] * (MOST_DOUBLINGS + 1), RunStatus.FAILED, RunStatus.PUBLISHED, RunStatus.REJECTED]:
        began = taken
        while not (runs := list(fleet.decide(1000.0))):
            feed(fleet, [taken])
            taken += 1
        waited.append(taken - began)
        finish(fleet, runs[0], status)
    most = 3 << MOST_DOUBLINGS
    assert waited == [3, 6, 12, 24, 48, most, most, 3]


def test_few_examples_start_a_run_when_they_have_waited_for_long() -> None:
    fleet = Fleet(Project(adapters={"mood": PROJECT.adapters["mood"].model_copy(update={"max_age_hours": 1.0})}))
    fleet.epoch = EPOCH_0
    feed(fleet, [1], now=0.0)
    feed(fleet, [2], now=3000.0)
    assert list(fleet.decide(3599.0)) == []
    (run,) = fleet.decide(3600.0)
    assert run.trigger is RunTrigger.AGE
    finish(fleet, run)
    assert list(fleet.decide(9000.0)) == []


def correct(fleet: Fleet, ids: Sequence[int], now: float) -> None:
    start = fleet.adapters["mood"].ends.get((TOPIC, 0), 0)
    for offset, i in enumerate(ids):
        fleet.apply_example(replace(record(i), is_correction=True), "mood", (TOPIC, 0), start + offset, now, now)


def corrected() -> Fleet:
    fleet = Fleet(Project(adapters={"mood": PROJECT.adapters["mood"].model_copy(update={"min_examples": 10, "min_corrections": 2})}))
    fleet.epoch = EPOCH_0
    return fleet


def test_corrections_start_a_run_that_goes_on_from_the_live_version() -> None:
    fleet = corrected()
    correct(fleet, [1, 2], now=0.0)
    assert list(fleet.decide(100.0)) == [], "there is nothing to go on from"
    feed(fleet, range(3, 11))
    (run,) = fleet.decide(100.0)
    assert run.trigger is RunTrigger.EXAMPLES
    finish(fleet, run)
    settle(fleet)
    feed(fleet, range(20, 25), now=200.0)
    correct(fleet, [30, 31], now=210.0)
    (amending,) = fleet.decide(300.0)
    assert amending.trigger is RunTrigger.FEEDBACK
    finish(fleet, amending)
    assert fleet.adapters["mood"].learning[2] == 210.0
    assert list(fleet.decide(1000.0)) == []
    feed(fleet, range(40, 45), now=1100.0)
    (again,) = fleet.decide(2000.0)
    assert again.trigger is RunTrigger.EXAMPLES, "what the amended version did not learn still counts"


def test_after_a_restart_what_an_amending_run_did_not_learn_still_counts() -> None:
    fleet = corrected()
    feed(fleet, range(10))
    runs = list(fleet.decide(100.0))
    finish(fleet, runs[0])
    settle(fleet)
    feed(fleet, range(20, 25), now=200.0)
    correct(fleet, [30, 31], now=210.0)
    runs += fleet.decide(300.0)
    finish(fleet, runs[1])
    again = corrected()
    for run in runs:
        finish(again, run)
    feed(again, range(10))
    feed(again, range(20, 25), now=200.0)
    correct(again, [30, 31], now=210.0)
    assert again.adapters["mood"].unseen.keys() == {f"e{i}" for i in range(20, 25)}
    assert again.adapters["mood"].corrections == {}


DOMAIN = Project(base=Base(cpt=Cpt(min_examples=2)), adapters={"mood": Adapter(task="classify", result="sentiment", labels=("A", "B"), min_examples=3)})


def chunk(i: int) -> DatasetRecord:
    return DatasetRecord(example_id=f"c{i}", adapter="cpt", task="cpt", split=Split.TRAIN, group_id="d", body=None, status=RecordStatus.LIVE)


def feed_text(fleet: Fleet, ids: list[int]) -> None:
    start = fleet.base.ends.get(("datasets.cpt", 0), 0)
    for offset, i in enumerate(ids):
        fleet.apply_example(chunk(i), "cpt", ("datasets.cpt", 0), start + offset, 0.0, 0.0)


@pytest.fixture
def domain() -> Fleet:
    made = Fleet(DOMAIN)
    made.epoch = EPOCH_0
    return made


def finish(fleet: Fleet, run: TrainingRun, status: RunStatus = RunStatus.PUBLISHED) -> None:
    """`run` takes its course; it leaves a version unless it failed."""
    fleet.apply_run(run)
    if status is not RunStatus.FAILED:
        made = replace(version(run.version or 0), engine_name=f"{run.adapter}@{run.version}-00000000", base_epoch=run.base_epoch)
        fleet.apply_adapter(AdapterEvent(adapter=run.adapter, kind=AdapterEventKind.VERSION, version=made, alias=None, epoch=None, reason=None))
    fleet.apply_run(replace(run, status=status, ranges=()))


def settle(fleet: Fleet) -> None:
    """What the coordinator writes when runs have ended."""
    if epoch := fleet.due_epoch():
        fleet.apply_adapter(epoch)
    for alias in list(fleet.due_aliases()):
        fleet.apply_adapter(alias)


def test_adapters_wait_for_the_first_pre_training_and_fork_from_it(domain: Fleet) -> None:
    feed(domain, [1, 2, 3])
    assert list(domain.decide(100.0)) == []
    feed_text(domain, [1, 2])
    (pretraining,) = domain.decide(100.0)
    assert (pretraining.adapter, pretraining.base_epoch) == ("base", 0)
    domain.apply_run(pretraining)
    assert list(domain.decide(100.0)) == []
    finish(domain, pretraining)
    settle(domain)
    assert domain.epoch is not None
    assert domain.epoch.epoch == 1
    assert [(run.adapter, run.base_epoch) for run in domain.decide(100.0)] == [("mood", 1)]


@pytest.mark.parametrize("status", [RunStatus.REJECTED, RunStatus.FAILED])
def test_adapters_fork_from_the_base_as_it_is_when_pre_training_did_not_help(domain: Fleet, status: RunStatus) -> None:
    feed(domain, [1, 2, 3])
    feed_text(domain, [1, 2])
    finish(domain, next(domain.decide(100.0)), status)
    settle(domain)
    assert [(run.adapter, run.base_epoch) for run in domain.decide(100.0)] == [("mood", 0)]


def live_on_epoch_1(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    feed_text(fleet, [1, 2])
    for _ in range(2):
        finish(fleet, next(fleet.decide(100.0)))
        settle(fleet)


def test_a_new_epoch_retrains_its_forks_before_one_record_switches_all(domain: Fleet) -> None:
    live_on_epoch_1(domain)
    assert domain.adapters["mood"].alias is not None
    feed_text(domain, [3, 4])
    (again,) = domain.decide(100.0)
    finish(domain, again)
    assert domain.due_epoch() is None
    (fork,) = domain.decide(100.0)
    assert (fork.adapter, fork.base_epoch, fork.version) == ("mood", 2, 2)
    finish(domain, fork)
    assert list(domain.due_aliases()) == []
    switch = domain.due_epoch()
    assert switch is not None
    assert switch.epoch is not None
    assert (switch.epoch.epoch, dict(switch.epoch.live)) == (2, {"mood": 2})
    domain.apply_adapter(switch)
    assert domain.due_epoch() is None
    assert list(domain.decide(100.0)) == []


def test_an_epoch_whose_fork_fails_is_given_up_and_the_old_one_goes_on(domain: Fleet) -> None:
    live_on_epoch_1(domain)
    feed_text(domain, [3, 4])
    finish(domain, next(domain.decide(100.0)))
    finish(domain, next(domain.decide(100.0)), RunStatus.REJECTED)
    settle(domain)
    assert domain.epoch is not None
    assert domain.epoch.epoch == 1
    feed(domain, [4, 5, 6])
    assert [(run.adapter, run.base_epoch) for run in domain.decide(100.0)] == [("mood", 1)]


def test_preferences_are_part_of_a_run_and_of_no_threshold() -> None:
    project = Project(adapters={"chat": Adapter(task="chat", result="chat", dpo=Dpo(), min_examples=2)})
    fleet = Fleet(project)
    fleet.epoch = EPOCH_0
    pair = DatasetRecord(example_id="p", adapter="chat", task="preference", split=Split.TRAIN, group_id="g", body=None, status=RecordStatus.LIVE)
    for offset in range(5):
        fleet.apply_example(pair, "preferences", ("datasets.preferences", 0), offset, 0.0, 0.0)
    assert list(fleet.decide(100.0)) == []
    for i in range(2):
        fleet.apply_example(replace(pair, example_id=f"e{i}", task="chat"), "chat", ("datasets.chat", 0), i, 0.0, 0.0)
    (run,) = fleet.decide(100.0)
    assert {(r.topic, r.end) for r in run.ranges} == {("datasets.chat", 2), ("datasets.preferences", 5)}
