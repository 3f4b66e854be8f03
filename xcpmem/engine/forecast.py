"""Where everybody would end: the planner's own turns, played through with guests that obey as far as known.

Nothing is touched: the host is a value, each plan is carried out on a copy of it, and after each turn every
guest stands where it was asked to be, or at the limit at which it was seen to stop. What moves, moves at
once, so that a forecast takes a few turns and says nothing of how long the real thing will take. A policy
that goes on slowly is given its time, in which guests go on saying what they said last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from xcpmem.engine.belief import LOOK_GAP_S, Beliefs
from xcpmem.engine.model import (
    Granted,
    Lifecycle,
    RecordReservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
)
from xcpmem.engine.planner import PlannerSettings, plan
from xcpmem.engine.policies import find_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xcpmem.engine.belief import Belief
    from xcpmem.engine.model import Action, DomainState, HostState, Verdict, Wishes
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.engine.reasons import Reason

TURNS_MOST: Final = 100
"""A forecast ends after so many turns at the latest: a guest's patience and some more."""


@dataclass(frozen=True, slots=True)
class Stance:
    """What a plan depends on beside the host and the wishes.

    Args:
        beliefs: about the guests.
        policy: who should have how much.
        settings: the planner's knobs.
    """

    beliefs: Beliefs = field(default_factory=Beliefs)
    policy: ChosenPolicy = field(default_factory=lambda: find_policy("proportional"))
    settings: PlannerSettings = field(default_factory=PlannerSettings)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A domain that is built as soon as a request is granted.

    Args:
        request_id: of the request among the wishes.
        domain: as it will be, sizes aside; with a domid that nobody has.
        overhead_kib: what it costs beside its pages.
    """

    request_id: str
    domain: DomainState
    overhead_kib: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would come of it.

    Args:
        host: at rest again, or after `TURNS_MOST` turns.
        verdicts: on the requests.
        reasons: by domid, of the last turn.
        trouble: how the policy erred, so that XCP's rule decided in its place; empty: it did not.
    """

    host: HostState
    verdicts: tuple[Verdict, ...]
    reasons: Mapping[int, Reason]
    trouble: str = ""


def forecast(
    host: HostState, wishes: Wishes, stance: Stance, now_s: float, *, newcomer: Newcomer | None = None
) -> Forecast:
    """Play the planner's turns through until nothing moves.

    Args:
        host: the latest look, KiB.
        wishes: what would be wished.
        stance: what the ring thinks with.
        now_s: monotonic seconds of the look.
        newcomer: a domain that one of the requests is for.
    """
    known = stance.beliefs.by_domid
    host, beliefs = _at_rest(_without_the_dead(host, stance, now_s)), stance.beliefs
    verdicts: list[Verdict] = []
    for _ in range(TURNS_MOST):
        thought = plan(host, wishes, beliefs, now_s, stance.policy, settings=stance.settings)
        beliefs = thought.beliefs
        verdicts += thought.verdicts
        answered = {verdict.request_id for verdict in thought.verdicts}
        left = tuple(request for request in wishes.requests if request.request_id not in answered)
        wishes = replace(wishes, requests=left)
        after = _carry_out(host, thought.actions)
        for verdict in thought.verdicts:
            if newcomer and isinstance(verdict, Granted) and verdict.request_id == newcomer.request_id:
                after = _move_in(after, newcomer, verdict.size_kib)
        after = _at_rest(_obey(after, known))
        is_at_rest = after == host and not wishes.requests and not any(map(_is_unmeasured, host.domains))
        if is_at_rest and thought.policy_wait_s is None:
            break
        now_s += max(LOOK_GAP_S, thought.policy_wait_s or 0.0) if is_at_rest else LOOK_GAP_S
        host = _heard(after, now_s)
    return Forecast(host, tuple(verdicts), thought.reasons, beliefs.policy.trouble)


def _heard(host: HostState, now_s: float) -> HostState:
    """Let every guest that speaks say again what it said last, and that it has not stalled since."""
    domains = tuple(
        domain if domain.sample is None else replace(domain, sample=replace(domain.sample, seen_s=now_s))
        for domain in host.domains
    )
    return replace(host, domains=domains)


def _without_the_dead(host: HostState, stance: Stance, now_s: float) -> HostState:
    """Let dying domains be gone, but for those whose pages no longer come."""
    decays, caution = stance.beliefs.decays, stance.settings.caution
    stays = {domid for domid, decay in decays.items() if not decay.goes_on(now_s, caution)}
    domains = tuple(
        domain
        for domain in host.domains
        if not (domain.is_dying or domain.is_ending) or domain.domid in stays
    )
    return replace(host, domains=domains, others_kib=host.total_kib - host.common_kib)


def _at_rest(host: HostState) -> HostState:
    """Count what is free anew, all of it scrubbed and every part of the look of the same moment."""
    actual_kib = sum(domain.actual_kib for domain in host.domains)
    others_kib = host.total_kib - host.common_kib
    return replace(host, free_kib=host.common_kib - actual_kib, scrub_kib=0, others_kib=others_kib)


def _carry_out(host: HostState, actions: Iterable[Action]) -> HostState:
    domains = {domain.domid: domain for domain in host.domains}
    for action in actions:
        match action:
            case SetTarget(domid, target_kib):
                domains[domid] = replace(domains[domid], target_kib=target_kib)
            case SetMaxmem(domid, maxmem_kib):
                domains[domid] = replace(domains[domid], maxmem_kib=maxmem_kib)
            case SetDynamicMin(domid, min_kib):
                domains[domid] = _with_range(domains[domid], min_kib=min_kib)
            case SetDynamicMax(domid, max_kib):
                domains[domid] = _with_range(domains[domid], max_kib=max_kib)
            case SetUncooperative(domid, uncooperative):
                domains[domid] = replace(domains[domid], uncooperative=uncooperative)
            case SetMemoryOffset(domid, offset_kib):
                domains[domid], host = _with_offset(domains[domid], offset_kib, host)
            case RecordReservation(reservation):
                host = replace(host, reservations=(*host.reservations, reservation))
            case _:
                raise AssertionError(f"the planner never asks for {action}")
    return replace(host, domains=tuple(domains.values()))


def _with_range(
    domain: DomainState, *, min_kib: int | None = None, max_kib: int | None = None
) -> DomainState:
    """Write one end of a range; the planner writes the other in an order that keeps the range valid."""
    low_kib = domain.dynamic_range.min_kib if min_kib is None else min_kib
    high_kib = domain.dynamic_range.max_kib if max_kib is None else max_kib
    dynamic_range = replace(domain.dynamic_range, min_kib=low_kib, max_kib=max(low_kib, high_kib))
    return replace(domain, dynamic_range=dynamic_range, has_range=True)


def _with_offset(domain: DomainState, offset_kib: int, host: HostState) -> tuple[DomainState, HostState]:
    """Take pages that the guest does not know of off what it holds: they are others' from now on."""
    shift_kib = offset_kib - (domain.offset_kib or 0)
    changed = replace(
        domain,
        offset_kib=offset_kib,
        actual_kib=max(0, domain.actual_kib - shift_kib),
        maxmem_kib=max(0, domain.maxmem_kib - shift_kib),
    )
    return changed, replace(host, others_kib=host.total_kib - host.common_kib + shift_kib)


def _move_in(host: HostState, newcomer: Newcomer, granted_kib: int) -> HostState:
    """Build a domain with what was reserved for it."""
    size_kib = max(0, granted_kib - newcomer.overhead_kib)
    domain = replace(newcomer.domain, target_kib=size_kib, actual_kib=size_kib, maxmem_kib=size_kib)
    kept = tuple(r for r in host.reservations if r.reservation_id != newcomer.request_id)
    others_kib = host.total_kib - host.common_kib + newcomer.overhead_kib
    return replace(host, domains=(*host.domains, domain), reservations=kept, others_kib=others_kib)


def _obey(host: HostState, known: Mapping[int, Belief]) -> HostState:
    """Let every guest go where it was asked to go, as far as it was seen to be able to."""
    domains = tuple(_moved(domain, known.get(domain.domid)) for domain in host.domains)
    return replace(host, domains=domains)


def _can_move(domain: DomainState) -> bool:
    return domain.can_balloon and domain.lifecycle is Lifecycle.RUNNING


def _is_unmeasured(domain: DomainState) -> bool:
    return _can_move(domain) and domain.offset_kib is None


def _moved(domain: DomainState, belief: Belief | None) -> DomainState:
    if not _can_move(domain) or domain.offset_kib is None:
        return domain
    floor_kib = ceiling_kib = None
    if belief is not None and belief.uuid == domain.uuid:
        floor_kib, ceiling_kib = belief.floor_kib, belief.ceiling_kib
    goal_kib = min(domain.target_kib, domain.maxmem_kib)
    if goal_kib < domain.actual_kib and floor_kib is not None:
        goal_kib = max(goal_kib, min(floor_kib, domain.actual_kib))
    elif goal_kib > domain.actual_kib and ceiling_kib is not None:
        goal_kib = min(goal_kib, max(ceiling_kib, domain.actual_kib))
    return replace(domain, actual_kib=goal_kib)
