"""Reservations whose owner or domain is gone."""

from __future__ import annotations

from tests.builders import a_domain, a_host, uuid_of
from xcpmem.engine.model import Reservation
from xcpmem.troubles import Orphans

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
