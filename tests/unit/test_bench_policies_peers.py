"""Peers of the policy suite: their formulas against the figures that the study gives of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.bench.policies.bounds import FairOracle, Oracle, StaticSplit
from tests.bench.policies.cases import CaseGuest, Turn, Voice
from tests.bench.policies.peers import Esx, Mom, Proxmox, Qmemman, Squeezed
from tests.bench.policies.rig import Seat, weighted_share
from xcpmem.specs import AgentKind, AgentSpec
from xcpmem.xen.simagent import SimAgent
from xcpmem.xen.workload import Need, Slowness, comfort_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB: Final = 1024
GIB: Final = 1024 * MIB
NOTHING: Final = Need(0)


def seat(number: int, size_kib: int, need: Need = NOTHING, **facts: Any) -> Seat:
    """A guest of 0 to 8 GiB with an agent, unless said otherwise."""
    values = {"dynamic_min_kib": 0, "dynamic_max_kib": 8 * GIB} | facts
    made = Seat(number, CaseGuest(turns=(Turn(0.0, need),), **values), size_kib, 1.0)
    made.need = need
    made.comfort = comfort_of(need, size_kib, Slowness())
    made.agent = SimAgent(AgentSpec(kind=AgentKind.EVENTS), 0)
    return made


@pytest.mark.parametrize(
    ("tax", "active_mb", "sizes_mb"),
    [
        (0.0, (40, 256), (180, 180)),
        (0.25, (40, 256), (160, 200)),
        (0.5, (40, 256), (133.3, 226.7)),
        (0.75, (40, 256), (104, 256)),
        (0.9, (40, 256), (104, 256)),
        (0.25, (80, 240), (165.7, 194.3)),
        (0.75, (80, 240), (120, 240)),
        (0.9, (80, 240), (108, 252)),
    ],
)
def test_esx_divides_360_mb_as_waldspurgers_formula_does(
    tax: float, active_mb: tuple[int, int], sizes_mb: tuple[float, float]
) -> None:
    seats = [seat(number, 256 * MIB, dynamic_max_kib=256 * MIB) for number in range(2)]
    active = {number: active_mb[number] / 256 for number in range(2)}
    sizes_kib = Esx(tax=tax).divide(360 * MIB, seats, active)
    assert [size_kib / MIB for size_kib in sizes_kib] == pytest.approx(sizes_mb, abs=0.1)


@pytest.mark.parametrize(("tax", "sizes_mb"), [(0.0, (750, 250)), (0.75, (471, 529)), (0.9, (300, 700))])
def test_esx_taxes_a_rich_guest_that_is_idle(tax: float, sizes_mb: tuple[int, int]) -> None:
    seats = [seat(0, 1000 * MIB, weight=3), seat(1, 1000 * MIB)]
    sizes_kib = Esx(tax=tax).divide(1000 * MIB, seats, {0: 0.1, 1: 0.9})
    assert [size_kib / MIB for size_kib in sizes_kib] == pytest.approx(sizes_mb, abs=1)


def test_esx_samples_100_pages_so_that_its_estimate_has_noise() -> None:
    esx, one = Esx(seed=1), seat(0, 2 * GIB, Need(GIB))
    esx.decide(0.0, [one], 2 * GIB)
    estimates = []
    for turn in range(1, 20):
        esx.decide(30.0 * turn, [one], 2 * GIB)
        estimates.append(esx._active[0])
    assert 0.5 < sum(estimates) / len(estimates) < 0.65
    assert len(set(estimates)) > 5


def test_qmemman_hands_out_the_surplus_by_what_each_prefers() -> None:
    seats = [seat(0, 2 * GIB, Need(GIB)), seat(1, 2 * GIB, Need(2 * GIB))]
    targets = Qmemman().decide(0.0, seats, 6 * GIB)
    assert targets is not None
    prefs = [1.3 * GIB, 2.6 * GIB]
    more = 1 + (6 * GIB - 50 * MIB - sum(prefs)) / sum(prefs)
    assert [targets[0], targets[1]] == pytest.approx([0.999 * pref * more for pref in prefs], abs=3)


def test_qmemman_in_want_takes_what_is_above_preference_and_never_from_below_it() -> None:
    donor, hungry, below = seat(0, 2 * GIB, Need(GIB)), seat(1, GIB, Need(2 * GIB)), seat(2, GIB, Need(GIB))
    budget_kib = 4 * GIB + 50 * MIB
    targets = Qmemman().decide(0.0, [donor, hungry, below], budget_kib)
    assert targets is not None
    freed_kib = 2 * GIB - GIB * 13 // 10
    assert targets[0] == GIB * 13 // 10
    assert targets[1] - GIB == pytest.approx(freed_kib * 2 / 3, abs=3)
    assert targets[2] - GIB == pytest.approx(freed_kib / 3, abs=3)


def test_qmemman_hears_of_steps_of_30_000_kib_only() -> None:
    qmemman, one, other = Qmemman(), seat(0, 4 * GIB, Need(GIB)), seat(1, 2 * GIB, Need(GIB))
    assert qmemman.decide(0.0, [one, other], 6 * GIB) is not None
    one.need = Need(GIB + 29_000)
    assert qmemman.decide(0.5, [one, other], 6 * GIB) is None
    one.need = Need(3 * GIB)
    assert qmemman.decide(1.0, [one, other], 6 * GIB) is not None


def test_qmemman_refuses_a_start_that_the_surplus_does_not_cover() -> None:
    qmemman, one = Qmemman(), seat(0, 2 * GIB, Need(GIB))
    qmemman.decide(0.0, [one], 2 * GIB)
    assert qmemman.admits(700 * MIB, [one], 50 * MIB)
    assert not qmemman.admits(800 * MIB, [one], 50 * MIB)


def test_proxmox_moves_at_most_100_mib_in_a_cycle_of_ten_seconds() -> None:
    proxmox = Proxmox()
    seats = [seat(0, 2 * GIB), seat(1, 2 * GIB)]
    assert proxmox.decide(0.0, seats, 6 * GIB) == {0: 2 * GIB + 100 * MIB, 1: 2 * GIB + 100 * MIB}
    assert proxmox.decide(5.0, seats, 6 * GIB) is None


def test_proxmox_converges_to_shares_of_what_is_above_the_minimum() -> None:
    proxmox = Proxmox()
    seats = [seat(0, GIB, weight=1), seat(1, GIB, weight=3)]
    for cycle in range(200):
        for number, target_kib in (proxmox.decide(10.0 * cycle, seats, 6 * GIB) or {}).items():
            seats[number].goal_kib = seats[number].size_kib = target_kib
    assert [each.size_kib / GIB for each in seats] == pytest.approx([1.5, 4.5], abs=0.01)


def test_proxmox_leaves_ten_mib_alone() -> None:
    assert Proxmox().decide(0.0, [seat(0, 2 * GIB)], 2 * GIB + 10 * MIB) is None


@pytest.mark.parametrize(("sample_s", "low_gib", "high_gib"), [(10.0, 2.46, 4.31), (5.0, 2.75, 3.67)])
def test_moms_stock_rules_swing_for_ever_at_constant_demand(
    sample_s: float, low_gib: float, high_gib: float
) -> None:
    host_kib, mom = 16 * GIB, Mom(host_kib=16 * GIB, sample_s=sample_s)
    seats = [seat(number, 2 * GIB, Need(int(1.5 * GIB)), dynamic_min_kib=512 * MIB) for number in range(4)]
    sizes_gib, moved_kib = [], 0
    for step in range(4800):
        targets = mom.decide(0.5 * step, seats, host_kib) or {}
        for number, target_kib in targets.items():
            moved_kib += abs(target_kib - seats[number].size_kib) if step >= 3600 else 0
            seats[number].size_kib = seats[number].goal_kib = target_kib
        sizes_gib.append(seats[0].size_kib / GIB)
    late = sizes_gib[3600:]
    assert min(late) == pytest.approx(low_gib, abs=0.3)
    assert max(late) == pytest.approx(high_gib, abs=0.35)
    assert moved_kib == pytest.approx(38.9 * GIB, rel=0.15)


def test_squeezed_gives_all_one_proportion_every_ten_seconds() -> None:
    squeezed = Squeezed()
    seats = [seat(0, GIB, dynamic_max_kib=2 * GIB), seat(1, GIB, dynamic_max_kib=4 * GIB)]
    assert squeezed.decide(0.0, seats, 3 * GIB) == {0: GIB, 1: 2 * GIB}
    assert squeezed.decide(9.5, seats, 3 * GIB) is None
    assert squeezed.decide(10.0, seats, 3 * GIB) is not None
    assert squeezed.decide(10.5, seats, 2 * GIB) is not None


def test_a_static_split_is_made_once_and_keeps_room_for_who_comes_later() -> None:
    split, seats = StaticSplit(starts_kib=GIB), [seat(0, GIB), seat(1, GIB)]
    assert split.decide(0.0, seats, 5 * GIB) == {0: 2 * GIB, 1: 2 * GIB}
    assert split.decide(10.0, seats, 9 * GIB) is None


def test_the_oracle_knows_what_comes_in_the_next_half_minute() -> None:
    one, other = seat(0, GIB, Need(GIB)), seat(1, 3 * GIB, Need(GIB))
    one.guest = CaseGuest(turns=(Turn(0.0, Need(GIB)), Turn(20.0, Need(3 * GIB))), dynamic_max_kib=8 * GIB)
    one.turn = 1
    targets = Oracle().decide(0.0, [one, other], 4 * GIB)
    assert targets == {0: 3 * GIB, 1: GIB}


def test_the_oracle_in_want_serves_the_smallest_whole() -> None:
    seats = [seat(0, GIB, Need(3 * GIB)), seat(1, GIB, Need(2 * GIB))]
    assert Oracle().decide(0.0, seats, 4 * GIB) == {0: 2 * GIB, 1: 2 * GIB}


def test_the_fair_oracle_in_want_takes_nobodys_share() -> None:
    seats = [seat(0, GIB, Need(3 * GIB)), seat(1, GIB, Need(2 * GIB)), seat(2, GIB, Need(GIB))]
    assert Oracle().decide(0.0, seats, 5 * GIB) == {0: 2 * GIB, 1: 2 * GIB, 2: GIB}
    heavy = [seat(0, GIB, Need(3 * GIB), weight=3), *seats[1:]]
    assert FairOracle().decide(0.0, heavy, 5 * GIB) == {0: 3 * GIB, 1: GIB, 2: GIB}


@pytest.mark.parametrize("voice", [Voice.SILENT, Voice.OLD])
def test_the_fair_oracle_leaves_those_whose_need_nobody_says_at_their_share(voice: Voice) -> None:
    seats = [seat(0, GIB, Need(3 * GIB)), seat(1, GIB, Need(GIB), voice=voice)]
    assert FairOracle().decide(0.0, seats, 4 * GIB) == {0: 2 * GIB, 1: 2 * GIB}
    assert Oracle().decide(0.0, seats, 4 * GIB) == {0: 3 * GIB, 1: GIB}


@pytest.mark.parametrize(
    ("weights", "sizes_gib"), [((1, 1, 1), (2, 2, 2)), ((1, 2, 3), (1, 2, 3)), ((1, 1, 7), (1, 1, 4))]
)
def test_entitlements_are_by_weight_and_stop_at_the_most_a_guest_may_have(
    weights: Sequence[int], sizes_gib: Sequence[int]
) -> None:
    guests = [CaseGuest(turns=(), dynamic_min_kib=0, dynamic_max_kib=4 * GIB, weight=w) for w in weights]
    assert weighted_share(6 * GIB, guests) == [size_gib * GIB for size_gib in sizes_gib]


def test_entitlements_of_equal_weights_are_xcps_shares() -> None:
    guests = [CaseGuest(turns=(), dynamic_min_kib=n * GIB, dynamic_max_kib=3 * n * GIB) for n in (1, 2)]
    assert weighted_share(6 * GIB, guests) == [2 * GIB, 4 * GIB]
    assert weighted_share(20 * GIB, guests) == [3 * GIB, 6 * GIB]
    assert weighted_share(GIB, guests) == [GIB, 2 * GIB]
    assert all(low <= high for low, high in pairwise(weighted_share(7 * GIB, guests)))
