"""How far `loom bench train` goes to reach the loss of TRL's side."""

from __future__ import annotations

import pytest

from loom.bench.train import RATES, Trained, _best, mean_loss, to_loss


@pytest.mark.parametrize(("floor", "steps", "loss"), [(0.0, 144, 100 / 144), (0.9, 300, 0.9)], ids=["reached", "never reached"])
def test_more_steps_are_tried_until_the_loss_is_reached_or_three_times_as_many_did_not(floor: float, steps: int, loss: float) -> None:
    made, taken = to_loss(0.7, lambda steps: [Trained(1.0, max(floor, 100 / steps) + luck) for luck in (-0.1, 0.1)], 100, 300)
    assert taken == steps
    assert mean_loss(made) == pytest.approx(loss)


@pytest.mark.parametrize(("learned_by_heart", "wanted"), [(False, (RATES[1], 150)), (True, (RATES[1], 60))])
def test_a_side_takes_the_rate_and_the_steps_that_serve_it_best(learned_by_heart: bool, wanted: tuple[float, int]) -> None:
    def side(rate: float, steps: int, seed: int) -> Trained:
        return Trained(1.0, abs(rate - RATES[1]) + (steps if learned_by_heart else 1 / steps))

    assert _best(side, 150) == wanted
