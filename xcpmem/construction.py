"""Turning memory that was set aside into a running domain, in steps of which each may be the daemon's last.

A reservation that names a VM stands in xenstore from before the first page is taken until the VM is handed
over, so whoever finds one knows that something is left to do, and what: its owner says what it was made for,
and once it names the domid of the VM's domain that domain is complete. Until then the domain is a ruin, to be
cleared away. `xcpmem.recovery` decides by that after a restart; here is how either end is reached.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import ConnectionLost, ToolstackError, XcpmemError
from xcpmem.units import bytes_to_kib_ceil, bytes_to_mib_ceil, kib_to_mib_floor, mib_to_kib
from xcpmem.xen.toolstack import Blueprint, Size, Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from xcpmem.engine.model import Reservation
    from xcpmem.images import Images
    from xcpmem.lookout import Lookout, Sight
    from xcpmem.ring import Ring
    from xcpmem.vm import Vm
    from xcpmem.xen.toolstack import Toolstack

SEEN_S: Final = 30.0
"""What the toolstack says it did is seen at the host within this time."""

GONE_S: Final = 120.0
"""A domain that was destroyed has given back its last page within this time."""

_log = logging.getLogger(__name__)


class Errand(StrEnum):
    """What memory was set aside for: the owners of reservations that name a VM."""

    START = "xcpmem-start"
    START_PAUSED = "xcpmem-start-paused"
    RESUME = "xcpmem-resume"
    RESUME_PAUSED = "xcpmem-resume-paused"
    REBOOT = "xcpmem-reboot"  # the toolstack itself replaces the domain: none is ever destroyed for this


RESUMING: Final = frozenset({Errand.RESUME, Errand.RESUME_PAUSED})
"""A domain that is built for these comes from an image, and holds what it says."""

_LEFT_PAUSED: Final = frozenset({Errand.START_PAUSED, Errand.RESUME_PAUSED})


class Construction:
    """Builds the domains of VMs.

    Args:
        ring: the controller.
        toolstack: does the work.
        lookout: sees what became of it.
        images: from which suspended ones are built.
    """

    def __init__(self, ring: Ring, toolstack: Toolstack, lookout: Lookout, images: Images) -> None:
        self._ring = ring
        self._toolstack = toolstack
        self._lookout = lookout
        self._images = images

    async def clear_ground(self, vm: Vm) -> None:
        """Wait until a former domain of a VM is gone, or as good as gone: it gives no page back any more.

        Raises:
            ToolstackError: there is a domain that lives, which is none of ours.
            NotSeen: it did not go.
        """
        complaint = f"{title_of(vm)}: its former domain did not go"
        sight = await self._lookout.until(vm.uuid, _is_no_corpse, GONE_S, complaint)
        if sight is not None and not sight.is_dying:
            raise ToolstackError(f"{title_of(vm)}: domain {sight.domid} is one of it already")

    async def build(self, vm: Vm, reservation: Reservation) -> None:
        """Build a VM's domain with the memory that was set aside for it, and hand it over to the balancer.

        Whatever goes wrong: afterwards no domain of it is left, and the memory is given back; only what was
        resumed past its image stays, paused.

        Raises:
            XcpmemError: why the VM does not run.
        """
        try:
            await self.clear_ground(vm)
        except XcpmemError:
            await self._give_up(vm, self._ring.delete(reservation.reservation_id))
            raise
        try:
            await self._make(vm, reservation)
            complaint = f"{title_of(vm)}: its new domain was not seen"
            sight = await self._lookout.until(vm.uuid, _is_built, SEEN_S, complaint)
            await self._ring.confirm(reservation.reservation_id, domid_of(sight, vm))
            await self.hand_over(vm, reservation)
        except ConnectionLost:
            raise  # the next daemon brings it to an end
        except XcpmemError:
            if reservation.owner in RESUMING and not self._images.is_suspended(vm.uuid):
                await self._give_up(vm, self._ring.delete(reservation.reservation_id))
            else:
                await self._give_up(vm, self.abandon(reservation, title_of(vm)))
            raise

    async def hand_over(self, vm: Vm, reservation: Reservation) -> None:
        """Let a complete domain go: range to xenstore, image away, guest to run, reservation away.

        In this order, so that a daemon that dies in between leaves a reservation that says what is left.

        Raises:
            HostError: the domain is gone, or the host does not answer.
        """
        wanted = vm.dynamic_range
        self._ring.set_range(vm.uuid, wanted)
        try:
            sight = await self._lookout.until(
                vm.uuid,
                lambda seen: seen is None or (seen.domain.has_range and seen.domain.dynamic_range == wanted),
                SEEN_S,
                f"{title_of(vm)}: its dynamic range was not written",
            )
        finally:
            self._ring.forget_range(vm.uuid)
        domid = domid_of(sight, vm)
        await self._images.drop(vm.uuid)
        if reservation.owner not in _LEFT_PAUSED and sight and sight.lifecycle is Lifecycle.PAUSED:
            await self._toolstack.unpause(Subject(domid, title_of(vm)))
            complaint = f"{title_of(vm)}: domain {domid} was not unpaused"
            await self._lookout.until(vm.uuid, _is_not_paused, SEEN_S, complaint)
        await self._ring.delete(reservation.reservation_id)

    async def abandon(self, reservation: Reservation, title: str) -> None:
        """Clear away what there is of a reservation's domain, and give its memory back.

        While that is dying it costs what it still holds, so nobody has to wait for its last page.

        Raises:
            HostError: that did not work; the reservation still stands and keeps the memory.
        """
        sight = await self._lookout.look(reservation.vm_uuid)
        if sight is not None:
            await self.end(reservation.vm_uuid, Subject(sight.domid, title))
        await self._ring.delete(reservation.reservation_id)

    async def destroy(self, uuid: str, subject: Subject) -> None:
        """End a VM's domain and wait until its last page is free.

        Raises:
            ToolstackError: the toolstack did not, and the domain lives.
            NotSeen: it still dies.
        """
        await self.end(uuid, subject)
        complaint = f"{subject.title}: domain {subject.domid} was destroyed and did not go"
        await self._lookout.until(
            uuid, lambda sight: sight is None or sight.domid != subject.domid, GONE_S, complaint
        )

    async def end(self, uuid: str, subject: Subject) -> None:
        """End a VM's domain; it may be dying for a while yet.

        Raises:
            ToolstackError: the toolstack did not, and the domain lives.
            NotSeen: the toolstack says that it did, but the domain lives.
        """

        def is_over(sight: Sight | None) -> bool:
            return sight is None or sight.domid != subject.domid or sight.is_dying

        try:
            await self._toolstack.destroy(subject)
        except ToolstackError:
            if not is_over(await self._lookout.look(uuid)):
                raise
            return
        complaint = f"{subject.title}: domain {subject.domid} was destroyed and lives on"
        await self._lookout.until(uuid, is_over, GONE_S, complaint)

    async def _make(self, vm: Vm, reservation: Reservation) -> None:
        blueprint, size = blueprint_of(vm), size_of(vm, reservation.size_kib)
        if reservation.owner in RESUMING:
            await self._toolstack.restore(blueprint, size, await self._images.find(vm.uuid))
        else:
            await self._toolstack.create(blueprint, size)

    async def _give_up(self, vm: Vm, ending: Awaitable[None]) -> None:
        """Clean up after an error; what does not work now is left standing, for `xcpmem.recovery` to see."""
        try:
            await ending
        except XcpmemError as error:
            _log.warning("%s: what is left of its start cannot be cleared away yet: %s", title_of(vm), error)


def title_of(vm: Vm) -> str:
    """Name a VM in sentences."""
    return blueprint_of(vm).title


def blueprint_of(vm: Vm) -> Blueprint:
    """Say what a toolstack has to know of a VM."""
    return Blueprint(
        uuid=vm.uuid,
        name_label=vm.name_label,
        vcpus=vm.VCPUs_at_startup,
        domain_type=vm.domain_type,
        settings=vm.other_config,
    )


def domid_of(sight: Sight | None, vm: Vm) -> int:
    """Give the number of a VM's domain. Raises ToolstackError if there is none any more."""
    if sight is None:
        raise ToolstackError(f"{title_of(vm)}: its domain is gone")
    return sight.domid


def overhead_kib(vm: Vm) -> int:
    """Count what a VM costs beside its own memory, KiB."""
    return bytes_to_kib_ceil(vm.memory_overhead)


def claim_of(vm: Vm) -> tuple[int, int]:
    """Say what must be set aside for a VM: dynamic range and overhead.

    A toolstack builds in whole MiB, so the least is rounded up to that. A ``pv_in_pvh`` VM cannot balloon
    while it boots, and gets static-max (as in xapi's test before a start).

    Returns:
        The least and the most, KiB.
    """
    is_fixed = vm.domain_type == "pv_in_pvh"
    least = vm.memory_static_max if is_fixed else vm.memory_dynamic_min
    most = vm.memory_static_max if is_fixed else vm.memory_dynamic_max
    least_kib = mib_to_kib(max(0, bytes_to_mib_ceil(least))) + overhead_kib(vm)
    return least_kib, max(least_kib, bytes_to_kib_ceil(most) + overhead_kib(vm))


def size_of(vm: Vm, reserved_kib: int) -> Size:
    """Say how large to build a VM's domain with what was set aside for it, KiB."""
    static_max_mib = max(0, bytes_to_mib_ceil(vm.memory_static_max))
    memory_mib = kib_to_mib_floor(max(0, reserved_kib - overhead_kib(vm)))
    return Size(min(memory_mib, static_max_mib), static_max_mib)


def _is_no_corpse(sight: Sight | None) -> bool:
    return sight is None or not sight.is_dying or sight.is_zombie


def _is_built(sight: Sight | None) -> bool:
    return sight is not None and sight.lifecycle in {Lifecycle.RUNNING, Lifecycle.PAUSED}


def _is_not_paused(sight: Sight | None) -> bool:
    return sight is None or sight.lifecycle is not Lifecycle.PAUSED
