"""What a command to the ring makes of the host as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders import MIB, a_domain, a_host, uuid_of
from xcpmem import commands
from xcpmem.engine.model import (
    DeleteReservation,
    Lifecycle,
    RecordReservation,
    Reservation,
    SetTarget,
    TransferReservation,
)
from xcpmem.errors import InvalidValue, UnknownReservation

MINE = Reservation("r1", "me", 100, vm_uuid=uuid_of(1))
GIVEN = Reservation("r2", "me", 100, domid=1)
OTHERS = Reservation("r3", "others", 100)
HOST = a_host(a_domain(), reservations=(MINE, GIVEN, OTHERS))


def test_transfer_and_confirmation_name_a_reservation_and_a_domain_that_exist() -> None:
    assert commands.transfer("r1", 1)(HOST) == (TransferReservation(MINE, 1),)
    confirmed = Reservation("r1", "me", 100, domid=1, vm_uuid=uuid_of(1))
    assert commands.confirm("r1", 1)(HOST) == (RecordReservation(confirmed),)
    for make in (commands.transfer, commands.confirm):
        with pytest.raises(UnknownReservation):
            make("r9", 1)(HOST)
        with pytest.raises(InvalidValue, match="domid, 7"):
            make("r1", 7)(HOST)


def test_memory_of_a_dying_domain_can_be_given_to_another_but_is_not_given_to_the_dying_one_again() -> None:
    dying = a_domain(domid=1, lifecycle=Lifecycle.DYING)
    host = a_host(dying, a_domain(domid=2), reservations=(GIVEN,))
    assert commands.transfer("r2", 2)(host) == (TransferReservation(GIVEN, 2),)
    assert commands.transfer("r2", 1)(host) == ()


def test_deletion_takes_one_reservation_and_release_all_of_an_owner_that_were_not_given_away() -> None:
    assert commands.delete("r3")(HOST) == (DeleteReservation(OTHERS),)
    assert commands.delete("r9")(HOST) == ()
    assert commands.release("me", transferred_too=False)(HOST) == (DeleteReservation(MINE),)
    assert commands.release("me", transferred_too=True)(HOST) == (
        DeleteReservation(MINE),
        DeleteReservation(GIVEN),
    )
    assert commands.release("nobody", transferred_too=True)(HOST) == ()


def test_what_a_vm_holds_is_kept_with_its_overhead_and_counts_once() -> None:
    living = a_domain(actual_kib=1000 * MIB, maxmem_kib=1500 * MIB, domid=4, uuid=uuid_of(1))
    dying = a_domain(domid=9, uuid=uuid_of(1), lifecycle=Lifecycle.DYING)
    host = a_host(living, dying, free_kib=600 * MIB)
    (action,) = commands.keep("r4", "me", uuid_of(1), 10 * MIB)(host)
    kept = Reservation("r4", "me", 1510 * MIB, domid=4, vm_uuid=uuid_of(1))
    assert action == RecordReservation(kept)
    before = a_host(living, free_kib=600 * MIB)
    after = a_host(living, free_kib=600 * MIB, reservations=(kept,))
    assert after.spare_kib == before.spare_kib
    assert a_host(free_kib=1600 * MIB, reservations=(kept,)).reserved_kib == 1510 * MIB


def test_nothing_is_kept_of_a_vm_without_a_domain() -> None:
    with pytest.raises(InvalidValue):
        commands.keep("r4", "me", uuid_of(5), 0)(HOST)


def test_later_command_of_a_turn_finds_the_reservations_as_the_earlier_ones_left_them() -> None:
    new = Reservation("r4", "me", 100)
    assert commands.host_after(HOST, RecordReservation(new)).reservations == (MINE, GIVEN, OTHERS, new)
    grown = replace(MINE, size_kib=200)
    assert commands.host_after(HOST, RecordReservation(grown)).reservations == (GIVEN, OTHERS, grown)
    given = replace(OTHERS, domid=7)
    assert commands.host_after(HOST, TransferReservation(OTHERS, 7)).reservations == (MINE, GIVEN, given)
    assert commands.host_after(HOST, DeleteReservation(GIVEN)).reservations == (MINE, OTHERS)
    assert commands.host_after(HOST, SetTarget(1, 100)) == HOST
