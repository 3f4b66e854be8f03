"""What the suite measures: figures with their goals and peers, and curves by size; as tables and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
            return f"<= {write_number(self.most)}"
        if self.most is None:
            return f">= {write_number(self.least)}"
        return f"{write_number(self.least)} to {write_number(self.most)}"


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
        return f"{write_number(min(self.values))} to {write_number(max(self.values))}"

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


Line: TypeAlias = "Mapping[int, tuple[float, ...]]"
"""What was measured at each size: one value for each round."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How a figure grows.

    Args:
        name: what.
        unit: of all values.
        sizes_of: what there are more and more of.
        lines: by whose they are; ours first.
        bound: a sentence on what bounds it.
    """

    name: str
    unit: str
    sizes_of: str
    lines: Mapping[str, Line]
    bound: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes that were measured, the least first."""
        return tuple(sorted({size for line in self.lines.values() for size in line}))

    def as_json(self) -> dict[str, Any]:
        """Give plain data for the report."""
        return {
            "name": self.name,
            "unit": self.unit,
            "sizes_of": self.sizes_of,
            "lines": {
                whose: {str(size): list(values) for size, values in line.items()}
                for whose, line in self.lines.items()
            },
            "bound": self.bound,
        }


def exponent(line: Line) -> float:
    """Tell with which power of the size a line ends: 1 for straight, 2 for a square.

    Args:
        line: of at least two sizes, all values above 0.
    """
    before, last = sorted(line)[-2:]
    return math.log(median(line[last]) / median(line[before])) / math.log(last / before)


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Divide round by round."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


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


def curve_rows(curve: Curve) -> list[tuple[str, ...]]:
    """Write a curve as the cells of a table, its headings first."""
    headings = (f"{curve.name}, {curve.unit}", *(f"{size:,} {curve.sizes_of}" for size in curve.sizes))
    return [
        (*headings, "grows at last as"),
        *(
            (
                whose,
                *(write_number(median(line[size])) if size in line else "" for size in curve.sizes),
                f"n^{exponent(line):.2f}" if len(line) > 1 else "",
            )
            for whose, line in curve.lines.items()
        ),
    ]


def in_unit(value: float, unit: str) -> str:
    """Write a value as people read it."""
    return f"{write_number(value)} {unit}".rstrip()


def write_number(value: float | None) -> str:
    """Write a number with the digits that mean something."""
    if value is None:
        return ""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"
