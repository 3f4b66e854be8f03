"""From what a policy gives to what guests are told: small changes are not worth a move, limits are probed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.belief import Caution
    from xcpmem.engine.model import DomainState
    from xcpmem.engine.parties import Party

BALANCE_TOLERANCE_KIB: Final = 512
"""Nobody is asked to move for less, while nobody waits (squeezed's tolerance)."""

TOLERANCE_SHARE: Final = 256
"""... and for narrow ranges for less than the range over this."""


def choose_targets(
    parties: Sequence[Party], goals_kib: Sequence[int], *, idle: bool, caution: Caution
) -> list[int]:
    """Turn goals into targets: inside the range, quiet within the tolerance, probing at a limit.

    Args:
        parties: who takes part.
        goals_kib: what the policy gives each of them, and then others, KiB.
        idle: whether nobody waits for memory.
        caution: the thresholds.

    Returns:
        Of each party, what it is to be told once memory is free, KiB.
    """
    told_kib = [party.domain.target_kib for party in parties]
    targets_kib = [
        goal if party.belief.floor_kib is None else _target(party, goal, party.belief.floor_kib, caution)
        for party, goal in zip(parties, goals_kib, strict=False)
    ]
    if targets_kib == told_kib or not idle:
        return targets_kib
    if all(
        target == told or abs(target - told) <= _tolerance_kib(party.domain, caution)
        for party, target, told in zip(parties, targets_kib, told_kib, strict=True)
    ):
        return [min(max(p.domain.target_kib, p.claim.min_kib), p.claim.max_kib) for p in parties]
    return targets_kib


def _tolerance_kib(domain: DomainState, caution: Caution) -> int:
    low_kib, high_kib = domain.bounds_kib
    part_kib = (high_kib - low_kib) // TOLERANCE_SHARE
    return max(2 * caution.inaccuracy_kib, min(BALANCE_TOLERANCE_KIB, part_kib))


def _target(party: Party, goal_kib: int, floor_kib: int, caution: Caution) -> int:
    claim, domain = party.claim, party.domain
    if goal_kib <= floor_kib:
        if party.belief.meets_floor(domain.actual_kib, caution) and domain.target_kib < domain.actual_kib:
            goal_kib = domain.target_kib
        else:
            goal_kib = floor_kib - party.probe_kib
    return min(max(goal_kib, claim.min_kib), claim.max_kib)
