"""The solver against the closed forms of the peers' study (section 4.2: Waldspurger's equilibria)."""

from __future__ import annotations

import pytest

from tests.builders import MIB, a_claim
from xcpmem.engine.policy import Claim
from xcpmem.engine.proportional import share
from xcpmem.engine.waterfill import Vessel, entitlements, fill


def two_vms(active: tuple[int, int], tax_percent: int) -> list[float]:
    """ESX's figure 7: two VMs of 256 MB with equal shares, 360 MB for both."""
    vessels = [Vessel(0, 0, 256 * MIB, 1, used * MIB) for used in active]
    return [size / MIB for size in fill(360 * MIB, vessels, tax_percent)]


@pytest.mark.parametrize(
    ("tax_percent", "idle_and_busy", "less_idle_and_busy"),
    [
        (0, (180, 180), (180, 180)),
        (25, (160, 200), (165.7, 194.3)),
        (50, (133.3, 226.7), (146.7, 213.3)),
        (75, (104, 256), (120, 240)),
        (90, (104, 256), (108, 252)),
    ],
)
def test_idle_memory_is_taxed_as_esx_taxes_it(
    tax_percent: int, idle_and_busy: tuple[float, float], less_idle_and_busy: tuple[float, float]
) -> None:
    assert two_vms((40, 256), tax_percent) == pytest.approx(idle_and_busy, abs=0.05)
    assert two_vms((80, 240), tax_percent) == pytest.approx(less_idle_and_busy, abs=0.05)


@pytest.mark.parametrize(("tax_percent", "rich", "poor"), [(0, 750, 250), (75, 471, 529), (90, 300, 700)])
def test_tax_lets_the_poor_and_busy_outgrow_the_rich_and_idle(tax_percent: int, rich: int, poor: int) -> None:
    vessels = [Vessel(0, 0, 1000 * MIB, 3, 100 * MIB), Vessel(0, 0, 1000 * MIB, 1, 900 * MIB)]
    sizes = fill(1000 * MIB, vessels, tax_percent)
    assert [size / MIB for size in sizes] == pytest.approx([rich, poor], abs=0.7)


def test_pull_says_how_fast_a_vessel_fills() -> None:
    assert fill(400, [Vessel(0, 0, 1000, 3, 1000), Vessel(0, 0, 1000, 1, 1000)]) == [300, 100]


def test_full_vessel_leaves_the_rest_to_others() -> None:
    assert fill(400, [Vessel(0, 0, 150, 3, 1000), Vessel(0, 0, 1000, 1, 1000)]) == [150, 250]


def test_vessel_is_never_below_its_least() -> None:
    assert fill(400, [Vessel(0, 300, 500, 1, 500), Vessel(0, 0, 500, 1, 500)]) == [300, 100]


def test_too_little_for_the_least_is_the_least() -> None:
    assert fill(100, [Vessel(0, 300, 500, 1, 500), Vessel(0, 10, 500, 1, 500)]) == [300, 10]


def test_more_than_all_can_hold_fills_all() -> None:
    assert fill(5000, [Vessel(0, 300, 500, 1, 500), Vessel(0, 10, 400, 9, 400)]) == [500, 400]


def test_vessel_without_pull_stays_at_its_least() -> None:
    assert fill(600, [Vessel(0, 100, 500, 0, 500), Vessel(0, 0, 300, 1, 300)]) == [100, 300]


def test_nothing_is_left_over_but_what_rounding_costs() -> None:
    vessels = [Vessel(0, 0, 10**9, 7, 10**6 * n) for n in range(1, 50)]
    sizes = fill(123_456_789, vessels, 60)
    assert 0 <= 123_456_789 - sum(sizes) <= len(vessels)


def test_no_vessels_hold_nothing() -> None:
    assert fill(100, []) == []


def test_equal_weights_entitle_to_xcps_share() -> None:
    claims = [a_claim(1000, 5000), a_claim(2000, 10000, low_kib=3000), a_claim(0, 4000, high_kib=500)]
    assert entitlements(9000, claims) == share(9000, claims)


def test_weight_multiplies_the_range() -> None:
    claims = [Claim(0, 4000, 0, 4000, weight=3000), Claim(0, 4000, 0, 4000)]
    assert entitlements(4000, claims) == [3000, 1000]


def test_nobody_is_entitled_to_anything_where_nobody_is() -> None:
    assert entitlements(4000, []) == []
