"""Python's collector of reference cycles, for processes that handle many small records."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000


def collect_less() -> None:
    """Once a process has started: what is there now is not looked at any more, and new objects when there are 50,000, not 700.

    A record in flight is some hundred objects that go without it; looking at them all over and over took a quarter of a stream worker's time. Source: `gc.freeze`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
