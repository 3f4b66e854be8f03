"""Dying domains: what they cost, who waits for their pages, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders import CAUTION, MIB, a_domain, a_host, a_request, planned, targets_of, uuid_of, wanting
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.forecast import Stance, forecast
from xcpmem.engine.model import (
    DomainState,
    Granted,
    HostState,
    Lifecycle,
    Refused,
    Reservation,
    Wishes,
)
from xcpmem.engine.planner import Plan, PlannerSettings
from xcpmem.engine.remains import watch_decay
from xcpmem.errors import NotEnoughMemory

EXACT = PlannerSettings(compensate_inaccuracy=False)
PATIENCE_S = CAUTION.patience_s


def a_dying(holds_kib: int, maxmem_kib: int = 5000 * MIB, *, domid: int = 9) -> DomainState:
    """A domain that was destroyed and has given back all but so much."""
    return a_domain(
        maxmem_kib, maxmem_kib, holds_kib, domid=domid, maxmem_kib=maxmem_kib, lifecycle=Lifecycle.DYING
    )


def looked(host: HostState, wishes: Wishes, *looks_s: float) -> Plan:
    """The last plan of some that follow each other, of the same host."""
    beliefs = Beliefs()
    for now_s in looks_s:
        plan = planned(host, wishes, beliefs, now_s, EXACT)
        beliefs = plan.beliefs
    return plan


def shrunk(host: HostState, holds_kib: int) -> HostState:
    """The same host when the last of its domains holds less."""
    *others, dying = host.domains
    freed_kib = dying.actual_kib - holds_kib
    domains = (*others, replace(dying, actual_kib=holds_kib))
    return replace(host, domains=domains, free_kib=host.free_kib + freed_kib)


def test_dying_domain_costs_what_it_holds_whatever_its_maxmem() -> None:
    zombie = a_dying(4 * MIB)
    assert zombie.held_kib == 4 * MIB
    assert a_host(zombie, free_kib=6000 * MIB).spare_kib == 6000 * MIB


@pytest.mark.parametrize(
    "kept",
    [
        Reservation("r1", "owner", 1000 * MIB, domid=9),
        Reservation("r1", "owner", 1000 * MIB, domid=9, vm_uuid=uuid_of(9)),
        Reservation("r1", "owner", 1000 * MIB, domid=7, vm_uuid=uuid_of(9)),
    ],
    ids=["transferred", "kept", "kept when another domain was there"],
)
@pytest.mark.parametrize("holds_kib", [1000 * MIB, 700 * MIB, 0])
def test_memory_kept_for_a_vm_counts_once_while_its_domain_dies(kept: Reservation, holds_kib: int) -> None:
    gone = a_host(free_kib=1500 * MIB, reservations=(kept,))
    dying = a_host(a_dying(holds_kib), free_kib=1500 * MIB - holds_kib, reservations=(kept,))
    assert dying.spare_kib == gone.spare_kib == 500 * MIB
    assert dying.reserved_kib == 1000 * MIB - holds_kib


def test_memory_set_aside_for_a_vms_next_domain_is_not_made_of_its_dying_ones_pages() -> None:
    kept = Reservation("r1", "owner", 4000 * MIB, vm_uuid=uuid_of(9))
    assert a_host(a_dying(4 * MIB, 1000 * MIB), reservations=(kept,)).reserved_kib == 4000 * MIB


def test_page_of_a_dying_domain_counts_for_one_reservation() -> None:
    kept = tuple(Reservation(name, "owner", 600 * MIB, domid=9) for name in ("r1", "r2"))
    assert a_host(a_dying(800 * MIB), reservations=kept).reserved_kib == 400 * MIB


def test_reservation_takes_no_more_pages_than_its_size_of_two_dying_domains() -> None:
    kept = Reservation("r1", "owner", 600 * MIB, domid=8, vm_uuid=uuid_of(9))
    host = a_host(a_dying(500 * MIB, domid=8), a_dying(500 * MIB), reservations=(kept,))
    assert host.reserved_kib == 0


def test_living_domain_accounts_for_its_reservation_beside_a_dying_one() -> None:
    kept = Reservation("r1", "owner", 600 * MIB, domid=9, vm_uuid=uuid_of(9))
    living = a_domain(domid=10, uuid=uuid_of(9))
    assert a_host(a_dying(100 * MIB), living, reservations=(kept,)).reserved_kib == 0


def test_request_waits_for_the_pages_of_a_dying_domain_and_nobody_else_gives() -> None:
    neighbour = a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB)
    host = a_host(neighbour, a_dying(4000 * MIB), free_kib=1000 * MIB)
    wishes = wanting(a_request(4000 * MIB))
    waiting = planned(host, wishes, settings=EXACT)
    assert (waiting.verdicts, waiting.actions) == ((), ())
    assert waiting.look_again_s == pytest.approx(0.1)
    later = planned(shrunk(host, 1000 * MIB), wishes, waiting.beliefs, 1.0, EXACT)
    assert later.verdicts == (Granted("r1", 4000 * MIB),)
    assert targets_of(later.actions) == {}


def test_memory_that_a_dying_domain_has_given_so_far_is_given_out_before_its_end() -> None:
    hungry = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB)
    host = a_host(hungry, a_dying(4000 * MIB), free_kib=1000 * MIB)
    assert targets_of(planned(host, settings=EXACT).actions) == {1: 2000 * MIB}


def test_request_beyond_what_a_dying_domain_will_give_is_refused_at_once() -> None:
    host = a_host(a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB), a_dying(4000 * MIB), free_kib=1000 * MIB)
    assert planned(host, wanting(a_request(7000 * MIB)), settings=EXACT).verdicts == ()
    plan = planned(host, wanting(a_request(7001 * MIB)), settings=EXACT)
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, NotEnoughMemory)
    assert plan.actions == ()


def test_pages_that_are_reserved_for_a_vms_next_domain_are_not_coming_to_others() -> None:
    kept = Reservation("kept", "owner", 3900 * MIB, domid=9)
    host = a_host(a_dying(4000 * MIB), free_kib=1000 * MIB, reservations=(kept,))
    assert planned(host, wanting(a_request(1100 * MIB)), settings=EXACT).verdicts == ()
    (refused,) = planned(host, wanting(a_request(1101 * MIB)), settings=EXACT).verdicts
    assert isinstance(refused, Refused)


def test_request_does_not_wait_for_a_zombie() -> None:
    host = a_host(a_dying(400 * MIB), free_kib=1000 * MIB)
    wishes = wanting(a_request(1100 * MIB))
    assert looked(host, wishes, 0.0, 2.0, PATIENCE_S).verdicts == ()
    (refused,) = looked(host, wishes, 0.0, 2.0, PATIENCE_S + 0.1).verdicts
    assert isinstance(refused, Refused)
    assert refused.error.params == (str(1100 * MIB * 1024), str(1000 * MIB * 1024))


def test_zombie_is_known_for_one_when_nobody_looked_for_long() -> None:
    host = a_host(a_dying(400 * MIB), free_kib=1000 * MIB)
    settled = looked(host, Wishes(), 0.0)
    plan = planned(host, wanting(a_request(1100 * MIB)), settled.beliefs, 600.0, EXACT)
    assert isinstance(plan.verdicts[0], Refused)


def test_domain_that_dies_slowly_is_waited_for_as_long_as_it_gives() -> None:
    host, beliefs = a_host(a_dying(400 * MIB), free_kib=1000 * MIB), Beliefs()
    wishes = wanting(a_request(1400 * MIB))
    for number in range(1, 10):
        plan = planned(host, wishes, beliefs, number * PATIENCE_S, EXACT)
        assert plan.verdicts == ()
        host, beliefs = shrunk(host, (400 - number) * MIB), plan.beliefs


def an_ending(holds_kib: int) -> DomainState:
    """A domain that is being destroyed, may still take 4000 MiB, and is not called dying."""
    return replace(a_dying(holds_kib, 4000 * MIB), lifecycle=Lifecycle.SUSPENDED, is_ending=True)


def test_request_waits_for_all_that_a_domain_might_take_that_is_being_destroyed() -> None:
    host, beliefs = a_host(an_ending(3000 * MIB), free_kib=2000 * MIB), Beliefs()
    wishes = wanting(a_request(4500 * MIB))
    for number in range(3):
        plan = planned(host, wishes, beliefs, number * PATIENCE_S, EXACT)
        assert (plan.verdicts, host.spare_kib) == ((), 1000 * MIB)
        assert plan.look_again_s == pytest.approx(0.1)
        host, beliefs = shrunk(host, (2900 - number) * MIB), plan.beliefs
    gone = replace(host, domains=(), free_kib=5000 * MIB)
    granted = planned(gone, wishes, beliefs, 3 * PATIENCE_S, EXACT)
    assert granted.verdicts == (Granted("r1", 4500 * MIB),)


def test_domain_that_is_being_destroyed_is_waited_for_no_longer_than_it_gives() -> None:
    host = a_host(an_ending(3000 * MIB), free_kib=2000 * MIB)
    wishes = wanting(a_request(4500 * MIB))
    assert looked(host, wishes, 0.0, 2.0, PATIENCE_S).verdicts == ()
    assert isinstance(looked(host, wishes, 0.0, 2.0, PATIENCE_S + 0.1).verdicts[0], Refused)
    assert not looked(host, Wishes(), 0.0).stable
    assert looked(host, Wishes(), 0.0).look_again_s == pytest.approx(1.0)
    assert looked(host, Wishes(), 0.0, 60.0).stable


def test_what_is_kept_for_the_next_domain_of_a_vm_that_is_being_destroyed_is_not_coming_to_others() -> None:
    kept = Reservation("kept", "owner", 3900 * MIB, domid=9, vm_uuid=uuid_of(9))
    host = a_host(an_ending(3000 * MIB), free_kib=2000 * MIB, reservations=(kept,))
    assert planned(host, wanting(a_request(1100 * MIB)), settings=EXACT).verdicts == ()
    (refused,) = planned(host, wanting(a_request(1101 * MIB)), settings=EXACT).verdicts
    assert isinstance(refused, Refused)


def test_forecast_lets_domains_be_gone_that_are_being_destroyed() -> None:
    host = a_host(a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB), an_ending(1500 * MIB), free_kib=100 * MIB)
    found = forecast(host, Wishes(), Stance(looked(host, Wishes(), 0.0).beliefs, settings=EXACT), 1.0)
    assert {domain.domid: domain.actual_kib for domain in found.host.domains} == {1: 2600 * MIB}


def test_host_is_stable_only_when_no_page_of_a_dying_domain_is_on_its_way() -> None:
    host = a_host(a_dying(400 * MIB), free_kib=1000 * MIB)
    first, late = looked(host, Wishes(), 0.0), looked(host, Wishes(), 0.0, 60.0)
    assert (first.stable, first.look_again_s) == (False, 1.0)
    assert (late.stable, late.look_again_s) == (True, 30.0)


def test_domid_of_a_zombie_that_is_used_again_is_of_another_domain() -> None:
    zombie = a_dying(4 * MIB)
    decays = watch_decay({}, [zombie, a_domain(domid=1)], 0.0)
    assert decays.keys() == {9}
    assert not watch_decay(decays, [zombie], 60.0)[9].goes_on(60.0, CAUTION)
    assert watch_decay(decays, [replace(zombie, uuid=uuid_of(7))], 60.0)[9].goes_on(60.0, CAUTION)


def test_forecast_lets_dying_domains_be_gone_but_not_zombies() -> None:
    host = a_host(a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB), a_dying(1500 * MIB), free_kib=100 * MIB)
    known = looked(host, Wishes(), 0.0).beliefs
    for now_s, ends in ((1.0, {1: 2600 * MIB}), (60.0, {1: 1100 * MIB, 9: 1500 * MIB})):
        found = forecast(host, Wishes(), Stance(known, settings=EXACT), now_s)
        assert {domain.domid: domain.actual_kib for domain in found.host.domains} == ends
