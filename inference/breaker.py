"""Whether a version is worth asking: one that answered what could not be read, again and again, is left alone for a while. Source: Nygard, "Release It!" (2007), circuit breaker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

LOOKED_AT = 20
"""Answers that it goes by."""
FAILED_OF_THEM = 16
PAUSE_SECONDS = 30.0


class Breaker:
    """Closed while the last answers were good enough; then open for a while, after which one answer decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers = deque[bool](maxlen=LOOKED_AT)
        self._open_until: float | None = None

    @property
    def seconds_left(self) -> float:
        """For how long nobody should ask; 0 when it may be asked. Who is told 0 when the pause is over asks for all, until it is known how that ended."""
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._clock()
        if left <= 0:
            self._open_until = self._clock() + PAUSE_SECONDS
            return 0.0
        return left

    def note(self, good: bool) -> None:
        """How an answer ended."""
        self._answers.append(good)
        if good and self._open_until is not None:
            self._open_until = None
            self._answers.clear()
        elif len(self._answers) - sum(self._answers) >= FAILED_OF_THEM:
            self._open_until = self._clock() + PAUSE_SECONDS
