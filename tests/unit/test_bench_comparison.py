"""Comparing with a former report: better or worse only beyond the spread, and where that has a meaning."""

from __future__ import annotations

import pytest

from tests.bench.comparison import HEADINGS, compare, judge
from tests.bench.figures import Figure, Goal

BEFORE = (10.0, 12.0, 11.0)


@pytest.mark.parametrize(
    ("values", "unit", "goal", "verdict"),
    [
        ((8.0, 9.0), "ms", Goal(most=5), "better"),
        ((13.0, 14.0), "ms", Goal(most=5), "worse"),
        ((8.0, 10.5), "ms", Goal(most=5), ""),
        ((13.0, 14.0), "", Goal(least=5), "better"),
        ((8.0, 9.0), "", Goal(least=5), "worse"),
        ((8.0, 9.0), "ms", None, "better"),
        ((8.0, 9.0), "", None, "other"),
        ((8.0, 9.0), "MiB", Goal(least=10, most=12), "other"),
    ],
)
def test_figure_is_judged_by_its_goal(
    values: tuple[float, ...], unit: str, goal: Goal | None, verdict: str
) -> None:
    assert judge(Figure("f", unit, values, goal), BEFORE) == verdict


def test_only_figures_that_both_reports_have_are_compared() -> None:
    now = {
        "calls": [Figure("call", "ms", (5.0, 7.0, 6.0)), Figure("new", "ms", (1.0,))],
        "more": [Figure("call", "ms", (1.0,))],
    }
    before = {
        "sections": {"calls": [Figure("call", "ms", BEFORE).as_json(), Figure("gone", "", (1.0,)).as_json()]}
    }
    assert compare(now, before) == [("calls", "call", "11 ms", "6 ms", "0.545", "better")]
    assert len(HEADINGS) == 6


def test_figure_whose_unit_has_changed_is_another_figure() -> None:
    before = {"sections": {"calls": [Figure("call", "s", BEFORE).as_json()]}}
    assert compare({"calls": [Figure("call", "ms", (5.0,))]}, before) == []
