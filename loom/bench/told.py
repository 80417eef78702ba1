"""What a load of answers says of the system."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loom.bench.compare import Row
from schemas.events import ResultStatus

FIRST_ANSWER_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Told:
    """One answer under load: when it was asked, what was asked, which version said what."""

    asked: float
    ended: float
    text: str
    version: int | None
    output: str | None
    status: ResultStatus

    @property
    def is_sound(self) -> bool:
        """Whether a version answered."""
        return self.status is ResultStatus.OK and self.version is not None and self.output is not None

    @property
    def said(self) -> tuple[int, str, str]:
        """Version, text and answer of what is sound."""
        assert self.version is not None
        assert self.output is not None
        return self.version, self.text, self.output


def told_rows(told: Sequence[Told], published_at: Mapping[int, float], off_by: Mapping[tuple[int, str, str], float], rounding: float) -> list[Row]:
    """What the answers say. Pure.

    Stale: asked after a newer version had answered. Mixed: not what its version says alone, as with another version's weights or what these left in the cache. By how many nats
    its version is off an answer is in `off_by`: 0 where it says the same alone, up to `rounding` where it holds another one as likely.
    """
    sound = sorted((one for one in told if one.is_sound), key=lambda one: one.ended)
    first: dict[int, float] = {}
    for one in sound:
        first.setdefault(one.said[0], one.ended)
    newest = sorted((at, version) for version, at in first.items())
    stale = sum(any(at < one.asked and version > one.said[0] for at, version in newest) for one in sound)
    off = [off_by[one.said] for one in sound]
    outputs: dict[tuple[int, str], Counter[str]] = {}
    by_text: dict[str, set[str]] = {}
    for version, text, output in (one.said for one in sound):
        outputs.setdefault((version, text), Counter())[output] += 1
        by_text.setdefault(text, set()).add(output)
    taken = [one.ended - one.asked for one in told]
    delays = [first[version] - at for version, at in published_at.items() if version in first]
    return [
        Row.under("from a version's publishing to its first answer, p99", "s", [float(np.quantile(delays, 0.99))], goal=FIRST_ANSWER_SECONDS),
        Row.under("the same, p50", "s", [statistics.median(delays)]),
        Row.under("what an answer takes at that load, p99", "s", [float(np.quantile(taken, 0.99))]),
        Row.under("the same of an answer, p50", "s", [statistics.median(taken)]),
        Row.under(f"failed of {len(told):,} answers", "", [len(told) - len(sound)], goal=0),
        Row.under("stale", "", [stale], goal=0),
        Row.under(f"mixed: off what the version says alone, by more than {rounding} nats", "", [sum(gap > rounding for gap in off)], goal=0),
        Row.under("not mixed, but another answer than the version's commonest to this text", "", [sum(sum(counts.values()) - max(counts.values()) for counts in outputs.values())]),
        Row.under("the most that one that is not mixed is off", "nats", [max((gap for gap in off if gap <= rounding), default=0.0)]),
        Row.of("share of texts of which versions say different things", "", [statistics.mean(len(said) > 1 for said in by_text.values())]),
    ]
