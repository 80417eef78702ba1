"""How a step is shared, and who is told."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidInput
from trainers.conditions import Conditions, missing_trackers
from trainers.together import share_of


def test_a_step_is_shared_equally_or_not_at_all() -> None:
    assert share_of(16, Conditions(processes=4)) == 4
    with pytest.raises(InvalidInput, match="a step of 16 rows can't be shared equally by 3 processes"):
        share_of(16, Conditions(processes=3))


def test_a_tracker_that_is_not_there_is_named() -> None:
    assert missing_trackers(()) == []
    assert missing_trackers(("tensorboard", "nobody's")) == ["nobody's"]
