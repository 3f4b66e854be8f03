"""The fast rig of the policy suite beside the real planner: the same cases lose about as much time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.policies.cases import make_case
from tests.bench.policies.columns import OURS
from tests.bench.policies.kills import KILLS, run_with_kills
from tests.bench.policies.marks import PRESSURE, PROPORTIONAL
from tests.bench.policies.ring import run_in_ring
from tests.bench.policies.runs import run_once


@pytest.mark.parametrize(("name", "duration_s"), [("hoard", 120.0), ("cache", 120.0), ("phase", 620.0)])
def test_the_real_planner_loses_about_as_much_as_the_rig(name: str, duration_s: float) -> None:
    case = replace(make_case(name, 3), duration_s=duration_s)
    for policy, column in (("proportional", PROPORTIONAL), ("pressure", PRESSURE)):
        real = run_in_ring(case, policy)
        assert (real.overcommit_kib, real.broken) == (0, [])
        assert real.stall_pct == pytest.approx(
            run_once(case, OURS[column], 3)["stall_pct"], rel=0.25, abs=0.05
        )


def test_a_dead_balloon_is_set_aside_by_the_real_planner_too() -> None:
    case = replace(make_case("stuck", 3), duration_s=300.0)
    assert run_in_ring(case, "pressure").broken == []


@pytest.mark.parametrize("policy", ["proportional", "shares", "pressure"])
def test_no_reservation_is_lost_when_the_daemon_dies_while_memory_moves(policy: str) -> None:
    run = run_with_kills(make_case("burst", 3), policy)
    assert run.acknowledged + run.cut_off == KILLS
    assert run.acknowledged > KILLS // 2
    assert (run.lost, run.overcommit_kib, run.below_slush_kib, run.broken) == (0, 0, 0, [])
