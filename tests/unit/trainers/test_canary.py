"""What becomes of a candidate, by its answers and by what users say of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.project import Adapter, Canary, Project
from schemas.events import (
    AdapterAction,
    AdapterAlias,
    AdapterCommand,
    AdapterEvent,
    AdapterEventKind,
    AdapterVersion,
    BaseEpoch,
    Feedback,
    FeedbackVerdict,
    Result,
    ResultStatus,
    RunStatus,
    TrainingRun,
)
from trainers.canary import SURE, Outcome, Tally, Trial, difference, judge
from trainers.commands import answer
from trainers.fleet import Fleet

POLICY = Canary(share=0.25, min_answers=100, max_worse=0.05, max_hours=10)
SHARES = st.integers(1, 400).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))


def tally(valid: int, answers: int, liked: float = 0.0, judged: int = 0) -> Tally:
    return Tally(answers, valid, judged, liked)


def trial(ours: Tally, theirs: Tally) -> Trial:
    made = Trial("tool", "results.tool-calls", 1, 2)
    made.tallies = {2: ours, 1: theirs}
    return made


def outcome(ours: Tally, theirs: Tally, hours: float = 1.0, policy: Canary = POLICY) -> Outcome:
    return judge(policy, trial(ours, theirs), hours)[0]


@pytest.mark.parametrize(("ours", "theirs", "hours", "wanted"), [
    (tally(99, 99), tally(900, 900), 1, Outcome.GO_ON),  # one answer too few
    (tally(100, 100), tally(900, 900), 1, Outcome.PROMOTE),
    (tally(100, 100), tally(0, 0), 1, Outcome.GO_ON),  # nothing to compare with
    (tally(0, 8), tally(80, 80), 0.01, Outcome.ROLL_BACK),  # far worse shows early
    (tally(9, 10), tally(80, 80), 1, Outcome.GO_ON),  # one bad answer shows nothing
    (tally(70, 100), tally(899, 900), 1, Outcome.ROLL_BACK),
    (tally(92, 100), tally(899, 900), 1, Outcome.GO_ON),  # neither worse nor as good for sure
    (tally(92, 100), tally(899, 900), 10, Outcome.PROMOTE),  # as `undecided` says
    (tally(100, 100, 5, 60), tally(900, 900, 540, 600), 1, Outcome.ROLL_BACK),  # valid, and users say no
    (tally(100, 100, 54, 60), tally(900, 900, 540, 600), 1, Outcome.GO_ON),  # too few say yes to be sure
    (tally(100, 100, 590, 600), tally(900, 900, 540, 600), 1, Outcome.PROMOTE),
])  # fmt: skip
def test_the_outcome_follows_the_evidence(ours: Tally, theirs: Tally, hours: float, wanted: Outcome) -> None:
    assert outcome(ours, theirs, hours) is wanted


def test_who_is_undecided_goes_as_the_policy_says() -> None:
    assert outcome(tally(92, 100), tally(899, 900), 10, POLICY.model_copy(update={"undecided": "rollback"})) is Outcome.ROLL_BACK


def test_feedback_that_a_decision_needs_is_waited_for() -> None:
    strict = POLICY.model_copy(update={"min_feedback": 50})
    assert outcome(tally(300, 300), tally(900, 900), 1, strict) is Outcome.GO_ON
    assert outcome(tally(300, 300, 300, 300), tally(900, 900, 500, 500), 1, strict) is Outcome.PROMOTE


def test_a_shadow_that_answers_otherwise_is_rolled_back() -> None:
    strict = Canary(shadow=True, min_agreement=0.9, min_answers=10)
    made = trial(tally(200, 200), tally(200, 200))
    made.compared, made.agreed = 200, 170
    assert judge(strict, made, 1)[0] is Outcome.ROLL_BACK
    made.agreed = 185
    assert judge(strict, made, 1)[0] is Outcome.PROMOTE


@given(SHARES, SHARES)
def test_the_bounds_hold_the_difference_and_mirror_each_other(ours: tuple[int, int], theirs: tuple[int, int]) -> None:
    low, high = difference(ours, theirs, SURE)
    assert -1 - 1e-9 <= low <= ours[0] / ours[1] - theirs[0] / theirs[1] <= high <= 1 + 1e-9
    assert difference(theirs, ours, SURE) == pytest.approx((-high, -low))


def test_the_bounds_are_newcombes() -> None:
    """His table II: 56 of 70 and 48 of 80, method 10."""
    low, high = difference((56, 70), (48, 80), SURE)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@given(SHARES, st.integers(1, 400), st.floats(0, 9))
def test_no_candidate_whose_answers_are_all_valid_is_rolled_back_and_none_that_has_no_valid_one_is_promoted(theirs: tuple[int, int], answers: int, hours: float) -> None:
    assert outcome(tally(answers, answers), tally(*theirs), hours) is not Outcome.ROLL_BACK
    if theirs[0] > theirs[1] / 2:
        assert outcome(tally(0, answers), tally(*theirs), hours) is not Outcome.PROMOTE


def result(number: int, version: int | None, status: ResultStatus = ResultStatus.OK, adapter: str = "tool", output: str = "a", intents: int = 1) -> Result:
    return Result(
        result_id=f"{number}/{version}", request_id=f"r{number}", task="tool", adapter=adapter, version=version, intent_index=0, intent_count=intents, text="", output=output, status=status,
    )  # fmt: skip


def test_a_trial_counts_the_answers_of_its_two_versions_once() -> None:
    made = Trial("tool", "results.tool-calls", 1, 2)
    seen = [result(0, 1), result(1, 2), result(1, 2), result(2, 2, ResultStatus.FAILED), result(3, 2, ResultStatus.EXPIRED), result(4, None), result(5, 7), result(6, 2, adapter="chat"), result(7, 2, ResultStatus.REFUSED)]
    for one in seen:
        made.see_result(one)
    assert (made.theirs, made.ours) == (Tally(1, 1), Tally(2, 1))


ANSWERED = [result(0, 1), result(1, 2), result(2, 2, intents=2)]
SAID = [
    Feedback(feedback_id=str(at), request_id=request, result_id=named, verdict=verdict, rating=rating)
    for at, (request, named, verdict, rating) in enumerate([
        ("r0", None, FeedbackVerdict.ACCEPTED, None), ("r1", None, FeedbackVerdict.CORRECTED, None), ("r1", "results.tool-calls", FeedbackVerdict.RATED, 0.25), ("r1", "1/2", FeedbackVerdict.RATED, 7.0),
        ("r2", None, FeedbackVerdict.ACCEPTED, None),  # of which of the two?
        ("r2", "results.sentiment", FeedbackVerdict.ACCEPTED, None), ("r9", None, FeedbackVerdict.ACCEPTED, None),
    ])
]  # fmt: skip


@given(st.permutations([*ANSWERED, *SAID, SAID[0], ANSWERED[1]]))
def test_what_users_say_goes_to_the_version_that_answered_whatever_is_read_first(order: list[Result | Feedback]) -> None:
    """A coordinator that starts anew may read all feedback before any answer."""
    made = Trial("tool", "results.tool-calls", 1, 2)
    for one in order:
        if isinstance(one, Result):
            made.see_result(one)
        else:
            made.see_feedback(one)
    assert (made.theirs.judged, made.theirs.liked) == (1, 1.0)
    assert (made.ours.judged, made.ours.liked) == (3, 1.25)


@given(st.permutations([(number, version) for number in range(6) for version in (1, 2)]))
def test_a_shadow_is_compared_with_what_it_shadows_whoever_is_read_first(order: list[tuple[int, int]]) -> None:
    made = Trial("tool", "results.tool-calls", 1, 2)
    for number, version in order:
        made.see_result(result(number, version, output="same" if number < 4 else str(version)))
    assert (made.compared, made.agreed) == (6, 4)


def version(number: int, epoch: int = 0) -> AdapterVersion:
    return AdapterVersion(version=number, engine_name=f"mood@{number}-00000000", base_epoch=epoch, artifact_uri="", files=(), run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet(Project(adapters={"mood": Adapter(task="classify", result="sentiment", labels=("A", "B"), canary=POLICY)}))
    made.apply_adapter(made.epoch_event(BaseEpoch(epoch=0, base_uri="", base_sha256="", live={})), 1.0)
    return made


def published(fleet: Fleet, number: int) -> AdapterAlias | None:
    """What the name stands for once version `number` was published."""
    fleet.apply_adapter(AdapterEvent(adapter="mood", kind=AdapterEventKind.VERSION, version=version(number)))
    fleet.apply_run(TrainingRun(run_id=str(number), adapter="mood", base_epoch=0, status=RunStatus.PUBLISHED, version=number))
    return settled(fleet, 10.0 * number)


def settled(fleet: Fleet, at: float) -> AdapterAlias | None:
    for event in list(fleet.due_aliases()):
        fleet.apply_adapter(event, at)
    assert not list(fleet.due_aliases())
    return fleet.adapters["mood"].alias


def test_the_first_version_is_live_at_once_and_later_ones_are_candidates_one_at_a_time(fleet: Fleet) -> None:
    assert published(fleet, 1) == AdapterAlias(live_version=1)
    assert published(fleet, 2) == AdapterAlias(live_version=1, canary_version=2, canary_share=0.25)
    assert fleet.adapters["mood"].tried_since == 20.0
    assert published(fleet, 3) == AdapterAlias(live_version=1, canary_version=3, canary_share=0.25)
    assert fleet.adapters["mood"].tried_since == 30.0
    # promoted, or not: it is tried once
    fleet.apply_adapter(fleet.alias_event("mood", 1), 40.0)
    assert settled(fleet, 50.0) == AdapterAlias(live_version=1)
    assert published(fleet, 4) == AdapterAlias(live_version=1, canary_version=4, canary_share=0.25)
    fleet.apply_adapter(fleet.alias_event("mood", 4), 60.0)
    assert settled(fleet, 70.0) == AdapterAlias(live_version=4)
    assert fleet.adapters["mood"].before == [1]


@pytest.mark.parametrize("kind", [AdapterEventKind.REFUSAL, AdapterEventKind.TAINT])
def test_a_candidate_that_may_not_serve_is_none_any_more(fleet: Fleet, kind: AdapterEventKind) -> None:
    published(fleet, 1)
    published(fleet, 2)
    fleet.apply_adapter(AdapterEvent(adapter="mood", kind=kind, version=version(2), reason="its files are not what the registry says"))
    (event,) = fleet.due_aliases()
    assert (event.alias, "its files are not" in (event.reason or "")) == (AdapterAlias(live_version=1), True)


def test_in_the_place_of_a_version_that_may_not_serve_the_next_one_is_live_at_once(fleet: Fleet) -> None:
    published(fleet, 1)
    fleet.apply_adapter(AdapterEvent(adapter="mood", kind=AdapterEventKind.TAINT, version=version(1), reason="forgotten"))
    assert published(fleet, 2) == AdapterAlias(live_version=2)


def test_where_no_canary_is_declared_any_more_the_live_version_stays(fleet: Fleet) -> None:
    published(fleet, 1)
    published(fleet, 2)
    plain = fleet.project.adapters["mood"].model_copy(update={"canary": None})
    fleet.project = fleet.project.model_copy(update={"adapters": {"mood": plain}})
    assert settled(fleet, 50.0) == AdapterAlias(live_version=1)


@pytest.mark.parametrize(("action", "number", "wanted"), [
    (AdapterAction.PROMOTE, 2, AdapterAlias(live_version=2)), (AdapterAction.ROLLBACK, None, AdapterAlias(live_version=1)), (AdapterAction.ROLLBACK, 1, AdapterAlias(live_version=1)),
    (AdapterAction.RETIRE, None, AdapterAlias(live_version=0)),
])  # fmt: skip
def test_commands_end_a_trial(fleet: Fleet, action: AdapterAction, number: int | None, wanted: AdapterAlias) -> None:
    published(fleet, 1)
    published(fleet, 2)
    said = answer(fleet, AdapterCommand(command_id="c", adapter="mood", action=action, version=number, seen_sequence=fleet.adapters["mood"].changed_at))
    assert isinstance(said, AdapterEvent)
    assert (said.kind, said.alias) == (AdapterEventKind.ALIAS, wanted)
    fleet.apply_adapter(said, 50.0)
    assert settled(fleet, 60.0) == wanted


def test_an_epoch_ends_a_trial(fleet: Fleet) -> None:
    published(fleet, 1)
    published(fleet, 2)
    fleet.apply_adapter(fleet.epoch_event(BaseEpoch(epoch=1, base_uri="", base_sha256="", live={"mood": 5})), 50.0)
    assert fleet.adapters["mood"].alias == AdapterAlias(live_version=5)
