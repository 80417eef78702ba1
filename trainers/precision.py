"""In which number type training computes: bfloat16 where the machine is faster at it, else float32."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from runtime.precision import is_bfloat16_faster

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
