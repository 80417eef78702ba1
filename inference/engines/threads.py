"""How many threads a step of the engine has on a CPU: one or all, whichever takes less time for so many tokens.

A step of a small model is hundreds of short products, and at the end of each its threads wait for one another: to wake one that sleeps takes as long as such a product, and one that does not sleep keeps a
core from who reads and writes requests (docs/decisions/0013-the-engine-on-a-cpu.md).
"""

from __future__ import annotations

import statistics
from collections import defaultdict

TURN, TURNS = 4, 2
"""Steps behind one another by one thread, then as many by all, since the first of these have to wake them; and how often, after which it is known who takes less."""
WORTH = 0.9
"""Of one thread's time, at most, has to be what all take: they have the other cores for it."""
KNOWN_FOR = 4096
"""Steps, after which it is looked at anew: others may want the cores now, or no longer."""


class Threads:
    """How many threads, one or `most`, a step has: of each size (tokens between two powers of two) the first steps have one and all by turns, and those after them what took less (median)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._took: defaultdict[int, dict[int, list[float]]] = defaultdict(lambda: {1: [], most: []})
        self._known: dict[int, tuple[int, int]] = {}
        """Threads of a size, and how many steps more they are known for."""

    def of(self, tokens: int) -> int:
        """Threads of a step of so many tokens, which comes now."""
        size = tokens.bit_length()
        if size in self._known:
            threads, left = self._known.pop(size)
            if left:
                self._known[size] = threads, left - 1
            return threads
        took = self._took[size]
        return min(took, key=lambda threads: len(took[threads]) // TURN)

    def took(self, tokens: int, threads: int, seconds: float) -> None:
        """Notes what such a step took."""
        size = tokens.bit_length()
        if size in self._known:
            return
        took = self._took[size]
        took[threads].append(seconds / tokens)
        if min(map(len, took.values())) >= TURN * TURNS:
            alone, together = statistics.median(took[1]), statistics.median(took[self.most])
            self._known[size] = self.most if together <= WORTH * alone else 1, KNOWN_FOR
            del self._took[size]

    def known(self) -> dict[int, int]:
        """Threads by size, of which it is known: the most tokens of each."""
        return {2**size - 1: threads for size, (threads, _) in sorted(self._known.items())}
