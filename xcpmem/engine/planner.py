"""One turn of thought: from what is seen, wished and believed to an ordered list of actions.

The controller and `xcpmem simulate` call `plan`; it calls the policy. What holds at every point of the
list of actions, also if the daemon dies there or a guest does not obey:

- the sum of what guests hold or may still take, and of what is reserved, never grows beyond the host;
- a domain's target and range keep their order, and a target stays within the dynamic range;
- memory is promised to somebody (a raised maxmem, a reservation) only after it is free.

squeezed's two phases (free, then allocate) are here one rule: shrinking asks go out at once, growing
asks and reservations only as far as `HostState.spare_kib` reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from xcpmem.engine.belief import OFFSET_STILL_S, Beliefs, Caution, direction_of, is_odd
from xcpmem.engine.containment import divide
from xcpmem.engine.draft import Draft
from xcpmem.engine.looks import LOOK_LATEST_S, LOOK_SOONEST_S, LOOKS_PER_WAIT, enough_kib, looks_s, retries_s
from xcpmem.engine.model import (
    Action,
    DomainState,
    Lifecycle,
    SetDynamicMax,
    SetDynamicMin,
    SetMemoryOffset,
    SetUncooperative,
    Verdict,
)
from xcpmem.engine.parties import budget_of, parties_of, snapshot_of, with_those_at_rest
from xcpmem.engine.reasons import Reason, reason_to_stay, think_of
from xcpmem.engine.remains import returning_kib
from xcpmem.engine.requests import admit, grant
from xcpmem.engine.steps import portions
from xcpmem.engine.targets import BALANCE_TOLERANCE_KIB, choose_targets
from xcpmem.engine.thought import Recollection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from xcpmem.engine.belief import Belief
    from xcpmem.engine.model import HostState, Wishes
    from xcpmem.engine.parties import Party
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.engine.steps import Steps


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """Knobs of the planner.

    Args:
        caution: thresholds for guests that are late, stuck or not exact.
        free_before_growing: growth waits for memory that is free; off only to show what that is for.
        compensate_inaccuracy: plan for guests that stop short; off only to show what that is for.
    """

    caution: Caution = field(default_factory=Caution)
    free_before_growing: bool = True
    compensate_inaccuracy: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and why.

    Args:
        actions: in the order in which they must be applied.
        verdicts: on requests, true once all actions are applied.
        reasons: by domid.
        beliefs: to be handed in at the next turn.
        stable: nothing moves that could, no page of a dying domain is to come, nobody waits, and nobody was
            answered, after whom others may want to move again.
        look_again_s: the ring should look again after so many seconds; None: only when something happens.
        enough_kib: ... or as soon as the host has so much free memory: then who waits first can be served;
            None: nobody waits for what guests give, or others want to grow meanwhile.
        policy_wait_s: of these, when the policy would go on with what it began; None: it has come to rest.
    """

    actions: tuple[Action, ...]
    verdicts: tuple[Verdict, ...]
    reasons: Mapping[int, Reason]
    beliefs: Beliefs
    stable: bool
    look_again_s: float | None
    enough_kib: int | None = None
    policy_wait_s: float | None = None


def plan(
    host: HostState,
    wishes: Wishes,
    beliefs: Beliefs,
    now_s: float,
    policy: ChosenPolicy,
    *,
    settings: PlannerSettings = PlannerSettings(),
) -> Plan:
    """Decide at one go what to do next on one host; see `deliberate`."""
    *_, thought = deliberate(host, wishes, beliefs, now_s, policy, settings=settings)
    if thought is None:
        raise AssertionError("the last step is the plan")
    return thought


def deliberate(
    host: HostState,
    wishes: Wishes,
    beliefs: Beliefs,
    now_s: float,
    policy: ChosenPolicy,
    *,
    settings: PlannerSettings = PlannerSettings(),
) -> Iterator[Plan | None]:
    """Decide what to do next on one host, in steps, between which others can have their turn.

    Args:
        host: the latest look, KiB.
        wishes: all pending wishes; solved together.
        beliefs: as the previous plan returned them, or empty.
        now_s: monotonic seconds; only differences are used.
        policy: who should have how much; whatever it answers, no bound is broken.
        settings: knobs.

    Yields:
        None after each step, at last the plan; empty of actions when everything is as it should be.
    """
    caution = settings.caution
    range_actions: list[Action] = []
    domains = host.domains
    if wishes.ranges:
        domains = tuple(_with_wished_range(domain, wishes, range_actions) for domain in domains)
    host = replace(host, domains=domains) if range_actions else host
    before, recollection = beliefs.by_domid, beliefs.recollection
    awake = recollection.awake(domains, caution)
    tally = recollection.tally.after(recollection.domains, domains)
    beliefs = yield from beliefs.learning(domains, now_s, caution, awake)
    parties = yield from _take_part(domains, awake, wishes, beliefs, now_s)
    coming_kib = returning_kib(host, beliefs.decays, now_s, caution)
    budget_kib = budget_of(host, parties) + coming_kib
    unmeasured = [domain for domain in awake if _is_unmeasured(domain)]
    verdicts: list[Verdict] = []
    requests = wishes.requests and admit(
        sorted(wishes.requests, key=lambda request: request.order),
        budget_kib + sum(max(0, d.actual_kib - d.bounds_kib[0]) for d in unmeasured),
        [(party.domain, party.claim) for party in parties],
        verdicts,
    )
    snapshot = snapshot_of(
        budget_kib,
        parties,
        requests,
        now_s,
        caution,
        compensate_inaccuracy=settings.compensate_inaccuracy,
    )
    division, memory = divide(policy, snapshot, beliefs.policy)
    yield None
    beliefs, goals_kib = replace(beliefs, policy=memory), division.goals_kib
    targets_kib = choose_targets(parties, goals_kib, idle=not requests, caution=caution)

    draft = Draft(host, tally, range_actions)
    # where others took what was promised, those at rest may have to be held where they are
    unsettled = (Recollection() if draft.excess_kib else recollection).unsettled(
        parties, targets_kib, division, caution
    )
    restless = [(party, target_kib) for party, target_kib, _ in unsettled if not party.is_content(target_kib)]
    yield from _ask_back(restless, [party for party, _, _ in unsettled], draft)
    torn_kib = host.torn_by(tally)
    coming = any(_is_giving(party, draft.target_kib(party.domain), caution) for party, _ in restless)
    settling = bool(requests) and (torn_kib > 0 or any(_is_settling(party, before) for party in parties))
    waiting = grant(
        requests,
        goals_kib[len(parties) :],
        draft,
        now_s=now_s,
        coming=coming or settling or host.scrub_kib + coming_kib > 0 or bool(unmeasured),
        owing=[p for p, _ in restless if _owes(p, draft.target_kib(p.domain), caution)],
        caution=caution,
        verdicts=verdicts,
    )
    enough = enough_kib(host.free_kib, torn_kib, draft, waiting, restless) if coming else None
    yield None
    _grow(restless, draft, kept_kib=sum(goal for _, goal in waiting), settings=settings)
    yield None
    _correct([domain for domain in awake if _may_be_touched(domain, wishes)], beliefs, draft, caution)
    yield None
    thoughts = yield from think_of(unsettled, recollection.of(caution), draft, division, caution)
    if len(thoughts) > len(parties):
        thoughts = {party.domain.domid: thoughts[party.domain.domid] for party in parties}
    reasons = {domid: thought.reason for domid, thought in thoughts.items()}
    unmoved = [d for d in domains if d.domid not in reasons] if len(reasons) < len(domains) else []
    reasons |= {d.domid: reason_to_stay(d, beliefs.by_domid[d.domid], caution) for d in unmoved}
    beliefs = replace(
        beliefs,
        recollection=Recollection(
            caution=caution,
            weights=wishes.weights,
            domains=domains,
            tally=tally,
            parties=parties,
            wanted_kib=targets_kib,
            goals_kib=goals_kib,
            notes=division.notes,
            thoughts=thoughts,
            restless=frozenset(
                {domid for party, _, _ in unsettled if not thoughts[domid := party.domain.domid].rests}
                | {domain.domid for domain in unmoved}
            ),
        ),
    )
    stuck = {party.domain.domid: party for party, _ in restless if party.belief.gave_up(caution)}
    moving = _moving(restless, stuck, draft, caution, coming=coming or host.scrub_kib > 0)
    doubtful = abs(torn_kib) > BALANCE_TOLERANCE_KIB
    yield Plan(
        actions=tuple(draft.actions),
        verdicts=tuple(verdicts),
        reasons=reasons,
        beliefs=beliefs,
        stable=not (moving or waiting or verdicts or host.scrub_kib or coming_kib or doubtful),
        look_again_s=min(
            [
                *(max(LOOK_SOONEST_S, request.deadline_s - now_s) for request, _ in waiting),
                *(max(LOOK_SOONEST_S, request.wait_s / LOOKS_PER_WAIT) for request, _ in waiting),
                *((LOOK_LATEST_S,) if host.scrub_kib or (waiting and (settling or coming_kib)) else ()),
                *((LOOK_LATEST_S,) if doubtful and enough is None else ()),
                *((LOOK_SOONEST_S,) if verdicts else ()),
                *((OFFSET_STILL_S / 2,) if unmeasured else ()),
                *(() if division.look_again_s is None else (max(LOOK_LATEST_S, division.look_again_s),)),
                *looks_s(moving, draft, caution, is_watched=enough is not None),
                *retries_s(stuck.values()),
                *beliefs.awaited_s(awake),
            ],
            default=None,
        ),
        enough_kib=enough,
        policy_wait_s=None if memory.is_set_aside else division.look_again_s,
    )


def _take_part(
    domains: Sequence[DomainState],
    awake: Sequence[DomainState],
    wishes: Wishes,
    beliefs: Beliefs,
    now_s: float,
) -> Steps[list[Party]]:
    """List the parties; those that rest take part as before, unless wishes may have changed what they are."""
    are_wishes_as_before = not wishes.left_alone and wishes.weights == beliefs.recollection.weights
    fresh: list[Party] = []
    for some in portions(awake if are_wishes_as_before else domains):
        fresh += parties_of(some, wishes, beliefs, now_s)
        yield
    return with_those_at_rest(fresh, awake, domains, beliefs) if are_wishes_as_before else fresh


def _ask_back(restless: Sequence[tuple[Party, int]], unsettled: Sequence[Party], draft: Draft) -> Steps[None]:
    """Let all who have more than their target hear of it, then cap them; take back promises others broke."""
    for some in portions(restless):
        for party, target_kib in some:
            draft.shrink(party.domain, target_kib)
        yield
    for some in portions(restless):
        for party, target_kib in some:
            draft.cap(party.domain, target_kib, keeps_maxmem=party.keeps_maxmem)
        yield
    if draft.excess_kib:
        draft.revoke([party.domain for party in unsettled if not party.keeps_maxmem])
        yield


def _grow(
    restless: Sequence[tuple[Party, int]], draft: Draft, *, kept_kib: int, settings: PlannerSettings
) -> None:
    """Give those who are to have more what is spare and nobody waits for."""
    grown = [(party.domain, target_kib) for party, target_kib in restless]
    if settings.free_before_growing:
        draft.grow(grown, kept_kib=kept_kib)
    else:
        draft.grow_regardless(grown)


def _with_wished_range(domain: DomainState, wishes: Wishes, actions: list[Action]) -> DomainState:
    wished = wishes.ranges.get(domain.uuid)
    is_so = wished == domain.dynamic_range and domain.has_range
    if wished is None or is_so or not _may_be_touched(domain, wishes):
        return domain
    set_min = SetDynamicMin(domain.domid, wished.min_kib)
    set_max = SetDynamicMax(domain.domid, wished.max_kib)
    if wished.max_kib > domain.dynamic_range.max_kib or not domain.has_range:
        actions += [set_max, set_min]
    else:
        actions += [set_min, set_max]
    return replace(domain, dynamic_range=wished, has_range=True)


def _may_be_touched(domain: DomainState, wishes: Wishes) -> bool:
    return not domain.is_dying and domain.domid not in wishes.left_alone


def _is_giving(party: Party, target_kib: int, caution: Caution) -> bool:
    """Tell whether a party still gives memory back that somebody may wait for."""
    return _owes(party, target_kib, caution) and not (
        party.belief.direction < 0 and party.belief.gave_up(caution)
    )


def _is_settling(party: Party, before: Mapping[int, Belief]) -> bool:
    """Tell whether a party near enough to its target may yet give its last page: it moved just now."""
    if party.domain.actual_kib <= party.domain.target_kib or party.belief.direction:
        return False
    belief = before.get(party.domain.domid)
    return belief is not None and belief.mark_kib != party.domain.actual_kib


def _owes(party: Party, target_kib: int, caution: Caution) -> bool:
    return party.domain.actual_kib - target_kib > caution.inaccuracy_kib


def _correct(domains: Sequence[DomainState], beliefs: Beliefs, draft: Draft, caution: Caution) -> None:
    """Bring flags and offsets up to what is believed of domains that may be touched."""
    for domain in domains:
        belief = beliefs.by_domid[domain.domid]
        if is_odd(domain, belief):
            _flag(domain, belief, draft, caution)
            _measure(domain, belief, draft)


def _flag(domain: DomainState, belief: Belief, draft: Draft, caution: Caution) -> None:
    late = belief.away_s > caution.uncooperative_s
    if late != domain.uncooperative:
        draft.actions.append(SetUncooperative(domain.domid, late))


def _is_unmeasured(domain: DomainState) -> bool:
    return domain.offset_kib is None and domain.can_balloon and domain.lifecycle is Lifecycle.RUNNING


def _measure(domain: DomainState, belief: Belief, draft: Draft) -> None:
    """Write down the offset of a guest that stands still, or mend one that proved wrong."""
    if _is_unmeasured(domain):
        if belief.waited_s >= OFFSET_STILL_S:
            draft.actions.append(SetMemoryOffset(domain.domid, domain.actual_kib - domain.target_kib))
    elif belief.offset_error_kib:
        offset_kib = (domain.offset_kib or 0) + belief.offset_error_kib
        draft.actions.append(SetMemoryOffset(domain.domid, offset_kib))


def _moving(
    restless: Sequence[tuple[Party, int]],
    stuck: Collection[int],
    draft: Draft,
    caution: Caution,
    *,
    coming: bool,
) -> list[Party]:
    """List the parties that are on their way, or will be asked once memory that is coming is free."""
    return [
        party
        for party, wanted_kib in restless
        if (target_kib := draft.target_kib(party.domain)) != party.domain.target_kib
        or (coming and wanted_kib != target_kib)
        or (party.domain.domid not in stuck and direction_of(party.domain, caution))
    ]
