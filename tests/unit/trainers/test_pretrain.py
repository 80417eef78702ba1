"""Packing of raw text into windows, how much is rehearsed, and the gate of a Domain-Base."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Split
from trainers.gate import Change, judge_base
from trainers.pretrain import spread, windows
from trainers.rehearsal import beside
from trainers.snapshot import Row


class Letters:
    """A tokenizer of letters: bos 1, end 2."""

    bos_token_id, eos_token_id = 1, 2

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]


def row(text: str) -> Row:
    return Row(text, "g", Split.TRAIN, {"input": {}, "output": {"text": text}})


@given(st.lists(st.text("abc", max_size=9), max_size=8), st.integers(2, 12))
def test_windows_hold_all_tokens_in_order(texts: list[str], size: int) -> None:
    stream = [token for text in texts for token in (1, *map(ord, text), 2)]
    found = list(windows(Letters(), [row(text) for text in texts], size))
    assert all(len(window) == size for window in found[:-1])
    joined = [token for window in found for token in window]
    assert joined == stream[: len(joined)]
    assert len(stream) - len(joined) <= 1  # one token alone has nothing to predict


@given(st.lists(st.integers(), max_size=30).map(lambda ids: [[i] for i in ids]), st.integers(1, 10))
def test_a_spread_is_evenly_drawn(found: list[list[int]], count: int) -> None:
    drawn = spread(found, count)
    assert len(drawn) == min(count, len(found))
    assert not found or drawn[0] == found[0]


@given(st.floats(0, 0.9), st.integers(1, 10_000))
def test_so_much_is_rehearsed_that_it_is_that_share(share: float, count: int) -> None:
    rehearsed = beside(share, count)
    assert rehearsed / (rehearsed + count) >= share - 1e-9
    assert rehearsed == 0 or (rehearsed - 1) / (rehearsed - 1 + count) < share + 1e-9


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    change = Change([math.log(2), math.log(8)], [math.log(5)])
    assert math.isclose(change.perplexity_before, 4.0)
    assert math.isclose(change.rise, 0.25)


def test_a_base_must_read_held_out_documents_better_and_forget_little() -> None:
    better, same, little = Change([2.0, 2.0], [1.9, 1.8]), Change([2.0], [2.0]), Change([3.0], [3.02])
    passed = judge_base(better, little, 0.03)
    assert passed.passed
    assert math.isclose(passed.numbers["forgetting"], math.exp(0.02) - 1)
    learnt_nothing, forgot = judge_base(same, same, 0.03), judge_base(better, little, 0.02)
    assert (learnt_nothing.passed, "learnt nothing" in learnt_nothing.reason, "forgot" in learnt_nothing.reason) == (False, True, False)
    assert (forgot.passed, "it forgot: +2.0% on general text, +2.0% allowed" in forgot.reason) == (False, True)
    assert "no held-out documents" in judge_base(Change([], []), Change([], []), 0.03).reason
