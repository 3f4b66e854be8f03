"""Time that passes only when a test says so, for code that takes its clock and its sleep from outside."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

SETTLE = 20
"""So many turns of the loop let everything happen that needs no time."""


class VirtualTime:
    """A clock, and sleepers who wake when it gets there."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic_s(self) -> float:
        """Tell the time."""
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        """Wait until so much time has been made to pass."""
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + seconds, next(self._order), wake))
        await wake

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(SETTLE):
            await asyncio.sleep(0)

    async def run(self, seconds: float) -> None:
        """Let time pass, waking sleepers one after the other at their moments."""
        end_s = self.now_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self.now_s, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.set_result(None)
            await self.settle()
        self.now_s = end_s
