"""Steps of each size have the threads that take less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.engines.threads import KNOWN_FOR, TURN, TURNS, WORTH, Threads

ALL = 4
LOOKED_AT = 2 * TURN * TURNS


def carried_out(threads: Threads, tokens: int, steps: int, alone: float, together: float) -> list[int]:
    """The threads of so many steps, which take so long."""
    given = []
    for _ in range(steps):
        given.append(threads.of(tokens))
        threads.took(tokens, given[-1], alone if given[-1] == 1 else together)
    return given


@given(tokens=st.integers(1, 4096), alone=st.floats(0.001, 10), together=st.floats(0.001, 10))
def test_after_a_few_steps_a_size_has_what_takes_less(tokens: int, alone: float, together: float) -> None:
    threads = Threads(ALL)
    assert carried_out(threads, tokens, LOOKED_AT, alone, together) == ([1] * TURN + [ALL] * TURN) * TURNS
    best = ALL if together / tokens <= WORTH * (alone / tokens) else 1
    assert carried_out(threads, tokens, 50, alone, together) == [best] * 50
    assert threads.known() == {2 ** tokens.bit_length() - 1: best}


def test_each_size_is_looked_at_for_itself_though_steps_of_others_come_between() -> None:
    threads = Threads(ALL)
    for _ in range(LOOKED_AT):
        carried_out(threads, 8, 1, 1.0, 2.0)
        carried_out(threads, 1000, 1, 2.0, 1.0)
    assert threads.known() == {15: 1, 1023: ALL}
    assert (threads.of(15), threads.of(512), threads.of(16)) == (1, ALL, 1), "the last is of a size that nothing is known of"


def test_single_steps_that_take_long_decide_nothing() -> None:
    threads = Threads(ALL)
    for step in range(LOOKED_AT):
        carried_out(threads, 8, 1, 50.0 if step == 1 else 1.0, 2.0)
    assert threads.known() == {15: 1}


def test_what_has_changed_is_found() -> None:
    threads = Threads(ALL)
    carried_out(threads, 8, LOOKED_AT, 1.0, 2.0)
    assert set(carried_out(threads, 8, KNOWN_FOR, 2.0, 1.0)) == {1}
    carried_out(threads, 8, 1 + LOOKED_AT, 2.0, 1.0)
    assert threads.known() == {15: ALL}
