"""What callers can command the ring to do with reservations: from the host as it is to the actions.

Each function makes a command that one turn carries out. A command says at the moment of that turn which
actions fulfil it, or raises what its caller is to hear.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xcpmem.engine.model import (
    DeleteReservation,
    Lifecycle,
    RecordReservation,
    Reservation,
    TransferReservation,
)
from xcpmem.errors import InvalidValue, UnknownReservation

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.model import Action, HostState

    Making = Callable[[HostState], tuple[Action, ...]]


def transfer(reservation_id: str, domid: int) -> Making:
    """Give a reservation to a domain under construction.

    To the same one again is no harm: once it is built, what it was given then may be with others by now.

    The command raises UnknownReservation, also when the memory went to another domain that is still there and
    not dying, or InvalidValue when there is no such domain.
    """

    def make(host: HostState) -> tuple[Action, ...]:
        reservation = _find(host, reservation_id, domid)
        given = next((d for d in host.domains if d.domid == reservation.domid), None)
        if given is not None and given.domid != domid:
            if not given.is_dying:
                raise UnknownReservation(reservation_id)
        elif given is not None and given.lifecycle is not Lifecycle.BUILDING:
            return ()
        return (TransferReservation(reservation, domid),)

    return make


def confirm(reservation_id: str, domid: int) -> Making:
    """Note in a reservation that the domain which it was for is complete; raises as `transfer`."""

    def make(host: HostState) -> tuple[Action, ...]:
        return (RecordReservation(replace(_find(host, reservation_id, domid), domid=domid)),)

    return make


def keep(reservation_id: str, owner: str, vm_uuid: str, overhead_kib: int) -> Making:
    """Set aside what a VM's domain holds, and its overhead.

    It takes nothing from anybody: as long as the domain is there the memory counts once, as the domain's.

    The command raises InvalidValue when the VM has no domain.
    """

    def make(host: HostState) -> tuple[Action, ...]:
        living = [d for d in host.domains if d.uuid == vm_uuid and d.lifecycle is not Lifecycle.DYING]
        if not living:
            raise InvalidValue("vm", vm_uuid)
        domain = max(living, key=lambda each: each.domid)
        size_kib = domain.held_kib + overhead_kib
        return (
            RecordReservation(Reservation(reservation_id, owner, size_kib, domain.domid, vm_uuid=vm_uuid)),
        )

    return make


def delete(reservation_id: str) -> Making:
    """Give a reservation back; an unknown one is no error."""
    return lambda host: tuple(
        DeleteReservation(each) for each in host.reservations if each.reservation_id == reservation_id
    )


def release(owner: str, *, transferred_too: bool) -> Making:
    """Give back all of an owner's reservations that were not transferred, or really all."""
    return lambda host: tuple(
        DeleteReservation(each)
        for each in host.reservations
        if each.owner == owner and (each.domid is None or transferred_too)
    )


def host_after(host: HostState, action: Action) -> HostState:
    """Say how a later command of the same turn finds the host once an action has been carried out."""
    standing: tuple[Reservation, ...] = ()
    match action:
        case RecordReservation(reservation):
            standing = (reservation,)
        case TransferReservation(reservation, domid):
            standing = (replace(reservation, domid=domid),)
        case DeleteReservation(reservation):
            pass
        case _:
            return host
    others = (each for each in host.reservations if each.reservation_id != reservation.reservation_id)
    return replace(host, reservations=(*others, *standing))


def _find(host: HostState, reservation_id: str, domid: int) -> Reservation:
    reservation = next((r for r in host.reservations if r.reservation_id == reservation_id), None)
    if reservation is None:
        raise UnknownReservation(reservation_id)
    if all(domain.domid != domid for domain in host.domains):
        raise InvalidValue("domid", domid)
    return reservation
