"""Whether a machine computes faster in bfloat16 than in float32.

Processors that have bfloat16 instructions are not always faster with them: of two, each with AVX-512 BF16, one was twice as fast and the other
half as fast as in float32 (docs/benchmarks.md). So it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any

ROWS, INNER, COLUMNS = 1024, 256, 1024
REPEATS = 12
WORTH = 1.2
"""It must be faster by so much."""


@cache
def is_bfloat16_faster() -> bool:
    """Whether this machine's GPU has bfloat16, or its processor multiplies faster in it; measured once a process, in a tenth of a second."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    sides = {kind: (torch.ones(ROWS, INNER, dtype=kind), torch.ones(INNER, COLUMNS, dtype=kind)) for kind in (torch.float32, torch.bfloat16)}
    # of the processor's own time: on the clock, what runs beside it decided in a third of the cases
    spent = [{kind: seconds_of(*pair, time.process_time) for kind, pair in sides.items()} for _ in range(REPEATS)]
    usual = {kind: median(one[kind] for one in spent) for kind in sides}
    return usual[torch.float32] > WORTH * usual[torch.bfloat16]


def seconds_of(left: Any, right: Any, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a product of two matrices takes by `clock`."""
    began = clock()
    float((left @ right)[0, 0])  # a GPU has ended when the number is here
    return clock() - began
