"""A daemon that dies while it starts or reboots a VM, and the next one that finds what was left."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import uuid_of
from tests.startstack import MIB_KIB, WEB, Daemon, attached, guest, simulated
from xcpmem import recovery
from xcpmem.construction import Errand
from xcpmem.engine.model import Lifecycle, RecordReservation, Reservation
from xcpmem.errors import BadPowerState, ToolstackError
from xcpmem.xen import paths
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.xen.simulated import SimulatedHost

ONE = uuid_of(1)
LEFT = Reservation("11111111-0000-4000-8000-000000000000", Errand.START, 512 * MIB_KIB, vm_uuid=WEB.uuid)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    async with simulated(tmp_path, guest(1), guest(2), spare_mib=600) as host:
        yield host


async def die_at(host: SimulatedHost, folder: Path, step: str, call: str, uuid: str, **options: bool) -> None:
    """Let a daemon die at a step of a call."""
    async with attached(host, folder) as daemon:
        ambush = daemon.lie_in_wait(step)
        under_way = asyncio.create_task(getattr(daemon.service.lifecycle, call)(uuid, **options))
        await ambush.reached.wait()
    await asyncio.gather(under_way, return_exceptions=True)


async def ended(daemon: Daemon, uuid: str = WEB.uuid) -> str:
    """Wait until nothing is left of what was under way; tell the VM's power state."""
    async with asyncio.timeout(10):
        while await daemon.reservations() or daemon.vm(uuid).current_operations:
            continue
    return daemon.vm(uuid).power_state


EARLY = ("reserved", "create", "furnish", "created", "confirm")
LATE = ("confirmed", "unpause", "delete")


@pytest.mark.parametrize("step", EARLY)
async def test_start_that_was_cut_short_is_undone(host: SimulatedHost, tmp_path: Path, step: str) -> None:
    await die_at(host, tmp_path, step, "start", WEB.uuid)
    async with attached(host, tmp_path) as daemon:
        assert await ended(daemon) == "Halted"
        assert daemon.domain() is None
        assert await daemon.ring.settle(10)
        assert [each.target_kib for each in host.catch_up().guests.values()] == [768 * MIB_KIB] * 2
        await daemon.service.lifecycle.start(WEB.uuid)
        assert daemon.vm().power_state == "Running"


@pytest.mark.parametrize("step", LATE)
async def test_start_of_a_complete_domain_is_finished(host: SimulatedHost, tmp_path: Path, step: str) -> None:
    await die_at(host, tmp_path, step, "start", WEB.uuid)
    built = next(each for each in host.catch_up().guests.values() if each.uuid == WEB.uuid)
    async with attached(host, tmp_path) as daemon:
        assert await ended(daemon) == "Running"
        assert daemon.domain() is built
        assert built.lifecycle is Lifecycle.RUNNING
        assert daemon.ring.report is not None
        seen = daemon.ring.report.domain_by_uuid(WEB.uuid)
        assert seen is not None
        assert (seen.dynamic_range.min_kib, seen.dynamic_range.max_kib) == (256 * MIB_KIB, 768 * MIB_KIB)


@pytest.mark.parametrize("step", ["confirmed", "delete"])
async def test_vm_that_was_to_start_paused_is_not_let_run_by_the_next_daemon(
    host: SimulatedHost, tmp_path: Path, step: str
) -> None:
    await die_at(host, tmp_path, step, "start", WEB.uuid, start_paused=True)
    async with attached(host, tmp_path) as daemon:
        assert await ended(daemon) == "Paused"


@pytest.mark.parametrize(
    ("step", "power_state"),
    [
        ("kept", "Running"),
        ("destroy", "Running"),
        ("create", "Halted"),
        ("furnish", "Halted"),
        ("confirm", "Halted"),
        ("confirmed", "Running"),
        ("delete", "Running"),
    ],
)
async def test_hard_reboot_that_was_cut_short_ends_in_a_whole_vm_or_in_none(
    host: SimulatedHost, tmp_path: Path, step: str, power_state: str
) -> None:
    await die_at(host, tmp_path, step, "hard_reboot", ONE)
    async with attached(host, tmp_path) as daemon:
        assert await ended(daemon, ONE) == power_state
        domain = daemon.domain(ONE)
        assert (domain is None) is (power_state == "Halted")
        assert domain is None or domain.lifecycle is Lifecycle.RUNNING


async def test_memory_kept_for_a_reboot_is_given_back_when_the_old_domain_never_quite_dies(
    host: SimulatedHost, tmp_path: Path
) -> None:
    await die_at(host, tmp_path, "kept", "hard_reboot", ONE)
    host.set_lifecycle(1, Lifecycle.DYING)
    host.store.remove(paths.domain(1))

    async def refuse(step: str, title: str) -> None:
        raise ToolstackError(f"{title}: {step}: it is dying")

    async with attached(host, tmp_path) as daemon:
        host.toolstack.gate = refuse
        await ended(daemon, ONE)
        assert 1 in host.catch_up().guests


@pytest.mark.parametrize("step", ["kept", "reboot", "delete"])
async def test_reboot_by_the_toolstack_goes_on_without_the_daemon(
    host: SimulatedHost, tmp_path: Path, step: str
) -> None:
    await die_at(host, tmp_path, step, "clean_reboot", ONE)
    async with attached(host, tmp_path) as daemon:
        assert await ended(daemon, ONE) == "Running"


async def test_domain_that_is_being_rebuilt_by_the_toolstack_is_never_destroyed(
    host: SimulatedHost, tmp_path: Path
) -> None:
    await leave(host, tmp_path, replace(LEFT, owner=Errand.REBOOT))
    host.begin_guest(replace(guest(9), uuid=WEB.uuid), 256 * MIB_KIB)
    async with attached(host, tmp_path) as daemon:
        await ended(daemon)
        assert daemon.domain() is not None


async def test_domain_that_somebody_else_started_meanwhile_is_left_alone(
    host: SimulatedHost, tmp_path: Path
) -> None:
    await die_at(host, tmp_path, "reserved", "start", WEB.uuid)
    host.add_guest(replace(guest(9), uuid=WEB.uuid), 256 * MIB_KIB)
    async with attached(host, tmp_path) as daemon:
        assert await ended(daemon) == "Running"
        assert daemon.vm().domid == 9


async def leave(host: SimulatedHost, folder: Path, reservation: Reservation) -> None:
    """Put a reservation to where a dead daemon would have left it."""
    driver = LiveDriver(Xenstore(str(folder / "xs")), host.hypervisor, slush_kib=0)
    await driver.start()
    await driver.apply(RecordReservation(reservation))
    await driver.close()


async def test_memory_for_a_vm_that_nobody_knows_is_given_back_with_a_word(
    host: SimulatedHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await leave(host, tmp_path, replace(LEFT, vm_uuid="22222222-0000-4000-8000-000000000000"))
    host.begin_guest(replace(guest(9), uuid="22222222-0000-4000-8000-000000000000"), 256 * MIB_KIB)
    async with attached(host, tmp_path) as daemon:
        await ended(daemon)
        assert 9 not in host.catch_up().guests
        assert "22222222-0000-4000-8000-000000000000" not in daemon.service.vms()
    assert "VM 22222222-0000-4000-8000-000000000000: its start was never finished" in caplog.text
    assert "giving back 512 MiB" in caplog.text


async def test_ruin_that_cannot_be_cleared_away_is_tried_again_and_keeps_its_memory(
    host: SimulatedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "RETRY_S", (0.0, 0.0))
    await die_at(host, tmp_path, "furnish", "start", WEB.uuid)
    tries = 0

    async def refuse(step: str, title: str) -> None:
        nonlocal tries
        if step == "destroy":
            tries += 1
            if tries < 3:
                raise ToolstackError(f"{title}: not now")

    host.toolstack.gate = refuse
    async with attached(host, tmp_path) as daemon:
        assert daemon.vm().current_operations
        assert await ended(daemon) == "Halted"
    assert tries == 3
    assert "not now" in caplog.text


async def test_vm_is_free_for_a_new_start_only_when_the_old_one_is_cleared_away(
    host: SimulatedHost, tmp_path: Path
) -> None:
    await die_at(host, tmp_path, "furnish", "start", WEB.uuid)
    async with attached(host, tmp_path) as daemon:
        ambush = daemon.lie_in_wait("destroy")
        await ambush.reached.wait()
        start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
        assert await daemon.reservations()
        assert not start.done()
        ambush.released.set()
        await start
        assert daemon.vm().power_state == "Running"
        with pytest.raises(BadPowerState):
            await daemon.service.lifecycle.start(WEB.uuid)


async def test_what_a_failed_start_could_not_clear_away_is_cleared_away_later(
    host: SimulatedHost, tmp_path: Path
) -> None:
    async with attached(host, tmp_path) as daemon:
        failures = {"furnish", "destroy"}

        async def fail_once(step: str, title: str) -> None:
            if step in failures:
                failures.remove(step)
                raise ToolstackError(f"{title}: {step} failed")

        host.toolstack.gate = fail_once
        with pytest.raises(ToolstackError, match="furnish failed"):
            await daemon.service.lifecycle.start(WEB.uuid)
        assert await ended(daemon) == "Halted"
        assert daemon.domain() is None
        assert failures == set()
