"""What the ring decided, in sentences that a tired person understands, each with fields for programs.

A report says everything about one turn; most turns only carry on. The narrator remembers what it told last
and speaks when something is new: who is to hold how much and why, a guest that does not obey or obeys again,
memory set aside or refused, domains that come and go, a host that cannot be seen.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import (
    BalloonState,
    DeleteReservation,
    Lifecycle,
    RecordReservation,
    Refused,
    SetUncooperative,
    TransferReservation,
)
from xcpmem.engine.reasons import Motive
from xcpmem.engine.steps import portions
from xcpmem.errors import DomainsUncooperative
from xcpmem.sentences import (
    Sentence,
    aim,
    arrive,
    ease,
    flag,
    greet,
    move,
    refuse,
    reserve,
    retry,
    span,
    stop,
    sum_up,
    wanted_of,
)
from xcpmem.units import KIB_PER_PAGE, format_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xcpmem.engine.model import DomainState, DynamicRange, MemoryRequest, Reservation
    from xcpmem.engine.reasons import Reason
    from xcpmem.engine.steps import Steps
    from xcpmem.report import CycleReport

DULL_KIB: Final = 1024
"""A change of a goal by less is not told ..."""

DULL_SHARE: Final = 100
"""... nor one by less than the goal over this."""

STILL_KIB: Final = KIB_PER_PAGE
"""A guest that is no further than this from where it stopped has not moved."""

REMIND_S: Final = 300.0
"""A host that cannot be seen is told of again after so long, then as an error."""

_NOT_ASKED: Final = frozenset({Motive.NO_DRIVER, Motive.LEFT_ALONE})
"""These stay where they are, whatever happens; there is nothing to tell."""

_STOPPED_SHORT: Final = frozenset({Motive.FLOOR, Motive.CEILING})
_STOPPED: Final = frozenset({BalloonState.STUCK, BalloonState.AT_LIMIT})


@dataclass(slots=True)
class _Told:
    """What was last told of a domain; ``stopped_kib``: where it stopped, until it moves or need not."""

    domid: int
    goal_kib: int
    dynamic_range: DynamicRange
    held_kib: int
    has_stopped: bool = False
    stopped_kib: int | None = None
    reason: Reason | None = None


class Narrator:
    """Turns reports into sentences, one after the other.

    Args:
        name_of: gives the name of a VM for people, by uuid; empty: it has none.
        user_of: gives the user who owns a reservation, by its owner; empty: nobody is logged in as that.
        clock: monotonic seconds; a report of a host that cannot be seen has the time of an older look.
    """

    def __init__(
        self,
        name_of: Callable[[str], str] = lambda _: "",
        user_of: Callable[[str], str] = lambda _: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name_of = name_of
        self._user_of = user_of
        self._clock = clock
        self._told: dict[str, _Told] = {}
        self._waiting: set[str] = set()
        self._beneficiaries: dict[str, str] = {}
        self._blind_since_s: float | None = None
        self._reminded_s = 0.0
        self._policy = ""
        self._told_of: CycleReport | None = None

    def tell(self, report: CycleReport) -> Steps[list[Sentence]]:
        """Say, in steps, what is new in a report; nothing for most."""
        if not report.saw_host:
            return list(self._tell_blindness(report))
        is_first = self._told_of is None
        sentences = [*self._tell_sight()]
        if is_first:
            sentences.append(greet(report))
        sentences += self._tell_policy(report)
        sentences += yield from self._tell_domains(report, is_first=is_first)
        sentences += self._tell_reservations(report)
        sentences += self._tell_requests(report)
        sentences += self._tell_failures(report)
        return sentences

    def name(self, uuid: str, domid: int | None = None) -> str:
        """Name a VM in sentences."""
        if name := self._name_of(uuid):
            return name
        return f"VM {uuid}" if domid is None else f"domain {domid}"

    def _tell_blindness(self, report: CycleReport) -> Iterator[Sentence]:
        why = str(report.failures[0])
        if self._blind_since_s is None:
            self._blind_since_s = self._reminded_s = self._clock()
            yield Sentence(
                logging.WARNING, "%s; every domain keeps its target, and it is tried again", (why,), "blind"
            )
        elif self._clock() - self._reminded_s >= REMIND_S:
            self._reminded_s = self._clock()
            blind_s = self._reminded_s - self._blind_since_s
            yield Sentence(
                logging.ERROR,
                "still, after %s, %s; nothing is balanced meanwhile. Does xenstore-ls /local/domain answer?",
                (span(blind_s), why),
                "blind",
                fields={"blind_s": round(blind_s)},
            )

    def _tell_sight(self) -> Iterator[Sentence]:
        if self._blind_since_s is not None:
            blind_s, self._blind_since_s = self._clock() - self._blind_since_s, None
            yield Sentence(logging.WARNING, "the host is seen again after %s", (span(blind_s),), "sight")

    def _tell_policy(self, report: CycleReport) -> Iterator[Sentence]:
        before, self._policy = self._policy, report.stance.policy.name
        if before and before != self._policy:
            yield Sentence(
                logging.INFO, "memory is divided by policy %s now, not %s", (self._policy, before), "policy"
            )

    def _tell_domains(self, report: CycleReport, *, is_first: bool) -> Steps[list[Sentence]]:
        flags = {a.domid: a.uncooperative for a in report.actions if isinstance(a, SetUncooperative)}
        before, sentences = self._told_of, list[Sentence]()
        changes = None
        if before is not None:
            known = before.reasons
            others = flags.keys() | {n for n, why in report.reasons.items() if known.get(n) is not why}
            changes = report.look.host.changes_since(before.look.host, others)
        if changes is None:
            living = {d.uuid: d for d in report.look.host.domains if d.lifecycle is not Lifecycle.DYING}
            sentences += self._tell_gone(self._told.keys() - living.keys())
            news = list(living.values())
        else:
            news = [domain for domain in changes if self._knows(domain)]
        goals: list[tuple[Sentence, int]] = []
        for some in portions(news):
            for domain in some:
                if (told := self._told.get(domain.uuid)) is None or told.domid != domain.domid:
                    if not is_first:
                        sentences.append(arrive(self.name(domain.uuid, domain.domid), domain))
                    told = self._told[domain.uuid] = _Told(
                        domain.domid, domain.target_kib, domain.dynamic_range, domain.actual_kib
                    )
                told.held_kib = domain.actual_kib
                reason = report.reasons.get(domain.domid)
                if reason is not None and reason is not told.reason:
                    told.reason = reason
                    sentences += self._tell_range(domain, reason, told)
                    goals += self._tell_goal(domain, reason, told, observes=report.observes)
                    sentences += self._tell_obedience(domain, reason, told, observes=report.observes)
                if domain.domid in flags:
                    name = self.name(domain.uuid, domain.domid)
                    sentences.append(flag(name, domain, report, raised=flags[domain.domid]))
            yield
        self._told_of = report
        return [*sentences, *sum_up(goals, observes=report.observes)]

    def _knows(self, domain: DomainState) -> bool:
        """Tell whether a VM is told of by this domain of it, not by a newer one."""
        told = self._told.get(domain.uuid)
        return told is not None and told.domid == domain.domid

    def _tell_gone(self, uuids: Iterable[str]) -> Iterator[Sentence]:
        for uuid in uuids:
            told = self._told.pop(uuid)
            yield Sentence(
                logging.INFO,
                "%s (domain %s) is gone; its %s can go to others",
                (self.name(uuid), told.domid, format_kib(told.held_kib)),
                "domain_gone",
                uuid,
                {"domid": told.domid, "held_kib": told.held_kib},
            )

    def _tell_range(self, domain: DomainState, reason: Reason, told: _Told) -> Iterator[Sentence]:
        dynamic = reason.dynamic_range
        if dynamic == told.dynamic_range:
            return
        told.dynamic_range = dynamic
        yield Sentence(
            logging.INFO,
            "%s may have %s to %s from now on",
            (
                self.name(domain.uuid, domain.domid),
                format_kib(dynamic.min_kib),
                format_kib(dynamic.max_kib),
            ),
            "range",
            domain.uuid,
            {"domid": domain.domid, "dynamic_min_kib": dynamic.min_kib, "dynamic_max_kib": dynamic.max_kib},
        )

    def _tell_goal(
        self, domain: DomainState, reason: Reason, told: _Told, *, observes: bool
    ) -> Iterator[tuple[Sentence, int]]:
        change_kib = reason.goal_kib - told.goal_kib
        if abs(change_kib) < max(DULL_KIB, told.goal_kib // DULL_SHARE) or reason.motive in _NOT_ASKED:
            return
        before_kib, told.goal_kib = told.goal_kib, reason.goal_kib
        if reason.motive in _STOPPED_SHORT:
            return  # that it stopped is told, and says it better
        name = self.name(domain.uuid, domain.domid)
        yield aim(name, domain, reason, before_kib, observes=observes), change_kib

    def _tell_obedience(
        self, domain: DomainState, reason: Reason, told: _Told, *, observes: bool
    ) -> Iterator[Sentence]:
        had_stopped, told.has_stopped = told.has_stopped, reason.state in _STOPPED
        name = self.name(domain.uuid, domain.domid)
        if told.has_stopped:
            if not had_stopped:
                told.stopped_kib = reason.actual_kib
                yield stop(name, domain, reason, observes=observes)
        elif told.stopped_kib is not None:
            target_kib = domain.target_kib if observes else reason.target_kib
            if abs(reason.actual_kib - told.stopped_kib) > STILL_KIB:
                told.stopped_kib = None
                yield move(name, domain, target_kib)
            elif abs(reason.actual_kib - target_kib) <= STILL_KIB:
                told.stopped_kib = None
                yield ease(name, domain, target_kib)
            elif had_stopped and reason.state is BalloonState.MOVING:
                yield retry(name, domain, target_kib)

    def _tell_reservations(self, report: CycleReport) -> Iterator[Sentence]:
        for action in report.actions:
            match action:
                case RecordReservation(reservation):
                    if reservation.reservation_id not in self._beneficiaries:
                        yield reserve("set aside %s for %s", reservation, self._purpose(reservation))
                    beneficiary = self._beneficiary(reservation)
                    self._beneficiaries.setdefault(reservation.reservation_id, beneficiary)
                case DeleteReservation(reservation):
                    # Its session has ended by now, and with that the user's name.
                    beneficiary = self._beneficiary(reservation)
                    beneficiary = self._beneficiaries.pop(reservation.reservation_id, beneficiary)
                    yield reserve("freed the %s that were set aside for %s", reservation, beneficiary)
                case TransferReservation(reservation, domid):
                    yield Sentence(
                        logging.INFO,
                        "domain %s is being built with the %s that were set aside for it",
                        (domid, format_kib(reservation.size_kib)),
                        "transferred",
                        fields={"domid": domid, "size_kib": reservation.size_kib},
                    )
        if self._beneficiaries:  # of reservations that xenstored lost as well, of which no action tells
            fresh = {a.reservation.reservation_id for a in report.actions if isinstance(a, RecordReservation)}
            standing = fresh | {each.reservation_id for each in report.look.host.reservations}
            self._beneficiaries = {each: who for each, who in self._beneficiaries.items() if each in standing}

    def _tell_requests(self, report: CycleReport) -> Iterator[Sentence]:
        requests = {request.request_id: request for request in report.wishes.requests}
        for verdict in report.verdicts:
            if isinstance(verdict, Refused):
                request = requests.get(verdict.request_id)
                purpose = self._purpose(request) if request else "somebody"
                yield refuse(verdict, request, purpose, self._blame(verdict, report))
        waiting = {request.request_id for request in report.pending}
        for request in report.pending:
            if request.request_id not in self._waiting:
                yield Sentence(
                    logging.INFO,
                    "%s are wanted for %s, and wait until guests have given back enough",
                    (wanted_of(request), self._purpose(request)),
                    "waits",
                    request.vm_uuid,
                    {"min_kib": request.min_kib, "max_kib": request.max_kib, "owner": request.owner},
                )
        self._waiting = waiting

    def _blame(self, verdict: Refused, report: CycleReport) -> str:
        domids = verdict.error.params if isinstance(verdict.error, DomainsUncooperative) else ()
        uuids = {str(domain.domid): domain.uuid for domain in report.look.host.domains}
        return ", ".join(self.name(uuids.get(domid, ""), int(domid)) for domid in domids)

    def _purpose(self, whose: MemoryRequest | Reservation) -> str:
        return self._beneficiary(whose) + (", which is to start" if whose.vm_uuid else "")

    def _beneficiary(self, whose: MemoryRequest | Reservation) -> str:
        if whose.vm_uuid:
            return self.name(whose.vm_uuid)
        user = self._user_of(whose.owner)
        return f"{user} (session {whose.owner})" if user else whose.owner

    def _tell_failures(self, report: CycleReport) -> Iterator[Sentence]:
        for failure in report.failures:
            yield Sentence(
                logging.WARNING,
                "%s; it is tried again",
                (failure,),
                "failure",
                fields={"action": failure.kind, "error": failure.reason},
            )
