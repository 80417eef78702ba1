"""How hard serving works, for the trainings that share its machine: a small file that each serving process rewrites."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

WINDOW_SECONDS = 10.0
"""Answers of this time count."""
STALE_SECONDS = 5.0
"""A file that is older is that of a process that has ended."""
WRITE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Pulse:
    """At `at`, in epoch seconds: the 99th percentile of the last answers' times, in milliseconds, None without any; how many are being made; when one was last asked for."""

    at: float
    p99_ms: float | None
    in_flight: int
    last_asked: float


class PulseWriter:
    """Keeps `file` up to date. `clock` gives epoch seconds."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file, self._clock = file, clock
        self._answers = deque[tuple[float, float]]()
        self._in_flight, self._last_asked, self._written = 0, 0.0, 0.0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around an answer. Who asks after a silence is told of at once: trainings make room for him."""
        began = self._last_asked = self._clock()
        self._in_flight += 1
        if self._in_flight == 1 and began - self._written > WRITE_SECONDS / 4:
            self.write()
        try:
            yield
        finally:
            self._in_flight -= 1
            ended = self._clock()
            self._answers.append((ended, ended - began))

    def pulse(self) -> Pulse:
        """What is so now."""
        now = self._clock()
        while self._answers and self._answers[0][0] < now - WINDOW_SECONDS:
            self._answers.popleft()
        times = sorted(seconds for _, seconds in self._answers)
        return Pulse(now, times[int(0.99 * (len(times) - 1) + 0.5)] * 1000 if times else None, self._in_flight, self._last_asked)

    def write(self) -> None:
        """Rewrites the file."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self.pulse())), encoding="utf-8")
        partial.rename(self._file)
        self._written = self._clock()

    async def run(self, stop: asyncio.Event) -> None:
        """Rewrites it until `stop` is set, then takes it away."""
        try:
            while not stop.is_set():
                self.write()
                await asyncio.sleep(WRITE_SECONDS)
        finally:
            self._file.unlink(missing_ok=True)


def read_pulses(folder: Path, now: float) -> Pulse | None:
    """What the serving processes that write to `folder` say together at `now`; None where there is none."""
    found = []
    for file in folder.glob("*.json"):
        try:
            pulse = Pulse(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # gone meanwhile, or foreign
        if now - pulse.at < STALE_SECONDS:
            found.append(pulse)
    if not found:
        return None
    slowest = max((pulse.p99_ms for pulse in found if pulse.p99_ms is not None), default=None)
    return Pulse(max(pulse.at for pulse in found), slowest, sum(pulse.in_flight for pulse in found), max(pulse.last_asked for pulse in found))
