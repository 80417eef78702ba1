"""What the benchmarks of serving make of what they measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from numpy.typing import NDArray

from loom.bench.compare import Row
from loom.bench.engine_side import Load
from loom.bench.picture import picture
from loom.bench.reference import off_by
from loom.bench.swap import ratio_row
from loom.bench.told import Told, told_rows
from schemas.events import ResultStatus


def answered(asked: float, ended: float, version: int | None, output: str = "A", text: str = "one", status: ResultStatus = ResultStatus.OK) -> Told:
    return Told(asked, ended, text, version, output, status)


ROUNDING = 0.25


def values(told: list[Told], published: dict[int, float], off: Mapping[tuple[int, str, str], float] | None = None) -> dict[str, float]:
    """By the beginnings of the rows' names; a version says "A" or "B" alone, by its number, but for what `off` says."""
    by = {one.said: 0.0 if one.said[2] == "_AB"[one.said[0]] else math.inf for one in told if one.is_sound} | dict(off or {})
    return {row.what.split(" of ")[0].split(": ")[0]: row.ours for row in told_rows(told, published, by, ROUNDING)}


SOUND = [answered(0, 1, 1), answered(1.5, 3.5, 1), answered(2, 3, 2, "B"), answered(3.2, 4, 2, "B")]


def test_an_old_version_may_end_what_it_began_and_no_more() -> None:
    found = values(SOUND, {2: 1.8})
    assert (found["failed"], found["stale"], found["mixed"]) == (0, 0, 0)
    assert found["from a version's publishing to its first answer, p99"] == pytest.approx(1.2)
    assert found["what an answer takes at that load, p99"] == pytest.approx(1.97)
    assert found["share"] == 1.0


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


def test_an_answer_that_its_version_holds_as_likely_is_not_mixed() -> None:
    wrong = answered(3.3, 5, 2, "A")
    for gap, mixed in ((0.1, 0), (0.3, 1)):
        found = values([*SOUND, wrong], {2: 1.8}, {wrong.said: gap})
        assert found["mixed"] == mixed
        assert found["not mixed, but another answer than the version's commonest to this text"] == 1
        assert found["the most that one that is not mixed is off"] == (0.1 if not mixed else 0.0)


def test_an_answer_that_all_agree_on_is_mixed_where_the_version_says_another_one_alone() -> None:
    assert values([answered(0, 1, 1, "B"), answered(1, 2, 1, "B")], {1: 0})["mixed"] == 2


@pytest.mark.parametrize(("label", "gap"), [("GO", 0.0), ("GAD", 0.125), ("BAD", 0.1875), ("WE", math.inf)])
def test_how_far_a_label_is_from_being_said_is_the_worst_step_of_the_best_way_to_spell_it(label: str, gap: float) -> None:
    after = {
        "": {"G": 3.125, "GO": 2.75, "BAD": 2.75, "B": 2.9375, "W": 2.0, "O": 9.0, "x": 9.0, "": 9.0},
        "G": {"O": 1.0, "AD": 0.875, "x": 9.0},
        "B": {"AD": -1.0, "x": 9.0},
    }
    vocabulary = ["", "G", "GO", "O", "BAD", "B", "AD", "W", "E", "x"]
    pieces = {token: piece for token, piece in enumerate(vocabulary) if piece not in ("", "x")}

    def logits(behind: tuple[int, ...]) -> NDArray[np.float32]:
        return np.array([after["".join(vocabulary[token] for token in behind)].get(piece, 0.0) for piece in vocabulary], np.float32)

    assert off_by(label, ("GO", "GAD", "BAD", "WE"), pieces, logits, ROUNDING) == gap


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
