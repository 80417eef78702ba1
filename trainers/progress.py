"""What a run says of itself as it trains."""

from __future__ import annotations

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


def reporter(report: Report, tokens: Sequence[int]) -> Any:
    """A callback that reports each time a trainer logs; `tokens[n]` are those of step n, without padding."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
            self._step, self._at = state.global_step, time.monotonic()

        def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: object) -> None:
            step, now = state.global_step, time.monotonic()
            if not logs or "loss" not in logs or step <= self._step:
                return
            rate = sum(tokens[self._step : step]) / max(now - self._at, 1e-6)
            report(Moment(step, state.max_steps, float(logs["loss"]), rate, sum(tokens[step:]) / rate if rate else 0.0, memory_bytes()))
            self._step, self._at = step, now

    return Reporter()


def memory_bytes() -> int:
    """Of the GPU at its peak, else of this process now."""
    import psutil
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else psutil.Process().memory_info().rss
