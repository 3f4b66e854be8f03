"""Taking over from squeezed, and handing back to it: reservations that stand while the daemons change.

A build that squeezed granted memory to goes on under us, and the other way round. squeezed keeps its
reservations at ``/squeezed/state/<service>/<id>``, with ``in-transfer`` below, as we do under ``/xcpmem``. A
reservation is written at its new place before it is removed from the old one, so that no moment is without
it; one that a daemon which died in between left at both counts once, by its id.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from xcpmem.refs import service_of
from xcpmem.units import format_kib
from xcpmem.xen import paths
from xcpmem.xen.squeezedstate import squeezed_reservations

if TYPE_CHECKING:
    from xcpmem.engine.model import Reservation
    from xcpmem.xen.reservations import ReservationStore
    from xcpmem.xen.xenstore import Xenstore

_log = logging.getLogger(__name__)


async def take_over(xenstore: Xenstore, store: ReservationStore) -> list[Reservation]:
    """Make squeezed's reservations ours, under their ids.

    Returns:
        Those that were taken over.

    Raises:
        DriverError: xenstored does not answer; what was not taken over still stands.
    """
    known = {reservation.reservation_id for reservation in await store.load()}
    taken = []
    for reservation in await squeezed_reservations(xenstore):
        if reservation.reservation_id not in known:
            await store.record(reservation)
            taken.append(reservation)
        service = service_of(reservation.owner) or ""
        await xenstore.remove(paths.squeezed_reservation(service, reservation.reservation_id))
    for reservation in taken:
        _log.warning(
            "took over reservation %s of %s from squeezed",
            reservation.reservation_id,
            format_kib(reservation.size_kib),
        )
    return taken


async def hand_back(xenstore: Xenstore, store: ReservationStore) -> list[Reservation]:
    """Leave to squeezed what its clients have reserved with us.

    What sessions of XenAPI reserved, and what VMs are being started with, stays ours: squeezed has no one who
    could ask for it.

    Returns:
        Those that were handed back.

    Raises:
        DriverError: xenstored does not answer; what was not handed back still stands.
    """
    handed = []
    for reservation in await store.load():
        service = service_of(reservation.owner)
        if service is None:
            continue
        name = reservation.reservation_id
        if reservation.domid is not None:
            await xenstore.write(paths.squeezed_in_transfer(service, name), str(reservation.domid))
        await xenstore.write(paths.squeezed_reservation(service, name), str(reservation.size_kib))
        await store.delete(reservation)
        handed.append(replace(reservation, owner=service))
    return handed
