"""Reservations as the class ``Memory`` offers them: squeezed's calls, in XenAPI's errors.

Sizes are KiB, as in squeezed, but bytes in errors. A reservation belongs to an owner, a session or a service;
what it did not transfer to a domain is given back when the owner goes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xcpmem.engine.model import SetTarget
from xcpmem.errors import DomainsUncooperative, InvalidValue, NoReservation
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xcpmem.engine.model import Reservation
    from xcpmem.report import CycleReport
    from xcpmem.ring import Ring


class Reservations:
    """The calls, with arguments checked and domains named as VMs.

    Args:
        ring: the controller.
        name_domain: gives the reference of the VM of a domid, None when there is none any more.
        timeout_s: how long a reservation may wait for guests, seconds.
        balance_s: how long `balance` may wait, seconds.
    """

    def __init__(
        self,
        ring: Ring,
        name_domain: Callable[[int], str | None],
        *,
        timeout_s: float,
        balance_s: float,
    ) -> None:
        self._ring = ring
        self._name_domain = name_domain
        self._timeout_s = timeout_s
        self._balance_s = balance_s

    async def reserve_exactly(self, owner: str, size_kib: int) -> str:
        """Serve ``Memory.reserve_memory``; see `reserve`.

        Returns:
            The reservation's id.

        Raises:
            InvalidValue: size_kib is negative.
        """
        if size_kib < 0:
            raise InvalidValue("size_kib", size_kib)
        reservation_id, _ = await self.reserve(owner, size_kib, size_kib)
        return reservation_id

    async def reserve(self, owner: str, min_kib: int, max_kib: int) -> tuple[str, int]:
        """Serve ``Memory.reserve_memory_range``: as much as is fair, but what is granted is really free.

        Args:
            owner: a session or service.
            min_kib: the least that is of use.
            max_kib: the most that is wanted.

        Returns:
            The reservation's id and what was granted, KiB.

        Raises:
            InvalidValue: a size is negative, or min_kib is above max_kib.
            NotEnoughMemory: it cannot be had; bytes.
            DomainsUncooperative: it could be had if these VMs did as they were asked.
            ConnectionLost: the daemon ended first.
        """
        if min_kib < 0:
            raise InvalidValue("min_kib", min_kib)
        if max_kib < min_kib:
            raise InvalidValue("max_kib", max_kib)
        reservation = await self._reserve(owner, min_kib, max_kib)
        return reservation.reservation_id, reservation.size_kib

    async def reserve_for(self, vm_uuid: str, owner: str, min_kib: int, max_kib: int) -> Reservation:
        """Set memory aside for a VM that is to be started; raises as `reserve`."""
        return await self._reserve(owner, min_kib, max_kib, vm_uuid=vm_uuid)

    async def reserve_for_service(
        self, owner: str, min_kib: int, max_kib: int, reservation_id: str
    ) -> Reservation:
        """Set memory aside for a service of the host; raises as `Ring.reserve`, with domains by their domids.

        Args:
            owner: as `refs.service_owner` names it.
            min_kib: the least that is of use.
            max_kib: the most that is wanted.
            reservation_id: what it is to be called; asking twice is as asking once. Empty: a new uuid.
        """
        return await self._ring.reserve(
            owner=owner,
            min_kib=min_kib,
            max_kib=max_kib,
            timeout_s=self._timeout_s,
            reservation_id=reservation_id,
        )

    async def transfer(self, reservation_id: str, domid: int) -> None:
        """Serve ``Memory.transfer_reservation_to_domain``.

        Raises:
            UnknownReservation: there is none of that id, or another domain that is still there has got it.
            InvalidValue: there is no such domain.
            DriverError: the host refused.
        """
        await self._ring.transfer(reservation_id, domid)

    async def delete(self, reservation_id: str) -> None:
        """Serve ``Memory.delete_reservation``. Raises DriverError when the host refused."""
        await self._ring.delete(reservation_id)

    async def release(self, owner: str, *, transferred_too: bool = False) -> None:
        """Give back what an owner that is gone did not transfer, or really all. Raises DriverError."""
        await self._ring.release(owner, transferred_too=transferred_too)

    def of_domain(self, domid: int) -> str:
        """Serve ``Memory.query_reservation_of_domain``.

        Raises:
            NoReservation: none was transferred to it.
        """
        reservation_id = self._ring.reservation_of_domain(domid)
        if reservation_id is None:
            raise NoReservation(domid)
        return reservation_id

    async def balance(self) -> None:
        """Serve ``Memory.balance_memory``: return when the host is stable or the deadline has passed."""
        await self._ring.settle(self._balance_s)

    async def _reserve(self, owner: str, min_kib: int, max_kib: int, *, vm_uuid: str = "") -> Reservation:
        try:
            return await self._ring.reserve(
                owner=owner, min_kib=min_kib, max_kib=max_kib, timeout_s=self._timeout_s, vm_uuid=vm_uuid
            )
        except DomainsUncooperative as error:
            named = (self._name_domain(int(domid)) for domid in error.vms)
            raise DomainsUncooperative(*(ref for ref in named if ref is not None)) from error

    def diagnose(self) -> str:
        """Serve ``Memory.get_diagnostics``: the latest turn in plain words, one line per fact."""
        report = self._ring.report
        if report is None:
            return "the host was not seen yet"
        return "\n".join(_diagnostics(report, self._ring.reservations))


def _diagnostics(report: CycleReport, reservations: tuple[Reservation, ...]) -> Iterator[str]:
    host = replace(report.look.host, reservations=reservations)
    yield (
        f"turn {report.number}: {'stable' if report.stable else 'moving'}; "
        f"{format_kib(host.free_kib)} free, {format_kib(host.scrub_kib)} being scrubbed, "
        f"{format_kib(host.slush_kib)} kept free, {format_kib(host.reserved_kib)} reserved, "
        f"of {format_kib(host.total_kib)}"
    )
    memory = report.stance.beliefs.policy
    if memory.trouble:
        instead = "XCP's rule decides for now" if memory.is_set_aside else "its last good plan stays"
        yield f"policy {report.stance.policy.name}: {memory.trouble}; {instead}"
    for domain in host.domains:
        reason = report.reasons.get(domain.domid)
        yield (
            f"domain {domain.domid} ({domain.uuid}): {domain.lifecycle}, "
            f"target {domain.target_kib} KiB, actual {domain.actual_kib} KiB, "
            f"maxmem {domain.maxmem_kib} KiB" + (f"; {reason.text}" if reason else "")
        )
    for reservation in host.reservations:
        given = "" if reservation.domid is None else f", transferred to domain {reservation.domid}"
        yield (
            f"reservation {reservation.reservation_id} of {reservation.owner}: "
            f"{reservation.size_kib} KiB{given}"
        )
    for request in report.pending:
        yield f"waiting: {request.owner} asks for {request.min_kib} to {request.max_kib} KiB"
    for action in report.intended:
        if isinstance(action, SetTarget):
            yield f"would tell domain {action.domid} to hold {action.target_kib} KiB"
    for failure in report.failures:
        yield f"failed: {failure}"
