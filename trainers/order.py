"""In which order a run sees its examples: a function of their lengths and the seed, so that a run that dies goes on with the same. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

POOL_BATCHES = 50
FEWEST_POOLS = 4
"""Rows of like length are sought among so many batches at a time, in a quarter of an epoch at most: enough to pad little, few enough to stay random."""


def training_order(lengths: Sequence[int], batch: int, rows: int, seed: int) -> list[int]:
    """Places in `lengths`, `rows` of them: epoch after epoch shuffled, in batches of like length, which come in no order.

    Source: the pools of transformers' `LengthGroupedSampler`, whose order hangs on the random state at the time.
    """
    order: list[int] = []
    epochs = math.ceil(rows / len(lengths)) if lengths else 0
    for epoch in range(epochs):
        rng, places = random.Random(f"{seed}:{epoch}"), list(range(len(lengths)))
        rng.shuffle(places)
        size = batch * max(1, min(POOL_BATCHES, len(places) // (batch * FEWEST_POOLS)))
        alike = [place for at in range(0, len(places), size) for place in sorted(places[at : at + size], key=lambda place: lengths[place])]
        *batches, last = [alike[at : at + batch] for at in range(0, len(alike), batch)]
        rng.shuffle(batches)
        order += [place for rows_alike in (*batches, last) for place in rows_alike]
    return order[:rows]


def tokens_of_steps(order: Sequence[int], lengths: Sequence[int], batch: int) -> list[int]:
    """How many tokens each step of `batch` rows sees."""
    return [sum(lengths[place] for place in order[at : at + batch]) for at in range(0, len(order), batch)]
