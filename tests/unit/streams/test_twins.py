"""Which texts are taken for the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.twins import BANDS, MIN_WORDS, PERMUTATIONS, THRESHOLD, Claim, Index, Print, Twin, prints, similarity

SECRET = b"s" * 32
WORDS = st.lists(st.sampled_from([f"w{i}" for i in range(400)]), min_size=MIN_WORDS + 5, max_size=200)


def one(text: str, content_hash: str = "", secret: bytes = SECRET) -> Print:
    return prints([text], [content_hash or text], secret)[0]


def jaccard(a: list[str], b: list[str]) -> float:
    one, other = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a, b))
    return len(one & other) / len(one | other)


@given(WORDS, st.integers(0, 40), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_estimate_is_near_the_jaccard_of_word_runs(words: list[str], changes: int, rng: random.Random) -> None:
    changed = list(words)
    for _ in range(changes):
        changed[rng.randrange(len(changed))] = "other"
    estimate = similarity(one(" ".join(words)).signature, one(" ".join(changed)).signature)
    assert abs(estimate - jaccard(words, changed)) < 5 * 0.5 / PERMUTATIONS**0.5


@given(WORDS)
@settings(max_examples=50, deadline=None)
def test_white_space_case_and_signs_do_not_count(words: list[str]) -> None:
    plain, dressed = one(" ".join(words)), one("  ".join(words).upper() + "!")
    assert similarity(plain.signature, dressed.signature) == 1.0
    assert plain.bands == dressed.bands


def test_pairs_above_the_threshold_meet_and_others_do_not() -> None:
    rng = random.Random(0)
    met: list[bool] = []
    apart: list[bool] = []
    for changes in range(12):
        for _ in range(40):
            words = [f"w{rng.randrange(5000)}" for _ in range(120)]
            changed = list(words)
            for i in rng.sample(range(120), changes):
                changed[i] = "other"
            truth = jaccard(words, changed)
            twin = Index([Claim("a", one(" ".join(words)))]).twin(one(" ".join(changed)))
            if abs(truth - THRESHOLD) > 0.1:
                (met if truth > THRESHOLD else apart).append(twin is not None)
    assert (len(met) > 50, len(apart) > 50) == (True, True)
    assert sum(met) / len(met) > 0.99
    assert sum(apart) / len(apart) < 0.01


def test_short_texts_have_exact_twins_alone() -> None:
    kitchen, garden = one("restart the kitchen hub now " * 3, "k"), one("restart the kitchen hub now " * 2 + "restart the garden hub now", "g")
    assert (kitchen.bands, len(one("word " * MIN_WORDS).bands)) == ((), BANDS)
    index = Index([Claim("a", kitchen)])
    assert (index.twin(garden), index.twin(one("Restart", "k"))) == (None, Twin("a", 1.0))


def test_the_same_text_comes_before_one_that_is_alike() -> None:
    text, alike = " ".join(f"w{i}" for i in range(100)), " ".join([*(f"w{i}" for i in range(99)), "x"])
    twin = Index([Claim("a", one(alike)), Claim("b", one(text))]).twin(one(text))
    assert twin == Twin("b", 1.0)
    near = Index([Claim("a", one(alike))]).twin(one(text))
    assert near is not None
    assert THRESHOLD <= near.similarity < 1.0


def test_signatures_can_not_be_made_without_the_secret() -> None:
    text = " ".join(f"w{i}" for i in range(100))
    assert similarity(one(text).signature, one(text, secret=b"t" * 32).signature) < 0.1


@pytest.mark.parametrize("text", ["", "?!", "日本語のテキスト " * 10])
def test_odd_texts_have_prints(text: str) -> None:
    assert one(text, "h").content_hash == "h"
