"""At most so many requests at once, the others in a fair order: for engines that keep none themselves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inference.engines.fair import FairOrder


class FairGate:
    """`capacity` requests pass at once; of those that wait the next is whose adapter has had least."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._inside = capacity, 0
        self._order, self._waiting, self._count = FairOrder(), list[tuple[int, int, asyncio.Future[None]]](), itertools.count()

    @property
    def capacity(self) -> int:
        """How many pass at once; may change while requests wait."""
        return self._capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        self._capacity = capacity
        self._let_in()

    @asynccontextmanager
    async def turn(self, adapter: str | None, cost: int, priority: int = 0) -> AsyncIterator[None]:
        """Waits for its turn, then holds a place; `cost` is in tokens."""
        tag = self._order.enter(adapter, cost, priority)
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (tag, next(self._count), place))
        self._let_in()
        try:
            await place
            yield
        finally:
            self._order.leave(tag)
            if place.done() and not place.cancelled():
                self._inside -= 1
                self._let_in()
            else:
                place.cancel()

    def _let_in(self) -> None:
        while self._waiting and self._inside < self._capacity:
            *_, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                self._inside += 1
