"""How much better one version is than another on the same examples, at least. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainers.evaluate import Evaluation
from trainers.f1 import Tallies, f1

RESAMPLES = 2000
ONE_SIDE = 0.025


def paired_lower_bound(ours: Evaluation, theirs: Evaluation) -> float:
    """95 % lower bound of how much higher the metric of `ours` is: of a mean by normal approximation, of an F1 by the paired bootstrap."""
    if ours.count < 2:
        return -math.inf
    if ours.tallies is None or theirs.tallies is None:
        return _of_means(ours.each, theirs.each)
    return _of_f1(ours.tallies, theirs.tallies)


def _of_means(ours: Sequence[float], theirs: Sequence[float]) -> float:
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return mean - 1.96 * math.sqrt(variance / len(differences))


def _of_f1(ours: Tallies, theirs: Tallies) -> float:
    """The percentile of the differences on samples of the same examples, drawn with replacement. Source: Berg-Kirkpatrick et al. 2012, An Empirical Investigation of Statistical Significance in NLP, section 2."""
    count = len(ours)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    ours_f1, theirs_f1 = (f1((drawn @ tallies.reshape(count, -1)).reshape(RESAMPLES, *tallies.shape[1:])) for tallies in (ours, theirs))
    return float(np.quantile(ours_f1 - theirs_f1, ONE_SIDE))
