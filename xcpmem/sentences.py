"""Sentences for people about what the ring decided, each with fields for programs.

Levels mean: ERROR, a person is needed now; WARNING, a guest or the host does not do what was asked, and the
balancer works around it; INFO, a decision; DEBUG, the details of many decisions at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.errors import DomainsUncooperative, NotEnoughMemory
from xcpmem.units import bytes_to_kib_floor, format_kib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xcpmem.engine.model import DomainState, MemoryRequest, Refused, Reservation
    from xcpmem.report import CycleReport

CROWD: Final = 8
"""More changed goals than this in one turn are summed up in one sentence, the single ones at DEBUG."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing worth telling.

    Args:
        level: of `logging`.
        template: the sentence with ``%s`` for each argument; what repeats has the same template.
        args: for the template.
        kind: what it tells of, a word for programs.
        vm: uuid of the VM it is about, or empty.
        fields: figures for programs; sizes KiB.
    """

    level: int
    template: str
    args: tuple[object, ...] = ()
    kind: str = ""
    vm: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The sentence."""
        return self.template % self.args if self.args else self.template


def arrive(name: str, domain: DomainState) -> Sentence:
    """Say that a domain is new here."""
    return Sentence(
        logging.INFO,
        "%s is here as domain %s; it holds %s%s",
        (
            name,
            domain.domid,
            format_kib(domain.held_kib),
            "" if domain.can_balloon else " and has no balloon driver, so far",
        ),
        "domain_came",
        domain.uuid,
        {"domid": domain.domid, "held_kib": domain.held_kib},
    )


def flag(name: str, domain: DomainState, *, raised: bool) -> Sentence:
    """Say that the flag for other programs was raised or lowered."""
    fields = {"domid": domain.domid, "uncooperative": raised}
    if raised:
        template = "%s has been off its target for too long and is marked as uncooperative"
        return Sentence(logging.WARNING, template, (name,), "uncooperative", domain.uuid, fields)
    template = "%s is at its target again and no longer marked as uncooperative"
    return Sentence(logging.INFO, template, (name,), "uncooperative", domain.uuid, fields)


def reserve(template: str, reservation: Reservation, purpose: str) -> Sentence:
    """Say that memory was set aside or freed, as the template has it."""
    return Sentence(
        logging.INFO,
        template,
        (format_kib(reservation.size_kib), purpose),
        "reservation",
        reservation.vm_uuid,
        {
            "reservation": reservation.reservation_id,
            "owner": reservation.owner,
            "size_kib": reservation.size_kib,
        },
    )


def refuse(verdict: Refused, request: MemoryRequest | None, purpose: str, blamed: str) -> Sentence:
    """Say that a request was refused, and why.

    Args:
        verdict: with the error.
        request: None: it is not known any more.
        purpose: what it was for.
        blamed: names of those who did not give back what they were asked for.
    """
    error, wanted = verdict.error, wanted_of(request) if request else "memory"
    fields = {"request": verdict.request_id, "code": error.code}
    why = str(error)
    if isinstance(error, DomainsUncooperative):
        why = f"these did not give back what they were asked for: {blamed}"
    elif isinstance(error, NotEnoughMemory):
        least = format_kib(bytes_to_kib_floor(error.available))
        why = f"with everyone at the least that it can hold, there are {least}"
    template, vm = "refused %s for %s: %s", request.vm_uuid if request else ""
    return Sentence(logging.WARNING, template, (wanted, purpose, why), "refused", vm, fields)


def greet(report: CycleReport) -> Sentence:
    """Say what the host looks like at first sight."""
    host = report.look.host
    held_kib = sum(domain.actual_kib for domain in host.domains)
    return Sentence(
        logging.DEBUG,  # a daemon that cannot serve says why, and nothing before
        "the host has %s: domains hold %s (%s of them), %s are free",
        (format_kib(host.total_kib), format_kib(held_kib), len(host.domains), format_kib(host.free_kib)),
        "first_look",
        fields={"total_kib": host.total_kib, "free_kib": host.free_kib, "domains": len(host.domains)},
    )


def sum_up(goals: list[tuple[Sentence, int]]) -> Iterator[Sentence]:
    """Tell of changed goals one by one, or of a crowd in one sentence."""
    if len(goals) <= CROWD:
        yield from (sentence for sentence, _ in goals)
        return
    less = [change for _, change in goals if change < 0]
    more = [change for _, change in goals if change > 0]
    parts = [
        f"{len(changes)} are to hold {word}, together {format_kib(abs(sum(changes)))}"
        for changes, word in ((less, "less"), (more, "more"))
        if changes
    ]
    yield Sentence(
        logging.INFO,
        "of %s VMs %s",
        (len(goals), "; ".join(parts)),
        "goals",
        fields={"less_kib": -sum(less), "more_kib": sum(more), "vms": len(goals)},
    )
    for each, _ in goals:
        yield Sentence(logging.DEBUG, each.template, each.args, each.kind, each.vm, each.fields)


def wanted_of(request: MemoryRequest) -> str:
    """Write how much a request asks for."""
    if request.min_kib == request.max_kib:
        return format_kib(request.min_kib)
    return f"{format_kib(request.min_kib)} to {format_kib(request.max_kib)}"


def span(seconds: float) -> str:
    """Write a span of time for people."""
    if seconds < 60:  # noqa: PLR2004 a minute
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min"
