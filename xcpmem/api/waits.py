"""Says of each request and reservation what it waits for, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.units import format_kib, kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xcpmem.engine.model import DomainState, HostState, MemoryRequest, Reservation
    from xcpmem.report import CycleReport

_TOLD: Final = 20
"""So many givers are named; a thousand may give."""


class _Giver(NamedTuple):
    """A domain that has yet to give back what it was asked for."""

    domid: int
    uuid: str
    owed_kib: int


def tell_requests(
    report: CycleReport, name_owner: Callable[[str], str], now_s: float
) -> list[dict[str, object]]:
    """Tell of the requests that wait, in the order in which they are served.

    Args:
        report: the latest turn.
        name_owner: names an owner for people.
        now_s: Unix time, seconds.
    """
    givers = [
        _Giver(domain.domid, domain.uuid, domain.actual_kib - reason.target_kib)
        for domain in report.look.host.domains
        if (reason := report.reasons.get(domain.domid)) is not None
        if domain.actual_kib > reason.target_kib
    ]
    return [_tell_request(request, report, givers, name_owner, now_s) for request in report.pending]


def _tell_request(
    request: MemoryRequest,
    report: CycleReport,
    givers: Sequence[_Giver],
    name_owner: Callable[[str], str],
    now_s: float,
) -> dict[str, object]:
    ends_at_s = report.time_s + request.deadline_s - report.monotonic_s
    return {
        "id": request.request_id,
        "owner": request.owner,
        "owner_name": name_owner(request.owner),
        "vm_uuid": request.vm_uuid or None,
        "min_bytes": kib_to_bytes(request.min_kib),
        "max_bytes": kib_to_bytes(request.max_kib),
        "ends_in_s": round(max(0.0, ends_at_s - now_s), 1),
        "waits_for": _waits_for(report.look.host, givers),
        "givers": [giver.uuid for giver in givers[:_TOLD]],
    }


def _waits_for(host: HostState, givers: Sequence[_Giver]) -> str:
    free = f"{format_kib(max(0, host.spare_kib))} is free and promised to nobody"
    if not givers:
        return f"for the next turn: {free}"
    owed_kib = sum(giver.owed_kib for giver in givers)
    who = f"domain {givers[0].domid} gives" if len(givers) == 1 else f"{len(givers)} domains give"
    return f"until {who} back {format_kib(owed_kib)}: {free}"


def tell_reservations(report: CycleReport, name_owner: Callable[[str], str]) -> list[dict[str, object]]:
    """Tell of the memory that is set aside; ``name_owner`` names an owner for people."""
    domains = report.look.host.domains
    return [
        {
            "id": reservation.reservation_id,
            "owner": reservation.owner,
            "owner_name": name_owner(reservation.owner),
            "vm_uuid": reservation.vm_uuid or None,
            "domid": reservation.domid,
            "size_bytes": kib_to_bytes(reservation.size_kib),
            "waits_for": _is_kept_for(reservation, domains),
        }
        for reservation in report.look.host.reservations
    ]


def _is_kept_for(reservation: Reservation, domains: Sequence[DomainState]) -> str:
    domain = next((domain for domain in domains if reservation.is_for(domain)), None)
    if domain is not None:
        return f"until domain {domain.domid} is built: it counts with that domain now"
    if reservation.domid is not None:
        return f"for domain {reservation.domid}, to which it was given"
    if reservation.vm_uuid:
        return "for the VM that is being started with it"
    return "for its owner, who builds a domain with it or gives it back"
