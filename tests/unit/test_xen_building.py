"""Domains for which memory is set aside, and what is left in xenstore of reservations cut short."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import uuid_of
from tests.startstack import MIB_KIB, guest, simulated
from xcpmem.engine.model import (
    DeleteReservation,
    Lifecycle,
    RecordReservation,
    Reservation,
    SetMaxmem,
    TransferReservation,
)
from xcpmem.xen import paths
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.engine.model import Action
    from xcpmem.xen.driver import Look
    from xcpmem.xen.simulated import SimulatedHost

OWN = Reservation("r1", "xcpmem-start", 900 * MIB_KIB, domid=1, vm_uuid=uuid_of(1))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    async with simulated(tmp_path, guest(1), spare_mib=1000) as host:
        yield host


async def fresh_look(host: SimulatedHost, folder: Path, *actions: Action) -> Look:
    """What a daemon sees that was just started, once it has looked and done these."""
    driver = LiveDriver(Xenstore(str(folder / "xs")), host.hypervisor, slush_kib=0)
    await driver.start()
    await driver.observe()
    for action in actions:
        await driver.apply(action)
    look = await driver.observe()
    await driver.close()
    return look


async def test_domain_counts_as_being_built_while_memory_is_set_aside_for_it_and_says_what_it_does(
    host: SimulatedHost, tmp_path: Path
) -> None:
    before = await fresh_look(host, tmp_path)
    for lifecycle in (Lifecycle.RUNNING, Lifecycle.PAUSED, Lifecycle.SUSPENDED):
        host.set_lifecycle(1, lifecycle)
        look = await fresh_look(host, tmp_path, RecordReservation(OWN))
        (domain,) = look.host.domains
        assert (domain.lifecycle, look.descriptions[1].lifecycle) == (Lifecycle.BUILDING, lifecycle)
        assert look.host.spare_kib == before.host.spare_kib - (900 - 768) * MIB_KIB
    look = await fresh_look(host, tmp_path, DeleteReservation(OWN))
    assert look.host.domains[0].lifecycle is Lifecycle.SUSPENDED


async def test_what_a_client_transferred_counts_until_the_domain_announces_its_driver(
    host: SimulatedHost, tmp_path: Path
) -> None:
    transferred = replace(OWN, vm_uuid="")
    host.store.remove(paths.feature_balloon(1))
    look = await fresh_look(
        host, tmp_path, RecordReservation(transferred), TransferReservation(transferred, 1)
    )
    assert look.host.domains[0].lifecycle is Lifecycle.BUILDING
    assert look.host.domains[0].held_kib == transferred.size_kib
    host.store.write(paths.feature_balloon(1), "0")
    assert (await fresh_look(host, tmp_path)).host.domains[0].lifecycle is Lifecycle.BUILDING
    host.store.write(paths.feature_balloon(1), "1")
    look = await fresh_look(host, tmp_path)
    assert look.host.domains[0].lifecycle is Lifecycle.RUNNING
    assert look.host.reserved_kib == 0


@pytest.mark.parametrize("announces", [None, "0"])
async def test_guest_that_takes_its_announcement_back_has_no_memory_set_aside_again(
    host: SimulatedHost, tmp_path: Path, announces: str | None
) -> None:
    transferred = replace(OWN, vm_uuid="")
    before = await fresh_look(
        host,
        tmp_path,
        RecordReservation(transferred),
        TransferReservation(transferred, 1),
        SetMaxmem(1, 768 * MIB_KIB),
    )
    host.store.remove(paths.feature_balloon(1))
    if announces is not None:
        host.store.write(paths.feature_balloon(1), announces)
    after = await fresh_look(host, tmp_path)
    assert after.host.domains[0].lifecycle is Lifecycle.RUNNING
    assert after.host.spare_kib == before.host.spare_kib


async def test_domain_that_has_not_run_yet_is_being_built_when_a_killed_daemon_had_not_set_its_maxmem(
    host: SimulatedHost, tmp_path: Path
) -> None:
    host.store.remove(paths.feature_balloon(1))
    host.set_lifecycle(1, Lifecycle.PAUSED)
    look = await fresh_look(host, tmp_path, RecordReservation(replace(OWN, vm_uuid="")))
    assert look.host.domains[0].lifecycle is Lifecycle.BUILDING
    assert look.host.domains[0].held_kib == OWN.size_kib


async def test_dying_domain_is_dying_whatever_is_set_aside_for_its_vm(
    host: SimulatedHost, tmp_path: Path
) -> None:
    host.set_lifecycle(1, Lifecycle.DYING)
    look = await fresh_look(host, tmp_path, RecordReservation(OWN))
    assert look.host.domains[0].lifecycle is look.descriptions[1].lifecycle is Lifecycle.DYING


async def test_dying_domain_holds_every_page_that_xen_counts(host: SimulatedHost, tmp_path: Path) -> None:
    host.store.write(paths.memory_offset(1), str(5 * MIB_KIB))
    assert (await fresh_look(host, tmp_path)).host.domains[0].actual_kib == (768 - 5) * MIB_KIB
    host.set_lifecycle(1, Lifecycle.DYING)
    look = await fresh_look(host, tmp_path)
    assert look.host.domains[0].actual_kib == 768 * MIB_KIB


async def test_domain_without_keys_is_being_built(host: SimulatedHost, tmp_path: Path) -> None:
    host.begin_guest(replace(guest(5), actual_kib=0), 100 * MIB_KIB)
    look = await fresh_look(host, tmp_path)
    assert look.host.domains[1].lifecycle is look.descriptions[5].lifecycle is Lifecycle.BUILDING


async def test_reservation_for_a_vm_outlives_the_daemon(host: SimulatedHost, tmp_path: Path) -> None:
    await fresh_look(host, tmp_path, RecordReservation(replace(OWN, domid=None)), RecordReservation(OWN))
    assert (await fresh_look(host, tmp_path)).host.reservations == (OWN,)


@pytest.mark.parametrize("written", [["vm"], ["vm", "in-transfer"]])
async def test_reservation_whose_size_was_not_written_any_more_never_stood(
    host: SimulatedHost, tmp_path: Path, written: list[str]
) -> None:
    values = {"vm": uuid_of(1), "in-transfer": "1"}
    for name in written:
        host.store.write(f"{paths.reservation(OWN.owner, OWN.reservation_id)}/{name}", values[name])
    assert (await fresh_look(host, tmp_path)).host.reservations == ()
    assert host.store.read(paths.reservation(OWN.owner, OWN.reservation_id)) is None


async def test_owner_leaves_nothing_behind_once_it_has_given_back_its_last_reservation(
    host: SimulatedHost, tmp_path: Path
) -> None:
    mine, more, others = (Reservation(name, owner, 4096) for name, owner in ("1a", "2a", "3b"))
    await fresh_look(host, tmp_path, *map(RecordReservation, (mine, more, others)))
    assert host.store.list(paths.reservations()) == ("a", "b")
    look = await fresh_look(host, tmp_path, DeleteReservation(mine))
    assert look.host.reservations == (more, others)
    look = await fresh_look(host, tmp_path, DeleteReservation(more))
    assert (look.host.reservations, host.store.list(paths.reservations())) == ((others,), ("b",))


async def test_giving_back_costs_one_request_whether_it_is_an_owners_last_or_not(
    host: SimulatedHost, tmp_path: Path
) -> None:
    xenstore = Xenstore(str(tmp_path / "xs"))
    driver = LiveDriver(xenstore, host.hypervisor, slush_kib=0)
    await driver.start()
    await driver.observe()
    for name in ("1", "2"):
        await driver.apply(RecordReservation(Reservation(name, "me", 4096)))
    for name in ("1", "2"):
        requests = xenstore.requests
        await driver.apply(DeleteReservation(Reservation(name, "me", 4096)))
        assert xenstore.requests - requests == 1
    assert (await driver.observe()).host.reservations == ()
    assert host.store.list(paths.reservations()) == ()
    await driver.close()


async def test_what_is_left_of_an_owner_without_reservations_is_cleared_away_by_the_next_daemon(
    host: SimulatedHost, tmp_path: Path
) -> None:
    host.store.write(paths.reservations_of("gone"), "")
    host.store.write(paths.reservation("wrong", "r1"), "many")
    await fresh_look(host, tmp_path)
    assert host.store.list(paths.reservations()) == ()


async def test_size_of_a_reservation_is_written_last(host: SimulatedHost, tmp_path: Path) -> None:
    written: list[str] = []
    host.store.subscribe(written.append)
    await fresh_look(host, tmp_path, RecordReservation(OWN))
    below = [path for path in written if path.startswith(paths.reservation(OWN.owner, OWN.reservation_id))]
    assert below[-1] == paths.reservation(OWN.owner, OWN.reservation_id)
    assert len(below) == 3
