"""MiniLM in float32 and with 8-bit integers."""

from __future__ import annotations

import numpy as np

from runtime.encoder import DIMENSIONS, minilm, quick_minilm

TEXTS = ["I'm frustrated with the login error", "can you reset my password?", "where is my parcel", "x", "how long does the battery of the garden sensor last when it is cold outside"]


def test_the_quick_encoder_says_nearly_what_the_exact_one_does() -> None:
    exact, quick = minilm().encode(TEXTS), quick_minilm().encode(TEXTS)
    assert exact.shape == quick.shape == (len(TEXTS), DIMENSIONS)
    assert np.allclose(np.linalg.norm(quick, axis=1), 1, atol=1e-5)
    assert ((exact * quick).sum(1) > 0.97).all(), (exact * quick).sum(1)


def test_a_quick_vector_does_not_depend_on_what_is_encoded_beside_it() -> None:
    quick = quick_minilm()
    assert all((quick.encode([text])[0] == vector).all() for text, vector in zip(TEXTS, quick.encode(TEXTS), strict=True))


def test_nothing_is_no_vector() -> None:
    assert minilm().encode([]).shape == (0, DIMENSIONS)
