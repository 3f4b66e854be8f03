"""Counts calls: how each was answered, and how long it took.

Every call is counted, and few are scraped, so counting is as little as it can be: the client library would
take a lock for each of three numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SUCCESS: Final = "success"
HUNG_UP: Final = "hung_up"
"""How a call ended: with its result, or broken off because its client had gone. Else by the error's code."""


@dataclass(slots=True)
class Durations:
    """How long the calls of a method took.

    Args:
        numbers: of calls that took no longer than each bound and longer than the one before; at last of those
            that took longer than all.
        sum_s: of all.
    """

    numbers: list[int]
    sum_s: float = 0.0

    def cumulated(self) -> tuple[int, ...]:
        """Give the numbers of calls that took no longer than each bound; at last of all calls."""
        return tuple(accumulate(self.numbers))


class CallTally:
    """All calls since the daemon started; noted in the loop, read from any thread.

    Args:
        bounds_s: of durations, rising, seconds.
    """

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._answers: dict[tuple[str, str], int] = {}
        self._durations: dict[str, Durations] = {}
        self.noted = 0
        """How many there were."""

    def note(self, method: str, status: str, duration_s: float) -> None:
        """Count a call.

        Args:
            method: its name.
            status: how it was answered.
            duration_s: seconds, 0 or more.
        """
        self.noted += 1
        answer = (method, status)
        self._answers[answer] = self._answers.get(answer, 0) + 1
        durations = self._durations.get(method)
        if durations is None:
            durations = self._durations[method] = Durations([0] * (len(self._bounds_s) + 1))
        durations.numbers[bisect_left(self._bounds_s, duration_s)] += 1
        durations.sum_s += duration_s

    def answers(self) -> dict[tuple[str, str], int]:
        """Give the numbers of calls by method and status, in the order in which they first came."""
        return dict(self._answers)

    def durations(self) -> dict[str, Durations]:
        """Give how long calls took by method, in the order in which they first came."""
        return dict(self._durations)
