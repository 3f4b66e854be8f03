"""Forecasts end where the real thing ends, and touch nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import MIB, a_domain, a_host, a_request, uuid_of, wanting
from xcpmem.engine.belief import Belief, Beliefs
from xcpmem.engine.containment import PolicyMemory
from xcpmem.engine.forecast import Forecast, Newcomer, Stance, forecast
from xcpmem.engine.model import DynamicRange, Granted, Refused, Wishes
from xcpmem.engine.policies import find_policy
from xcpmem.engine.sample import Sample
from xcpmem.errors import DomainsUncooperative, NotEnoughMemory

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState, HostState

GIB = 1024 * MIB
SLUSH = 72 * MIB


def domain(domid: int, *, holds: int = 3 * GIB) -> DomainState:
    return a_domain(GIB, 3 * GIB, holds, domid=domid)


def ends(found: Forecast) -> dict[int, int]:
    return {each.domid: each.actual_kib for each in found.host.domains}


def believing(domid: int, **limits: int) -> Stance:
    belief = Belief(uuid_of(domid), DynamicRange(GIB, 3 * GIB), **limits)  # type: ignore[arg-type]
    return Stance(Beliefs({domid: belief}))


def full_host(*domains: DomainState) -> HostState:
    return a_host(*domains, free_kib=SLUSH, slush_kib=SLUSH)


def test_nobody_moves_when_nothing_is_wished_and_all_is_as_it_should_be() -> None:
    host = full_host(domain(1), domain(2))
    assert ends(forecast(host, Wishes(), Stance(), 0.0)) == {1: 3 * GIB, 2: 3 * GIB}


def test_reservation_is_given_by_all_in_proportion() -> None:
    host = full_host(domain(1), domain(2))
    found = forecast(host, wanting(a_request(GIB)), Stance(), 0.0)
    assert found.verdicts == (Granted("r1", GIB),)
    assert ends(found) == {1: pytest.approx(2.5 * GIB, abs=8), 2: pytest.approx(2.5 * GIB, abs=8)}
    assert found.host.spare_kib >= 0


def test_wider_range_of_one_is_paid_for_by_the_others() -> None:
    host = full_host(domain(1, holds=2 * GIB), domain(2, holds=2 * GIB))
    found = forecast(host, wanting(d1=DynamicRange(3 * GIB, 3 * GIB)), Stance(), 0.0)
    assert ends(found) == {1: 3 * GIB, 2: pytest.approx(GIB, abs=16)}
    assert found.reasons[1].text == "is pinned: dynamic-min = dynamic-max = 3 GiB"


def test_guest_that_was_seen_to_stop_stops_there_again() -> None:
    host = full_host(domain(1), domain(2))
    found = forecast(host, wanting(a_request(GIB)), believing(1, floor_kib=2900 * MIB), 0.0)
    assert ends(found)[1] >= 2900 * MIB
    assert ends(found)[2] < 2300 * MIB
    assert found.verdicts == (Granted("r1", GIB),)


def test_what_only_stuck_guests_could_give_is_refused_in_their_name() -> None:
    host = full_host(domain(1), domain(2))
    found = forecast(host, wanting(a_request(3 * GIB)), believing(1, floor_kib=3 * GIB), 0.0)
    (refused,) = found.verdicts
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, DomainsUncooperative)
    assert ends(found) == {1: 3 * GIB, 2: pytest.approx(3 * GIB, abs=8)}


def test_guest_that_was_seen_not_to_grow_leaves_its_share_to_others() -> None:
    host = a_host(domain(1, holds=GIB), domain(2, holds=GIB), free_kib=2 * GIB)
    found = forecast(host, Wishes(), believing(1, ceiling_kib=GIB), 0.0)
    assert ends(found)[2] > 2900 * MIB
    assert ends(found)[1] == GIB


def test_impossible_is_refused_and_moves_nobody() -> None:
    host = full_host(domain(1), domain(2))
    found = forecast(host, wanting(a_request(5 * GIB)), Stance(), 0.0)
    (refused,) = found.verdicts
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, NotEnoughMemory)
    assert ends(found) == {1: 3 * GIB, 2: 3 * GIB}


def test_newcomer_is_built_with_its_grant_and_then_balanced_as_the_others() -> None:
    host = full_host(domain(1), domain(2))
    newcomer = Newcomer("r1", replace(domain(3), target_kib=0, actual_kib=0, maxmem_kib=0), 20 * MIB)
    request = a_request(GIB + 20 * MIB, 3 * GIB + 20 * MIB, vm_uuid=uuid_of(3))
    found = forecast(host, wanting(request), Stance(), 0.0, newcomer=newcomer)
    sizes = ends(found).values()
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 16 * MIB
    assert sum(sizes) + 20 * MIB <= 6 * GIB
    assert found.host.reservations == ()


def test_scrubbed_memory_and_torn_looks_count_as_they_will_be() -> None:
    host = replace(full_host(domain(1, holds=2 * GIB)), scrub_kib=GIB, total_kib=3 * GIB + SLUSH)
    found = forecast(host, Wishes(), Stance(), 0.0)
    assert ends(found) == {1: pytest.approx(3 * GIB, abs=8)}
    assert found.host.scrub_kib == 0


def test_domain_without_a_driver_stays() -> None:
    host = full_host(a_domain(GIB, 3 * GIB, can_balloon=False), domain(2))
    assert ends(forecast(host, wanting(a_request(GIB)), Stance(), 0.0))[1] == 3 * GIB


def test_guest_whose_offset_is_measured_on_the_way_keeps_its_pages() -> None:
    unmeasured = replace(
        domain(1), actual_kib=3 * GIB + 20 * MIB, maxmem_kib=3 * GIB + 20 * MIB, offset_kib=None
    )
    found = forecast(full_host(unmeasured), Wishes(), Stance(), 0.0)
    (after,) = found.host.domains
    assert after.offset_kib == 20 * MIB
    assert after.actual_kib == 3 * GIB
    assert found.host.free_kib == SLUSH


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 64), st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=5
    ),
    free=st.integers(0, 100),
    wanted=st.integers(0, 120),
)
def test_forecast_comes_to_rest_within_the_host_and_the_ranges(
    sizes: list[tuple[int, int, int]], free: int, wanted: int
) -> None:
    domains = []
    for domid, (low, width, part) in enumerate(sizes, 1):
        holds = (low + width * part // 64) * MIB
        domains.append(a_domain(low * MIB, (low + width) * MIB, holds, domid=domid))
    host = a_host(*domains, free_kib=free * MIB)
    found = forecast(host, wanting(a_request(wanted * MIB)), Stance(), 0.0)
    assert len(found.verdicts) == 1
    assert found.host.spare_kib >= 0
    assert found.host.common_kib == host.common_kib
    for before, after in zip(domains, found.host.domains, strict=True):
        assert before.dynamic_range.min_kib <= after.actual_kib <= before.dynamic_range.max_kib
    again = forecast(found.host, Wishes(), Stance(), 1000.0)
    moved = [
        abs(a.actual_kib - b.actual_kib) for a, b in zip(found.host.domains, again.host.domains, strict=True)
    ]
    assert max(moved) <= 1 * MIB


def test_policy_that_moves_slowly_is_followed_to_its_end() -> None:
    said = Sample(0.0, 10.0, GIB // 2, stall_us=0)
    rich, poor = (
        replace(a_domain(0, 4 * GIB, holds, domid=domid), sample=said)
        for domid, holds in ((1, 3 * GIB), (2, GIB))
    )
    found = forecast(full_host(rich, poor), Wishes(), Stance(policy=find_policy("pressure")), 0.0)
    assert ends(found)[1] == pytest.approx(ends(found)[2], rel=0.35)
    assert all(reason.note for reason in found.reasons.values())


def test_policy_that_is_set_aside_is_not_waited_for() -> None:
    memory = PolicyMemory(find_policy("shares"), aside_until_s=1000.0)
    stance = Stance(Beliefs(policy=memory), find_policy("shares"))
    host = full_host(domain(1), domain(2))
    assert ends(forecast(host, Wishes(), stance, 0.0)) == {1: 3 * GIB, 2: 3 * GIB}
