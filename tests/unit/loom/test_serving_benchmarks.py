"""What the benchmarks of serving make of what they measured."""

from __future__ import annotations

from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

from loom.bench.compare import Row
from loom.bench.engine_side import Load
from loom.bench.picture import picture
from loom.bench.swap import ratio_row
from loom.bench.told import Told, told_rows
from schemas.events import ResultStatus


def answered(asked: float, ended: float, version: int | None, output: str = "A", text: str = "one", status: ResultStatus = ResultStatus.OK) -> Told:
    return Told(asked, ended, text, version, output, status)


def values(told: list[Told], published: dict[int, float]) -> dict[str, float]:
    return {row.what.split(" of ")[0] if row.what.startswith("failed") else row.what: row.ours for row in told_rows(told, published)}


SOUND = [answered(0, 1, 1), answered(1.5, 3.5, 1), answered(2, 3, 2, "B"), answered(3.2, 4, 2, "B")]


def test_an_old_version_may_end_what_it_began_and_no_more() -> None:
    found = values(SOUND, {2: 1.8})
    assert (found["failed"], found["stale"], found["mixed"]) == (0, 0, 0)
    assert found["from a version's publishing to its first answer, p99"] == pytest.approx(1.2)
    assert found["what an answer takes at that load, p99"] == pytest.approx(1.97)
    assert found["share of texts of which versions say different things"] == 1.0


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (answered(3.1, 5, 1), "stale"),
        (answered(3.3, 5, 2, "A"), "mixed"),
        (answered(3.3, 5, None, status=ResultStatus.REFUSED), "failed"),
        (answered(3.3, 5, 2, "B", status=ResultStatus.FAILED), "failed"),
    ],
)
def test_each_fault_is_counted_as_what_it_is(wrong: Told, what: str) -> None:
    found = values([*SOUND, wrong], {2: 1.8})
    assert {name: found[name] for name in ("failed", "stale", "mixed")} == {"failed": 0, "stale": 0, "mixed": 0} | {what: 1}


def test_a_ratio_holds_where_its_interval_reaches_the_goal_and_is_narrow() -> None:
    chance = np.random.default_rng(1)
    noise = chance.normal(10, 0.5, 1000)
    assert ratio_row("", list(noise[:500]), list(noise[500:]), 1.02).holds is True
    assert ratio_row("", list(noise[:500] * 1.1), list(noise[500:]), 1.02).holds is False
    wide = chance.normal(10, 4, 40)
    assert ratio_row("", list(wide[:20]), list(wide[20:]), 1.02).holds is False


def test_no_two_rounds_have_a_prompt_in_common() -> None:
    first, second = (Load(8, 4, 20, (4, 8), 3, seed) for seed in (1, 2))
    prompts = [tuple(prompt) for load in (first, second) for prompt in load.prompts()]
    assert len(set(prompts)) == 16
    assert (first.lengths(), first.names()[:4]) == ([4, 8] * 4, ["a0@1-aaaaaaaa", "a1@1-aaaaaaaa", "a2@1-aaaaaaaa", "a0@1-aaaaaaaa"])


def test_a_picture_has_a_pair_of_bars_for_each_comparison() -> None:
    rows = [Row.of("a <b>", "tokens/s", [10.0], [5.0], 2.0), Row.under("alone", "ms", [3.0])]
    drawn = fromstring(picture("t & t", rows))
    bars = [element for element in drawn.iter() if element.tag.endswith("rect") and element.get("height") == "12"]
    assert [float(bar.get("width") or 0) for bar in bars] == [330.0, 165.0]
    assert "a <b>" in {element.text for element in drawn.iter()}


def test_less_is_better_where_a_row_says_so() -> None:
    assert Row.under("", "ms", [9.0, 10.0, 11.0], goal=10.0).holds is True
    assert Row.under("", "ms", [12.0], [10.0], goal=1.05).holds is False
