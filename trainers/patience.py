"""How a run waits for what it can't do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import stamina

P = ParamSpec("P")
T = TypeVar("T")


def patient(*failures: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Has a function called again, with jitter, as long as it raises one of `failures`."""
    return stamina.retry(on=failures, attempts=None, timeout=None, wait_initial=0.5, wait_max=15.0)
