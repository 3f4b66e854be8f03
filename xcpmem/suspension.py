"""Suspending VMs to disk and bringing them back.

Of each step the order is such that a daemon may die after it and nothing is lost: the image is durable before
the domain ends, and it is of no more use before its guest runs on, for its disks would have changed. What a
dead daemon left is read off the host:

==========================  ===================  ====================================================
the VM's domain is          its record says      then
==========================  ===================  ====================================================
being written to its image  not suspended        it is waited for
paused                      either               the image is whole: the suspending is finished
running, or shut down       not suspended        the image came to nothing and goes
running, or shut down       suspended            somebody else started it: the image goes
not there                   not suspended        the image goes
not there                   suspended            nothing is left to do
==========================  ===================  ====================================================

A domain that is being built from an image has a reservation, and is `xcpmem.recovery`'s.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from xcpmem.construction import Errand, domid_of, overhead_kib, title_of
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import (
    ConnectionLost,
    NoSuspendSr,
    NotSeen,
    OperationNotAllowed,
    ToolstackError,
    XcpmemError,
)
from xcpmem.law import POOL_MIGRATE, RESUME, RESUME_ON, SUSPEND
from xcpmem.lookout import sight_of
from xcpmem.units import BYTES_PER_MIB, bytes_to_kib_floor, bytes_to_mib_ceil, kib_to_bytes, mib_to_kib
from xcpmem.xen.toolstack import Holding, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xcpmem.conduct import Conductor
    from xcpmem.construction import Construction
    from xcpmem.images import Images
    from xcpmem.ledger import Ledger
    from xcpmem.lookout import Lookout, Sight
    from xcpmem.placement import VmPlacement
    from xcpmem.report import CycleReport
    from xcpmem.reservations import Reservations
    from xcpmem.vm import Vm
    from xcpmem.xen.toolstack import Toolstack

REST_S: Final = 10.0
"""A guest may take so long to come down to its target before it is written to disk as it is."""

SEEN_S: Final = 30.0
"""A domain that was written to disk is seen to be paused within this time."""

_SLACK_KIB: Final = bytes_to_kib_floor(BYTES_PER_MIB)

_log = logging.getLogger(__name__)


class VmSuspension:
    """The use cases.

    Args:
        conductor: carries them out.
        toolstack: writes domains to files.
        construction: ends domains and builds them.
        lookout: sees what became of them.
        images: where the files are.
        ledger: of the VMs.
        placement: tests whether a VM fits.
        reservations: sets memory aside.
    """

    def __init__(
        self,
        *,
        conductor: Conductor,
        toolstack: Toolstack,
        construction: Construction,
        lookout: Lookout,
        images: Images,
        ledger: Ledger,
        placement: VmPlacement,
        reservations: Reservations,
    ) -> None:
        self._conductor = conductor
        self._toolstack = toolstack
        self._construction = construction
        self._lookout = lookout
        self._images = images
        self._ledger = ledger
        self._placement = placement
        self._reservations = reservations

    async def suspend(self, uuid: str) -> None:
        """Serve ``VM.suspend``: return when the domain has gone and its last page is free.

        Raises:
            NoSuspendSr: there is no place for images.
            SrFull: the disk has not so much room; the VM runs on.
            ToolstackError: it cannot be written, and why; the VM runs on. Further as `Operations.begin`.
        """
        await self._conductor.conduct(uuid, SUSPEND, self._suspend)

    async def resume(self, uuid: str, *, start_paused: bool = False) -> None:
        """Serve ``VM.resume``: its domain is built anew with exactly what it held.

        Args:
            uuid: of the VM.
            start_paused: do not let it run yet.

        Raises:
            OperationNotAllowed: its image is in somebody else's hands.
            NotEnoughMemory: that much cannot be had; bytes.
            DomainsUncooperative: these VMs did not give back what they were asked for.
            ToolstackError: it cannot be built, and why; the image stays. Further as `Operations.begin`.
        """
        await self._conductor.conduct(uuid, RESUME, lambda vm: self._resume(vm, start_paused=start_paused))

    async def resume_on(self, uuid: str, *, start_paused: bool = False) -> None:
        """Serve ``VM.resume_on`` this host: as `resume`, after xapi's memory test.

        Raises:
            NotEnoughPcpus: the VM has more CPUs than the host.
            NotEnoughMemory: the host has not so much left at maximum compression; bytes.
        """
        await self._conductor.conduct(
            uuid, RESUME_ON, lambda vm: self._resume(vm, start_paused=start_paused, is_tested=True)
        )

    async def pool_migrate(self, uuid: str) -> None:
        """Serve ``VM.pool_migrate`` to this host: tested as if the VM came, and then it is where it shall be.

        Raises:
            NotEnoughMemory: a second one would not fit; further as `Operations.begin`.
        """
        await self._conductor.conduct(uuid, POOL_MIGRATE, self._migrate)

    def unsettled(self, report: CycleReport) -> Iterator[str]:
        """Find the VMs of which a dead daemon, or somebody else, left more than an image or a domain.

        Args:
            report: of the host as it is.
        """
        if self._images.uuids:
            building = {reservation.vm_uuid for reservation in report.look.host.reservations}
            for uuid in self._images.uuids - building:
                sight = sight_of(report, uuid)
                has_domain = sight is not None and not sight.is_dying
                if has_domain or not self._images.is_suspended(uuid):
                    yield uuid

    async def settle(self, uuid: str) -> None:
        """Bring to an end what was left of suspending a VM.

        Raises:
            XcpmemError: that does not work yet.
        """
        if await self._images.is_being_written(uuid):
            raise ToolstackError("it is still being written to disk")
        vm, sight = self._ledger.vms.get(uuid), await self._lookout.look(uuid)
        if vm is None or sight is None or sight.is_dying:
            if not self._images.is_suspended(uuid):
                _log.warning("VM %s: removing what was left of an image", uuid)
                await self._images.drop(uuid)
        elif sight.lifecycle is Lifecycle.PAUSED:
            _log.info("%s: finishing its suspending, which another daemon began", title_of(vm))
            await self._finish(vm, sight)
        elif sight.lifecycle in {Lifecycle.RUNNING, Lifecycle.SUSPENDED}:
            _log.warning(
                "%s: domain %d is %s: the image is of no use", title_of(vm), sight.domid, sight.lifecycle
            )
            await self._images.drop(uuid)
        else:
            raise ToolstackError(f"{title_of(vm)}: domain {sight.domid} is {sight.lifecycle}")

    async def _suspend(self, vm: Vm) -> None:
        if not self._images.has_place:
            raise NoSuspendSr(vm.ref)
        sight = await self._come_to_rest(vm)
        subject = Subject(domid_of(sight, vm), title_of(vm))
        path = await self._images.prepare(vm.uuid)
        try:
            await self._toolstack.save(subject, path, _holding(sight))
            complaint = f"{subject.title}: domain {subject.domid} was written to disk and not seen paused"
            sight = await self._lookout.until(vm.uuid, _is_paused, SEEN_S, complaint)
            domid_of(sight, vm)
            await self._images.keep(vm.uuid, kib_to_bytes(_holding(sight).actual_kib))
        except ConnectionLost:
            raise  # the next daemon brings it to an end
        except XcpmemError:
            await self._run_on(vm, subject)
            await self._images.drop(vm.uuid)
            raise
        await self._construction.destroy(vm.uuid, subject)

    async def _come_to_rest(self, vm: Vm) -> Sight | None:
        """Wait, for a while, until a guest holds no more than it was told to."""

        def is_at_rest(sight: Sight | None) -> bool:
            return sight is None or sight.domain.actual_kib <= sight.domain.target_kib + _SLACK_KIB

        try:
            return await self._lookout.until(vm.uuid, is_at_rest, REST_S, f"{title_of(vm)}: it does not rest")
        except NotSeen as error:
            _log.info("suspending it as it is: %s", error)
            return await self._lookout.look(vm.uuid)

    async def _run_on(self, vm: Vm, subject: Subject) -> None:
        """Let a guest run on of which there is an image that is of no use."""
        try:
            sight = await self._lookout.look(vm.uuid)
            if sight is not None and sight.lifecycle is Lifecycle.PAUSED:
                await self._toolstack.unpause(subject)
        except XcpmemError as error:
            _log.warning("%s was not suspended, and may still be paused: %s", subject.title, error)

    async def _finish(self, vm: Vm, sight: Sight) -> None:
        if vm.memory_suspended < 0:
            await self._images.keep(vm.uuid, kib_to_bytes(sight.domain.actual_kib))
        await self._construction.destroy(vm.uuid, Subject(sight.domid, title_of(vm)))

    async def _resume(self, vm: Vm, *, start_paused: bool, is_tested: bool = False) -> None:
        if is_tested:
            self._placement.check_can_start(vm)
        else:
            self._placement.check_has_host(vm)
        if not self._images.is_suspended(vm.uuid):
            raise OperationNotAllowed("the image of the suspended domain is not in xcpmem's hands")
        await self._images.find(vm.uuid)
        await self._construction.clear_ground(vm)
        size_kib = mib_to_kib(bytes_to_mib_ceil(vm.memory_suspended)) + overhead_kib(vm)
        errand = Errand.RESUME_PAUSED if start_paused else Errand.RESUME
        reservation = await self._reservations.reserve_for(vm.uuid, errand, size_kib, size_kib)
        await self._construction.build(vm, reservation)

    async def _migrate(self, vm: Vm) -> None:
        self._placement.check_fits(vm)


def _holding(sight: Sight | None) -> Holding:
    if sight is None:
        return Holding(0, 0)
    return Holding(sight.domain.actual_kib, sight.domain.target_kib)


def _is_paused(sight: Sight | None) -> bool:
    return sight is None or sight.is_dying or sight.lifecycle is Lifecycle.PAUSED
