"""Which number type is faster is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from runtime import precision


@pytest.mark.parametrize(("ratio", "faster"), [(0.5, True), (0.95, False), (2.0, False)])
def test_bfloat16_is_taken_where_it_is_clearly_faster(ratio: float, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "seconds_of", lambda left, *_: ratio if left.dtype is torch.bfloat16 else 1.0)
    precision.is_bfloat16_faster.cache_clear()
    assert precision.is_bfloat16_faster() is faster
    precision.is_bfloat16_faster.cache_clear()


def test_it_is_measured_on_the_machine_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[torch.dtype] = []
    seconds_of = precision.seconds_of

    def noted(left: Any, right: Any, clock: Callable[[], float]) -> float:
        timed.append(left.dtype)
        return seconds_of(left, right, clock)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "seconds_of", noted)
    precision.is_bfloat16_faster.cache_clear()
    precision.is_bfloat16_faster()
    assert set(timed) == {torch.float32, torch.bfloat16}
    assert precision.is_bfloat16_faster() == precision.is_bfloat16_faster()
    assert len(timed) == 2 * precision.REPEATS, "once a process"
