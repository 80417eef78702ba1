"""Benchmarks that compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loom.bench.compare import Row, rate, report, show, take_turns


@pytest.mark.parametrize(
    ("ours", "baseline", "goal", "ratio", "holds"),
    [([10.0, 30.0, 20.0], [2.0], 10, 10.0, True), ([10.0], [2.0], 10, 5.0, False), ([0.96], [], 0.95, None, True), ([1.0], [2.0], None, 0.5, None)],
)
def test_a_goal_is_held_against_the_ratio_or_the_value(ours: list[float], baseline: list[float], goal: float | None, ratio: float | None, holds: bool | None) -> None:
    row = Row.of("x", "s", ours, baseline, goal)
    assert (row.ratio, row.holds) == (ratio, holds)
    assert row.ours_spread == (min(ours), max(ours))


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = take_turns({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert values == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_rate_counts_the_work() -> None:
    done: list[int] = []
    assert rate(5, lambda: done.append(1))() > 0
    assert done == [1]


def test_the_report_has_the_documented_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row.of("speed", "x/s", [3.0], [1.0], 2)]
    show("bench", rows, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == json.loads(json.dumps(report("bench", rows)))
    assert written["name"] == "bench"
    assert {"what", "ours", "baseline", "ratio", "goal", "holds"} <= written["rows"][0].keys()
    assert "speed" in capsys.readouterr().out
