"""What no rule can avoid that keeps its promises: on needs made by hand, and beside rules that keep them."""

from __future__ import annotations

from typing import Final

import pytest

from tests.bench.policies.bounds import FairOracle
from tests.bench.policies.cases import Case, CaseGuest, Turn, Voice, make_case
from tests.bench.policies.columns import COLUMNS
from tests.bench.policies.marks import PRESSURE
from tests.bench.policies.promises import Least, figures_of_promises, least_of
from tests.bench.policies.record import Record, figures_of
from tests.bench.policies.rig import Circumstances, Rig
from tests.bench.policies.runs import run_once
from xcpmem.units import mib_to_kib
from xcpmem.xen.workload import Need

GIB: Final = mib_to_kib(1024)
STARVED_PCT: Final = 100 * 20 / 21
"""What a guest loses with half of its hot memory out."""


def guest(*needs_kib: int, voice: Voice = Voice.ASKED, rate_kib_s: int = GIB) -> CaseGuest:
    """One of 0 to 4 GiB whose need changes every 100 s."""
    return CaseGuest(
        turns=tuple(Turn(100.0 * i, Need(need_kib)) for i, need_kib in enumerate(needs_kib)),
        dynamic_min_kib=0,
        voice=voice,
        grows_kib_s=rate_kib_s,
        shrinks_kib_s=rate_kib_s,
    )


def least(*guests: CaseGuest, budget_gib: int = 2) -> Least:
    """Compute the least of a case of 200 s."""
    case = Case(name="made", guests=guests, duration_s=200.0, budget_kib=budget_gib * GIB)
    return least_of(case)


def test_a_dead_balloon_and_a_silent_guest_lose_what_they_need_beyond_their_shares() -> None:
    assert least(guest(GIB, 2 * GIB, rate_kib_s=0), guest(0)) == pytest.approx(
        (STARVED_PCT / 4, 0, 0), abs=1e-3
    )
    assert least(guest(GIB, 2 * GIB, voice=Voice.SILENT), guest(0)) == pytest.approx(
        (0, STARVED_PCT / 4, 0), abs=1e-3
    )


def test_who_speaks_may_have_what_others_do_not_need() -> None:
    assert least(guest(2 * GIB), guest(0)).all_pct == 0


@pytest.mark.parametrize("voice", [Voice.SILENT, Voice.OLD])
def test_what_nobody_can_know_to_be_idle_helps_nobody(voice: Voice) -> None:
    found = least(guest(2 * GIB), guest(0, voice=voice))
    assert found == pytest.approx((0, 0, STARVED_PCT / 2), abs=1e-3)


def test_an_old_agents_guest_would_spare_others_if_its_need_were_known() -> None:
    guests = (guest(2 * GIB), guest(0, voice=Voice.OLD))
    case = Case(name="made", guests=guests, duration_s=200.0, budget_kib=2 * GIB)
    assert least_of(case, sees_old=True).all_pct == 0


def test_memory_that_lacks_for_all_is_best_given_whole() -> None:
    needs = [guest(2 * GIB), guest(2 * GIB), guest(0)]
    assert least(*needs, budget_gib=3).all_pct == pytest.approx(STARVED_PCT / 3, abs=1e-3)


@pytest.mark.parametrize(("name", "seed"), [("osmix", 1), ("osmix", 2), ("stuck", 1)])
def test_no_rule_that_keeps_the_promises_loses_less(name: str, seed: int) -> None:
    case = make_case(name, seed)
    least_pct = least_of(case).all_pct
    record = Record(from_s=case.from_s)
    Rig(case, FairOracle(), Circumstances(), record, seed).run()
    fair_pct = figures_of(record, case)["stall_pct"]
    assert least_pct <= fair_pct + 0.005
    assert fair_pct <= run_once(case, COLUMNS[PRESSURE], seed)["stall_pct"]


def test_the_bounds_say_why() -> None:
    osmix, stuck = figures_of_promises([3])
    assert osmix.name.startswith("osmix")
    assert [why for why, _ in osmix.peers] == ["dead", "silent", "lacking"]
    assert stuck.value > 0
