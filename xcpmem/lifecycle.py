"""Starting, stopping, pausing and rebooting VMs: XenAPI's calls over a toolstack.

Each call is a use case of its own that runs to its end even if its caller goes away. A VM starts with memory
that was set aside for it first: as much as is fair, which may be all that others can give; it boots with that
and grows later. What a start needs is refused at once if it can never be had, and then nobody moves.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from xcpmem.conduct import Conductor
from xcpmem.construction import (
    Construction,
    Errand,
    blueprint_of,
    claim_of,
    domid_of,
    overhead_kib,
    title_of,
)
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import (
    NotSeen,
    ShutdownTimeout,
    ToolstackError,
    XcpmemError,
)
from xcpmem.law import (
    CLEAN_REBOOT,
    CLEAN_SHUTDOWN,
    HARD_REBOOT,
    HARD_SHUTDOWN,
    PAUSE,
    SHUTDOWN,
    START,
    START_ON,
    UNPAUSE,
    VmLaw,
    format_ocaml_float,
)
from xcpmem.lookout import Lookout
from xcpmem.recovery import Recovery
from xcpmem.suspension import VmSuspension
from xcpmem.xen.toolstack import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.images import Images
    from xcpmem.ledger import Entry, Ledger
    from xcpmem.lookout import Sight
    from xcpmem.operations import Operations
    from xcpmem.placement import VmPlacement
    from xcpmem.report import CycleReport
    from xcpmem.reservations import Reservations
    from xcpmem.ring import Ring
    from xcpmem.vm import Vm
    from xcpmem.xen.toolstack import Toolstack

CLEAN_S: Final = 1200.0
"""A guest that was asked to shut down or reboot has so long (xapi's domain_shutdown_total_timeout)."""

PAUSED_S: Final = 30.0
"""A domain that was paused or let run is seen so within this time."""

UNATTENDED_S: Final = 10.0
"""A guest that went down for a reboot and is not built again within this time has nobody to do it."""

_ASKED: Final = (CLEAN_SHUTDOWN, CLEAN_REBOOT, SHUTDOWN)
"""What a hard shutdown or reboot puts an end to: others may wait for ever for a guest that hangs."""

_log = logging.getLogger(__name__)


class VmLifecycle:
    """The use cases.

    Args:
        ring: the controller.
        toolstack: builds and ends domains.
        operations: one thing at a time on each VM.
        ledger: of the VMs.
        law: what xapi allows.
        placement: tests whether a VM fits.
        reservations: sets memory aside.
        images: of suspended VMs.
        clock: the one by which the ring stamps its reports, monotonic seconds.
    """

    def __init__(
        self,
        *,
        ring: Ring,
        toolstack: Toolstack,
        operations: Operations,
        ledger: Ledger,
        law: VmLaw,
        placement: VmPlacement,
        reservations: Reservations,
        images: Images,
        clock: Callable[[], float],
    ) -> None:
        self._ring = ring
        self._toolstack = toolstack
        self._lookout = Lookout(ring, clock)
        self._construction = Construction(ring, toolstack, self._lookout, images)
        self._conductor = Conductor(operations, self._lookout)
        self.suspension = VmSuspension(
            conductor=self._conductor,
            toolstack=toolstack,
            construction=self._construction,
            lookout=self._lookout,
            images=images,
            ledger=ledger,
            placement=placement,
            reservations=reservations,
        )
        self._recovery = Recovery(
            ring=ring,
            construction=self._construction,
            lookout=self._lookout,
            operations=operations,
            suspension=self.suspension,
            vms=ledger.vms,
        )
        self._images = images
        self._operations = operations
        self._ledger = ledger
        self._law = law
        self._placement = placement
        self._reservations = reservations

    async def close(self) -> None:
        """Leave what is under way to the next daemon; whoever waits for it is told."""
        await self._conductor.close()
        await self._recovery.close()

    def absorb(self, report: CycleReport) -> None:
        """Take on what a report shows that another daemon left behind."""
        self._recovery.absorb(report)

    async def start(self, uuid: str, *, start_paused: bool = False, force: bool = False) -> None:
        """Serve ``VM.start``; return when the VM runs, or is paused if that was asked for.

        Args:
            uuid: of the VM.
            start_paused: do not let it run yet.
            force: start it even if its memory had to be pinned and is not.

        Raises:
            ConstraintMaxPin: it would have to be pinned.
            NoHostsAvailable: it has more CPUs than the host.
            NotEnoughMemory: that much cannot be had; bytes.
            DomainsUncooperative: these VMs did not give back what they were asked for.
            ToolstackError: it cannot be built, and why. Further errors as `Operations.begin`.
        """
        await self._conductor.conduct(
            uuid, START, lambda vm: self._start(vm, start_paused=start_paused, force=force)
        )

    async def start_on(self, uuid: str, *, start_paused: bool = False, force: bool = False) -> None:
        """Serve ``VM.start_on`` this host: as `start`, but with xapi's memory test before anything moves.

        Raises:
            NotEnoughPcpus: the VM has more CPUs than the host.
            NotEnoughMemory: the host has not so much left at maximum compression; bytes.
        """
        await self._conductor.conduct(
            uuid,
            START_ON,
            lambda vm: self._start(vm, start_paused=start_paused, force=force, is_tested=True),
        )

    async def clean_shutdown(self, uuid: str) -> None:
        """Serve ``VM.clean_shutdown``: ask the guest, return when it has gone.

        Raises:
            ShutdownTimeout: it did not go.
            TaskCancelled: a hard shutdown or reboot came in between.
            ToolstackError: it could not be asked. Further errors as `Operations.begin`.
        """
        await self._conductor.conduct(uuid, CLEAN_SHUTDOWN, self._shut_down)

    async def hard_shutdown(self, uuid: str) -> None:
        """Serve ``VM.hard_shutdown``: end the domain, or discard the image; return when it has gone.

        Raises:
            ToolstackError: it could not be ended. Further errors as `Operations.begin`.
        """
        self._operations.cancel(uuid, _ASKED)
        await self._conductor.conduct(uuid, HARD_SHUTDOWN, self._destroy)

    async def shutdown(self, uuid: str) -> None:
        """Serve ``VM.shutdown``: cleanly if that works, else hard; raises as both."""
        await self._conductor.conduct(uuid, SHUTDOWN, self._shut_down_somehow)

    async def pause(self, uuid: str) -> None:
        """Serve ``VM.pause``. Raises ToolstackError, further errors as `Operations.begin`."""
        await self._conductor.conduct(uuid, PAUSE, self._pause)

    async def unpause(self, uuid: str) -> None:
        """Serve ``VM.unpause``. Raises ToolstackError, further errors as `Operations.begin`."""
        await self._conductor.conduct(uuid, UNPAUSE, self._unpause)

    async def clean_reboot(self, uuid: str) -> None:
        """Serve ``VM.clean_reboot``: ask the guest, return when its next domain runs.

        Raises as `clean_shutdown`, and as `start` if nobody else builds the next domain.
        """
        await self._conductor.conduct(uuid, CLEAN_REBOOT, self._reboot)

    async def hard_reboot(self, uuid: str) -> None:
        """Serve ``VM.hard_reboot``: end the domain, and build the next one with the same memory.

        Raises:
            ToolstackError: it could not be ended, or not built again. Further errors as `Operations.begin`.
        """
        self._operations.cancel(uuid, _ASKED)
        await self._conductor.conduct(uuid, HARD_REBOOT, self._rebuild)

    def give_up(self, uuid: str, task: str) -> bool:
        """Stop waiting for a guest that a task has asked to go; the task ends with TaskCancelled.

        Returns:
            False when the task has not begun its operation on the VM, and can be cancelled where it waits.
        """
        vm = self._ledger.vms.get(uuid)
        has_begun = vm is not None and task in vm.current_operations
        if has_begun:
            self._operations.cancel(uuid, _ASKED)
        return has_begun

    async def _start(self, vm: Vm, *, start_paused: bool, force: bool, is_tested: bool = False) -> None:
        vm = await self._count_overhead(vm, force=force)
        if is_tested:
            self._placement.check_can_start(vm)
        else:
            self._placement.check_has_host(vm)
        await self._construction.clear_ground(vm)
        min_kib, max_kib = claim_of(vm)
        errand = Errand.START_PAUSED if start_paused else Errand.START
        reservation = await self._reservations.reserve_for(vm.uuid, errand, min_kib, max_kib)
        await self._construction.build(vm, reservation)

    async def _shut_down(self, vm: Vm) -> None:
        subject = await self._find(vm)
        await self._toolstack.shutdown(subject)

        def is_down(sight: Sight | None) -> bool:
            self._operations.check_wanted(vm.uuid)
            return not _is_up(sight, subject)

        try:
            sight = await self._lookout.until(
                vm.uuid, is_down, CLEAN_S, f"{title_of(vm)}: it did not shut down"
            )
        except NotSeen as error:
            raise ShutdownTimeout(vm.ref, format_ocaml_float(CLEAN_S)) from error
        if sight is not None and sight.domid == subject.domid:
            await self._construction.end(vm.uuid, subject)

    async def _shut_down_somehow(self, vm: Vm) -> None:
        if vm.power_state == "Running":
            try:
                await self._shut_down(vm)
            except (ShutdownTimeout, ToolstackError) as error:
                _log.info("%s does not shut down by itself: %s", title_of(vm), error)
            else:
                return
        await self._destroy(vm)

    async def _destroy(self, vm: Vm) -> None:
        sight = await self._lookout.look(vm.uuid)
        if sight is not None or not self._images.is_suspended(vm.uuid):
            await self._construction.end(vm.uuid, Subject(domid_of(sight, vm), title_of(vm)))
        await self._images.drop(vm.uuid)

    async def _pause(self, vm: Vm) -> None:
        subject = await self._find(vm)
        await self._toolstack.pause(subject)
        await self._wait_for(vm, subject, Lifecycle.PAUSED, "was not paused")

    async def _unpause(self, vm: Vm) -> None:
        subject = await self._find(vm)
        await self._images.drop(vm.uuid)
        await self._toolstack.unpause(subject)
        await self._wait_for(vm, subject, Lifecycle.RUNNING, "was not unpaused")

    async def _wait_for(self, vm: Vm, subject: Subject, lifecycle: Lifecycle, complaint: str) -> None:
        """Wait until a domain is so, or is down."""
        await self._lookout.until(
            vm.uuid,
            lambda sight: not _is_up(sight, subject) or (sight is not None and sight.lifecycle is lifecycle),
            PAUSED_S,
            f"{subject.title}: domain {subject.domid} {complaint}",
        )

    async def _reboot(self, vm: Vm) -> None:
        """Hold a VM's memory while the toolstack replaces its domain, or do that ourselves if nobody does."""
        subject = await self._find(vm)
        reservation = await self._ring.keep(
            owner=Errand.REBOOT, vm_uuid=vm.uuid, overhead_kib=overhead_kib(vm)
        )
        try:
            is_back = await self._ask_to_reboot(vm, subject)
        except XcpmemError:
            await self._ring.delete(reservation.reservation_id)
            raise
        await self._ring.delete(reservation.reservation_id)
        if not is_back:
            _log.info("%s went down to reboot and nobody built it again", subject.title)
            await self._construction.end(vm.uuid, subject)
            await self._start(vm, start_paused=False, force=True)

    async def _ask_to_reboot(self, vm: Vm, subject: Subject) -> bool:
        """Ask a guest to reboot; tell, when it went down, whether it has come back by itself."""
        loop, down_s = asyncio.get_running_loop(), float("inf")

        def is_decided(sight: Sight | None) -> bool:
            nonlocal down_s
            self._operations.check_wanted(vm.uuid)
            if sight is not None and sight.domid != subject.domid:
                return sight.lifecycle is Lifecycle.RUNNING
            down_s = loop.time() if _is_up(sight, subject) else min(down_s, loop.time())
            return loop.time() - down_s >= UNATTENDED_S

        await self._toolstack.reboot(subject)
        try:
            sight = await self._lookout.until(
                vm.uuid, is_decided, CLEAN_S, f"{title_of(vm)}: it did not reboot"
            )
        except NotSeen as error:
            raise ShutdownTimeout(vm.ref, format_ocaml_float(CLEAN_S)) from error
        return sight is not None and sight.domid != subject.domid

    async def _rebuild(self, vm: Vm) -> None:
        """Replace a VM's domain; its memory is set aside before the old one ends, so nobody can take it."""
        vm = await self._count_overhead(vm, force=True)
        subject = await self._find(vm)
        reservation = await self._ring.keep(
            owner=Errand.START, vm_uuid=vm.uuid, overhead_kib=overhead_kib(vm)
        )
        try:
            await self._construction.end(vm.uuid, subject)
        except XcpmemError:
            await self._ring.delete(reservation.reservation_id)
            raise
        await self._construction.build(vm, reservation)

    async def _count_overhead(self, vm: Vm, *, force: bool) -> Vm:
        """Check that a VM may boot, as it is once all earlier changes are made, and store its overhead."""

        def decide(entry: Entry) -> Vm:
            checked = self._law.start(entry.vms[vm.uuid], force=force)
            entry.put_vm(checked)
            return checked

        checked = await self._ledger.post(decide)
        self._toolstack.check(blueprint_of(checked))
        return checked

    async def _find(self, vm: Vm) -> Subject:
        """Find a VM's domain. Raises ToolstackError if there is none any more."""
        return Subject(domid_of(await self._lookout.look(vm.uuid), vm), title_of(vm))


def _is_up(sight: Sight | None, subject: Subject) -> bool:
    return sight is not None and sight.domid == subject.domid and not sight.is_down
