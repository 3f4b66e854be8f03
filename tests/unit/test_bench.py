"""The benchmark suite: its arithmetic, and the section whose figures do not depend on the machine."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.bench import engine
from tests.bench.figures import HEADINGS, Curve, Figure, Goal, curve_rows, exponent, in_unit, ratios, rows
from tests.bench.rig import Rig, cpu_ms

if TYPE_CHECKING:
    from pathlib import Path


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


def test_curve_is_a_table_that_says_with_which_power_it_grows() -> None:
    curve = Curve(
        "look", "ms", "VMs", {"ours": {10: (1.0, 3.0, 2.0), 100: (200.0,)}, "other": {100: (5.0,)}}, "bound"
    )
    assert curve.sizes == (10, 100)
    assert curve_rows(curve) == [
        ("look, ms", "10 VMs", "100 VMs", "grows at last as"),
        ("ours", "2", "200", "n^2.00"),
        ("other", "", "5", ""),
    ]
    assert curve.as_json()["lines"] == {
        "ours": {"10": [1.0, 3.0, 2.0], "100": [200.0]},
        "other": {"100": [5.0]},
    }


def test_exponent_is_that_of_the_last_two_sizes() -> None:
    assert exponent({1: (9.0,), 10: (1.0,), 100: (10.0,)}) == pytest.approx(1)


def test_runs_take_turns_and_the_first_round_only_warms_up() -> None:
    log: list[str] = []

    def run(name: str) -> int:
        log.append(name)
        return len(log)

    measured = Rig(rounds=2).in_turns({name: partial(run, name) for name in ("a", "b")})
    assert log == ["a", "b"] * 3
    assert measured == {"a": (3, 5), "b": (4, 6)}


def test_profile_of_a_section_names_its_functions(tmp_path: Path) -> None:
    with Rig(profiles=tmp_path).profiled("section-x"):
        ratios([1.0], [2.0])
    assert "(ratios)" in (tmp_path / "section-x.txt").read_text(encoding="utf-8")


def test_cpu_time_of_a_process_is_what_it_says_itself() -> None:
    before_ms = time.process_time() * 1000
    said_ms = cpu_ms(os.getpid())
    assert before_ms <= said_ms <= time.process_time() * 1000


def test_engine_reaches_its_goals_in_all_cases_of_squeezeds_weakness() -> None:
    figures = list(engine.figures())
    assert len(figures) == 16
    assert [figure.name for figure in figures if figure.verdict != "pass"] == []
    assert all(figure.peers for figure in figures)
