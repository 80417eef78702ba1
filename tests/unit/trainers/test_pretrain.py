"""Packing of raw text into windows, and the gate of a Domain-Base."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Split
from trainers.gate import judge_base
from trainers.pretrain import perplexity, spread, windows
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


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert math.isclose(perplexity([math.log(2), math.log(8)]), 4.0)


def test_a_base_must_read_held_out_documents_better() -> None:
    assert judge_base([2.0, 2.0], [1.9, 1.8]).passed
    worse = judge_base([2.0], [2.1])
    assert (worse.passed, "learnt nothing" in worse.reason) == (False, True)
    assert "no held-out documents" in judge_base([], []).reason
