"""Figures of the policy suite on traces made by hand, and that a run is the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.bench.policies.cases import CASES, RAMP_S, Case, CaseGuest, Turn, Voice, make_case
from tests.bench.policies.columns import OURS
from tests.bench.policies.intervals import interval
from tests.bench.policies.marks import MARKS, PRESSURE
from tests.bench.policies.peers import Squeezed
from tests.bench.policies.record import Record, figures_of, jain
from tests.bench.policies.rig import Circumstances, Rig, Seat
from tests.bench.policies.runs import BOUNDS, PEERS, Column, most_starts_kib, run_all, run_once
from tests.bench.policies.seeds import HELD_OUT, TUNING
from xcpmem.specs import AgentKind
from xcpmem.xen.workload import Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.policies.rig import Controller

MIB: Final = 1024
GIB: Final = 1024 * MIB


class Puppet:
    """A controller that says what a test wants, by time."""

    name = "puppet"

    def __init__(self, *plans: tuple[float, Mapping[int, int]]) -> None:
        self._plans = list(plans)

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        if self._plans and self._plans[0][0] <= now_s:
            return self._plans.pop(0)[1]
        return None

    def admits(self, size_kib: int, seats: Sequence[Seat], free_kib: int) -> bool:
        return True


def figures(*plans: tuple[float, Mapping[int, int]], needs: Sequence[int], **facts: Any) -> dict[str, float]:
    """Run two guests of 1 to 3 GiB, 2 GiB each, by a puppet's plans."""
    guests = tuple(
        CaseGuest(
            turns=(Turn(0.0, Need(need_kib)),),
            dynamic_min_kib=GIB,
            dynamic_max_kib=3 * GIB,
            voice=Voice.SILENT,
        )
        for need_kib in needs
    )
    values: dict[str, Any] = {"name": "made", "duration_s": 100.0, "budget_kib": 4 * GIB} | facts
    case = Case(guests=guests, **values)
    record = Record(from_s=case.from_s)
    Rig(case, Puppet(*plans), Circumstances(), record).run()
    return figures_of(record, case)


def test_stall_is_the_mean_over_guests_and_time() -> None:
    found = figures(needs=[4 * GIB, GIB])
    lost_pct = 100 * 20 / 21
    assert found["stall_pct"] == pytest.approx(lost_pct / 2, abs=0.01)
    assert found["worst_guest_pct"] == found["p99_pct"] == pytest.approx(lost_pct, abs=0.01)
    assert found["progress_jain"] == pytest.approx((1 + 1 / 21) ** 2 / (2 * (1 + 1 / 21**2)), abs=1e-4)


def test_who_stalls_reads_a_page_back_each_tenth_of_a_millisecond() -> None:
    found = figures(needs=[4 * GIB, GIB])
    assert found["refaults_per_s"] == pytest.approx(10_000 * found["stall_pct"] / 100)


def test_what_is_lost_with_a_dead_balloon_is_told_apart() -> None:
    guests = tuple(
        CaseGuest(turns=(Turn(0.0, Need(4 * GIB)),), dynamic_min_kib=GIB, grows_kib_s=speed_kib_s)
        for speed_kib_s in (0, GIB)
    )
    record = Record()
    case = Case(name="made", guests=guests, duration_s=100.0, budget_kib=4 * GIB)
    Rig(case, Puppet(), Circumstances(), record).run()
    found = figures_of(record, case)
    assert found["dead_balloons_pct"] == pytest.approx(found["stall_pct"] / 2)


def test_writes_of_targets_are_counted_for_each_guest_and_hour() -> None:
    plans = [(10.0, {0: 3 * GIB, 1: GIB}), (20.0, {0: 3 * GIB, 1: 2 * GIB})]
    assert figures(*plans, needs=[GIB, GIB])["target_writes_per_h"] == pytest.approx(3 * 3600 / 200)


def test_memory_moves_at_the_balloons_speed_and_only_what_is_free() -> None:
    found = figures((10.0, {0: 3 * GIB, 1: GIB}), needs=[3 * GIB, GIB])
    assert found["overcommit_kib"] == 0
    assert found["moved_gib_per_h"] == pytest.approx(2 * 3600 / 100)
    assert found["useful"] == 0.5
    lost_s = found["stall_pct"] / 100 * 200
    assert 10 * 13.3 / 14.3 < lost_s < 10 + 5.5


def test_how_long_guests_hold_what_the_slush_is_for_is_counted() -> None:
    guests = [CaseGuest(turns=(), grows_kib_s=0, shrinks_kib_s=0) for _ in range(2)]
    case = Case(name="made", guests=tuple(guests), duration_s=10.0, budget_kib=4 * GIB)
    fits, exceeds = Record(), Record()
    for record, size_kib in ((fits, 2 * GIB), (exceeds, 2 * GIB + 1)):
        for step in range(6):
            record.note_step(step / 2, [Seat(n, g, size_kib, 1.0) for n, g in enumerate(guests)], case)
    assert (fits.below_slush_s, exceeds.below_slush_s) == (0.0, 3.0)
    assert exceeds.overcommit_kib == 2


def test_a_start_is_refused_falsely_if_the_oracle_grants_that_one() -> None:
    case = make_case("admission", 3)
    starts = sum(1 for guest in case.guests if guest.start_kib)
    refuses = run_once(case, Column(refusing), 3)
    assert refuses["refused_pct"] == 100.0
    assert refuses["false_refusals"] == starts
    crowded = replace(case, budget_kib=case.budget_kib // 5)
    assert run_once(crowded, Column(refusing), 3)["false_refusals"] < starts
    assert run_once(case, BOUNDS["oracle"], 3)["false_refusals"] == 0.0


def refusing(_case: Case, _seed: int) -> Controller:
    """Make one that lets nobody start."""

    class Refusing(Squeezed):
        def admits(self, size_kib: int, seats: Sequence[Seat], free_kib: int) -> bool:
            return False

    return Refusing()


def test_results_do_not_depend_on_how_many_run_at_a_time() -> None:
    columns = {title: {**PEERS, **OURS}[title] for title in ("ESX", PRESSURE)}
    alone = run_all(["step"], columns, [3, 4])
    assert run_all(["step"], columns, [3, 4], processes=2) == alone


def test_a_step_is_recovered_from_when_nobody_loses_more_than_five_percent() -> None:
    found = figures((10.0, {0: 3 * GIB, 1: GIB}), needs=[3 * GIB, GIB], step_s=1.0)
    assert found["recovery_s"] == pytest.approx(9 + 5.0, abs=0.5)


def test_a_reversal_is_a_change_of_direction_of_16_mib_after_ten_minutes() -> None:
    swings = [
        (t, {0: 2 * GIB - size_kib}) for t, size_kib in ((100.0, 99 * MIB), (200.0, 0), (700.0, 99 * MIB))
    ]
    small = [(800.0, {0: 2 * GIB - 90 * MIB}), (900.0, {0: 2 * GIB - 99 * MIB})]
    found = figures(*swings, *small, needs=[GIB, GIB], is_constant=True, duration_s=1000.0)
    assert found["reversals_per_h"] == pytest.approx(1 / (2 * 400 / 3600))
    assert found["largest_reversal_pct"] == pytest.approx(100 * 99 / 2048)
    assert found["moved_pct_per_10min"] == pytest.approx(100 * 117 / 4096 * 600 / 400, rel=1e-3)
    assert found["settled_s"] == 700.0


def test_plans_out_of_bounds_or_beyond_the_budget_are_counted() -> None:
    assert figures((1.0, {0: 4 * GIB}), needs=[0, 0])["bound_violations"] == 2
    assert figures((1.0, {0: 2 * GIB}), needs=[0, 0])["bound_violations"] == 0


def test_who_says_nothing_is_entitled_to_its_share() -> None:
    assert figures((1.0, {0: GIB}), needs=[0, 0])["entitlement_violations"] == 1
    assert figures((1.0, {0: 2 * GIB - 8 * MIB}), needs=[0, 0])["entitlement_violations"] == 0


def test_a_shrink_that_hurts_within_half_a_minute_is_a_regret() -> None:
    needs = [2 * GIB, GIB]
    assert figures((1.0, {0: 2 * GIB - 100 * MIB}), needs=needs)["regrets"] == 1
    assert figures((1.0, {1: 2 * GIB - 100 * MIB}), needs=needs)["regrets"] == 0


def test_jains_index_is_one_for_equals_and_one_in_n_for_a_monopoly() -> None:
    assert jain([3, 3, 3]) == 1.0
    assert jain([5, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 1.0


def test_an_interval_is_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / 3**0.5), abs=1e-3)
    assert interval([5.0]) == (5.0, 0.0)
    assert interval([1.0, 2.0, 3.0]).text == "2.00 ±2.48"


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_the_same_for_the_same_seed_and_fits_its_host(name: str) -> None:
    case = make_case(name, 7)
    assert case == make_case(name, 7)
    assert case != make_case(name, 8)
    there = [guest for guest in case.guests if not guest.start_kib]
    assert sum(guest.dynamic_min_kib for guest in there) + most_starts_kib(case) < case.budget_kib
    for guest in case.guests:
        assert guest.turns[0].at_s == guest.starts_s
        assert [turn.at_s for turn in guest.turns] == sorted(turn.at_s for turn in guest.turns)


def test_bursts_are_mostly_shorter_than_two_minutes_as_overdriver_saw() -> None:
    lengths_s = [
        after.at_s - turn.at_s
        for seed in TUNING
        for guest in make_case("burst", seed).guests
        for turn, after in zip(
            guest.turns[1 :: RAMP_S + 1], guest.turns[RAMP_S + 1 :: RAMP_S + 1], strict=False
        )
    ]
    assert len(lengths_s) > 100
    assert 0.83 < sum(length_s < 120 for length_s in lengths_s) / len(lengths_s) < 0.95


@pytest.mark.parametrize("title", [*PEERS, *BOUNDS])
def test_a_run_is_the_same_every_time(title: str) -> None:
    column = {**PEERS, **BOUNDS}[title]
    case = make_case("admission", 3)
    first = run_once(case, column, 3)
    assert first == run_once(case, column, 3)
    assert first["overcommit_kib"] <= 0


def test_a_run_hears_the_agents_of_its_circumstances_and_else_those_of_the_column() -> None:
    case = replace(make_case("phase", 3), duration_s=400.0)
    slow = Circumstances(agents=AgentKind.MEMINFO, period_s=60.0)
    ours, stock = OURS[PRESSURE], OURS["pressure, stock"]
    assert run_once(case, ours, 3, slow) == run_once(case, stock, 3)
    assert run_once(case, stock, 3, Circumstances()) == run_once(case, stock, 3)
    assert run_once(case, ours, 3, slow)["stall_pct"] > 2 * run_once(case, ours, 3)["stall_pct"]


def test_nobody_is_judged_by_the_seeds_that_it_was_tuned_on() -> None:
    assert not set(TUNING) & set(HELD_OUT)
    assert len(HELD_OUT) >= 10
    assert len(TUNING) >= 10


def test_marks_are_of_figures_that_runs_give() -> None:
    found = {}
    for name in {mark.case for mark in MARKS}:
        case = make_case(name, 1)
        short = replace(case, duration_s=case.from_s + 700.0)
        found[name] = run_once(short, PEERS["squeezed"], 1)
    assert [mark for mark in MARKS if mark.figure not in found[mark.case]] == []
