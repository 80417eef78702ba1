"""Follows what is answered and what users say of it while candidates are tried. A coordinator that starts reads it again from where each trial began."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from runtime.follower import Follower
from runtime.kafka import Record
from runtime.project import Canary, Project
from schemas.codec import Codec
from schemas.events import Feedback, Result
from schemas.topics import FEEDBACK, SHADOWS, result_topic
from trainers.canary import Outcome, Trial, judge
from trainers.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that has an outcome."""

    adapter: str
    candidate: int
    promoted: bool
    reason: str


@dataclass(slots=True)
class _Followed:
    policy: Canary
    trial: Trial
    sequence: int
    since: float
    follower: Follower


class Trials:
    """The trials of a fleet's candidates."""

    def __init__(self, project: Project, broker: str, prefix: str, codec: Codec) -> None:
        self._project, self._broker, self._prefix, self._codec = project, broker, prefix, codec
        self._open: dict[str, _Followed] = {}

    async def follow(self, fleet: Fleet) -> list[Ended]:
        """Reads on, and judges each candidate. Raises Transient where the broker can't be reached."""
        for name in [name for name, one in self._open.items() if not fleet.adapters[name].candidate or fleet.adapters[name].changed_at != one.sequence]:
            await self._open.pop(name).follower.stop()
        for name, state in fleet.adapters.items():
            policy = self._project.adapters[name].canary
            if state.candidate and policy and name not in self._open:
                topic = result_topic(self._project.adapters[name].result).name
                follower = Follower(self._broker, [self._prefix + one for one in (topic, SHADOWS.name, FEEDBACK.name)])
                await follower.start(since_seconds=state.tried_since)
                self._open[name] = _Followed(policy, Trial(name, topic, state.live, state.candidate), state.changed_at, state.tried_since, follower)
        ended = []
        for name, one in self._open.items():
            await one.follower.deliver(partial(self._apply, one.trial), timeout_ms=0)
            if await one.follower.caught_up():
                outcome, reason = judge(one.policy, one.trial, (time.time() - one.since) / 3600)
                if outcome is not Outcome.GO_ON:
                    ended.append(Ended(name, one.trial.candidate, outcome is Outcome.PROMOTE, reason))
        return ended

    async def stop(self) -> None:
        """Follows nothing any more."""
        while self._open:
            await self._open.popitem()[1].follower.stop()

    def _apply(self, trial: Trial, record: Record) -> None:
        if record.topic == self._prefix + FEEDBACK.name:
            trial.see_feedback(self._codec.decode(Feedback, record.value))
        else:
            trial.see_result(self._codec.decode(Result, record.value))
