"""Routes from labelled requests: a head on sentence vectors, and thresholds from validation rows that it was not made of. What it is worth is measured by
cross-fitting: on each half of the validation rows with what the other half gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.routing.clauses import clauses
from inference.routing.decision import Route, Thresholds, asks, route_name, route_of
from inference.routing.heads import head_of
from inference.routing.scorers import Calibration, Cascade, Floats, Head, Linear, Nearest, Utterances, declared_utterances, exclusive_evidence, gram_evidence
from runtime.errors import InvalidInput

SHOWN = 32
"""Utterances kept of a route, to show the nearest of."""
HELD_OUT = 10
"""Every tenth row is held out where no validation rows are given."""
DIFFERENT = 0.001
"""Share of the validation rows that n-grams alone may decide otherwise than with the vector."""
SURE = 0.95
"""How sure n-grams must be at least, to decide alone: few rows tell little of where they err."""
Encode = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A message and the routes that it is for; none when it is out of scope."""

    text: str
    routes: frozenset[Route]


@dataclass(frozen=True, slots=True)
class Report:
    """What routes are worth, cross-fitted; rates are shares of the rows of their kind."""

    rows: int
    out_of_scope_rows: int
    exact: float
    best_is_right: float | None
    out_of_scope_recall: float | None
    false_out_of_scope: float
    calibration_error: float
    ambiguous: float
    right_if_ambiguous: float | None
    without_encoder: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For people and files."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Routes ready to score: the scorer's parts, the score from which a route is chosen, what that is worth."""

    utterances: Utterances
    head: Head | None
    calibration: Calibration
    exclusive: bool
    sure: float
    threshold: float
    split: float
    report: Report
    cascade: Cascade | None = None

    def thresholds(self, margin: float) -> Thresholds:
        """For a decision by them, ambiguous below `margin`."""
        return Thresholds(dict.fromkeys((adapter for adapter, _ in self.utterances.routes), self.threshold), margin, self.sure, self.split)

    def scorer(self) -> Nearest | Linear:
        """What scores clauses by them."""
        if self.head is None:
            return Nearest(self.utterances, self.calibration)
        return Linear(self.utterances, self.head, self.calibration, self.exclusive, self.cascade)


def labelled(rows: Sequence[Mapping[str, Any]]) -> list[Labelled]:
    """Rows of {text, intents}, or {text, intent}.

    Raises:
        InvalidInput: a row has no text or says nothing of intents.
    """
    found = []
    for number, row in enumerate(rows, 1):
        intents = row["intents"] if "intents" in row else [row["intent"]] if row.get("intent") else [] if "intent" in row else None
        text = row.get("text")
        if not isinstance(text, str) or not text.strip() or not isinstance(intents, list | tuple) or not all(isinstance(i, str) and i for i in intents):
            raise InvalidInput(f'row {number} is not of the form {{"text": "…", "intents": ["adapter", "adapter/tool"]}}; out of scope is []')
        found.append(Labelled(text, frozenset(map(route_of, intents))))
    return found


def split(rows: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Rows to learn from, and a tenth of them, chosen by a hash of the text, to set thresholds by."""

    def held_out(row: Labelled) -> bool:
        return int.from_bytes(hashlib.sha256(row.text.encode()).digest()[:4]) % HELD_OUT == 0

    return [row for row in rows if not held_out(row)], [row for row in rows if held_out(row)]


def fit(utterances: Mapping[Route, Sequence[str]], train: Sequence[Labelled], validation: Sequence[Labelled], encode: Encode, false_rate: float, margin: float) -> Fitted:
    """Routes from `train`, or, where that is empty, from the `utterances` that are declared; the threshold from `validation`, so that at most `false_rate` of what is
    in scope is held for out of scope where routes exclude one another, and most sets of routes are exact where they don't.

    Raises:
        InvalidInput: too few rows, or a route that only validation knows.
    """
    examples = _examples(train) if train else {route: list(texts) for route, texts in utterances.items()}
    if len(examples) < 1 or len(validation) < 4 or not any(row.routes for row in validation):
        raise InvalidInput(f"{len(examples)} routes and {len(validation)} validation rows are too few to fit thresholds")
    if strange := next((route for row in validation for route in row.routes if route not in examples), None):
        raise InvalidInput(f"validation knows {route_name(strange)!r}, of which no utterance is there to learn from")
    routes = tuple(sorted(examples))
    seen = encode([row.text for row in validation])
    truth = np.array([[route in row.routes for route in routes] for row in validation])
    kept = {route: examples[route][: SHOWN if train else None] for route in routes}
    shown = declared_utterances(kept, encode([text for texts in kept.values() for text in texts]))
    exclusive = all(len(row.routes) <= 1 for row in (*train, *validation))
    sure = _median_similarity(shown, seen, truth)
    if not train:
        if not exclusive:
            raise InvalidInput("rows of several routes need rows of several routes to learn from: name a file of them with --train")
        evidence = Nearest(shown, Calibration((1.0,), 0.0)).evidence(seen)
        return _exclusive(shown, None, evidence.max(1)[:, None], evidence, None, truth, sure, false_rate, margin)
    texts = [row.text for row in train]
    wanted = np.array([[route in row.routes for route in routes] for row in train])
    head, logits, by_gram = head_of(texts, encode(texts), wanted, exclusive, [row.text for row in validation], seen, truth)
    if exclusive:
        grams = _Grams(gram_evidence(by_gram), _Best.of(by_gram[:, :-1], truth, shown), np.array([len(clauses(row.text)) == 1 for row in validation]))
        fitted = _exclusive(shown, head, *exclusive_evidence(head, logits, seen), grams, truth, sure, false_rate, margin)
        return replace(fitted, split=_split(fitted, [row.text for row in validation if row.routes], encode, false_rate))
    return _several(shown, head, logits, truth, sure, margin)


def _examples(rows: Sequence[Labelled]) -> dict[Route, list[str]]:
    """Texts by route; of rows with several routes each has the text, behind those that are its alone."""
    found: dict[Route, list[str]] = {}
    for row in sorted(rows, key=lambda row: len(row.routes)):
        for route in row.routes:
            found.setdefault(route, []).append(row.text)
    return found


def _median_similarity(shown: Utterances, seen: Floats, truth: NDArray[np.bool_]) -> float:
    """How near to its route's nearest utterance half of the messages are."""
    starts = shown.starts
    found = [shown.nearest(int(at), vector, starts)[0] for vector, row in zip(seen, truth, strict=True) for at in np.flatnonzero(row)]
    return float(np.median(found))


def _platt(evidence: NDArray[np.floating], right: NDArray[np.bool_]) -> Calibration:
    """The logistic function of columns, standardised meanwhile, that says best how probable it is that a row is right."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = evidence.mean(0), np.maximum(evidence.std(0), 1e-6)
    if right.all() or not right.any():
        weights = np.ones(evidence.shape[1]) / scale
        bias = float(-(mean * weights).sum()) + (4.0 if right.all() else -4.0)
        return Calibration(tuple(map(float, weights)), bias)
    model = LogisticRegression(C=1.0, max_iter=500).fit((evidence - mean) / scale, right)
    weights = model.coef_[0] / scale
    return Calibration(tuple(map(float, weights)), float(model.intercept_[0] - (mean * weights).sum()))


def _threshold(confidence: NDArray[np.float64], inside: NDArray[np.bool_], false_rate: float) -> float:
    """The highest confidence that at most `false_rate` of what is in scope is below."""
    return float(np.quantile(confidence[inside], false_rate, method="lower")) if inside.any() else 0.5


@dataclass(frozen=True, slots=True)
class _Best:
    """The likeliest route of each row, whether it is right, and what the logit of the likeliest one of another adapter is beside its own."""

    at: NDArray[np.intp]
    right: NDArray[np.bool_]
    next_one: Floats
    lead: Floats

    @classmethod
    def of(cls, logits: Floats, truth: NDArray[np.bool_], shown: Utterances) -> _Best:
        """From the logits of routes (n, routes)."""
        owners, everyone, at = np.array([adapter for adapter, _ in shown.routes]), np.arange(len(truth)), logits.argmax(1)
        next_one = np.where(owners[at][:, None] == owners[None], -np.inf, logits).max(1)
        return cls(at, np.asarray(truth[everyone, at]), next_one, logits[everyone, at] - next_one)


@dataclass(frozen=True, slots=True)
class _Grams:
    """What n-grams alone say of rows: what speaks for their best routes, these, and whether each row is one clause."""

    evidence: Floats
    best: _Best
    of_one_clause: NDArray[np.bool_]

    def cascade(self, rows: NDArray[np.bool_], chosen: NDArray[np.intp], least: float) -> Cascade:
        """By `rows` alone: the probability, `least` or more, from which n-grams decide otherwise than `chosen` (-1 for no route) in DIFFERENT of them at most."""
        calibration = _platt(self.evidence[rows], self.best.right[rows])
        confidence = calibration(self.evidence[rows])
        differ = np.sort(confidence[self.of_one_clause[rows] & (self.best.at[rows] != chosen)])
        allowed = int(DIFFERENT * rows.sum())
        return Cascade(calibration, max(least, SURE, float(np.nextafter(differ[-allowed - 1], 2)) if len(differ) > allowed else 0.0))

    def decided(self, cascade: Cascade, rows: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which of `rows` it decides, and how probable it holds the best route of each."""
        confidence = cascade.calibration(self.evidence[rows])
        return self.of_one_clause[rows] & (confidence >= cascade.bar), confidence


def _exclusive(
    shown: Utterances, head: Head | None, evidence: Floats, logits: Floats, grams: _Grams | None, truth: NDArray[np.bool_], sure: float, false_rate: float, margin: float
) -> Fitted:
    from semantic_router.calibration import ece

    count, inside, best = len(truth), np.asarray(truth.any(1)), _Best.of(logits, truth, shown)

    def calibrated(rows: NDArray[np.bool_]) -> tuple[Calibration, float, Cascade | None]:
        calibration = _platt(evidence[rows], best.right[rows])
        confidence = calibration(evidence[rows])
        threshold = _threshold(confidence, inside[rows], false_rate)
        chosen = np.where(confidence < threshold, -1, best.at[rows])
        return calibration, threshold, None if grams is None else grams.cascade(rows, chosen, threshold)

    confidence, second_confidence, below, right, at_once = np.zeros(count), np.zeros(count), np.zeros(count, bool), best.right.copy(), np.zeros(count, bool)
    for half in _halves(count):
        calibration, threshold, cascade = calibrated(~half)
        confidence[half] = calibration(evidence[half])
        second_confidence[half] = calibration(best.next_one[half, None]) if head is None else confidence[half] * np.exp(-best.lead[half])
        below[half] = confidence[half] < threshold
        if grams is not None and cascade is not None:
            decided, probable = grams.decided(cascade, half)
            at_once[half] = decided
            confidence[half] = np.where(decided, probable, confidence[half])
            second_confidence[half] = np.where(decided, probable * np.exp(-grams.best.lead[half]), second_confidence[half])
            below[half] &= ~decided
            right[half] = np.where(decided, grams.best.right[half], right[half])
    close = ~below & (confidence - second_confidence < margin)
    report = Report(
        rows=count, out_of_scope_rows=int((~inside).sum()), exact=float(np.where(inside, right & ~below, below).mean()), best_is_right=float(right[inside].mean()),
        out_of_scope_recall=float(below[~inside].mean()) if (~inside).any() else None, false_out_of_scope=float(below[inside].mean()), calibration_error=ece(confidence, right),
        ambiguous=float(close.mean()), right_if_ambiguous=float(right[close].mean()) if close.any() else None, without_encoder=float(at_once.mean()),
    )  # fmt: skip
    calibration, threshold, cascade = calibrated(np.ones(count, bool))
    return Fitted(shown, head, calibration, True, sure, threshold, 1.0, report, cascade)


def _several(shown: Utterances, head: Head, logits: Floats, truth: NDArray[np.bool_], sure: float, margin: float) -> Fitted:
    from semantic_router.calibration import ece

    def calibrated(rows: NDArray[np.bool_]) -> tuple[Calibration, float]:
        calibration = _platt(logits[rows].reshape(-1, 1), truth[rows].reshape(-1))
        found = calibration(logits[rows].reshape(-1, 1)).reshape(truth[rows].shape)
        return calibration, float(max(np.arange(0.1, 0.9, 0.02), key=lambda at: ((found >= at) == truth[rows]).all(1).mean()))

    probabilities, chosen, close = np.zeros(truth.shape), np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    for half in _halves(len(truth)):
        calibration, threshold = calibrated(~half)
        probabilities[half] = calibration(logits[half].reshape(-1, 1)).reshape(truth[half].shape)
        chosen[half] = probabilities[half] >= threshold
        close[half] = chosen[half] & (probabilities[half] < threshold + margin)
    inside, exact = truth.any(1), (chosen == truth).all(1)
    best = truth[np.arange(len(truth)), logits.argmax(1)]
    report = Report(
        rows=len(truth), out_of_scope_rows=int((~inside).sum()), exact=float(exact.mean()), best_is_right=float(best[inside].mean()),
        out_of_scope_recall=float((~chosen[~inside].any(1)).mean()) if (~inside).any() else None, false_out_of_scope=float((~chosen[inside].any(1)).mean()),
        calibration_error=ece(probabilities.reshape(-1), truth.reshape(-1)), ambiguous=float(close.any(1).mean()), right_if_ambiguous=float(exact[close.any(1)].mean()) if close.any() else None,
    )  # fmt: skip
    calibration, threshold = calibrated(np.ones(len(truth), bool))
    return Fitted(shown, head, calibration, False, sure, threshold, threshold, report)


def _split(fitted: Fitted, texts: Sequence[str], encode: Encode, false_rate: float) -> float:
    """The score from which a clause is an intent of its own, so that at most `false_rate` of the messages with one intent, `texts`, are taken for several."""
    scorer, seconds = fitted.scorer(), []
    for text in texts:
        parts = clauses(text)
        if len(parts) < 2:
            continue
        best: dict[Route, float] = {}
        for part, scores in zip(parts, scorer.score(parts, encode(parts)), strict=True):
            route, match = max(scores.items(), key=lambda item: item[1].score)
            if asks(part, match, fitted.sure):
                best[route] = max(best.get(route, 0.0), match.score)
        if len(best) > 1:
            seconds.append(sorted(best.values())[-2])
    allowed = int(false_rate * len(texts))
    return max(fitted.threshold, float(np.nextafter(sorted(seconds)[-allowed - 1], 2)) if len(seconds) > allowed else 0.0)


def _halves(count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    half = np.random.default_rng(0).permutation(count) < count // 2
    return half, ~half
