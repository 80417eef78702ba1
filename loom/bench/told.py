"""What a load of answers says of the system, and which answers the last bits of a sum have tipped."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.engines import Engine
from loom.bench.compare import Row
from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import ChatTokenizer, prompt_ids
from runtime.tasks.samples import TaskSpec, ask, task_input
from schemas.events import ResultStatus

FIRST_ANSWER_SECONDS = 0.5
ROUNDING = 0.25
"""By how much a log probability may differ in the company of other requests, where sums are made in another order: two steps that logits above 16 have in bfloat16. In float32 it is less than 0.0001."""


@dataclass(frozen=True, slots=True)
class Told:
    """One answer under load: when it was asked, what was asked, which version said what."""

    asked: float
    ended: float
    text: str
    version: int | None
    output: str | None
    status: ResultStatus


Said = Mapping[tuple[int, str], Counter[str | None]]
"""How often a version gave each answer to a text."""


def said(told: Sequence[Told]) -> Said:
    """What was said. Pure."""
    found: dict[tuple[int, str], Counter[str | None]] = {}
    for one in told:
        if one.version is not None:
            found.setdefault((one.version, one.text), Counter())[one.output] += 1
    return found


def several(told: Said) -> Said:
    """Where a version gave more than one answer to a text. Pure."""
    return {place: outputs for place, outputs in told.items() if len(outputs) > 1}


def alone(number: int) -> str:
    """The engine name under which `tipped` asks a version."""
    return f"mood@{number}-alone"


async def tipped(engine: Engine, spec: TaskSpec, tokenizer: ChatTokenizer, odd: Said) -> int:
    """How many of `odd` answers are others than the one that their version gave most often to their text, where this version holds both as likely, up to ROUNDING."""
    count = 0
    for (number, text), outputs in odd.items():
        given = task_input(spec.task, text, {})
        ids = prompt_ids(tokenizer, ask(spec, given))
        (usual, _), *others = outputs.most_common()
        for other, times in others:
            if usual is None or other is None:
                continue
            rules = [grammar(replace(spec, labels=(json.loads(output),)), given) for output in (usual, other)]
            if await _apart(engine, alone(number), ids, rules) < ROUNDING:
                count += times
    return count


async def _apart(engine: Engine, name: str, ids: Sequence[int], rules: Sequence[str | None]) -> float:
    """How far apart are the log probabilities of the tokens with which the answers by two grammars part."""
    for count in range(1, MAX_TOKENS["classify"] + 1):
        one, other = [await engine.generate(ids, name, rule, count) for rule in rules]
        if one.text != other.text:
            return abs(math.log(one.confidence / other.confidence)) * count
    return math.inf


def told_rows(told: Sequence[Told], published_at: dict[int, float], by_rounding: int = 0) -> list[Row]:
    """What the answers say. Pure.

    Stale: asked after a newer version had answered. Mixed: one version gave two answers to one text, as it would with another version's keys and values in the cache, but for those that are told otherwise `by_rounding`.
    """
    failed = [one for one in told if one.status is not ResultStatus.OK or one.version is None]
    ordered = sorted((one for one in told if one.version is not None), key=lambda one: one.ended)
    first: dict[int, float] = {}
    for one in ordered:
        assert one.version is not None
        first.setdefault(one.version, one.ended)
    newest = sorted((at, version) for version, at in first.items())
    stale = sum(any(at < one.asked and version > (one.version or 0) for at, version in newest) for one in ordered)
    otherwise = sum(sum(outputs.values()) - max(outputs.values()) for outputs in said(ordered).values())
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
        Row.under("mixed", "", [otherwise - by_rounding], goal=0),
        Row.under("answers between two labels that are as likely, tipped by rounding", "", [by_rounding]),
        Row.of("share of texts of which versions say different things", "", [statistics.mean(len(outputs) > 1 for outputs in by_text.values())]),
    ]
