"""Near duplicates of texts: MinHash signatures (Broder 1997, "On the resemblance and containment of documents"), and
bands of them for locality-sensitive hashing (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", ch. 3). Pure.

Two texts are alike when their sets of five-word runs are, by Jaccard. Of pairs at the threshold of 0.8, 21 bands of 6 rows
meet 99.8 %; of pairs at 0.5, 28 %, which the signatures then tell apart with a standard error of 0.035.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 128
BANDS = 21
ROWS = 6
RUN_WORDS = 5
MIN_WORDS = 20
"""Shorter texts have exact twins alone: "restart the kitchen hub" is not "restart the garden hub"."""
THRESHOLD = 0.8
WORD = re.compile(r"\w+")
SLOT = np.dtype("<u4")
Signature = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Print:
    """What a text is recognised by. `signature`: (128,), and `bands`: 21 signed 64-bit numbers; both empty for a short text."""

    content_hash: str
    signature: Signature
    bands: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A live chunk that others may be twins of."""

    chunk_id: str
    print: Print


@dataclass(frozen=True, slots=True)
class Twin:
    """The chunk that another is a twin of; `similarity` is 1.0 for the same text, else the estimated Jaccard."""

    chunk_id: str
    similarity: float


def prints(texts: Sequence[str], content_hashes: Sequence[str], secret: bytes) -> list[Print]:
    """The print of each text. Signatures depend on `secret`: without it nobody can tell whether a text is among them."""
    from rensa import RMinHash

    seed = int.from_bytes(hashlib.blake2b(b"minhash", key=secret[:64], digest_size=8).digest(), "big")
    words = [words_of(text) for text in texts]
    rows = RMinHash.digests_from_token_sets([runs(own) for own in words], PERMUTATIONS, seed)
    made = []
    for own, content_hash, row in zip(words, content_hashes, rows, strict=True):
        signature = np.array(row if len(own) >= MIN_WORDS else (), dtype=SLOT)
        made.append(Print(content_hash, signature, tuple(_bands(signature))))
    return made


def short_print(content_hash: str) -> Print:
    """The print of a text that has exact twins alone."""
    return Print(content_hash, np.array((), dtype=SLOT), ())


def similarity(one: Signature, other: Signature) -> float:
    """The estimated Jaccard of two texts; 0.0 where one of them is short."""
    return float(np.mean(one == other)) if one.size and other.size else 0.0


def twin_of(text: Print, claims: Iterable[Claim]) -> Twin | None:
    """The most similar of `claims` at or above the threshold; of equals the one with the smaller id."""
    best: Twin | None = None
    for claim in sorted(claims, key=lambda claim: claim.chunk_id):
        alike = 1.0 if claim.print.content_hash == text.content_hash else min(similarity(text.signature, claim.print.signature), 1 - 1 / PERMUTATIONS)
        if alike >= THRESHOLD and (best is None or alike > best.similarity):
            best = Twin(claim.chunk_id, alike)
    return best


class Index:
    """Claims by content and by band, to find candidates among many."""

    def __init__(self, claims: Iterable[Claim] = ()) -> None:
        self._by_hash: dict[str, list[Claim]] = {}
        self._by_band: dict[int, list[Claim]] = {}
        for claim in claims:
            self.add(claim)

    def add(self, claim: Claim) -> None:
        """Lets later texts be twins of `claim`."""
        self._by_hash.setdefault(claim.print.content_hash, []).append(claim)
        for band in claim.print.bands:
            self._by_band.setdefault(band, []).append(claim)

    def twin(self, text: Print) -> Twin | None:
        """The twin of `text`, if it has one."""
        exact = self._by_hash.get(text.content_hash)
        if exact:
            return twin_of(text, exact)
        near = {claim.chunk_id: claim for band in text.bands for claim in self._by_band.get(band, ())}
        return twin_of(text, near.values())


def words_of(text: str) -> list[str]:
    """The words that texts are compared by."""
    return WORD.findall(text.casefold())


def runs(words: Sequence[str]) -> list[str]:
    """The runs of five `words`; fewer words are one run."""
    return [" ".join(words[i : i + RUN_WORDS]) for i in range(max(1, len(words) - RUN_WORDS + 1))]


def _bands(signature: Signature) -> Iterable[int]:
    for band in range(BANDS if signature.size else 0):
        rows = signature[band * ROWS : (band + 1) * ROWS].tobytes()
        yield int.from_bytes(hashlib.blake2b(rows, digest_size=8, person=band.to_bytes(2, "big")).digest(), "big", signed=True)
