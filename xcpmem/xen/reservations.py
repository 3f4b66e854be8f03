"""Reservations in xenstore, where they outlive the daemon and end with the host.

``/xcpmem/reservations/<owner>/<id>`` holds the KiB, ``…/vm`` the uuid of the VM that it is to start and,
once transferred, ``…/in-transfer`` the domid. An owner that has none left has no directory: each session is
one, and a listing of all that ever were would outgrow a message. Only this daemon writes there, so it reads
them once and after each reconnection. A xenstored that comes back without what was promised gets it written
again: whoever was told that the memory is his may rely on it as long as the daemon lives.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xcpmem.engine.model import Reservation
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import read_size_kib
from xcpmem.xen.squeezedstate import squeezed_reservations

if TYPE_CHECKING:
    from xcpmem.xen.xenstore import Xenstore

_log = logging.getLogger(__name__)


class ReservationStore:
    """All reservations that stand in xenstore.

    Args:
        xenstore: where they stand.
        observes: write nothing, and tell squeezed's reservations, which change behind our back.
    """

    def __init__(self, xenstore: Xenstore, *, observes: bool = False) -> None:
        self._xenstore = xenstore
        self._observes = observes
        self._known: dict[str, Reservation] | None = None
        self._promised: dict[str, Reservation] = {}

    def forget(self) -> None:
        """Read them again at the next `load`: xenstored may have been restarted, and may have lost them."""
        self._known = None

    async def load(self) -> tuple[Reservation, ...]:
        """Return all reservations, read from xenstore the first time.

        Raises:
            DriverError: xenstored does not answer.
        """
        if self._observes:
            return tuple(await squeezed_reservations(self._xenstore))
        if self._known is None:
            found = {r.reservation_id: r for r in await self._read_all()}
            for reservation in [r for name, r in self._promised.items() if name not in found]:
                _log.warning(
                    "xenstored lost reservation %s of %d KiB; writing it again",
                    reservation.reservation_id,
                    reservation.size_kib,
                )
                await self._write(reservation)
                found[reservation.reservation_id] = reservation
            self._known = found
            self._promised = dict(found)
        return tuple(self._known.values())

    async def record(self, reservation: Reservation) -> None:
        """Write a reservation, or the domain that it passes to; it stands when this returns.

        Raises:
            DriverError: it may or may not stand; the next `load` will know.
        """
        known = self._known
        self._known = None
        await self._write(reservation)
        self._promised[reservation.reservation_id] = reservation
        if known is not None:
            self._known = known | {reservation.reservation_id: reservation}

    async def delete(self, reservation: Reservation) -> None:
        """Remove a reservation, with its owner's directory if it was the last there; a missing one is fine.

        Raises:
            DriverError: it may or may not be gone; the next `load` will know.
        """
        owner, name = reservation.owner, reservation.reservation_id
        known = self._known
        self._known = None
        self._promised.pop(name, None)
        is_last = known is not None and all(
            r.owner != owner for r in known.values() if r.reservation_id != name
        )
        await self._xenstore.remove(
            paths.reservations_of(owner) if is_last else paths.reservation(owner, name)
        )
        if known is not None:
            known.pop(name, None)
            self._known = known

    async def _write(self, reservation: Reservation) -> None:
        if reservation.vm_uuid:
            await self._xenstore.write(
                paths.reservation_vm(reservation.owner, reservation.reservation_id), reservation.vm_uuid
            )
        if reservation.domid is not None:
            mark = paths.in_transfer(reservation.owner, reservation.reservation_id)
            await self._xenstore.write(mark, str(reservation.domid))
        # The size last: whatever is left without one by a daemon that died here never stood.
        path = paths.reservation(reservation.owner, reservation.reservation_id)
        await self._xenstore.write(path, str(reservation.size_kib))

    async def _read_all(self) -> list[Reservation]:
        found: list[Reservation] = []
        for owner in await self._xenstore.list(paths.reservations()):
            stood = len(found)
            names = await self._xenstore.list(paths.reservations_of(owner))
            sizes = await self._xenstore.read_many([paths.reservation(owner, name) for name in names])
            marks = await self._xenstore.read_many([paths.in_transfer(owner, name) for name in names])
            vms = await self._xenstore.read_many([paths.reservation_vm(owner, name) for name in names])
            for name, size, mark, vm in zip(names, sizes, marks, vms, strict=True):
                size_kib = read_size_kib(size)
                if size_kib is None:
                    _log.warning("removed %s: %r is no size in KiB", paths.reservation(owner, name), size)
                    await self._xenstore.remove(paths.reservation(owner, name))
                else:
                    found.append(Reservation(name, owner, size_kib, read_size_kib(mark), vm or ""))
            if len(found) == stood:
                await self._xenstore.remove(paths.reservations_of(owner))
        return found
