"""Benchmarks that compare: sides take turns in one run, since machines are noisy; medians and spread against a goal."""

from __future__ import annotations

import asyncio
import json
import platform
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import LoomError

Given = TypeVar("Given")
ROUNDS = 5


class BenchmarkFailed(LoomError):
    """A side did not start, answer or end."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured: our median, a baseline's where there is one, their ratio.

    `goal` is what the ratio must reach, or stay below, or our value where there is no baseline; None where nothing is promised.
    """

    what: str
    unit: str
    ours: float
    baseline: float | None
    ratio: float | None
    goal: float | None
    holds: bool | None
    ours_spread: tuple[float, float]
    baseline_spread: tuple[float, float] | None

    @classmethod
    def of(cls, what: str, unit: str, ours: Sequence[float], baseline: Sequence[float] = (), goal: float | None = None) -> Row:
        """A row of the values of several rounds; more is better."""
        return cls._of(what, unit, ours, baseline, goal, lambda reached, wanted: reached >= wanted)

    @classmethod
    def under(cls, what: str, unit: str, ours: Sequence[float], baseline: Sequence[float] = (), goal: float | None = None) -> Row:
        """The same where less is better."""
        return cls._of(what, unit, ours, baseline, goal, lambda reached, wanted: reached <= wanted)

    @classmethod
    def _of(cls, what: str, unit: str, ours: Sequence[float], baseline: Sequence[float], goal: float | None, holds: Callable[[float, float], bool]) -> Row:
        mine = statistics.median(ours)
        theirs = statistics.median(baseline) if baseline else None
        ratio = mine / theirs if theirs else None
        reached = mine if ratio is None else ratio
        return cls(what, unit, mine, theirs, ratio, goal, None if goal is None else holds(reached, goal), (min(ours), max(ours)), (min(baseline), max(baseline)) if baseline else None)


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Each side's values, one a round, after a round that warms up and is not counted."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            value = measure()
            if number:
                values[name].append(value)
    return values


async def all_of(works: Iterable[Coroutine[Any, Any, Given]], at_once: int) -> list[Given]:
    """What `works` give, so many of them at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(work: Coroutine[Any, Any, Given]) -> Given:
        async with gate:
            return await work

    return await asyncio.gather(*map(one, works))


def due_seconds(count: int, each_second: float, chance: random.Random) -> Iterator[float]:
    """When each of `count` is due, in seconds from the beginning: at random moments, so many a second on average (a Poisson process); all at once where `each_second` is 0."""
    due = 0.0
    for _ in range(count):
        due += chance.expovariate(each_second) if each_second else 0.0
        yield due


async def arrivals(count: int, each_second: float, chance: random.Random) -> AsyncIterator[int]:
    """The numbers below `count`, each when it is due."""
    began = time.perf_counter()
    for number, due in enumerate(due_seconds(count, each_second, chance)):
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        yield number


def rate(count: int, work: Callable[[], object]) -> Callable[[], float]:
    """A side that does `work`, which treats `count` things, and gives how many a second."""

    def measure() -> float:
        began = time.perf_counter()
        work()
        return count / (time.perf_counter() - began)

    return measure


def machine() -> dict[str, Any]:
    """What it ran on."""
    import psutil

    return {"cpus": psutil.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1), "platform": platform.platform(), "python": platform.python_version()}


def report(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The benchmark as JSON."""
    return {"name": name, "machine": machine(), "rows": [asdict(row) for row in rows]}


def show(name: str, rows: Sequence[Row], target: Path | None, picture_file: Path | None = None) -> None:
    """Prints the rows as a table; writes them as JSON to `target` and as SVG to `picture_file`, where these are named."""
    show_as_they_come(name, [rows], target, picture_file)


def show_as_they_come(name: str, parts: Iterable[Sequence[Row]], target: Path | None, picture_file: Path | None = None) -> None:
    """The same for a benchmark of several parts, each shown as it ends: what fails then loses no part before it."""
    from rich.console import Console
    from rich.table import Table

    rows: list[Row] = []
    for part in parts:
        rows += part
        table = Table("what", "ours", "spread", "baseline", "ratio", "goal", "holds", title=name)
        for row in part:
            cells = [number(row.ours, row.unit), " to ".join(number(v) for v in row.ours_spread), number(row.baseline, row.unit), number(row.ratio), number(row.goal)]
            table.add_row(row.what, *cells, "-" if row.holds is None else "yes" if row.holds else "NO")
        Console().print(table)
        if target:
            target.write_text(json.dumps(report(name, rows), indent=1) + "\n", encoding="utf-8")
        if picture_file:
            from loom.bench.picture import picture

            picture_file.write_text(picture(f"loom bench {name}", rows), encoding="utf-8")


def number(value: float | None, unit: str = "") -> str:
    """For people: three digits, and the unit."""
    if value is None:
        return "-"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{shown} {unit}".strip()
