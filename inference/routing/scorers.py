"""Scores of clauses for routes from their sentence vectors, in NumPy alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inference.routing.decision import Match, Route, Scores
from inference.routing.ngrams import features

Floats = NDArray[np.float32]


class Scorer(Protocol):
    """Tells how well vectors fit routes."""

    exclusive: bool
    """Whether a text is for one route at most."""
    of_whole: bool
    """Whether routes are known from whole messages, not from what clauses say alone."""

    def at_once(self, text: str) -> Scores | None:
        """The scores of a message of one clause, where no vector is needed to be sure of them."""

    def score(self, texts: Sequence[str], vectors: Floats) -> list[Scores]:
        """A match for each route that may be meant, for each of `texts` and its vector (clauses, dimensions), unit length."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Evidence to probability: a logistic function of its columns (Platt 1999)."""

    weights: tuple[float, ...]
    bias: float

    def __call__(self, evidence: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities (n,) of `evidence` (n, columns)."""
        return np.asarray(1.0 / (1.0 + np.exp(-(evidence @ np.asarray(self.weights) + self.bias))))


@dataclass(frozen=True, slots=True)
class Utterances:
    """Examples of each route: texts, and their unit vectors (utterances, dimensions), those of a route behind one another."""

    routes: tuple[Route, ...]
    texts: tuple[tuple[str, ...], ...]
    vectors: Floats

    @property
    def starts(self) -> NDArray[np.intp]:
        """The row of each route's first vector, and the number of rows."""
        return np.cumsum([0, *(len(texts) for texts in self.texts)])

    def nearest(self, at: int, vector: Floats, starts: NDArray[np.intp]) -> tuple[float, str]:
        """The cosine of route `at`'s nearest utterance, and the utterance."""
        cosines = self.vectors[starts[at] : starts[at + 1]] @ vector
        best = int(cosines.argmax())
        return float(cosines[best]), self.texts[at][best]


class Nearest:
    """A clause fits a route as well as its nearest utterance does: for routes that have a few utterances alone."""

    exclusive, of_whole = True, False

    def __init__(self, utterances: Utterances, calibration: Calibration) -> None:
        self._utterances, self._calibration = utterances, calibration
        self._starts = utterances.starts

    def evidence(self, vectors: Floats) -> Floats:
        """Cosines (clauses, routes)."""
        cosines: Floats = np.maximum.reduceat(vectors @ self._utterances.vectors.T, self._starts[:-1], axis=1)
        return cosines

    def at_once(self, text: str) -> Scores | None:
        return None

    def score(self, texts: Sequence[str], vectors: Floats) -> list[Scores]:
        if not self._utterances.routes:
            return [{} for _ in vectors]
        found: list[Scores] = []
        for vector, cosines in zip(vectors, self.evidence(vectors), strict=True):
            probabilities = self._calibration(cosines[:, None])
            found.append({route: Match(float(probabilities[at]), *self._utterances.nearest(at, vector, self._starts)) for at, route in enumerate(self._utterances.routes)})
        return found


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer on sentence vectors and one on n-grams, and what tells vectors that are near no route.

    `weights` (outputs, dimensions) and `bias` (outputs,) of vectors, `grams` (BUCKETS, outputs) and `gram_bias` (outputs,) of n-grams, which count for `share` (1,) of it: one output a route, and a last
    one for what is out of scope where the routes exclude one another. `rarity` (BUCKETS,) is what each n-gram counts for.
    `whitening` (dimensions, dimensions) turns Mahalanobis' distance to `means` (routes, dimensions, whitened) into Euclid's (Lee et al. 2018, arXiv:1807.03888).
    """

    weights: Floats
    bias: Floats
    grams: NDArray[np.float16]
    gram_bias: Floats
    share: Floats
    rarity: Floats
    whitening: Floats
    means: Floats

    def logits(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """(n, outputs)."""
        by_gram = np.stack([self.gram_logits(*features(text, self.rarity)) for text in texts])
        return np.asarray(vectors @ self.weights.T + self.bias + self.share * by_gram, np.float32)

    def gram_logits(self, at: NDArray[np.intp], values: Floats) -> Floats:
        """Those of the layer on n-grams alone (outputs,), for the features of a text."""
        logits: Floats = values @ self.grams[at].astype(np.float32) + self.gram_bias
        return logits

    def distance(self, vectors: Floats) -> Floats:
        """Mahalanobis' distance to the nearest route's mean, squared: (n,)."""
        x = vectors @ self.whitening
        squared: Floats = ((x * x).sum(1)[:, None] - 2 * x @ self.means.T + (self.means * self.means).sum(1)[None]).min(1)
        return squared


def exclusive_evidence(head: Head, logits: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """What speaks for the best route being right, (n, 3): its logit above that of what is out of scope, above the next one's, and how near the vectors are to
    those of any route; and the logits of the routes (n, routes)."""
    leads, _ = _leads(logits)
    columns: Floats = np.c_[leads, -np.sqrt(np.maximum(head.distance(vectors), 0))].astype(np.float32)
    return columns, logits[:, :-1]


def gram_evidence(logits: Floats) -> Floats:
    """What speaks for the best route of n-grams alone being right, (n, 3): its logit above that of what is out of scope, above the next one's, and as it is."""
    columns: Floats = np.c_[_leads(logits)].astype(np.float32)
    return columns


def _leads(logits: Floats) -> tuple[Floats, Floats]:
    """How far the best route's logit is above that of what is out of scope, which is the last, and above the next one's, 10 at most (n, 2); and the best one's logit (n,)."""
    routes = logits[:, :-1]
    two = np.partition(routes, -2, axis=1)[:, -2:] if routes.shape[1] > 1 else np.c_[np.zeros(len(routes), np.float32), routes]
    second, first = two[:, 0], two[:, 1]
    return np.c_[first - logits[:, -1], np.minimum(first - second, 10.0)], first


@dataclass(frozen=True, slots=True)
class Cascade:
    """When n-grams alone decide: from `bar` on, of the probability that `calibration` gives their best route."""

    calibration: Calibration
    bar: float


@dataclass(frozen=True, slots=True)
class _Shown:
    """N-grams of a route's utterances, behind one another."""

    at: NDArray[np.intp]
    values: Floats
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, texts: Sequence[str], rarity: Floats) -> _Shown:
        found = [features(text, rarity) for text in texts]
        return cls(np.concatenate([at for at, _ in found]), np.concatenate([values for _, values in found]), np.cumsum([0, *(len(at) for at, _ in found[:-1])]))

    def nearest(self, dense: Floats) -> tuple[float, int]:
        """The cosine of n-grams of the nearest utterance to a text of which `dense` (BUCKETS,) has the features, and its place."""
        cosines = np.add.reduceat(self.values * dense[self.at], self.starts)
        best = int(cosines.argmax())
        return float(cosines[best]), best


class Linear:
    """A fitted head. Of routes that exclude one another the calibrated probability is the best one's, and the others' in proportion."""

    of_whole = True
    LIKELY = 1e-3
    """Routes less likely than this are left out: of 150 nearly all are."""

    def __init__(self, utterances: Utterances, head: Head, calibration: Calibration, exclusive: bool, cascade: Cascade | None = None) -> None:
        self._utterances, self._head, self._calibration, self.exclusive, self._cascade = utterances, head, calibration, exclusive, cascade
        self._starts = utterances.starts
        self._shown = [_Shown.of(texts, head.rarity) for texts in utterances.texts] if cascade else []

    def probabilities(self, texts: Sequence[str], vectors: Floats) -> NDArray[np.float64]:
        """(n, routes)."""
        logits = self._head.logits(texts, vectors)
        if not self.exclusive:
            return self._calibration(logits.reshape(-1, 1)).reshape(logits.shape)
        evidence, logits = exclusive_evidence(self._head, logits, vectors)
        relative = np.exp((logits - logits.max(1, keepdims=True)).astype(np.float64))
        return np.asarray(self._calibration(evidence)[:, None] * relative)

    def at_once(self, text: str) -> Scores | None:
        if self._cascade is None:
            return None
        at, values = features(text, self._head.rarity)
        logits = self._head.gram_logits(at, values)
        sure = float(self._cascade.calibration(gram_evidence(logits[None]))[0])
        if sure < self._cascade.bar:
            return None
        dense = np.zeros(len(self._head.rarity), np.float32)
        dense[at] = values
        probabilities = sure * np.exp((logits[:-1] - logits[:-1].max()).astype(np.float64))
        found: dict[Route, Match] = {}
        for route in np.flatnonzero(probabilities >= self.LIKELY):
            similarity, nearest = self._shown[route].nearest(dense)
            found[self._utterances.routes[route]] = Match(float(probabilities[route]), similarity, self._utterances.texts[route][nearest])
        return found

    def score(self, texts: Sequence[str], vectors: Floats) -> list[Scores]:
        found: list[Scores] = []
        for vector, probabilities in zip(vectors, self.probabilities(texts, vectors), strict=True):
            likely = np.flatnonzero(probabilities >= min(self.LIKELY, probabilities.max()))
            found.append({self._utterances.routes[at]: Match(float(probabilities[at]), *self._utterances.nearest(at, vector, self._starts)) for at in likely})
        return found


def declared_utterances(routes: Mapping[Route, Sequence[str]], vectors: Floats) -> Utterances:
    """`vectors` are those of all texts in order."""
    return Utterances(tuple(routes), tuple(tuple(texts) for texts in routes.values()), vectors)
