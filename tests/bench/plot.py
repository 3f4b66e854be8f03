"""Draws curves as SVG: both axes logarithmic, so that a straight line's slope is the power it grows with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from tests.bench.figures import write_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.figures import Curve, Line

WIDTH: Final = 640
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
COLOURS: Final = ("#0b5cad", "#b3470f", "#4b7f1e", "#7a3e9d", "#555555")
LABEL_GAP: Final = 15
"""Names at the ends of lines stand at least so far apart."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Places on a logarithmic axis.

    Args:
        low: the power of ten where it begins.
        high: the power of ten where it ends.
        start: the place of the begin, pixels.
        end: the place of the end, pixels; less than the start on an axis that goes up.
    """

    low: int
    high: int
    start: float
    end: float

    def place(self, value: float) -> float:
        """Give the place of a value above 0."""
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> tuple[float, ...]:
        """The powers of ten."""
        return tuple(10.0**power for power in range(self.low, self.high + 1))


def draw(curve: Curve) -> str:
    """Draw a curve of which all sizes and values are above 0."""
    values = [value for line in curve.lines.values() for each in line.values() for value in each]
    across = _axis([float(size) for size in curve.sizes], LEFT, WIDTH - RIGHT)
    up = _axis(values, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, f"{curve.name}, {curve.unit}", "start", "#000"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, curve.sizes_of, "middle", "#333"),
        *_grid(across, up),
    ]
    names_at: list[float] = []
    for (whose, line), colour in zip(curve.lines.items(), COLOURS, strict=False):
        parts += _line(line, across, up, colour)
        last = max(line)
        at = _free_place(up.place(median(line[last])) + 4, names_at)
        names_at.append(at)
        parts.append(_text(across.place(last) + 8, at, whose, "start", colour))
    return "\n".join([*parts, "</svg>", ""])


def _axis(values: list[float], start: float, end: float) -> Axis:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axis(low, max(high, low + 1), start, end)


def _grid(across: Axis, up: Axis) -> Iterator[str]:
    for tick in across.ticks:
        x = across.place(tick)
        yield _stroke(x, up.start, x, up.end, "#ddd")
        yield _text(x, up.start + 18, f"{tick:,.0f}", "middle", "#333")
    for tick in up.ticks:
        y = up.place(tick)
        yield _stroke(across.start, y, across.end, y, "#ddd")
        yield _text(across.start - 8, y + 4, write_number(tick), "end", "#333")


def _line(line: Line, across: Axis, up: Axis, colour: str) -> Iterator[str]:
    """Draw the medians as dots on a line, and the spread of the rounds as whiskers."""
    dots = [(across.place(size), up.place(median(line[size]))) for size in sorted(line)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for (x, y), size in zip(dots, sorted(line), strict=True):
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
        yield _stroke(x, up.place(min(line[size])), x, up.place(max(line[size])), colour)


def _free_place(at: float, taken: list[float]) -> float:
    """Move a name down until it covers no other."""
    for other in sorted(taken):
        if abs(other - at) < LABEL_GAP:
            at = other + LABEL_GAP
    return at


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="12">'
        f"{escape(text)}</text>"
    )
