"""XCP's rule: one proportion for all, between dynamic-min and dynamic-max.

The formula is squeezed's: gamma = (budget - sum of mins) / (sum of ranges), kept within 0 and 1, and
target = min + gamma * range. squeezed has no notion of a guest that cannot get there; here those are
held at the place where they stopped and gamma is solved again for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xcpmem.engine.parameters import Parameters
from xcpmem.engine.policy import Division

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.policy import Claim, Snapshot, State


def share(budget_kib: int, claims: Sequence[Claim]) -> list[int]:
    """Find the one gamma with which the sum of clamp(min + gamma * range, low, high) meets the budget.

    Claims that the common gamma would push past their low or high are frozen there, those on the side
    that distorts the sum more first, and gamma is solved for the rest: the same scheme by which CSS
    resolves flexible lengths, exact, and in practice two or three passes.

    Args:
        budget_kib: what may be given away, KiB.
        claims: each with low <= high.

    Returns:
        KiB per claim, rounded down, in the order of the claims.
    """
    highs_kib = [claim.high_kib for claim in claims]
    if budget_kib >= sum(highs_kib):
        return highs_kib
    goals = [0] * len(claims)
    open_claims = list(range(len(claims)))
    left_kib = budget_kib
    while open_claims:
        floor_sum_kib = range_sum_kib = 0
        for i in open_claims:
            floor_sum_kib += claims[i].min_kib
            range_sum_kib += claims[i].max_kib - claims[i].min_kib
        surplus_kib = min(max(left_kib - floor_sum_kib, 0), range_sum_kib)
        lacking_kib = exceeding_kib = 0
        too_low: list[int] = []
        too_high: list[int] = []
        for i in open_claims:
            claim = claims[i]
            goal_kib = claim.min_kib
            if range_sum_kib:
                goal_kib += (claim.max_kib - claim.min_kib) * surplus_kib // range_sum_kib
            goals[i] = goal_kib
            if goal_kib < claim.low_kib:
                too_low.append(i)
                lacking_kib += claim.low_kib - goal_kib
            elif goal_kib > claim.high_kib:
                too_high.append(i)
                exceeding_kib += goal_kib - claim.high_kib
        frozen = set(too_low if lacking_kib >= exceeding_kib else too_high)
        for i in frozen:
            goals[i] = claims[i].low_kib if lacking_kib >= exceeding_kib else claims[i].high_kib
            left_kib -= goals[i]
        if not frozen:
            break
        open_claims = [i for i in open_claims if i not in frozen]
    return goals


@dataclass(frozen=True)
class ProportionalParameters(Parameters):
    """None: the administrator says it all with the dynamic ranges."""


@dataclass(frozen=True, slots=True)
class Proportional:
    """XCP's rule as a policy; it has no state and hears no guest."""

    name: str = "proportional"
    about: str = "XCP's rule: everyone the same part of the way from dynamic-min to dynamic-max"
    parameters: type[ProportionalParameters] = ProportionalParameters

    def plan(
        self,
        snapshot: Snapshot,
        state: State,
        parameters: ProportionalParameters,  # noqa: ARG002 the protocol's
    ) -> tuple[Division, State]:
        """Divide the budget by one proportion for all; see `share`."""
        return Division(share(snapshot.budget_kib, snapshot.claims)), state
