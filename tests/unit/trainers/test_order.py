"""The order of examples: every epoch sees each once, a step has some of all lengths, and it never changes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainers.order import drawn, tokens_of_steps, training_order

WEIGHTS = st.lists(st.floats(0, 1, allow_subnormal=False), max_size=40)
LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 8), st.integers(0, 200), st.integers(0, 9))
def test_each_epoch_sees_each_example_once(lengths: list[int], batch: int, rows: int, seed: int) -> None:
    order = training_order(lengths, batch, rows, seed)
    assert len(order) == rows
    often, seen = rows // len(lengths), Counter(order)
    assert all(often <= seen[place] <= often + 1 for place in range(len(lengths)))
    assert order == training_order(lengths, batch, rows, seed)


@given(LENGTHS, st.integers(1, 8), st.integers(0, 20), st.integers(0, 100))
def test_a_longer_run_begins_as_a_shorter_one(lengths: list[int], batch: int, steps: int, more: int) -> None:
    assert training_order(lengths, batch, steps * batch + more, 0)[: steps * batch] == training_order(lengths, batch, steps * batch, 0)


def test_a_step_has_rows_of_all_lengths_the_short_ones_first() -> None:
    lengths = [i % 97 for i in range(1600)]
    order = training_order(lengths, 8, len(lengths), 1)
    steps = [[lengths[place] for place in order[at : at + 8]] for at in range(0, len(order), 8)]
    assert all(step == sorted(step) for step in steps)
    assert sum(step[-1] - step[0] for step in steps) / len(steps) > 97 / 2
    assert order != training_order(lengths, 8, len(lengths), 2)


def test_of_nothing_there_is_no_order() -> None:
    assert training_order([], 4, 10, 0) == []


@given(LENGTHS, st.integers(1, 8), st.integers(0, 100))
def test_steps_see_all_tokens_of_their_rows(lengths: list[int], batch: int, rows: int) -> None:
    order = training_order(lengths, batch, rows, 0)
    steps = tokens_of_steps(order, lengths, batch)
    assert len(steps) == -(-rows // batch)
    assert sum(steps) == sum(lengths[place] for place in order)


@given(WEIGHTS, st.integers(0, 9))
def test_each_is_drawn_as_often_as_its_weight_says_up_to_rounding(weights: list[float], seed: int) -> None:
    places, total = drawn(weights, seed), sum(weights)
    assert len(places) == len(weights)
    assert places == sorted(places) == drawn(weights, seed)
    often = Counter(places)
    assert all(abs(often[place] - (weight * len(weights) / total if total else 1)) < 1 + 1e-6 for place, weight in enumerate(weights))
    assert not total or all(weight > 0 or place not in often for place, weight in enumerate(weights))


def test_over_many_seeds_the_mean_of_what_is_drawn_is_the_weighted_mean() -> None:
    weights = [0.25, 1.0, 0.5, 0.0, 0.75]
    often = Counter(place for seed in range(4000) for place in drawn(weights, seed))
    assert [round(often[place] / 4000, 1) for place in range(5)] == [0.5, 2.0, 1.0, 0.0, 1.5]
