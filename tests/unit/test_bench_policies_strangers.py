"""Workloads that were made after the policies: what everybody may expect of ``pressure`` on any workload."""

from __future__ import annotations

import pytest

from tests.bench.policies.columns import COLUMNS
from tests.bench.policies.marks import PRESSURE, PROPORTIONAL
from tests.bench.policies.runs import run_all
from tests.bench.policies.seeds import HELD_OUT, TUNING
from tests.bench.policies.strangers import FRESH, STRANGERS, make_stranger
from tests.bench.policies.verdicts import STATIC_SPLIT, safety_of, strangers_of


def test_the_seeds_are_nobody_elses() -> None:
    assert not set(FRESH) & {*TUNING, *HELD_OUT}
    assert len(FRESH) >= 10


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_the_same_for_the_same_seed(name: str) -> None:
    case = make_stranger(name, 7)
    assert case == make_stranger(name, 7)
    assert case != make_stranger(name, 8)
    for guest in case.guests:
        times_s = [turn.at_s for turn in guest.turns]
        assert times_s[0] == guest.starts_s
        assert times_s == sorted(times_s)


@pytest.mark.parametrize("name", STRANGERS)
def test_pressure_hurts_nobody_and_comes_to_rest(name: str) -> None:
    columns = {title: COLUMNS[title] for title in (PROPORTIONAL, PRESSURE, STATIC_SPLIT)}
    results = run_all([name], columns, [2])
    judged = (*strangers_of(results), *safety_of(results))
    assert [found.name for found in judged if found.verdict == "miss"] == []
