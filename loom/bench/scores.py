"""Scores with intervals, paired comparisons, and the rows that are asked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loom.bench.compare import Row
from loom.labels import numbered_lines, row_of
from runtime.errors import SettingsError

Z = 1.96
UNITS = ("ms", "s", "MiB")


@dataclass(frozen=True, slots=True)
class Score:
    """A share or a difference with its 95 % interval over `count` cases, or an F1 without; `p_value` for paired tests."""

    what: str
    mode: str
    value: float
    low: float | None
    high: float | None
    count: int
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def share(what: str, mode: str, hits: Sequence[bool]) -> Score:
    """The share of `hits` with its Wilson interval (Wilson 1927)."""
    n = len(hits)
    p = sum(hits) / n if n else 0.0
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n) if n else 0.0
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n) if n else 1.0
    return Score(what, mode, p, max(0.0, middle - half), min(1.0, middle + half), n)


def paired(what: str, mode: str, ours: Sequence[bool], theirs: Sequence[bool]) -> Score:
    """How much more often `ours` is right than `theirs` on the same cases, with McNemar's exact p value (two-sided)."""
    n = len(ours)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / n if n else 0.0
    half = Z * math.sqrt(sum((d - mean) ** 2 for d in differences) / max(1, n - 1) / n) if n else 1.0
    better, worse = differences.count(1), differences.count(-1)
    tail = sum(math.comb(better + worse, k) for k in range(min(better, worse) + 1)) / 2 ** (better + worse)
    return Score(what, mode, mean, mean - half, mean + half, n, min(1.0, 2 * tail))


def compared(scores: Sequence[Score]) -> list[Row]:
    """A row for the first mode beside each other one on the same cases, with intervals in the place of spreads; goals are the gate's, not a benchmark's."""
    single = [score for score in scores if score.p_value is None]
    rows = []
    for what in dict.fromkeys(score.what for score in single):
        ours, *others = [score for score in single if score.what == what]
        unit = next((unit for unit in UNITS if what.endswith(f" {unit}")), "share")
        for other in others:
            ratio = ours.value / other.value if other.value else None
            rows.append(Row(f"{what}: {ours.mode} beside {other.mode}", unit, ours.value, other.value, ratio, None, None, _interval(ours), _interval(other)))
        if not others:
            rows.append(Row(f"{what}: {ours.mode}", unit, ours.value, None, None, None, None, _interval(ours), None))
    return rows


def _interval(score: Score) -> tuple[float, float]:
    return (score.low, score.high) if score.low is not None and score.high is not None else (score.value, score.value)


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a test or training file: JSON lines with `text`, or frames (.toml), whose labels they become.

    Of frames only what adapters train on: those that are held out for the gate would be an advantage of the baselines'.

    Raises:
        SettingsError: the file can't be read, or a line is no JSON object with `text`.
    """
    if path.suffix == ".toml":
        from loom.frames import Frames
        from schemas.events import Split
        from streams.format import group_of, split_of

        labels = (label for label in Frames(path).labels() if split_of(group_of(label)) is Split.TRAIN)
        return [row for label in labels if (row := _row(json.loads(label.input), json.loads(label.output)))]
    rows = []
    for number, line in numbered_lines(path):
        try:
            rows.append(row_of(line))
        except ValueError as error:
            raise SettingsError(f"{path}:{number}: {error}") from error
    return rows


def _row(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any] | None:
    text = given.get("text") or given.get("message")
    return {"text": text, **{name: given[name] for name in ("context", "tools") if name in given}, **wanted} if text else None
