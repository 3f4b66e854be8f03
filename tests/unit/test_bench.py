"""The benchmark suite: its arithmetic, and the section whose figures do not depend on the machine."""

from __future__ import annotations

import pytest

from tests.bench import engine
from tests.bench.figures import HEADINGS, Figure, Goal, in_unit, rows


@pytest.mark.parametrize(
    ("goal", "good", "bad", "text"),
    [
        (Goal(most=0.1), 0.1, 0.2, "<= 0.1"),
        (Goal(least=0.6), 0.6, 0.59, ">= 0.6"),
        (Goal(least=1492.5, most=1507.5), 1500, 1508, "1492 to 1508"),
    ],
)
def test_goal_is_met_up_to_its_bounds(goal: Goal, good: float, bad: float, text: str) -> None:
    assert goal.is_met(good)
    assert not goal.is_met(bad)
    assert goal.text == text


def test_figure_is_the_median_of_its_rounds_beside_its_peers() -> None:
    figure = Figure("wait", "ms", (3.0, 1.0, 20.0), Goal(most=2), (("other", "5 ms"),))
    assert rows([figure]) == [("wait", "3 ms", "1 to 20", "<= 2", "miss", "other: 5 ms")]
    assert len(HEADINGS) == len(rows([figure])[0])
    assert figure.as_json() == {
        "name": "wait",
        "unit": "ms",
        "value": 3.0,
        "values": [3.0, 1.0, 20.0],
        "goal": {"least": None, "most": 2},
        "verdict": "miss",
        "peers": {"other": "5 ms"},
    }


def test_figure_without_a_goal_is_only_shown() -> None:
    assert Figure("size", "MiB", (1.0,)).verdict == ""


@pytest.mark.parametrize(("value", "text"), [(0.12345, "0.123 s"), (12345.6, "12346 s"), (2.0, "2 s")])
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert in_unit(value, "s") == text


def test_engine_reaches_its_goals_in_all_cases_of_squeezeds_weakness() -> None:
    figures = list(engine.figures())
    assert len(figures) == 16
    assert [figure.name for figure in figures if figure.verdict != "pass"] == []
    assert all(figure.peers for figure in figures)
