"""Which figures are better or worse than in a former report, beyond how far the rounds lie apart."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.bench.figures import Figure, Goal, in_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEADINGS: Final = ("section", "figure", "before", "now", "now / before", "")

BETTER: Final = "better"
WORSE: Final = "worse"
OTHER: Final = "other"
"""Has changed, and nobody said which way is good."""


def compare(
    now: Mapping[str, Sequence[Figure]], before: Mapping[str, Any]
) -> list[tuple[str, str, str, str, str, str]]:
    """Set the figures that both reports have side by side.

    Args:
        now: figures by section.
        before: a former report, as it was written.

    Returns:
        Cells of a table under `HEADINGS`; the last one is empty where the rounds of before and now overlap.
    """
    return [
        (
            section,
            figure.name,
            in_unit(median(values), figure.unit),
            in_unit(figure.value, figure.unit),
            f"{figure.value / median(values):.3g}" if median(values) else "",
            judge(figure, values),
        )
        for section, figure, values in _pairs(now, before["sections"])
    ]


def judge(figure: Figure, before: Sequence[float]) -> str:
    """Say ``better``, ``worse`` or ``other`` of a figure whose rounds all lie on one side of those before."""
    if min(figure.values) <= max(before) and min(before) <= max(figure.values):
        return ""
    is_more = figure.value > median(before)
    match figure.goal:
        case Goal(least=float() | int(), most=None):
            return BETTER if is_more else WORSE
        case Goal(least=None, most=float() | int()):
            return WORSE if is_more else BETTER
        case None if figure.unit:
            return WORSE if is_more else BETTER
    return OTHER


def _pairs(
    now: Mapping[str, Sequence[Figure]], before: Mapping[str, Any]
) -> Iterator[tuple[str, Figure, list[float]]]:
    for section, figures in now.items():
        known = {each["name"]: each for each in before.get(section, ())}
        for figure in figures:
            former = known.get(figure.name)
            if former is not None and former["unit"] == figure.unit:
                yield section, figure, former["values"]
