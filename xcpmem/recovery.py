"""Bringing to an end what a daemon that died had begun.

Level-triggered: each report of the ring shows which reservations stand for VMs; one that nobody here is at
work on was left behind. What is left to do is read off the host, never remembered:

=========================  =========================================================================
the VM's domain is         then
=========================  =========================================================================
named by the reservation   it is complete: the start is finished
there, and runs            somebody else started it: the memory is given back
there, paused              it is a ruin: destroyed, and the memory is given back
there, dying               the memory is given back, page by page as the domain leaves it
not there                  the memory is given back
=========================  =========================================================================

Memory that was held for a reboot by the toolstack itself is only ever given back. A resuming is a start whose
domain comes from an image, which stays until its guest runs; what is left of a suspending has no reservation,
and `xcpmem.suspension` knows what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from xcpmem.construction import Errand
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import XcpmemError
from xcpmem.law import CLEAN_REBOOT, RESUME, START, SUSPEND
from xcpmem.lookout import LOOK_S, sight_of
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.construction import Construction
    from xcpmem.engine.model import Reservation
    from xcpmem.law import Operation
    from xcpmem.lookout import Lookout, Sight
    from xcpmem.operations import Operations
    from xcpmem.report import CycleReport
    from xcpmem.ring import Ring
    from xcpmem.suspension import VmSuspension
    from xcpmem.vm import Vm

_OPERATIONS: Final[Mapping[str, Operation]] = {
    Errand.REBOOT: CLEAN_REBOOT,
    Errand.RESUME: RESUME,
    Errand.RESUME_PAUSED: RESUME,
}

RETRY_S: Final = (1.0, 30.0)
"""First and longest wait after an end that could not be reached; doubles in between."""

_log = logging.getLogger(__name__)


class Recovery:
    """Looks for reservations that were left behind.

    Args:
        ring: the controller.
        construction: finishes domains, or clears them away.
        lookout: sees what there is.
        operations: keeps everybody else from the VM meanwhile.
        suspension: knows what is left of suspending a VM.
        vms: all VMs by uuid; a view that follows every change.
    """

    def __init__(
        self,
        *,
        ring: Ring,
        construction: Construction,
        lookout: Lookout,
        operations: Operations,
        suspension: VmSuspension,
        vms: Mapping[str, Vm],
    ) -> None:
        self._ring = ring
        self._construction = construction
        self._lookout = lookout
        self._operations = operations
        self._suspension = suspension
        self._vms = vms
        self._tasks: set[asyncio.Task[None]] = set()

    def absorb(self, report: CycleReport) -> None:
        """Take on what a report shows to be left behind."""
        if not report.saw_host:
            return
        for reservation in report.look.host.reservations:
            operation = _OPERATIONS.get(reservation.owner, START)
            if reservation.vm_uuid:
                finish = partial(self._try, reservation.reservation_id)
                self._take_on(reservation.vm_uuid, operation, finish)
        for uuid in self._suspension.unsettled(report):
            self._take_on(uuid, SUSPEND, self._suspension.settle)

    async def close(self) -> None:
        """Leave the rest for the next daemon."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take_on(self, uuid: str, operation: Operation, finish: Callable[[str], Awaitable[None]]) -> None:
        if self._operations.claim(uuid, operation):
            task = asyncio.create_task(
                self._bring_to_an_end(uuid, operation, finish), name=f"recovery of {uuid}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _bring_to_an_end(
        self, uuid: str, operation: Operation, finish: Callable[[str], Awaitable[None]]
    ) -> None:
        pause_s, longest_s = RETRY_S
        try:
            while True:
                try:
                    await finish(uuid)
                    self._operations.unveil(uuid)
                    await self._lookout.look(uuid)
                except XcpmemError as error:
                    _log.warning("VM %s: cannot bring its %s to an end yet: %s", uuid, operation.name, error)
                else:
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, longest_s)
        finally:
            self._operations.end(uuid)

    async def _try(self, reservation_id: str, uuid: str) -> None:
        report = await self._lookout.report_until(lambda _: True, LOOK_S, "the host was not seen")
        reservations = report.look.host.reservations
        reservation = next((r for r in reservations if r.reservation_id == reservation_id), None)
        if reservation is None:
            return
        sight, vm = sight_of(report, uuid), self._vms.get(uuid)
        size = format_kib(reservation.size_kib)
        if reservation.owner == Errand.REBOOT or _is_anothers(reservation, sight):
            _log.warning("VM %s: gave back %s that were held for its reboot or start", uuid, size)
            await self._ring.delete(reservation_id)
        elif vm is not None and sight is not None and _is_complete(reservation, sight):
            _log.info("VM %s: finishing its start, which another daemon began", uuid)
            await self._construction.hand_over(vm, reservation)
        else:
            _log.warning("VM %s: its start was never finished; giving back %s", uuid, size)
            await self._construction.abandon(reservation, f"VM {uuid}")


def _is_complete(reservation: Reservation, sight: Sight) -> bool:
    """Tell whether a reservation's domain was built to the end, and was not destroyed since."""
    return sight.domid == reservation.domid and not sight.is_dying


def _is_anothers(reservation: Reservation, sight: Sight | None) -> bool:
    """Tell whether somebody else got the VM a domain: ours would be paused."""
    return (
        sight is not None
        and sight.domid != reservation.domid
        and sight.lifecycle in {Lifecycle.RUNNING, Lifecycle.SUSPENDED}
    )
