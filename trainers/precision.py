"""In which number type training computes: bfloat16 where the machine is faster at it, else float32.

Processors that have bfloat16 instructions are not always faster with them: of two, each with AVX-512 BF16, one was twice as fast and the other
half as fast as in float32 (docs/benchmarks.md).
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

ROWS, INNER, COLUMNS = 1024, 256, 1024
REPEATS = 12
WORTH = 1.2
"""It must be faster by so much: the choice should not hang on chance, since a run that is gone on with must make it again."""


@cache
def is_bfloat16_faster() -> bool:
    """Whether this machine's GPU has bfloat16, or its processor multiplies faster in it; measured once a process, in a tenth of a second."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    sides = {kind: (torch.ones(ROWS, INNER, dtype=kind), torch.ones(INNER, COLUMNS, dtype=kind)) for kind in (torch.float32, torch.bfloat16)}
    spent = [{kind: seconds_of(*pair) for kind, pair in sides.items()} for _ in range(REPEATS)]
    best = {kind: min(one[kind] for one in spent) for kind in sides}
    return best[torch.float32] > WORTH * best[torch.bfloat16]


def seconds_of(left: Any, right: Any) -> float:
    """How long a product of two matrices takes."""
    began = time.perf_counter()
    float((left @ right)[0, 0])  # a GPU has ended when the number is here
    return time.perf_counter() - began
