"""What the coordinator does about commands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.project import Adapter, Base, Cpt, Project
from schemas.events import AdapterAction, AdapterCommand, AdapterEvent, AdapterEventKind, BaseEpoch, RunStatus, RunTrigger, TrainingRun
from tests.unit.trainers.test_fleet import feed, feed_text, finish, settle, version
from trainers.commands import answer
from trainers.fleet import Fleet

MOOD = Adapter(task="classify", result="sentiment", labels=("A", "B"), min_examples=3)
A = AdapterAction


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet(Project(adapters={"mood": MOOD}))
    made.epoch = BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})
    return made


def train(fleet: Fleet, *statuses: RunStatus) -> None:
    """A version after the other; what is published goes live."""
    for status in statuses:
        start = len(fleet.adapters["mood"].live_ids)
        while not (runs := list(fleet.decide(1000.0))):
            feed(fleet, [start])
            start += 1
        finish(fleet, runs[0], status)
        settle(fleet)


def tell(fleet: Fleet, action: AdapterAction, number: int | None = None, adapter: str = "mood", run_id: str | None = None, seen: int | None = None) -> AdapterEvent | TrainingRun:
    """The answer to a command, which takes effect."""
    command = AdapterCommand(command_id="c", adapter=adapter, action=action, version=number, seen_sequence=fleet.sequence if seen is None else seen, run_id=run_id)
    said = answer(fleet, command)
    assert said.command_id == "c"
    if isinstance(said, AdapterEvent):
        fleet.apply_adapter(said)
    else:
        fleet.apply_run(said)
    return said


def live(fleet: Fleet) -> int:
    return fleet.adapters["mood"].live


def refusal(said: AdapterEvent | TrainingRun) -> str:
    assert isinstance(said, AdapterEvent)
    assert said.kind is AdapterEventKind.REFUSAL
    assert said.reason is not None
    return said.reason


def test_a_rollback_goes_to_what_was_live_before_and_stays_until_a_newer_version_passes(fleet: Fleet) -> None:
    train(fleet, *[RunStatus.PUBLISHED] * 3)
    tell(fleet, A.ROLLBACK)
    assert live(fleet) == 2
    assert list(fleet.due_aliases()) == []
    train(fleet, RunStatus.PUBLISHED)
    assert live(fleet) == 4
    tell(fleet, A.ROLLBACK)
    assert live(fleet) == 2, "version 3 was rolled back: it is not what 4 goes back to"
    tell(fleet, A.ROLLBACK, 1)
    assert live(fleet) == 1
    assert "no version to roll back to" in refusal(tell(fleet, A.ROLLBACK))
    tell(fleet, A.PROMOTE, 3)
    assert live(fleet) == 3


def test_what_is_said_survives_a_restart(fleet: Fleet) -> None:
    train(fleet, *[RunStatus.PUBLISHED] * 3)
    tell(fleet, A.ROLLBACK)
    state, again = fleet.adapters["mood"], Fleet(fleet.project)
    again.epoch = fleet.epoch
    for made in state.versions.values():
        again.apply_adapter(AdapterEvent(adapter="mood", kind=AdapterEventKind.VERSION, version=made))
    for run in state.runs.values():
        again.apply_run(run)
    for number, sequence in ((1, 1), (2, 2), (3, 3), (2, 4)):
        again.apply_adapter(replace(again.alias_event("mood", number), sequence=sequence))
    assert list(again.due_aliases()) == []
    assert again.adapters["mood"].stack == state.stack == [1, 2]


def test_a_version_is_promoted_only_where_it_may_serve(fleet: Fleet) -> None:
    train(fleet, RunStatus.PUBLISHED, RunStatus.REJECTED)
    assert "did not pass its gate" in refusal(tell(fleet, A.PROMOTE, 2))
    assert "has no version 9" in refusal(tell(fleet, A.PROMOTE, 9))
    assert "is live" in refusal(tell(fleet, A.PROMOTE, 1))
    assert "no adapter moood is declared: mood" in refusal(tell(fleet, A.PROMOTE, 1, adapter="moood"))
    assert "switch by themselves" in refusal(tell(fleet, A.PROMOTE, 1, adapter="base"))
    train(fleet, RunStatus.PUBLISHED)
    fleet.apply_adapter(AdapterEvent(adapter="mood", kind=AdapterEventKind.REFUSAL, version=version(1), reason="bytes are missing"))
    assert "has no version to roll back to" in refusal(tell(fleet, A.ROLLBACK))
    assert "refused by a server: bytes are missing" in refusal(tell(fleet, A.PROMOTE, 1))
    assert live(fleet) == 3


def test_a_command_that_was_overtaken_is_refused(fleet: Fleet) -> None:
    train(fleet, RunStatus.PUBLISHED)
    seen = fleet.sequence
    train(fleet, RunStatus.PUBLISHED)
    assert "changed meanwhile" in refusal(tell(fleet, A.ROLLBACK, seen=seen))
    assert live(fleet) == 2


def test_a_retired_adapter_is_not_trained_and_comes_back_by_a_promotion(fleet: Fleet) -> None:
    train(fleet, RunStatus.PUBLISHED)
    tell(fleet, A.RETIRE)
    assert (live(fleet), fleet.adapters["mood"].retired) == (0, True)
    assert "no live version" in refusal(tell(fleet, A.RETIRE))
    feed(fleet, range(50, 60))
    assert list(fleet.decide(1000.0)) == []
    fleet.apply_adapter(fleet.epoch_event(BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})))
    assert fleet.adapters["mood"].retired
    tell(fleet, A.PROMOTE, 1)
    assert live(fleet) == 1
    assert len(list(fleet.decide(1000.0))) == 1


def test_a_run_is_started_by_hand_as_often_as_asked_but_not_beside_another(fleet: Fleet) -> None:
    assert "has no examples" in refusal(tell(fleet, A.TRAIN))
    feed(fleet, [1])
    run = tell(fleet, A.TRAIN)
    assert isinstance(run, TrainingRun)
    assert (run.status, run.trigger, run.version) == (RunStatus.REQUESTED, RunTrigger.COMMAND, 1)
    assert f"cancel {run.run_id}" in refusal(tell(fleet, A.TRAIN))
    finish(fleet, run, RunStatus.FAILED)
    again = answer(fleet, AdapterCommand(command_id="d", adapter="mood", action=A.TRAIN, seen_sequence=0))
    assert isinstance(again, TrainingRun)
    assert again.run_id != run.run_id


def test_the_base_is_trained_by_hand_where_it_is_declared_and_nothing_else_runs() -> None:
    assert "no [base.cpt]" in refusal(tell(Fleet(Project(adapters={"mood": MOOD})), A.TRAIN, adapter="base"))
    fleet = Fleet(Project(base=Base(cpt=Cpt(min_examples=9)), adapters={"mood": MOOD}))
    fleet.epoch = BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})
    feed_text(fleet, [1])
    feed(fleet, [1])
    run = tell(fleet, A.TRAIN)
    assert isinstance(run, TrainingRun)
    assert "a run of mood is under way" in refusal(tell(fleet, A.TRAIN, adapter="base"))
    finish(fleet, run)
    settle(fleet)
    base = tell(fleet, A.TRAIN, adapter="base")
    assert isinstance(base, TrainingRun)
    finish(fleet, base)
    assert "base epoch 1 is on its way" in refusal(tell(fleet, A.TRAIN))


def test_a_run_is_cancelled_once(fleet: Fleet) -> None:
    feed(fleet, [1, 2, 3])
    (run,) = fleet.decide(1000.0)
    fleet.apply_run(run)
    assert "has no run nope" in refusal(tell(fleet, A.CANCEL, run_id="nope"))
    word = tell(fleet, A.CANCEL, run_id=run.run_id)
    assert isinstance(word, TrainingRun)
    assert word.status is RunStatus.CANCELLED
    assert "has ended: cancelled" in refusal(tell(fleet, A.CANCEL, run_id=run.run_id))


def test_an_action_of_a_newer_sender_is_refused(fleet: Fleet) -> None:
    assert "older than the sender" in refusal(tell(fleet, A.UNKNOWN))


def test_a_tainted_version_is_replaced_and_never_serves_again(fleet: Fleet) -> None:
    train(fleet, *[RunStatus.PUBLISHED] * 3)
    assert "no version 9" in refusal(tell(fleet, A.TAINT, 9))
    tell(fleet, A.TAINT, 2)
    assert list(fleet.decide(1000.0)) == [], "it does not serve"
    assert "mood@2 is tainted" in refusal(tell(fleet, A.PROMOTE, 2))
    tell(fleet, A.TAINT, 3)
    tell(fleet, A.ROLLBACK)
    assert live(fleet) == 1, "not to 2"
    tell(fleet, A.TAINT, 1)
    (again,) = fleet.decide(1000.0)
    assert (again.trigger, again.version, again.base_epoch) == (RunTrigger.FORGET, 4, 0)
    finish(fleet, again)
    settle(fleet)
    assert live(fleet) == 4
    assert list(fleet.decide(1000.0)) == []


def test_a_run_that_replaces_a_tainted_version_waits_for_what_is_on_its_way_and_is_tried_once(fleet: Fleet) -> None:
    train(fleet, RunStatus.PUBLISHED)
    assert list(fleet.decide(1999.0)) == []
    tell(fleet, A.TAINT, 1)
    fleet.stir(2000.0)
    assert list(fleet.decide(2001.0)) == []
    (first,) = fleet.decide(2003.0)
    fleet.apply_run(first)
    tell(fleet, A.CANCEL, run_id=first.run_id)
    (second,) = fleet.decide(3000.0)
    assert second.run_id != first.run_id, "what was cancelled has had its last word"
    finish(fleet, second, RunStatus.REJECTED)
    assert list(fleet.decide(3000.0)) == []
    assert live(fleet) == 1


def test_a_tainted_base_is_trained_again_from_the_last_clean_one_before_its_adapters() -> None:
    fleet = Fleet(Project(base=Base(cpt=Cpt(min_examples=2)), adapters={"mood": MOOD}))
    fleet.epoch = BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})
    feed(fleet, [1, 2, 3])
    feed_text(fleet, [1, 2])
    for _ in range(2):
        finish(fleet, next(fleet.decide(100.0)))
        settle(fleet)
    feed_text(fleet, [3, 4])
    for _ in range(2):
        finish(fleet, next(fleet.decide(100.0)))
        settle(fleet)
    assert fleet.epoch.epoch == 2
    tell(fleet, A.TAINT, 2, adapter="base")
    tell(fleet, A.TAINT, 2)
    feed(fleet, [4, 5, 6])
    (base,) = fleet.decide(200.0)
    assert (base.adapter, base.base_epoch, base.trigger, base.version) == ("base", 1, RunTrigger.FORGET, 3)
    assert "base epoch 2 learned from what was forgotten" in refusal(tell(fleet, A.TRAIN))
    finish(fleet, base)
    (fork,) = fleet.decide(200.0)
    assert (fork.adapter, fork.base_epoch, fork.version) == ("mood", 3, 3)
    finish(fleet, fork)
    settle(fleet)
    assert (fleet.epoch.epoch, dict(fleet.epoch.live)) == (3, {"mood": 3})
    assert fleet.clean_epoch == 3


def test_what_a_server_refuses_is_rolled_back_by_itself(fleet: Fleet) -> None:
    def refuse(number: int) -> None:
        fleet.apply_adapter(AdapterEvent(adapter="mood", kind=AdapterEventKind.REFUSAL, version=version(number), reason="its weights are not what the registry says"))

    train(fleet, *[RunStatus.PUBLISHED] * 3)
    refuse(3)
    (back,) = fleet.due_aliases()
    assert "mood@3 was refused by a server: its weights" in (back.reason or "")
    settle(fleet)
    assert live(fleet) == 2
    refuse(2)
    settle(fleet)
    refuse(1)
    settle(fleet)
    assert live(fleet) == 1
    assert list(fleet.due_aliases()) == [], "there is none before it"


def test_an_adapter_whose_first_run_was_cut_off_by_a_taint_of_its_base_is_trained_on_the_next() -> None:
    fleet = Fleet(Project(base=Base(cpt=Cpt(min_examples=2)), adapters={"mood": MOOD}))
    fleet.epoch = BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})
    feed(fleet, [1, 2, 3])
    feed_text(fleet, [1, 2])
    finish(fleet, next(fleet.decide(100.0)))
    settle(fleet)
    (first,) = fleet.decide(100.0)
    fleet.apply_run(first)
    tell(fleet, A.TAINT, 1, adapter="base")
    tell(fleet, A.CANCEL, run_id=first.run_id)
    base = next(fleet.decide(200.0))
    assert (base.adapter, base.base_epoch) == ("base", 0)
    finish(fleet, base)
    settle(fleet)
    assert fleet.epoch.epoch == 2
    (again,) = fleet.decide(300.0)
    assert (again.adapter, again.base_epoch, again.trigger) == ("mood", 2, RunTrigger.EXAMPLES)
