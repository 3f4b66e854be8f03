"""Suspending a VM and bringing it back: its memory, its image, and what a killed daemon leaves."""

from __future__ import annotations

import asyncio
import fcntl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import uuid_of
from tests.startstack import (
    MIB,
    MIB_KIB,
    WEB,
    Daemon,
    attached,
    guest,
    simulated,
)
from xcpmem import recovery, suspension
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import (
    BadPowerState,
    NoSuspendSr,
    NotEnoughMemory,
    OperationNotAllowed,
    ToolstackError,
    XcpmemError,
)
from xcpmem.refs import opaque_ref
from xcpmem.service import Service
from xcpmem.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from xcpmem.suspension import VmSuspension
    from xcpmem.xen.simulated import SimulatedHost

ONE, TWO = uuid_of(1), uuid_of(2)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    async with simulated(tmp_path, guest(1), guest(2), spare_mib=64) as host:
        yield host


@pytest.fixture
async def daemon(host: SimulatedHost, tmp_path: Path) -> AsyncIterator[Daemon]:
    async with attached(host, tmp_path) as daemon:
        yield daemon


def images(folder: Path) -> list[str]:
    """The files in which suspended domains are kept."""
    return sorted(path.name for path in (folder / "images").iterdir())


async def suspend(daemon: Daemon, uuid: str = ONE) -> None:
    assert await daemon.ring.settle(10)
    await daemon.service.lifecycle.suspension.suspend(uuid)


async def resume(daemon: Daemon, uuid: str = ONE, *, start_paused: bool = False) -> None:
    await daemon.service.lifecycle.suspension.resume(uuid, start_paused=start_paused)


async def test_suspended_vm_has_no_domain_and_its_memory_is_the_others(
    daemon: Daemon, tmp_path: Path
) -> None:
    free = daemon.service.compute_free_memory()
    counted = daemon.vm(ONE).memory_dynamic_min + daemon.vm(ONE).memory_overhead
    await suspend(daemon)
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.domid, vm.memory_actual) == ("Suspended", -1, 0)
    assert (vm.is_resident, vm.is_scheduled, vm.current_operations) == (False, False, {})
    assert vm.memory_suspended == 768 * MIB
    assert daemon.domain(ONE) is None
    assert daemon.service.compute_free_memory() == free + counted
    assert await daemon.reservations() == ()
    assert images(tmp_path) == [ONE]
    await daemon.service.lifecycle.start(WEB.uuid)
    assert daemon.vm().power_state == "Running"


async def test_resumed_vm_holds_what_it_held_and_then_its_range_applies(
    daemon: Daemon, tmp_path: Path
) -> None:
    await daemon.service.set_memory_dynamic_range(ONE, 500 * MIB, 500 * MIB)
    await suspend(daemon)
    held = daemon.vm(ONE).memory_suspended
    assert held == pytest.approx(500 * MIB, abs=MIB)
    ambush = daemon.lie_in_wait("unpause")
    back = asyncio.create_task(resume(daemon))
    await ambush.reached.wait()
    domain = daemon.domain(ONE)
    assert domain is not None
    assert domain.actual_kib == held // 1024
    (reservation,) = await daemon.reservations()
    overhead_kib = daemon.vm(ONE).memory_overhead // 1024
    assert reservation.size_kib == -(-held // MIB) * MIB_KIB + overhead_kib
    assert daemon.vm(ONE).is_scheduled
    ambush.released.set()
    await back
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.memory_suspended, vm.domid) == ("Running", -1, domain.spec.domid)
    assert await daemon.reservations() == ()
    assert images(tmp_path) == []
    await daemon.service.set_memory_dynamic_range(ONE, 300 * MIB, 300 * MIB)
    await daemon.service.wait_memory_target_live(ONE, "task")
    assert daemon.host.catch_up().ledger.overcommit_kib == 0


async def test_resumed_vm_gets_its_memory_from_others(daemon: Daemon) -> None:
    await suspend(daemon)
    held = daemon.vm(ONE).memory_suspended
    await daemon.service.lifecycle.start(WEB.uuid)
    await daemon.service.wait_memory_target_live(WEB.uuid, "task")
    assert await daemon.ring.settle(10)
    before = {uuid: daemon.vm(uuid).memory_actual for uuid in (TWO, WEB.uuid)}
    await resume(daemon)
    assert daemon.vm(ONE).power_state == "Running"
    assert sum(daemon.vm(uuid).memory_actual for uuid in before) < sum(before.values())
    assert held == 768 * MIB
    assert daemon.host.catch_up().ledger.overcommit_kib == 0


async def test_vm_that_is_resumed_paused_waits_for_unpause(daemon: Daemon, tmp_path: Path) -> None:
    await suspend(daemon)
    await resume(daemon, start_paused=True)
    assert (daemon.vm(ONE).power_state, images(tmp_path)) == ("Paused", [])
    await daemon.service.lifecycle.unpause(ONE)
    assert daemon.vm(ONE).power_state == "Running"


async def test_vm_that_does_not_fit_any_more_stays_suspended_and_nobody_moves(
    daemon: Daemon, tmp_path: Path
) -> None:
    await suspend(daemon)
    await daemon.service.set_memory(WEB.uuid, 1000 * MIB)
    await daemon.service.lifecycle.start(WEB.uuid)
    assert await daemon.ring.settle(10)
    before = daemon.domain(TWO)
    assert before is not None
    target_kib = before.target_kib
    with pytest.raises(NotEnoughMemory):
        await resume(daemon)
    with pytest.raises(NotEnoughMemory):
        await daemon.service.lifecycle.suspension.resume_on(ONE)
    assert (daemon.vm(ONE).power_state, images(tmp_path)) == ("Suspended", [ONE])
    assert await daemon.reservations() == ()
    assert before.target_kib == target_kib
    await daemon.service.lifecycle.hard_shutdown(WEB.uuid)
    await daemon.service.lifecycle.suspension.resume_on(ONE)
    assert daemon.vm(ONE).power_state == "Running"


async def test_deaf_guest_is_suspended_as_it_is(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspension, "REST_S", 0.0)
    daemon.host.set_balloon(1, {"stuck": True})
    await daemon.service.set_memory_dynamic_range(ONE, 256 * MIB, 256 * MIB)
    await daemon.service.lifecycle.suspension.suspend(ONE)
    assert daemon.vm(ONE).memory_suspended == 768 * MIB
    await resume(daemon)
    domain = daemon.domain(ONE)
    assert domain is not None
    assert domain.actual_kib == 768 * MIB_KIB


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda it: it.suspend(WEB.uuid), "running"),
        (lambda it: it.resume(WEB.uuid), "suspended"),
        (lambda it: it.resume_on(WEB.uuid), "suspended"),
        (lambda it: it.pool_migrate(WEB.uuid), "running"),
    ],
)
async def test_call_that_does_not_fit_a_halted_vm_is_refused(
    daemon: Daemon, call: Callable[[VmSuspension], Awaitable[None]], expected: str
) -> None:
    with pytest.raises(BadPowerState) as refusal:
        await call(daemon.service.lifecycle.suspension)
    assert refusal.value.params == (opaque_ref("VM", WEB.uuid), expected, "halted")


async def test_suspended_vm_is_neither_started_nor_resized(daemon: Daemon) -> None:
    await suspend(daemon)
    ref, service = opaque_ref("VM", ONE), daemon.service
    for call, expected in (
        (service.lifecycle.start(ONE), "halted"),
        (service.set_memory(ONE, MIB), "halted"),
        (service.set_memory_dynamic_range(ONE, MIB, MIB), "halted, running"),
        (service.lifecycle.suspension.suspend(ONE), "running"),
        (service.lifecycle.clean_shutdown(ONE), "running"),
    ):
        with pytest.raises(BadPowerState) as refusal:
            await call
        assert refusal.value.params == (ref, expected, "suspended")


@pytest.mark.parametrize("name", ["hard_shutdown", "shutdown"])
async def test_hard_shutdown_of_a_suspended_vm_discards_its_image(
    daemon: Daemon, tmp_path: Path, name: str
) -> None:
    await suspend(daemon)
    await getattr(daemon.service.lifecycle, name)(ONE)
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.memory_suspended, images(tmp_path)) == ("Halted", -1, [])
    await daemon.service.lifecycle.start(ONE)
    assert daemon.vm(ONE).power_state == "Running"


async def test_suspended_vm_that_is_destroyed_leaves_no_image(daemon: Daemon, tmp_path: Path) -> None:
    await suspend(daemon)
    await daemon.service.register.destroy(ONE)
    assert ONE not in daemon.service.vms()
    assert images(tmp_path) == []


@pytest.mark.parametrize("step", ["save", "saved"])
async def test_vm_that_cannot_be_written_runs_on(daemon: Daemon, tmp_path: Path, step: str) -> None:
    async def refuse(reached: str, title: str) -> None:
        if reached == step:
            raise ToolstackError(f"{title}: the disk is on fire")

    domid = daemon.vm(ONE).domid
    daemon.host.toolstack.gate = refuse
    with pytest.raises(ToolstackError, match="the disk is on fire"):
        await suspend(daemon)
    assert images(tmp_path) == []
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.memory_suspended, vm.domid) == ("Running", -1, domid)


async def test_vm_whose_record_cannot_say_so_runs_on(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await daemon.ring.settle(10)
    ambush = daemon.lie_in_wait("saved")
    suspending = asyncio.create_task(suspend(daemon))
    await ambush.reached.wait()
    (tmp_path / "images" / ONE).unlink()
    ambush.released.set()
    with pytest.raises(ToolstackError, match="No such file"):
        await suspending
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.memory_suspended, images(tmp_path)) == ("Running", -1, [])


@pytest.mark.parametrize("step", ["restore", "furnish", "created", "confirm"])
async def test_vm_that_cannot_be_built_again_stays_suspended(
    daemon: Daemon, tmp_path: Path, step: str
) -> None:
    async def refuse(reached: str, title: str = "it") -> None:
        if reached == step:
            raise ToolstackError(f"{title}: the disk is on fire")

    await suspend(daemon)
    daemon.host.toolstack.gate = daemon.ring.gate = refuse
    with pytest.raises(ToolstackError, match="the disk is on fire"):
        await resume(daemon)
    assert (daemon.vm(ONE).power_state, images(tmp_path)) == ("Suspended", [ONE])
    assert await daemon.reservations() == ()
    assert daemon.domain(ONE) is None
    daemon.host.toolstack.gate = daemon.ring.gate = None
    await resume(daemon)
    assert daemon.vm(ONE).power_state == "Running"


async def test_vm_that_is_past_its_image_is_not_destroyed(daemon: Daemon, tmp_path: Path) -> None:
    async def refuse(reached: str, title: str) -> None:
        if reached == "unpause":
            raise ToolstackError(f"{title}: not now")

    await suspend(daemon)
    daemon.host.toolstack.gate = refuse
    with pytest.raises(ToolstackError, match="not now"):
        await resume(daemon)
    assert (daemon.vm(ONE).power_state, images(tmp_path)) == ("Paused", [])
    assert await daemon.reservations() == ()
    daemon.host.toolstack.gate = None
    await daemon.service.lifecycle.unpause(ONE)
    assert daemon.vm(ONE).power_state == "Running"


async def test_image_that_is_gone_or_somebody_elses_is_said_to_be(daemon: Daemon, tmp_path: Path) -> None:
    await suspend(daemon)
    image = tmp_path / "images" / ONE
    image.write_text('{"uuid": "another", "actual_kib": 1}', encoding="utf-8")
    with pytest.raises(ToolstackError, match="it is none of this VM"):
        await resume(daemon)
    image.unlink()
    with pytest.raises(ToolstackError, match="No such file"):
        await resume(daemon)
    assert daemon.vm(ONE).power_state == "Suspended"
    assert await daemon.reservations() == ()
    await daemon.service.lifecycle.hard_shutdown(ONE)
    assert daemon.vm(ONE).power_state == "Halted"


async def test_vm_that_somebody_else_starts_has_no_image_any_more(daemon: Daemon, tmp_path: Path) -> None:
    await suspend(daemon)
    spec = replace(guest(9), uuid=ONE, actual_kib=256 * MIB_KIB, target_kib=256 * MIB_KIB)
    daemon.host.add_guest(spec, 256 * MIB_KIB)
    assert await daemon.ring.settle(10)
    await daemon.service.lifecycle.hard_shutdown(ONE)
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.memory_suspended, images(tmp_path)) == ("Halted", -1, [])


async def test_domain_that_somebody_else_suspends_is_in_other_hands(daemon: Daemon) -> None:
    daemon.host.set_lifecycle(1, Lifecycle.SUSPENDED)
    assert await daemon.ring.settle(10)
    await daemon.reservations()
    assert daemon.vm(ONE).power_state == "Suspended"
    with pytest.raises(OperationNotAllowed):
        await resume(daemon)


async def test_host_without_a_place_for_images_suspends_nobody(
    host: SimulatedHost, daemon: Daemon, tmp_path: Path
) -> None:
    service = Service(Store(tmp_path / "other"), daemon.ring, toolstack=host.toolstack)
    await service.start()
    assert daemon.ring.report is not None
    for _ in service.absorb(daemon.ring.report):
        pass
    with pytest.raises(NoSuspendSr):
        await service.lifecycle.suspension.suspend(ONE)
    await service.close()


async def test_migration_to_this_host_is_tested_as_if_the_vm_came(daemon: Daemon) -> None:
    domid, it = daemon.vm(ONE).domid, daemon.service.lifecycle.suspension
    await daemon.service.set_memory_dynamic_range(ONE, 768 * MIB, 768 * MIB)
    with pytest.raises(NotEnoughMemory):
        await it.pool_migrate(ONE)
    await daemon.service.set_memory_dynamic_range(ONE, 256 * MIB, 768 * MIB)
    await it.pool_migrate(ONE)
    assert (daemon.vm(ONE).power_state, daemon.vm(ONE).domid) == ("Running", domid)


@pytest.mark.parametrize(
    ("step", "state"),
    [
        ("save", "Running"),
        ("saved", "Suspended"),
        ("destroy", "Suspended"),
    ],
)
async def test_suspending_that_a_kill_cut_short_is_finished_or_undone(
    host: SimulatedHost, tmp_path: Path, step: str, state: str
) -> None:
    async with attached(host, tmp_path) as first:
        ambush = first.lie_in_wait(step)
        suspending = asyncio.create_task(suspend(first))
        await ambush.reached.wait()
    with pytest.raises(XcpmemError):
        await suspending
    async with attached(host, tmp_path) as second:
        await settled(second)
        vm = second.vm(ONE)
        assert (vm.power_state, vm.current_operations) == (state, {})
        assert images(tmp_path) == ([ONE] if state == "Suspended" else [])
        assert await second.reservations() == ()
        if state == "Suspended":
            assert vm.memory_suspended == 768 * MIB
            await resume(second)
        assert second.vm(ONE).power_state == "Running"
    assert host.catch_up().ledger.overcommit_kib == 0


@pytest.mark.parametrize(
    ("step", "state"),
    [
        ("reserved", "Suspended"),
        ("restore", "Suspended"),
        ("furnish", "Suspended"),
        ("created", "Suspended"),
        ("confirm", "Suspended"),
        ("confirmed", "Running"),
        ("unpause", "Running"),
        ("delete", "Running"),
    ],
)
async def test_resuming_that_a_kill_cut_short_is_finished_or_undone(
    host: SimulatedHost, tmp_path: Path, step: str, state: str
) -> None:
    async with attached(host, tmp_path) as first:
        await suspend(first)
        ambush = first.lie_in_wait(step)
        resuming = asyncio.create_task(resume(first))
        await ambush.reached.wait()
    with pytest.raises(XcpmemError):
        await resuming
    async with attached(host, tmp_path) as second:
        await settled(second)
        assert (second.vm(ONE).power_state, second.vm(ONE).current_operations) == (state, {})
        assert images(tmp_path) == ([ONE] if state == "Suspended" else [])
        assert await second.reservations() == ()
        if state == "Suspended":
            await resume(second)
        assert second.vm(ONE).power_state == "Running"
    assert host.catch_up().ledger.overcommit_kib == 0


async def test_domain_that_a_dead_xl_left_shut_down_can_be_ended(host: SimulatedHost, tmp_path: Path) -> None:
    async with attached(host, tmp_path) as first:
        ambush = first.lie_in_wait("save")
        suspending = asyncio.create_task(suspend(first))
        await ambush.reached.wait()
    with pytest.raises(XcpmemError):
        await suspending
    host.set_lifecycle(1, Lifecycle.SUSPENDED)
    async with attached(host, tmp_path) as second:
        await settled(second)
        assert (second.vm(ONE).power_state, images(tmp_path)) == ("Suspended", [])
        with pytest.raises(OperationNotAllowed):
            await resume(second)
        await second.service.lifecycle.hard_shutdown(ONE)
        assert second.vm(ONE).power_state == "Halted"


async def test_suspending_is_waited_for_while_xl_still_writes(
    host: SimulatedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "RETRY_S", (0.0, 0.0))
    async with attached(host, tmp_path) as first:
        ambush = first.lie_in_wait("saved")
        suspending = asyncio.create_task(suspend(first))
        await ambush.reached.wait()
    with pytest.raises(XcpmemError):
        await suspending
    with (tmp_path / "images" / ONE).open("rb") as image:
        fcntl.flock(image, fcntl.LOCK_EX)
        async with attached(host, tmp_path) as second:
            await second.reservations()
            assert list(second.vm(ONE).current_operations.values()) == ["suspend"]
            fcntl.flock(image, fcntl.LOCK_UN)
            await settled(second)
            assert second.vm(ONE).power_state == "Suspended"


async def test_image_that_cannot_be_read_is_told_of_and_tried_again(
    host: SimulatedHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached(host, tmp_path) as first:
        await first.ring.settle(10)
    image = tmp_path / "images" / ONE
    image.parent.mkdir()
    image.symlink_to(image)
    monkeypatch.setattr(recovery, "RETRY_S", (0.0, 0.0))
    async with attached(host, tmp_path) as second:
        while "cannot bring its suspend to an end yet" not in caplog.text:
            await second.reservations()
        assert list(second.vm(ONE).current_operations.values()) == ["suspend"]
        image.unlink()
        await settled(second)
    assert f"the image {image}: Too many levels of symbolic links" in caplog.text


async def test_suspended_vm_is_so_after_a_restart(host: SimulatedHost, tmp_path: Path) -> None:
    async with attached(host, tmp_path) as first:
        await suspend(first)
    async with attached(host, tmp_path) as second:
        await settled(second)
        assert second.vm(ONE).power_state == "Suspended"
        await resume(second)
        assert second.vm(ONE).power_state == "Running"


async def settled(daemon: Daemon) -> None:
    """Wait until nothing is left of what was under way."""
    async with asyncio.timeout(10):
        while await daemon.reservations() or daemon.vm(ONE).current_operations:
            continue
