"""In which order a run sees its examples: a function of their lengths and the seed, so that a run that dies goes on with the same. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate, pairwise


def training_order(lengths: Sequence[int], batch: int, rows: int, seed: int) -> list[int]:
    """Places in `lengths`, `rows` of them: epoch after epoch shuffled, and within each step of `batch` by length, so that what is in memory at once is alike.

    Steps of rows of like length would pad less and learn less: examples of one length are of one kind, and each step would learn that kind alone (docs/benchmarks.md).
    """
    order: list[int] = []
    for epoch in range(math.ceil(rows / len(lengths)) if lengths else 0):
        places = list(range(len(lengths)))
        random.Random(f"{seed}:{epoch}").shuffle(places)
        order += places
    return [place for at in range(0, rows, batch) for place in sorted(order[at : min(at + batch, rows)], key=lambda place: lengths[place])]


def drawn(weights: Sequence[float], seed: int) -> list[int]:
    """As many places of `weights` as there are, each as often as its share of their sum says, up to rounding by chance: the mean of what is drawn is the weighted mean.

    Source: Kitagawa 1996, Monte Carlo Filter and Smoother, Journal of Computational and Graphical Statistics 5(1), appendix (stratified and deterministic resampling).
    """
    step = sum(weights) / max(1, len(weights))
    if not step:
        return list(range(len(weights)))
    offset = random.Random(seed).random()
    ends = [end / step for end in accumulate(weights)]
    return [place for place, (first, last) in enumerate(pairwise([0.0, *ends[:-1], float(len(weights))])) for _ in range(math.ceil(last - offset) - math.ceil(first - offset))]


def tokens_of_steps(order: Sequence[int], lengths: Sequence[int], batch: int) -> list[int]:
    """How many tokens each step of `batch` rows sees."""
    return [sum(lengths[place] for place in order[at : at + batch]) for at in range(0, len(order), batch)]
