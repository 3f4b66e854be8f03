"""Starting, stopping, pausing and rebooting VMs on a simulated host in real time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import uuid_of
from tests.startstack import DEAF, MIB, MIB_KIB, OVERHEAD_MIB, WEB, Daemon, attached, guest, simulated
from xcpmem import lifecycle
from xcpmem.construction import claim_of, size_of
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import (
    BadPowerState,
    ConnectionLost,
    ConstraintMaxPin,
    DomainsUncooperative,
    NoHostsAvailable,
    NotEnoughMemory,
    NotEnoughPcpus,
    OperationNotAllowed,
    ShutdownTimeout,
    TaskCancelled,
    ToolstackError,
    UuidInvalid,
    VmIsTemplate,
    XcpmemError,
)
from xcpmem.law import VmLaw
from xcpmem.refs import opaque_ref
from xcpmem.service import Service
from xcpmem.specs import HOST_CPUS
from xcpmem.store import Store
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from xcpmem.engine.model import HostState
    from xcpmem.lifecycle import VmLifecycle
    from xcpmem.xen.toolstack import Subject

ONE, TWO = uuid_of(1), uuid_of(2)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """Two guests hold all there is."""
    async with simulated(tmp_path, guest(1), guest(2)) as host, attached(host, tmp_path) as daemon:
        yield daemon


def targets_kib(daemon: Daemon) -> dict[str, int]:
    return {each.uuid: each.target_kib for each in daemon.host.catch_up().guests.values()}


def left_kib(host: HostState) -> int:
    """What nobody holds, may take or has reserved; below 0 more is promised than there is."""
    held_kib = sum(domain.held_kib for domain in host.domains)
    return host.common_kib - host.slush_kib - host.reserved_kib - held_kib


async def assert_halted(daemon: Daemon, uuid: str = WEB.uuid) -> None:
    """The VM does not run, and nothing of it is left."""
    vm = daemon.vm(uuid)
    assert (vm.power_state, vm.domid, vm.is_scheduled) == ("Halted", -1, False)
    assert vm.current_operations == {}
    assert daemon.domain(uuid) is None
    assert await daemon.reservations() == ()


async def test_vm_starts_with_what_its_neighbours_give_and_is_handed_to_the_balancer(daemon: Daemon) -> None:
    await daemon.service.lifecycle.start(WEB.uuid)
    vm, domain = daemon.vm(), daemon.domain()
    assert domain is not None
    assert (vm.power_state, vm.domid) == ("Running", domain.spec.domid)
    assert 256 * MIB_KIB <= domain.actual_kib < 768 * MIB_KIB
    assert await daemon.reservations() == ()
    assert daemon.ring.report is not None
    seen = daemon.ring.report.domain_by_uuid(WEB.uuid)
    assert seen is not None
    assert (seen.dynamic_range.min_kib, seen.dynamic_range.max_kib) == (256 * MIB_KIB, 768 * MIB_KIB)
    assert vm.memory_overhead == OVERHEAD_MIB * MIB


async def test_vm_that_started_small_grows_when_memory_comes_free(daemon: Daemon) -> None:
    await daemon.service.lifecycle.start(WEB.uuid)
    await daemon.service.lifecycle.hard_shutdown(ONE)
    await daemon.service.lifecycle.hard_shutdown(TWO)
    await daemon.service.wait_memory_target_live(WEB.uuid, "task")
    assert await daemon.ring.settle(10)
    domain = daemon.domain()
    assert domain is not None
    assert domain.actual_kib == pytest.approx(768 * MIB_KIB, abs=MIB_KIB)


async def test_vm_that_starts_paused_waits_for_unpause(daemon: Daemon) -> None:
    await daemon.service.lifecycle.start(WEB.uuid, start_paused=True)
    assert daemon.vm().power_state == "Paused"
    assert await daemon.reservations() == ()
    await daemon.service.lifecycle.unpause(WEB.uuid)
    assert daemon.vm().power_state == "Running"


async def test_vm_that_can_never_fit_is_refused_and_nobody_moves(daemon: Daemon) -> None:
    await daemon.service.set_memory(WEB.uuid, 1200 * MIB)
    before = targets_kib(daemon)
    with pytest.raises(NotEnoughMemory) as refusal:
        await daemon.service.lifecycle.start(WEB.uuid)
    needed = daemon.vm().memory_dynamic_min + daemon.vm().memory_overhead
    assert refusal.value.needed == needed
    assert refusal.value.available == pytest.approx(1024 * MIB, abs=MIB)
    assert targets_kib(daemon) == before
    await assert_halted(daemon)


async def test_vm_that_needs_the_memory_of_one_that_is_still_dying_waits_for_it(daemon: Daemon) -> None:
    await daemon.service.set_memory(WEB.uuid, 1200 * MIB)
    daemon.host.set_lifecycle(1, Lifecycle.DYING)
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    while not (daemon.ring.report and daemon.ring.report.pending):
        await daemon.reservations()
    assert not start.done()
    daemon.host.remove_guest(1)
    await start
    assert daemon.vm().power_state == "Running"


async def test_vm_starts_although_its_former_domain_never_quite_dies(tmp_path: Path) -> None:
    async with (
        simulated(tmp_path, guest(1), spare_mib=1000) as host,
        attached(host, tmp_path, patience_s=0.01) as daemon,
    ):
        host.set_lifecycle(1, Lifecycle.DYING)
        while daemon.vm(ONE).power_state != "Halted":
            await daemon.reservations()
        await daemon.service.lifecycle.start(ONE)
        assert (daemon.vm(ONE).power_state, daemon.vm(ONE).domid) == ("Running", 2)
        assert host.catch_up().guest(1).lifecycle is Lifecycle.DYING


async def test_vm_is_rebooted_although_its_old_domain_never_quite_dies(tmp_path: Path) -> None:
    async with (
        simulated(tmp_path, guest(1), spare_mib=1000) as host,
        attached(host, tmp_path, patience_s=0.01) as daemon,
    ):

        async def half_kill(step: str, title: str) -> None:
            if step == "destroy":
                host.set_lifecycle(1, Lifecycle.DYING)
                raise ToolstackError(f"{title}: a backend keeps some of its pages")

        host.toolstack.gate = half_kill
        await daemon.service.lifecycle.hard_reboot(ONE)
        assert (daemon.vm(ONE).power_state, daemon.vm(ONE).domid) == ("Running", 2)
        assert host.catch_up().guest(1).lifecycle is Lifecycle.DYING
        assert await daemon.reservations() == ()


async def test_vm_with_more_cpus_than_the_host_finds_no_host(daemon: Daemon) -> None:
    await daemon.service.set_VCPUs_max(WEB.uuid, HOST_CPUS + 1)
    with pytest.raises(NoHostsAvailable) as nowhere:
        await daemon.service.lifecycle.start(WEB.uuid)
    assert (nowhere.value.code, nowhere.value.params) == ("NO_HOSTS_AVAILABLE", ())
    with pytest.raises(NotEnoughPcpus) as not_here:
        await daemon.service.lifecycle.start_on(WEB.uuid)
    assert (not_here.value.code, not_here.value.params) == ("HOST_NOT_ENOUGH_PCPUS", ("65", "64"))
    with pytest.raises(NotEnoughPcpus):
        await daemon.service.placement.assert_can_boot_here(WEB.uuid)
    assert not await daemon.service.placement.can_boot_here(WEB.uuid)
    await assert_halted(daemon)
    await daemon.service.set_VCPUs_max(WEB.uuid, HOST_CPUS)
    await daemon.service.lifecycle.start(WEB.uuid)
    assert daemon.vm().power_state == "Running"


async def test_start_on_a_host_tests_the_memory_as_xapi_counts_it(daemon: Daemon) -> None:
    free = daemon.service.compute_free_memory()
    await daemon.service.set_memory(WEB.uuid, free)
    with pytest.raises(NotEnoughMemory) as refusal:
        await daemon.service.lifecycle.start_on(WEB.uuid)
    required = free + daemon.vm().memory_overhead
    assert refusal.value.params == (str(required), str(free))
    await assert_halted(daemon)
    await daemon.service.set_memory(WEB.uuid, 512 * MIB)
    await daemon.service.lifecycle.start_on(WEB.uuid, start_paused=True)
    assert daemon.vm().power_state == "Paused"


async def test_guests_that_do_not_give_are_blamed_as_vms(tmp_path: Path) -> None:
    async with (
        simulated(tmp_path, guest(1, DEAF), guest(2, DEAF)) as host,
        attached(host, tmp_path, reservation_s=0.2) as daemon,
    ):
        with pytest.raises(DomainsUncooperative) as refusal:
            await daemon.service.lifecycle.start(WEB.uuid)
        assert set(refusal.value.params) == {opaque_ref("VM", ONE), opaque_ref("VM", TWO)}
        await assert_halted(daemon)


async def test_vm_under_start_is_scheduled_here_and_its_memory_counts(daemon: Daemon) -> None:
    free = daemon.service.compute_free_memory()
    for step in ("reserved", "furnish", "confirmed"):
        ambush = daemon.lie_in_wait(step)
        start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
        await ambush.reached.wait()
        vm = daemon.vm()
        assert (vm.power_state, vm.domid, vm.is_scheduled) == ("Halted", -1, True)
        assert list(vm.current_operations.values()) == ["start"]
        taken = vm.memory_dynamic_min + vm.memory_overhead
        assert daemon.service.compute_free_memory() == free - taken
        ambush.released.set()
        await start
        assert not daemon.vm().is_scheduled
        assert daemon.vm().current_operations == {}
        assert daemon.service.compute_free_memory() == free - taken
        await daemon.service.lifecycle.hard_shutdown(WEB.uuid)


async def test_whoever_wants_something_of_a_vm_under_start_waits_for_its_end(daemon: Daemon) -> None:
    ambush = daemon.lie_in_wait("reserved")
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    await ambush.reached.wait()
    calls = [
        asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid)),
        asyncio.create_task(daemon.service.set_memory(WEB.uuid, 512 * MIB)),
        asyncio.create_task(daemon.service.set_memory_dynamic_range(WEB.uuid, 300 * MIB, 600 * MIB)),
    ]
    await daemon.service.labels.edit(WEB.uuid, "name_label", lambda _: "other")
    assert not any(call.done() for call in calls)
    ambush.released.set()
    await start
    answers = await asyncio.gather(*calls, return_exceptions=True)
    expected = (opaque_ref("VM", WEB.uuid), "halted", "running")
    for answer in answers[:2]:
        assert isinstance(answer, BadPowerState)
        assert answer.params == expected
    assert answers[2] is None
    assert (daemon.vm().memory_dynamic_min, daemon.vm().name_label) == (300 * MIB, "other")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda it: it.start(ONE), "halted"),
        (lambda it: it.start_on(ONE), "halted"),
        (lambda it: it.unpause(ONE), "paused"),
    ],
)
async def test_call_that_does_not_fit_a_running_vm_is_refused(
    daemon: Daemon, call: Callable[[VmLifecycle], Awaitable[None]], expected: str
) -> None:
    with pytest.raises(BadPowerState) as refusal:
        await call(daemon.service.lifecycle)
    assert refusal.value.params == (opaque_ref("VM", ONE), expected, "running")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda it: it.pause(WEB.uuid), "running"),
        (lambda it: it.unpause(WEB.uuid), "paused"),
        (lambda it: it.clean_shutdown(WEB.uuid), "running"),
        (lambda it: it.hard_shutdown(WEB.uuid), "paused, suspended, running"),
        (lambda it: it.shutdown(WEB.uuid), "paused, suspended, running"),
        (lambda it: it.clean_reboot(WEB.uuid), "running"),
        (lambda it: it.hard_reboot(WEB.uuid), "paused, running"),
    ],
)
async def test_call_that_does_not_fit_a_halted_vm_is_refused(
    daemon: Daemon, call: Callable[[VmLifecycle], Awaitable[None]], expected: str
) -> None:
    with pytest.raises(BadPowerState) as refusal:
        await call(daemon.service.lifecycle)
    assert refusal.value.params == (opaque_ref("VM", WEB.uuid), expected, "halted")


async def test_what_can_never_run_or_never_stop_is_refused(daemon: Daemon) -> None:
    await daemon.service.seed([replace(WEB, uuid="template", is_a_template=True)])
    with pytest.raises(VmIsTemplate) as refusal:
        await daemon.service.lifecycle.start("template")
    assert refusal.value.params == (opaque_ref("VM", "template"), "start")
    (zero,) = (vm for vm in daemon.service.vms().values() if vm.is_control_domain)
    with pytest.raises(OperationNotAllowed):
        await daemon.service.lifecycle.hard_shutdown(zero.uuid)
    with pytest.raises(UuidInvalid):
        await daemon.service.lifecycle.start("nobody")


async def test_vm_with_nested_virtualisation_starts_pinned_or_by_force(daemon: Daemon) -> None:
    await daemon.service.seed([replace(WEB, uuid="nested", platform={"nested-virt": "true"})])
    with pytest.raises(ConstraintMaxPin) as refusal:
        await daemon.service.lifecycle.start("nested")
    assert refusal.value.params == ("nested virt",)
    await daemon.service.lifecycle.start("nested", force=True)
    assert daemon.vm("nested").power_state == "Running"


@pytest.mark.parametrize("step", ["create", "furnish", "created", "unpause"])
async def test_start_that_the_toolstack_fails_leaves_nothing_behind(daemon: Daemon, step: str) -> None:
    before = targets_kib(daemon)

    async def refuse(reached: str, title: str) -> None:
        if reached == step:
            raise ToolstackError(f"{title}: the disk is on fire")

    daemon.host.toolstack.gate = refuse
    with pytest.raises(ToolstackError) as failure:
        await daemon.service.lifecycle.start(WEB.uuid)
    assert failure.value.params == (f"VM web ({WEB.uuid}): the disk is on fire",)
    await assert_halted(daemon)
    assert await daemon.ring.settle(10)
    for uuid, target_kib in before.items():
        assert targets_kib(daemon)[uuid] == pytest.approx(target_kib, abs=512)
    daemon.host.toolstack.gate = None
    await daemon.service.lifecycle.start(WEB.uuid)
    assert daemon.vm().power_state == "Running"


async def test_vm_of_which_somebody_else_makes_a_domain_meanwhile_is_not_built_again(daemon: Daemon) -> None:
    ambush = daemon.lie_in_wait("reserved")
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    await ambush.reached.wait()
    spec = replace(guest(9), uuid=WEB.uuid, actual_kib=256 * MIB_KIB, target_kib=256 * MIB_KIB)
    daemon.host.add_guest(spec, 256 * MIB_KIB)
    ambush.released.set()
    with pytest.raises(ToolstackError, match="domain 9 is one of it already"):
        await start
    assert daemon.vm().power_state == "Running"
    assert await daemon.reservations() == ()


async def test_start_goes_on_when_its_caller_goes_away(daemon: Daemon) -> None:
    ambush = daemon.lie_in_wait("reserved")
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    await ambush.reached.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    ambush.released.set()
    with pytest.raises(BadPowerState):
        await daemon.service.lifecycle.start(WEB.uuid)
    assert daemon.vm().power_state == "Running"


async def test_start_that_fails_after_its_caller_went_away_is_told_in_the_log(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ambush = daemon.lie_in_wait("reserved")
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    await ambush.reached.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    daemon.host.add_guest(replace(guest(9), uuid=WEB.uuid, actual_kib=256 * MIB_KIB), 256 * MIB_KIB)
    ambush.released.set()
    with pytest.raises(BadPowerState):
        await daemon.service.lifecycle.start(WEB.uuid)
    await asyncio.sleep(0)
    (told,) = [message for message in caplog.messages if "failed" in message]
    assert told.startswith(f"start of VM web ({WEB.uuid}) failed after its caller left: ")


async def test_caller_of_a_start_is_told_when_the_daemon_ends(daemon: Daemon) -> None:
    ambush = daemon.lie_in_wait("reserved")
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    await ambush.reached.wait()
    await daemon.service.lifecycle.close()
    with pytest.raises(ConnectionLost):
        await start


async def test_start_that_has_not_begun_when_the_daemon_ends_is_not_begun_any_more(daemon: Daemon) -> None:
    start = asyncio.create_task(daemon.service.lifecycle.start(WEB.uuid))
    await asyncio.sleep(0)
    assert list(daemon.vm().current_operations.values()) == ["start"]
    await daemon.service.lifecycle.close()
    with pytest.raises(ConnectionLost):
        await start
    await assert_halted(daemon)


async def test_vms_that_start_together_share_what_there_is(tmp_path: Path) -> None:
    uuids = [uuid_of(number) for number in range(11, 15)]
    async with simulated(tmp_path, guest(1), guest(2), guest(3)) as host, attached(host, tmp_path) as daemon:
        await daemon.service.seed(replace(WEB, uuid=uuid) for uuid in uuids)
        unpromised_kib: list[int] = []
        daemon.ring.subscribe(lambda report: unpromised_kib.append(left_kib(report.look.host)))
        async with asyncio.TaskGroup() as group:
            for uuid in uuids:
                group.create_task(daemon.service.lifecycle.start(uuid))
        assert [daemon.vm(uuid).power_state for uuid in uuids] == ["Running"] * 4
        assert await daemon.reservations() == ()
        assert host.catch_up().ledger.overcommit_kib == 0
        assert min(unpromised_kib) >= 0


async def test_guest_that_is_asked_shuts_down_and_its_memory_goes_to_others(daemon: Daemon) -> None:
    await daemon.service.lifecycle.start(WEB.uuid)
    await daemon.service.lifecycle.clean_shutdown(WEB.uuid)
    await assert_halted(daemon)
    assert await daemon.ring.settle(10)
    assert targets_kib(daemon)[ONE] >= 767 * MIB_KIB


async def test_guest_that_does_not_shut_down_is_waited_for_as_long_as_xapi_does(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CLEAN_S", 0.05)
    daemon.host.set_balloon(1, {"stuck": True})
    with pytest.raises(ShutdownTimeout) as failure:
        await daemon.service.lifecycle.clean_shutdown(ONE)
    assert failure.value.params == (opaque_ref("VM", ONE), "0.05")
    assert daemon.vm(ONE).power_state == "Running"
    await daemon.service.lifecycle.shutdown(ONE)
    await assert_halted(daemon, ONE)


async def test_shutdown_of_a_paused_vm_ends_it_at_once(daemon: Daemon) -> None:
    await daemon.service.lifecycle.pause(ONE)
    assert daemon.vm(ONE).power_state == "Paused"
    await daemon.service.lifecycle.shutdown(ONE)
    await assert_halted(daemon, ONE)


@pytest.mark.parametrize("name", ["clean_shutdown", "clean_reboot"])
async def test_hard_shutdown_puts_an_end_to_waiting_for_a_guest_that_hangs(daemon: Daemon, name: str) -> None:
    daemon.host.set_balloon(1, {"stuck": True})
    ambush = daemon.lie_in_wait(name.removeprefix("clean_"))
    clean = asyncio.create_task(getattr(daemon.service.lifecycle, name)(ONE))
    await ambush.reached.wait()
    (task,) = daemon.vm(ONE).current_operations
    hard = asyncio.create_task(daemon.service.lifecycle.hard_shutdown(ONE))
    ambush.released.set()
    with pytest.raises(TaskCancelled) as cancelled:
        await clean
    assert cancelled.value.params == (task,)
    await hard
    await assert_halted(daemon, ONE)


async def test_domain_that_shut_down_and_that_nobody_cleared_away_is_cleared_away(daemon: Daemon) -> None:
    async def fall(step: str, _: str) -> None:
        if step == "shutdown":
            daemon.host.set_balloon(1, {"stuck": True})
            daemon.host.set_lifecycle(1, Lifecycle.SUSPENDED)

    daemon.host.toolstack.gate = fall
    await daemon.service.lifecycle.clean_shutdown(ONE)
    await assert_halted(daemon, ONE)


async def test_paused_vm_keeps_its_memory_and_runs_on(daemon: Daemon) -> None:
    await daemon.service.lifecycle.pause(ONE)
    await daemon.service.lifecycle.start(WEB.uuid)
    paused = daemon.domain(ONE)
    assert paused is not None
    assert (daemon.vm(ONE).power_state, paused.actual_kib) == ("Paused", 768 * MIB_KIB)
    await daemon.service.lifecycle.unpause(ONE)
    assert daemon.vm(ONE).power_state == "Running"


async def test_guest_that_reboots_is_the_same_vm_in_another_domain(daemon: Daemon) -> None:
    before = daemon.vm(ONE)
    await daemon.service.set_memory_dynamic_range(ONE, 300 * MIB, 700 * MIB)
    await daemon.service.lifecycle.clean_reboot(ONE)
    vm = daemon.vm(ONE)
    assert (vm.power_state, vm.uuid) == ("Running", before.uuid)
    assert vm.domid > before.domid
    assert await daemon.ring.settle(10)
    assert daemon.ring.report is not None
    seen = daemon.ring.report.domain_by_uuid(ONE)
    assert seen is not None
    assert (seen.dynamic_range.min_kib, seen.dynamic_range.max_kib) == (300 * MIB_KIB, 700 * MIB_KIB)
    assert await daemon.reservations() == ()


@pytest.mark.parametrize("name", ["clean_reboot", "hard_reboot"])
async def test_memory_of_a_vm_that_reboots_is_not_given_to_others(daemon: Daemon, name: str) -> None:
    await daemon.service.lifecycle.start(WEB.uuid)
    assert await daemon.ring.settle(10)
    before = targets_kib(daemon)
    ambush = daemon.lie_in_wait("reboot" if name == "clean_reboot" else "create")
    reboot = asyncio.create_task(getattr(daemon.service.lifecycle, name)(WEB.uuid))
    await ambush.reached.wait()
    assert daemon.vm().power_state == "Running"
    (reservation,) = await daemon.reservations()
    assert reservation.size_kib >= before[WEB.uuid]
    assert await daemon.ring.settle(10)
    for uuid in (ONE, TWO):
        assert targets_kib(daemon)[uuid] == pytest.approx(before[uuid], abs=OVERHEAD_MIB * MIB_KIB)
    ambush.released.set()
    await reboot
    domain = daemon.domain()
    assert domain is not None
    assert domain.actual_kib == pytest.approx(before[WEB.uuid], abs=MIB_KIB)
    assert daemon.vm().power_state == "Running"
    assert await daemon.reservations() == ()
    assert daemon.host.catch_up().ledger.overcommit_kib == 0


async def test_guest_that_went_down_to_reboot_and_that_nobody_builds_again_is_built_by_us(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "UNATTENDED_S", 0.0)
    domid = daemon.vm(ONE).domid

    async def reboot(subject: Subject) -> None:
        daemon.host.remove_guest(subject.domid)

    monkeypatch.setattr(daemon.host.toolstack, "reboot", reboot)
    await daemon.service.lifecycle.clean_reboot(ONE)
    assert daemon.vm(ONE).power_state == "Running"
    assert daemon.vm(ONE).domid != domid
    assert await daemon.reservations() == ()


async def test_paused_vm_runs_after_a_hard_reboot(daemon: Daemon) -> None:
    await daemon.service.lifecycle.pause(ONE)
    await daemon.service.lifecycle.hard_reboot(ONE)
    assert daemon.vm(ONE).power_state == "Running"


async def test_vm_whose_domain_cannot_be_ended_is_not_built_again(daemon: Daemon) -> None:
    async def refuse(step: str, title: str) -> None:
        if step == "destroy":
            raise ToolstackError(f"{title}: it will not die")

    daemon.host.toolstack.gate = refuse
    for call in (daemon.service.lifecycle.hard_reboot, daemon.service.lifecycle.hard_shutdown):
        with pytest.raises(ToolstackError, match="it will not die"):
            await call(ONE)
        assert daemon.vm(ONE).power_state == "Running"
        assert await daemon.reservations() == ()


async def test_domid_that_is_used_again_belongs_to_whoever_has_it_now(daemon: Daemon) -> None:
    await daemon.service.lifecycle.hard_shutdown(ONE)
    spec = replace(guest(1), uuid=WEB.uuid, target_kib=256 * MIB_KIB, actual_kib=256 * MIB_KIB)
    daemon.host.add_guest(spec, 256 * MIB_KIB)
    assert await daemon.ring.settle(10)
    assert (daemon.vm().domid, daemon.vm(ONE).domid) == (1, -1)
    await daemon.service.lifecycle.start(ONE)
    assert daemon.vm(ONE).domid not in {-1, 1}
    await daemon.service.lifecycle.hard_shutdown(WEB.uuid)
    assert daemon.vm(ONE).power_state == "Running"


def test_least_memory_of_a_start_is_rounded_up_to_what_a_toolstack_can_build() -> None:
    vm = VmLaw().with_overhead(
        replace(WEB, memory_dynamic_min=256 * MIB + 1, memory_dynamic_max=257 * MIB + 1)
    )
    least_kib, most_kib = claim_of(vm)
    assert kib_to_bytes(least_kib) == 257 * MIB + vm.memory_overhead
    assert most_kib == least_kib + 1
    assert size_of(vm, least_kib).memory_mib == 257
    assert size_of(vm, most_kib).memory_mib == 257
    assert size_of(vm, 9999 * MIB_KIB).memory_mib == size_of(vm, 0).static_max_mib == 1024
    pinned = replace(vm, memory_dynamic_max=vm.memory_dynamic_min)
    assert claim_of(pinned) == (least_kib, least_kib)
    assert claim_of(replace(vm, domain_type="pv_in_pvh"))[0] > 1024 * MIB_KIB


async def test_vm_of_a_host_without_toolstack_does_not_start(daemon: Daemon, tmp_path: Path) -> None:
    service = Service(Store(tmp_path / "other"), daemon.ring)
    await service.start()
    await service.seed([WEB])
    daemon.ring.wake()
    with pytest.raises(XcpmemError, match="this host has no toolstack"):
        await service.lifecycle.start(WEB.uuid)
    await service.close()
