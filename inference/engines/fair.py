"""Whose request is next: start-time fair queuing over adapters.

Source: Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996); for requests to language models Sheng et al., "Fairness in Serving Large Language Models" (2024).
"""

from __future__ import annotations

import heapq
from collections import Counter

MOST_PRIORITY = 8
UNIT = 1 << MOST_PRIORITY


class FairOrder:
    """Gives each request of an adapter a tag; the least is next. An adapter's tags go up by the cost of its requests, and begin where those that are in flight are: who floods waits for
    himself, who comes after being silent does not wait for the flood, and a tag once given is passed by in the end: no priority starves another."""

    def __init__(self) -> None:
        self._after: dict[tuple[str | None, int], int] = {}
        self._open: Counter[int] = Counter()
        self._least: list[int] = []
        self._now = 0

    def enter(self, adapter: str | None, cost: int, priority: int = 0) -> int:
        """The tag of a request of `adapter`, which costs so many tokens. Requests of one adapter and one priority wait for one another; each step of priority makes them cost half."""
        priority = max(-MOST_PRIORITY, min(MOST_PRIORITY, priority))
        tag = max(self._virtual_time(), self._after.get((adapter, priority), 0))
        self._after[adapter, priority] = tag + max(1, round(UNIT * cost * 2.0**-priority))
        self._open[tag] += 1
        heapq.heappush(self._least, tag)
        return tag

    def leave(self, tag: int) -> None:
        """The request has ended."""
        self._open[tag] -= 1
        now = self._virtual_time()
        if not self._least:
            self._after = {}
        elif len(self._after) > 2 * len(self._least):
            self._after = {queue: after for queue, after in self._after.items() if after > now}

    def _virtual_time(self) -> int:
        """The least tag in flight; while there is none, the last one that was."""
        while self._least and not self._open[self._least[0]]:
            self._now = self._least[0]
            del self._open[heapq.heappop(self._least)]
        if self._least:
            self._now = self._least[0]
        return self._now
