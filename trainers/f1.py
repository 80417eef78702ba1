"""F1 of any sample of answers, from what each answer adds to it. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tallies = NDArray[np.float64]
"""Of each answer and class: right, said, wanted: (answers, classes, 3)."""


def f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 of the classes that are wanted, from the sums of tallies over answers: (…, classes, 3) to (…). 0 where nothing is wanted."""
    right, said, wanted = np.moveaxis(sums, -1, 0)
    each = 2 * right / np.maximum(1, said + wanted)
    asked: NDArray[np.float64] = (wanted > 0).sum(axis=-1)
    mean: NDArray[np.float64] = np.where(wanted > 0, each, 0.0).sum(axis=-1) / np.maximum(1, asked)
    return mean
