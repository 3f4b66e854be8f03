"""What the suite measures: figures with their goals and peers, as a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must reach; misses are shown and fail nothing.

    Args:
        least: the lowest good value, None if there is no such.
        most: the highest good value, None if there is no such.
    """

    least: float | None = None
    most: float | None = None

    def is_met(self, value: float) -> bool:
        """Tell whether a value lies within."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def text(self) -> str:
        """The same for people."""
        if self.least is None:
            return f"<= {_number(self.most)}"
        if self.most is None:
            return f">= {_number(self.least)}"
        return f"{_number(self.least)} to {_number(self.most)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured.

    Args:
        name: what.
        unit: of ``values``; empty for ratios and counts.
        values: one for each round; a single one where chance has no part.
        goal: what it must reach, None where it is only shown.
        peers: what others need for the same, in words with units; by name.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    goal: Goal | None = None
    peers: tuple[tuple[str, str], ...] = ()

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    @property
    def spread(self) -> str:
        """How far the rounds lie apart, for people."""
        if len(self.values) == 1:
            return "exact"
        return f"{_number(min(self.values))} to {_number(max(self.values))}"

    @property
    def verdict(self) -> str:
        """``pass``, ``miss``, or empty without a goal."""
        if self.goal is None:
            return ""
        return "pass" if self.goal.is_met(self.value) else "miss"

    def as_json(self) -> dict[str, Any]:
        """Give plain data for the report."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "values": list(self.values),
            "goal": None if self.goal is None else {"least": self.goal.least, "most": self.goal.most},
            "verdict": self.verdict,
            "peers": dict(self.peers),
        }


HEADINGS = ("figure", "measured", "spread", "goal", "", "beside")


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Write figures as the cells of a table, under `HEADINGS`."""
    return [
        (
            figure.name,
            in_unit(figure.value, figure.unit),
            figure.spread,
            "" if figure.goal is None else figure.goal.text,
            figure.verdict,
            "; ".join(f"{name}: {text}" for name, text in figure.peers),
        )
        for figure in figures
    ]


def in_unit(value: float, unit: str) -> str:
    """Write a value as people read it."""
    return f"{_number(value)} {unit}".rstrip()


def _number(value: float | None) -> str:
    """Write a number with the digits that mean something."""
    if value is None:
        return ""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"
