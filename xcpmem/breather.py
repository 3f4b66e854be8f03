"""Letting others have their turn in the middle of long work: there is one loop, and domains are many."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WORK_S: Final = 0.005
"""Nobody waits much longer than this and one step of the work; less would cost more than it gives."""


class Breather:
    """Knows how long the loop has been held.

    Args:
        clock: monotonic seconds of real time, since work takes no other.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = clock()

    async def pause(self) -> None:
        """Between two steps of the work: see whether it is time for others."""
        if self._clock() - self._since_s >= WORK_S:
            await asyncio.sleep(0)
            self._since_s = self._clock()
