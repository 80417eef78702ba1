"""Adapters take turns by what their requests cost."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from inference.engines.fair import FairOrder

COST = 10


def served(order: FairOrder, waiting: list[tuple[int, str]]) -> str:
    """The adapter whose request is next; it ends at once."""
    tag, adapter = min(waiting)
    waiting.remove((tag, adapter))
    order.leave(tag)
    return adapter


def test_who_comes_late_does_not_wait_for_a_flood() -> None:
    order = FairOrder()
    waiting = [(order.enter("flood", COST), "flood") for _ in range(100)]
    for _ in range(10):
        served(order, waiting)
    waiting.append((order.enter("late", COST), "late"))
    assert "late" in [served(order, waiting) for _ in range(2)]


def test_a_silent_adapter_saves_nothing_up() -> None:
    order = FairOrder()
    for _ in range(50):
        order.leave(order.enter("busy", COST))
    waiting = [(order.enter(adapter, COST), adapter) for _ in range(20) for adapter in ("busy", "new")]
    first = [served(order, waiting) for _ in range(20)]
    assert 8 <= first.count("new") <= 12


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=1, max_size=60))
def test_no_two_adapters_that_both_wait_drift_apart_by_more_than_their_largest_requests(requests: list[tuple[str, int]]) -> None:
    order = FairOrder()
    waiting = [(order.enter(adapter, cost), at, adapter, cost) for at, (adapter, cost) in enumerate(requests)]
    worth: dict[str, int] = defaultdict(int)
    largest = {adapter: max(cost for name, cost in requests if name == adapter) for adapter, _ in requests}
    while len({adapter for _, _, adapter, _ in waiting}) > 1:
        tag, at, adapter, cost = min(waiting)
        waiting.remove((tag, at, adapter, cost))
        worth[adapter] += cost
        order.leave(tag)
        still = {name for _, _, name, _ in waiting}
        for one in still:
            for other in still:
                assert abs(worth[one] - worth[other]) <= largest[one] + largest[other]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.integers(1, 9)), max_size=200))
def test_nothing_is_kept_of_those_that_have_gone(steps: list[tuple[bool, str, int]]) -> None:
    order, open_ = FairOrder(), list[int]()
    for enters, adapter, cost in steps:
        if enters or not open_:
            open_.append(order.enter(adapter, cost))
        else:
            order.leave(open_.pop(0))
    for tag in open_:
        order.leave(tag)
    assert (order._after, order._least, +order._open) == ({}, [], {})


def test_higher_priority_has_its_turn_before_a_flood_of_its_own_adapter_and_starves_nobody() -> None:
    order = FairOrder()
    waiting = [(order.enter("tool", COST), "flood") for _ in range(50)]
    served(order, waiting)
    waiting += [(order.enter("tool", COST, priority=1), "urgent") for _ in range(50)]
    first = [served(order, waiting) for _ in range(30)]
    assert 18 <= first.count("urgent") <= 22, "twice as often"
    waiting.append((order.enter("tool", COST, priority=-3), "idle"))
    assert "idle" in [served(order, waiting) for _ in range(3)], "the first of a class waits for nobody"
