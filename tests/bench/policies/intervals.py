"""Means over seeds, and how far they are to be trusted."""

from __future__ import annotations

from math import sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STUDENT_95: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t for a two-sided 95 % interval, by degrees of freedom from 1."""

NORMAL_95: Final = 1.96


class Interval(NamedTuple):
    """A mean and half the width of its 95 % interval; the width of a single value is 0."""

    mean: float
    half: float

    @property
    def text(self) -> str:
        """The same for people."""
        return f"{_short(self.mean)} ±{_short(self.half)}"


def interval(values: Sequence[float]) -> Interval:
    """Make the mean of independent values and its 95 % interval by Student's t.

    Args:
        values: at least one.
    """
    mean, freedom = fmean(values), len(values) - 1
    if freedom == 0:
        return Interval(mean, 0.0)
    factor = STUDENT_95[freedom - 1] if freedom <= len(STUDENT_95) else NORMAL_95
    return Interval(mean, factor * stdev(values) / sqrt(len(values)))


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"
