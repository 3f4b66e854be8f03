"""Who takes part in a division of memory, with what claim, and what there is to divide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.engine.model import Lifecycle
from xcpmem.engine.policy import DEFAULT_WEIGHT, Claim, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.belief import Belief, Beliefs, Caution
    from xcpmem.engine.model import DomainState, HostState, MemoryRequest, Wishes
    from xcpmem.engine.thought import Thought

PROBE_KIB: Final = 1024
"""A guest that met a limit is asked this far past it, so that it is seen when the limit is gone."""

PROBE_SHARE: Final = 64
"""... and one with a narrow range by the range over this, for which a whole probe would be a real cost."""

PROBE_LEAST_KIB: Final = 16
"""... but not at all by less than this, which could not be told from inaccuracy."""


class Party(NamedTuple):
    """A domain that can be moved, what is believed of it, and what the policy may give it.

    One that was merely found pinned keeps the maxmem it was found with, since adopting a host must change
    nothing.
    """

    domain: DomainState
    belief: Belief
    claim: Claim
    probe_kib: int
    keeps_maxmem: bool

    def is_content(self, target_kib: int) -> bool:
        """Tell whether it is where it is to be, and Xen lets it have just that: nothing is to be done."""
        domain = self.domain
        return (
            domain.target_kib == target_kib
            and self.belief.direction == 0
            and (domain.maxmem_kib == target_kib or (self.keeps_maxmem and domain.maxmem_kib > target_kib))
        )


def parties_of(domains: Sequence[DomainState], wishes: Wishes, beliefs: Beliefs, now_s: float) -> list[Party]:
    """List who takes part; who does so as in the last turn is the same object.

    Args:
        domains: as seen, with the ranges that are wished.
        wishes: who is left alone, and everybody's weight.
        beliefs: brought up to date with this look.
        now_s: monotonic seconds, by which samples are fresh or stale.
    """
    thoughts, by_domid = beliefs.recollection.thoughts, beliefs.by_domid
    are_all_as_before = not wishes.left_alone and wishes.weights == beliefs.recollection.weights
    parties = []
    for domain in domains:
        thought = thoughts.get(domain.domid)
        party = thought.party if thought is not None and thought.rests and are_all_as_before else None
        if party is not None and party.domain is domain and party.belief is by_domid[domain.domid]:
            parties.append(party)
        elif _can_move(domain, wishes):
            parties.append(_party(domain, wishes, beliefs, now_s, thought))
    return parties


def with_those_at_rest(
    fresh: Sequence[Party], awake: Sequence[DomainState], domains: Sequence[DomainState], beliefs: Beliefs
) -> list[Party]:
    """List who takes part, in the order of the domains.

    Args:
        fresh: the parties among those who are awake.
        awake: as `Recollection.awake` lists them.
        domains: all.
        beliefs: as the last turn left the recollection; whoever rests takes part as in that turn.
    """
    thoughts = beliefs.recollection.thoughts
    found: dict[int, Party | None] = dict.fromkeys([domain.domid for domain in awake])
    found.update((party.domain.domid, party) for party in fresh)
    return [
        party
        for domain in domains
        if (party := found[domid] if (domid := domain.domid) in found else thoughts[domid].party)
    ]


def budget_of(host: HostState, parties: Sequence[Party]) -> int:
    """Count what the policy may divide: all that is free, held by parties, and promised to nobody else."""
    promised_kib = 0
    if len(parties) < len(host.domains):
        movable = {party.domain.domid for party in parties}
        promised_kib = sum(domain.held_kib for domain in host.domains if domain.domid not in movable)
    pinned = [party for party in parties if party.keeps_maxmem]
    promised_kib += sum(max(0, party.domain.maxmem_kib - party.claim.max_kib) for party in pinned)
    return host.common_kib - promised_kib - host.reserved_kib - host.slush_kib


def snapshot_of(
    budget_kib: int,
    parties: Sequence[Party],
    requests: Sequence[MemoryRequest],
    now_s: float,
    caution: Caution,
    *,
    compensate_inaccuracy: bool = True,
) -> Snapshot:
    """Say what a policy is told.

    Args:
        budget_kib: what there is to divide.
        parties: who takes part.
        requests: reservations that wait, by arrival.
        now_s: monotonic seconds.
        caution: how far guests may stop from their targets.
        compensate_inaccuracy: keep a margin for guests that stop short when they shrink.
    """
    claims = [party.claim for party in parties]
    margin_kib = 0
    if compensate_inaccuracy:
        margin_kib = caution.inaccuracy_kib * len([c for c in claims if c.low_kib < c.high_kib])
    claims += [Claim(r.min_kib, r.max_kib, r.min_kib, r.max_kib) for r in requests]
    return Snapshot(now_s, budget_kib - margin_kib, claims)


def _can_move(domain: DomainState, wishes: Wishes) -> bool:
    return (
        domain.can_balloon
        and domain.lifecycle is Lifecycle.RUNNING
        and domain.domid not in wishes.left_alone
        and domain.offset_kib is not None
    )


def _party(
    domain: DomainState, wishes: Wishes, beliefs: Beliefs, now_s: float, thought: Thought | None
) -> Party:
    belief, watched = beliefs.by_domid[domain.domid], beliefs.watches.get(domain.domid)
    weight = wishes.weights.get(domain.uuid, DEFAULT_WEIGHT)
    sample = domain.sample
    if sample is not None and not sample.is_fresh(now_s):
        sample = None
    regret_kib = 0 if watched is None else watched.regret_at(now_s)
    if thought is not None and (before := thought.party).domain is domain and before.belief is belief:
        claim = before.claim
        if claim.weight == weight and claim.sample is sample and claim.regret_kib == regret_kib:
            return before
    low_kib, high_kib = domain.bounds_kib
    probe_kib = 0
    claim = Claim(
        low_kib,
        high_kib,
        low_kib,
        high_kib,
        domain.domid,
        domain.uuid,
        domain.target_kib,
        domain.actual_kib,
        weight,
        sample,
        regret_kib,
    )
    if belief.floor_kib is not None or belief.ceiling_kib is not None:
        probe_kib = _probe_kib(high_kib - low_kib)
        claim = _limited(claim, belief, probe_kib)
    return Party(domain, belief, claim, probe_kib, keeps_maxmem=not domain.has_range)


def _probe_kib(width_kib: int) -> int:
    probe_kib = min(PROBE_KIB, width_kib // PROBE_SHARE)
    return probe_kib if probe_kib >= PROBE_LEAST_KIB else 0


def _limited(claim: Claim, belief: Belief, probe_kib: int) -> Claim:
    """Put the limits that a guest was seen to have in place of those of its range."""
    low_kib, high_kib = claim.min_kib, claim.max_kib
    if belief.floor_kib is not None:
        low_kib = max(low_kib, belief.floor_kib)
    if belief.ceiling_kib is not None:
        high_kib = max(claim.min_kib, min(high_kib, belief.ceiling_kib + probe_kib))
    return claim._replace(low_kib=low_kib, high_kib=max(low_kib, high_kib))
