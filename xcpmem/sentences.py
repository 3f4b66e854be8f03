"""Sentences for people about what the ring decided, each with fields for programs.

Levels mean: ERROR, a person is needed now; WARNING, a guest or the host does not do what was asked, and the
balancer works around it; INFO, a decision; DEBUG, the details of many decisions at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.engine.parties import PROBE_KIB
from xcpmem.engine.reasons import Motive
from xcpmem.errors import DomainsUncooperative, NotEnoughMemory
from xcpmem.units import bytes_to_kib_floor, format_kib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xcpmem.engine.model import DomainState, MemoryRequest, Refused, Reservation
    from xcpmem.engine.reasons import Reason
    from xcpmem.report import CycleReport

CROWD: Final = 8
"""More changed goals than this in one turn are summed up in one sentence, the single ones at DEBUG."""


KINDS: Final = frozenset(
    (
        *("blind", "sight", "failure", "first_look", "policy", "wish"),
        *("domain_came", "domain_gone", "range", "goal", "goals"),
        *("stuck", "at_limit", "moves", "retried", "eased", "uncooperative"),
        *("waits", "refused", "reservation", "transferred"),
    )
)
"""What sentences tell of; ``deploy/README.md`` has them for operators."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing worth telling.

    Args:
        level: of `logging`.
        template: the sentence with ``%s`` for each argument; what repeats has the same template.
        args: for the template.
        kind: what it tells of, a word for programs, one of `KINDS`.
        vm: uuid of the VM it is about, or empty.
        fields: figures for programs; sizes KiB.

    Raises:
        ValueError: a kind that nobody knows.
    """

    level: int
    template: str
    args: tuple[object, ...]
    kind: str
    vm: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind of sentence: {self.kind}")

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


def aim(
    name: str, domain: DomainState, reason: Reason, before_kib: int, *, observes: bool = False
) -> Sentence:
    """Say how much a domain is to hold from now on, and why; or would, where nothing is touched."""
    return Sentence(
        logging.INFO,
        "%s would hold %s instead of %s: it %s" if observes else "%s is to hold %s instead of %s: it %s",
        (name, format_kib(reason.goal_kib), format_kib(before_kib), reason.text),
        "goal",
        domain.uuid,
        {
            "domid": domain.domid,
            "before_kib": before_kib,
            "goal_kib": reason.goal_kib,
            "target_kib": reason.target_kib,
            "actual_kib": reason.actual_kib,
            "motive": reason.motive.value,
        },
    )


def stop(name: str, domain: DomainState, reason: Reason, *, observes: bool = False) -> Sentence:
    """Say that a guest stopped short of the target that it had until this turn."""
    asked, held = format_kib(domain.target_kib), format_kib(reason.actual_kib)
    fields = {"domid": domain.domid, "target_kib": domain.target_kib, "actual_kib": reason.actual_kib}
    if reason.motive is Motive.CEILING:
        rest = "others would get the rest" if observes else "others get the rest"
        words: tuple[str, ...] = (name, held)
        template = f"%s takes no more than %s, as before; {rest}"
        if domain.target_kib - reason.actual_kib > PROBE_KIB:
            words = (name, held, asked)
            template = f"%s takes no more than %s, though it was told to hold %s; {rest}"
        return Sentence(logging.INFO, template, words, "at_limit", domain.uuid, fields)
    others = "would have to give" if observes else "give"
    template = (
        "%s does not give back what it was asked for: it was told to hold %s and stopped at %s; "
        f"others {others} in its place. Is its balloon driver loaded, and is memory free inside?"
    )
    return Sentence(logging.WARNING, template, (name, asked, held), "stuck", domain.uuid, fields)


def move(name: str, domain: DomainState, target_kib: int) -> Sentence:
    """Say that a guest which had stopped is seen to move, ``target_kib`` being its target after this turn."""
    return _resume("%s moves again and holds %s, its target is %s", "moves", name, domain, target_kib)


def retry(name: str, domain: DomainState, target_kib: int) -> Sentence:
    """Say that a guest which had stopped is asked afresh; whether it obeys is not known yet."""
    template = "%s is tried again: it still holds %s and is told to hold %s"
    return _resume(template, "retried", name, domain, target_kib)


def ease(name: str, domain: DomainState, target_kib: int) -> Sentence:
    """Say that nothing more is asked of a guest that had stopped."""
    template = "%s did not move and need not: it holds %s, its target is %s"
    return _resume(template, "eased", name, domain, target_kib)


def _resume(template: str, kind: str, name: str, domain: DomainState, target_kib: int) -> Sentence:
    return Sentence(
        logging.INFO,
        template,
        (name, format_kib(domain.actual_kib), format_kib(target_kib)),
        kind,
        domain.uuid,
        {"domid": domain.domid, "target_kib": target_kib, "actual_kib": domain.actual_kib},
    )


def flag(name: str, domain: DomainState, report: CycleReport, *, raised: bool) -> Sentence:
    """Say that the flag for other programs was raised or lowered.

    Of a guest that is known to take no more nobody needs to be warned: others have what it leaves.
    """
    reason, belief = report.reasons.get(domain.domid), report.beliefs.get(domain.domid)
    figures = (name, format_kib(domain.actual_kib), format_kib(domain.target_kib))
    fields: dict[str, object] = {
        "domid": domain.domid,
        "uncooperative": raised,
        "target_kib": domain.target_kib,
        "actual_kib": domain.actual_kib,
    }
    if not raised:
        template = "%s holds %s, its target is %s: it is no longer marked as uncooperative"
        return Sentence(logging.INFO, template, figures, "uncooperative", domain.uuid, fields)
    away_s = belief.away_s if belief else 0.0
    is_at_limit = reason is not None and reason.motive is Motive.CEILING
    return Sentence(
        logging.INFO if is_at_limit else logging.WARNING,
        "%s holds %s, its target is %s: off it for %s by now, it is marked as uncooperative",
        (*figures, span(away_s)),
        "uncooperative",
        domain.uuid,
        {**fields, "away_s": round(away_s, 1)},
    )


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


def sum_up(goals: list[tuple[Sentence, int]], *, observes: bool = False) -> Iterator[Sentence]:
    """Tell of changed goals one by one, or of a crowd in one sentence."""
    if len(goals) <= CROWD:
        yield from (sentence for sentence, _ in goals)
        return
    less = [change for _, change in goals if change < 0]
    more = [change for _, change in goals if change > 0]
    hold = "would hold" if observes else "are to hold"
    parts = [
        f"{len(changes)} {hold} {word}, together {format_kib(abs(sum(changes)))}"
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
