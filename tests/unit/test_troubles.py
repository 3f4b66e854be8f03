"""Domains that could not be touched, and reservations whose owner or domain is gone."""

from __future__ import annotations

from tests.builders import a_domain, a_host, uuid_of
from xcpmem.engine.model import Lifecycle, Reservation
from xcpmem.troubles import LEFT_ALONE_S, Orphans, Troubles

ABANDONED = Reservation("abandoned", "gone", 1)
OWNED = Reservation("owned", "here", 1)
BEREFT = Reservation("bereft", "here", 1, domid=7)
GIVEN = Reservation("given", "gone", 1, domid=1)
FOR_A_VM = Reservation("for a VM", "xcpmem-start", 1, domid=7, vm_uuid=uuid_of(9))
OF_A_VM = Reservation("of a VM", "xcpmem-start", 1, vm_uuid=uuid_of(8))


def test_reservations_without_owner_or_domain_are_found_but_not_those_for_vms() -> None:
    orphans = Orphans(lambda owner: owner == "here", 600.0)
    host = a_host(a_domain(), reservations=(ABANDONED, OWNED, BEREFT, GIVEN, FOR_A_VM, OF_A_VM))
    assert orphans.find(host, 0.0) == [BEREFT]
    assert orphans.find(host, 599.0) == [BEREFT]
    assert orphans.find(host, 600.0) == [ABANDONED, BEREFT]


def test_reservation_whose_domain_is_dying_is_found_but_not_what_was_kept_for_its_vm() -> None:
    orphans = Orphans(lambda owner: owner == "here", 600.0)
    dying = a_domain(domid=7, uuid=uuid_of(9), lifecycle=Lifecycle.DYING)
    host = a_host(dying, reservations=(OWNED, BEREFT, FOR_A_VM))
    assert orphans.find(host, 0.0) == [BEREFT]


def test_owner_that_comes_back_has_its_time_again() -> None:
    living: set[str] = set()
    orphans = Orphans(living.__contains__, 600.0)
    host = a_host(reservations=(ABANDONED,))
    assert orphans.find(host, 0.0) == []
    living.add("gone")
    assert orphans.find(host, 700.0) == []
    living.clear()
    assert orphans.find(host, 800.0) == []
    assert orphans.find(host, 1399.0) == []
    assert orphans.find(host, 1400.0) == [ABANDONED]


def test_domain_is_left_alone_the_longer_the_oftener_it_could_not_be_touched_in_a_row() -> None:
    troubles, host, now_s = Troubles(), a_host(a_domain()), 0.0
    first_s, longest_s = LEFT_ALONE_S
    for is_known, length_s in ((False, first_s), (True, 2 * first_s), (True, longest_s), (True, longest_s)):
        assert troubles.note(1, now_s) is is_known
        assert troubles.pauses_s(now_s) == [length_s]
        assert troubles.left_alone(host, now_s + 0.9 * length_s) == {1}
        now_s += length_s
        assert troubles.left_alone(host, now_s) == frozenset()
    assert troubles.left_alone(host, now_s + longest_s) == frozenset()
    assert not troubles.note(1, now_s + longest_s)


def test_nobody_waits_for_a_domain_that_could_not_be_touched_and_is_gone() -> None:
    troubles = Troubles()
    troubles.note(7, 0.0)
    assert troubles.left_alone(a_host(a_domain()), 0.0) == frozenset()
    assert troubles.pauses_s(0.0) == []
