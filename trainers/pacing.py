"""Whether trainings may go on beside serving, and the processes that are stopped where they may not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psutil

from runtime.project import Gpu
from runtime.pulse import Pulse

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 60.0
CALM_SECONDS = 30.0
"""Who goes on for so long before answers are slow again was no fault of theirs: the next pause is a short one."""


class Pacer:
    """By what serving says of itself. Pure."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._stopped_at: float | None = None
        self._went_on_at = 0.0
        self._pause = PAUSE_SECONDS

    def stop(self, pulse: Pulse | None, now: float) -> str | None:
        """Why trainings must stop at `now`, in epoch seconds; None where they may go on."""
        if pulse is None or self._gpu.share == "separate":
            reason = None
        elif self._gpu.share == "sleep":
            reason = "serving answers" if pulse.in_flight or now - pulse.last_asked < self._gpu.quiet_seconds else None
        else:
            reason = self._slow(pulse, now)
        if reason is None and self._stopped_at is not None:
            self._went_on_at = now
        self._stopped_at = None if reason is None else now if self._stopped_at is None else self._stopped_at
        return reason

    def _slow(self, pulse: Pulse, now: float) -> str | None:
        """Stops while answers are slow, and then for a while: as soon as trainings stop they are not slow any more."""
        is_slow = pulse.p99_ms is not None and pulse.p99_ms > self._gpu.max_p99_ms
        if self._stopped_at is None and is_slow:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS) if self._went_on_at and now - self._went_on_at < CALM_SECONDS else PAUSE_SECONDS
        elif self._stopped_at is None or (not is_slow and now - self._stopped_at >= self._pause):
            return None
        return f"answers take up to {pulse.p99_ms:,.0f} ms, {self._gpu.max_p99_ms:,} allowed" if is_slow else "answers have just been slow"


def pause(pid: int) -> None:
    """Stops the process and all below it."""
    _each(pid, psutil.Process.suspend)


def resume(pid: int) -> None:
    """Lets them go on."""
    _each(pid, psutil.Process.resume)


def _each(pid: int, act: Callable[[psutil.Process], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                act(one)
