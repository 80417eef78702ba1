"""What a run says of itself as it trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Moment:
    """Steps done of steps planned, the loss of late, tokens a second since the moment before, seconds that are left at that
    pace, and bytes of memory: of the GPU at its peak, else of the process now."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    memory_bytes: int


Report = Callable[[Moment], None]


class Pace:
    """Reports of a trainer elsewhere, of which each logged loss is heard; `tokens[n]` are those of step n, without padding, `step` is where it begins."""

    def __init__(self, report: Report, tokens: Sequence[int], step: int = 0) -> None:
        self._report, self._tokens, self._step, self._at = report, tokens, step, time.monotonic()

    def at(self, step: int, loss: float, memory: int) -> None:
        """It has come to `step`, where it holds `memory` bytes; nothing where it was told so before."""
        if step <= self._step:
            return
        now = time.monotonic()
        rate = sum(self._tokens[self._step : step]) / max(now - self._at, 1e-6)
        self._report(Moment(step, len(self._tokens), loss, rate, sum(self._tokens[step:]) / rate if rate else 0.0, memory))
        self._step, self._at = step, now


def reporter(report: Report, tokens: Sequence[int]) -> Any:
    """A callback that reports each time a trainer logs; `tokens[n]` are those of step n, without padding."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
            self._pace = Pace(report, tokens, state.global_step)

        def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: object) -> None:
            if logs and "loss" in logs:
                self._pace.at(state.global_step, float(logs["loss"]), memory_bytes())

    return Reporter()


def memory_bytes() -> int:
    """Of the GPU at its peak, else of this process now."""
    import psutil
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else psutil.Process().memory_info().rss


def tree_bytes(pid: int) -> int:
    """Of a process and its children in memory now, as far as they are still there."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total
