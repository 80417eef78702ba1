"""What a load of answers says of the system."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
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


def told_rows(told: Sequence[Told], published_at: dict[int, float]) -> list[Row]:
    """What the answers say. Pure.

    Stale: asked after a newer version had answered. Mixed: one version gave two answers to one text, as it would with another version's keys and values in the cache.
    """
    failed = [one for one in told if one.status is not ResultStatus.OK or one.version is None]
    ordered = sorted((one for one in told if one.version is not None), key=lambda one: one.ended)
    first: dict[int, float] = {}
    for one in ordered:
        assert one.version is not None
        first.setdefault(one.version, one.ended)
    newest = sorted((at, version) for version, at in first.items())
    stale = sum(any(at < one.asked and version > (one.version or 0) for at, version in newest) for one in ordered)
    said: dict[tuple[int | None, str], Counter[str | None]] = {}
    for one in ordered:
        said.setdefault((one.version, one.text), Counter())[one.output] += 1
    mixed = sum(sum(outputs.values()) - max(outputs.values()) for outputs in said.values())
    by_text: dict[str, set[str | None]] = {}
    for one in ordered:
        by_text.setdefault(one.text, set()).add(one.output)
    taken = [one.ended - one.asked for one in told]
    delays = [first[version] - at for version, at in published_at.items() if version in first]
    return [
        Row.under("from a version's publishing to its first answer, p99", "s", [float(np.quantile(delays, 0.99))], goal=FIRST_ANSWER_SECONDS),
        Row.under("the same, p50", "s", [statistics.median(delays)]),
        Row.under("what an answer takes at that load, p99", "s", [float(np.quantile(taken, 0.99))]),
        Row.under("the same of an answer, p50", "s", [statistics.median(taken)]),
        Row.under(f"failed of {len(told):,} answers", "", [len(failed)], goal=0),
        Row.under("stale", "", [stale], goal=0),
        Row.under("mixed", "", [mixed], goal=0),
        Row.of("share of texts of which versions say different things", "", [statistics.mean(len(outputs) > 1 for outputs in by_text.values())]),
    ]
