"""A candidate beside the version that is live: what their answers were worth, and which of them goes on. Pure.

Two shares are compared: answers that could be read, and what users said of answers. The bounds of their difference are Newcombe's hybrid score bounds (1998, method 10), which hold for
few answers, and for shares near 1. It is looked at again and again: what ends a trial before it has enough answers takes far stronger evidence than what ends it then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from cachetools import LRUCache

from runtime.project import Canary
from schemas.events import Feedback, FeedbackVerdict, Result, ResultStatus

REMEMBERED = 100_000
"""Requests whose feedback, or shadow, is still known to belong to them."""
SURE = 1.96
"""Standard deviations: 95 %."""
SURE_EARLY = 3.29
"""99.9 %."""


class Outcome(StrEnum):
    """What becomes of a candidate."""

    GO_ON = "go on"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(slots=True)
class Tally:
    """Of one version: answers, those that could be read, answers that users judged, and the sum of what they gave, 0 to 1 each."""

    answers: int = 0
    valid: int = 0
    judged: int = 0
    liked: float = 0.0


@dataclass(slots=True)
class _Asked:
    """A request: version and number of intents by result, and what users said by feedback id."""

    results: dict[str, tuple[int, int]] = field(default_factory=dict)
    said: dict[str, Feedback] = field(default_factory=dict)

    def judged(self, topic: str) -> list[tuple[int, float]]:
        """The versions that were judged, and what they were given: by the result's id, by `topic` where one result of it is there, or as a request's only result."""
        judged = []
        for feedback in self.said.values():
            if feedback.result_id in self.results:
                versions = [self.results[feedback.result_id][0]]
            else:
                versions = [version for version, intents in self.results.values() if feedback.result_id == topic or (feedback.result_id is None and intents == 1)]
            if len(versions) == 1:
                given = {FeedbackVerdict.ACCEPTED: 1.0, FeedbackVerdict.CORRECTED: 0.0}.get(feedback.verdict, min(1.0, max(0.0, feedback.rating or 0.0)))
                judged.append((versions[0], given))
        return judged


@dataclass(slots=True)
class Trial:
    """`candidate` beside `live` of `adapter`, whose results go to `topic`; a shadow answers what the live version answers, and is compared.

    Results and feedback are seen in any order: they are of several topics, which who starts anew reads one after the other.
    """

    adapter: str
    topic: str
    live: int
    candidate: int
    tallies: dict[int, Tally] = field(default_factory=dict)
    compared: int = 0
    agreed: int = 0
    _asked: LRUCache[str, _Asked] = field(default_factory=lambda: LRUCache(REMEMBERED))
    _outputs: LRUCache[tuple[str, int], tuple[int, str | None]] = field(default_factory=lambda: LRUCache(REMEMBERED))

    def __post_init__(self) -> None:
        self.tallies = {self.live: Tally(), self.candidate: Tally()}

    @property
    def ours(self) -> Tally:
        """The candidate's."""
        return self.tallies[self.candidate]

    @property
    def theirs(self) -> Tally:
        """The live version's."""
        return self.tallies[self.live]

    def see_result(self, result: Result) -> None:
        """An answer; those of other versions, and those that expired or that nobody was asked for, tell nothing."""
        if result.adapter != self.adapter or result.version not in self.tallies or result.status not in (ResultStatus.OK, ResultStatus.FAILED):
            return
        asked = self._asked.setdefault(result.request_id, _Asked())
        if result.result_id in asked.results:
            return
        before = asked.judged(self.topic)
        asked.results[result.result_id] = (result.version, result.intent_count)
        self._count(before, asked)
        tally = self.tallies[result.version]
        tally.answers += 1
        tally.valid += result.status is ResultStatus.OK
        self._compare(result)

    def _compare(self, result: Result) -> None:
        place = (result.request_id, result.intent_index)
        other = self._outputs.pop(place, None)
        if other is None:
            self._outputs[place] = (result.version or 0, result.output)
        elif other[0] != result.version:
            self.compared += 1
            self.agreed += other[1] == result.output

    def see_feedback(self, feedback: Feedback) -> None:
        """What a user said of an answer; twice the same is once."""
        asked = self._asked.setdefault(feedback.request_id, _Asked())
        before = asked.judged(self.topic)
        asked.said[feedback.feedback_id] = feedback
        self._count(before, asked)

    def _count(self, before: list[tuple[int, float]], asked: _Asked) -> None:
        """Takes back what a request had given, and gives what it gives now."""
        for judged, sign in ((before, -1), (asked.judged(self.topic), 1)):
            for version, given in judged:
                self.tallies[version].judged += sign
                self.tallies[version].liked += sign * given


def judge(policy: Canary, trial: Trial, hours: float) -> tuple[Outcome, str]:
    """What becomes of the candidate after `hours`, and why."""
    ours, theirs = trial.ours, trial.theirs
    words = f"{ours.valid} of {ours.answers} answers valid, live {theirs.valid} of {theirs.answers}"
    if ours.judged or theirs.judged:
        words += f"; users gave {ours.liked:g} of {ours.judged}, live {theirs.liked:g} of {theirs.judged}"
    if trial.compared:
        words += f"; {trial.agreed} of {trial.compared} answers are the live one's"
    enough = ours.answers >= policy.min_answers and ours.judged >= policy.min_feedback
    shares = [((ours.valid, ours.answers), (theirs.valid, theirs.answers)), ((ours.liked, ours.judged), (theirs.liked, theirs.judged))]
    measured = [difference(*both, SURE if enough else SURE_EARLY) for both in shares if both[0][1] and both[1][1]]
    if any(high < -policy.max_worse for _, high in measured):
        return Outcome.ROLL_BACK, f"worse than the live version: {words}"
    if enough and trial.compared and trial.agreed < policy.min_agreement * trial.compared:
        return Outcome.ROLL_BACK, f"it answers otherwise than the live version: {words}"
    if enough and theirs.answers and all(low >= -policy.max_worse for low, _ in measured):
        return Outcome.PROMOTE, f"no worse than the live version: {words}"
    if hours >= policy.max_hours:
        return (Outcome.PROMOTE if policy.undecided == "promote" else Outcome.ROLL_BACK), f"undecided after {hours:.1f} h: {words}"
    return Outcome.GO_ON, words


def difference(ours: tuple[float, int], theirs: tuple[float, int], deviations: float) -> tuple[float, float]:
    """Bounds of how much higher the share of `ours` is than that of `theirs`, each (of them, of how many)."""
    (p, low_p, high_p), (q, low_q, high_q) = _wilson(*ours, deviations), _wilson(*theirs, deviations)
    return p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q)


def _wilson(of_them: float, count: int, deviations: float) -> tuple[float, float, float]:
    """The share and the bounds of Wilson's score interval (1927)."""
    share, square = of_them / count, deviations**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = deviations / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return share, min(share, middle - half), max(share, middle + half)
