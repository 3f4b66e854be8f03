"""How long each stage of some work took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Stopwatch:
    """Runs from its making on; each stage begins where the one before ended.

    Args:
        clock: monotonic seconds of real time, since work takes no other.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = clock()
        self.stages_s: dict[str, float] = {}
        """By name, as far as they are over."""

    def end(self, stage: str) -> None:
        """Note that a stage is over."""
        now_s = self._clock()
        self.stages_s[stage] = round(now_s - self._since_s, 6)
        self._since_s = now_s
