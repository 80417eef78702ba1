"""How far `loom bench train` goes to reach the loss of TRL's side."""

from __future__ import annotations

import pytest

from loom.bench.train import Trained, to_loss


@pytest.mark.parametrize(("floor", "steps", "loss"), [(0.0, 144, 100 / 144), (0.9, 300, 0.9)], ids=["reached", "never reached"])
def test_more_steps_are_tried_until_the_loss_is_reached_or_three_times_as_many_did_not(floor: float, steps: int, loss: float) -> None:
    made, taken = to_loss(0.7, lambda _, steps: Trained(1.0, max(floor, 100 / steps)), 1e-3, 100)
    assert taken == steps
    assert made.loss == pytest.approx(loss)
