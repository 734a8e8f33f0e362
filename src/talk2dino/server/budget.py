"""A bound on something that requests hold for a while, such as the pixels of decoded images."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """Lets holders in one after the other while there is room; one alone may hold more than all of it.

    Args:
        total: how much all holders together may hold.
    """

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def holding(self, amount: int) -> AsyncIterator[None]:
        """Wait for room, in the order of the calls, and give it back at the end."""
        place = asyncio.get_running_loop().create_future()
        self._queue.append((amount, place))
        self._admit()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self.used -= amount
            self._admit()

    def _admit(self) -> None:
        while self._queue:
            amount, place = self._queue[0]
            if not place.done():
                if self.used and self.used + amount > self.total:
                    return
                self.used += amount
                place.set_result(None)
            self._queue.popleft()
