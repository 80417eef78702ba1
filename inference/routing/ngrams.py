"""Words, pairs of words and pieces of words as features, thrown into buckets by a hash: what a sentence vector blurs ("new pin" beside "new card")."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 15
PIECES = (2, 3, 4)
"""Characters of a piece; a word's begin and end count as one."""
WORD = re.compile(r"\w+|[^\w\s]")
MAX_WORDS = 128


def features(text: str, rarity: NDArray[np.float32] | None = None) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The buckets of a text and their values, of length one together: logarithms of counts, each times its bucket's `rarity` (BUCKETS,)."""
    words = WORD.findall(text.lower())[:MAX_WORDS]
    grams = words + [f"{one} {other}" for one, other in pairwise(words)]
    for word in words:
        edged = f"<{word}>"
        grams += [f"#{edged[at : at + size]}" for size in PIECES for at in range(len(edged) - size + 1)]
    counts = Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in grams)
    at = np.fromiter(counts.keys(), np.intp, len(counts))
    values = 1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))
    if rarity is not None:
        values *= rarity[at]
    return at, (values / max(float(np.linalg.norm(values)), 1e-9)).astype(np.float32)


def rarity_of(texts: Sequence[str]) -> NDArray[np.float32]:
    """The inverse document frequency of each bucket (BUCKETS,), smoothed; 0 for buckets that no text has."""
    seen = np.zeros(BUCKETS, np.float32)
    for text in texts:
        seen[features(text)[0]] += 1
    return np.where(seen > 0, np.log((1 + len(texts)) / (1 + seen)) + 1, 0).astype(np.float32)


def matrix(texts: Sequence[str], rarity: NDArray[np.float32]) -> Any:
    """The features of `texts` as a sparse matrix (texts, BUCKETS)."""
    from scipy.sparse import csr_matrix

    rows = [features(text, rarity) for text in texts]
    starts = np.cumsum([0, *(len(at) for at, _ in rows)])
    return csr_matrix((np.concatenate([values for _, values in rows]), np.concatenate([at for at, _ in rows]), starts), shape=(len(texts), BUCKETS))
