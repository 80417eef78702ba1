"""In which number type training computes: bfloat16 where the machine is faster at it, else float32.

Processors that have bfloat16 instructions are not always faster with them: of two, each with AVX-512 BF16, one was twice as fast and the other
half as fast as in float32 (docs/benchmarks.md).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

ROWS, INNER, COLUMNS = 1024, 256, 1024
REPEATS = 12
WORTH = 1.2
"""It must be faster by so much."""
NOTE = "precision"


def uses_bfloat16(folder: Path) -> bool:
    """What the training whose checkpoints are in `folder` computes in: measured once and noted there, since one that is gone on with must not change it, and beside other work a measurement hangs on chance."""
    note = folder / NOTE
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(f".{os.getpid()}")
        part.write_text("bfloat16" if is_bfloat16_faster() else "float32")
        with contextlib.suppress(FileExistsError):  # of processes that share a training the first one decides
            note.hardlink_to(part)
        part.unlink()
    return note.read_text() == "bfloat16"


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
