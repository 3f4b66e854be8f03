"""The one solver behind all policies: weighted water-filling.

Memory is poured into vessels that all stand in the same water: a vessel with twice the pull is filled
twice as fast. Each has a least, a most and a knee; above the knee it rises more slowly, because what stands
there is taxed. The reference is section 9.1 of the peers' study: find the level at which ::

    sum of min(range, inverse cost(level * pull)) = budget - sum of dynamic-mins

The left side is continuous and never falls, so the level exists and is unique up to plateaus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.engine.proportional import share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.policy import Claim

PERCENT: Final = 100


class Vessel(NamedTuple):
    """One party in the water; sizes KiB, foot <= knee.

    Args:
        foot_kib: its size at level 0.
        low_kib: the least it can be made to hold; may be above or below the foot.
        high_kib: the most, at least ``low_kib``.
        pull: how fast it rises with the level, 0 or more; with 0 it stays at its least.
        knee_kib: above this size the tax slows it down.
    """

    foot_kib: int
    low_kib: int
    high_kib: int
    pull: int
    knee_kib: int

    def level_of(self, size_kib: int, free_percent: int) -> float:
        """Say at which level it would hold so much, ``free_percent`` of the growth above its knee untaxed."""
        if size_kib <= self.knee_kib:
            return (size_kib - self.foot_kib) / self.pull
        taxed = (size_kib - self.knee_kib) * PERCENT / free_percent
        return (self.knee_kib - self.foot_kib + taxed) / self.pull

    def size_at(self, numerator: int, denominator: int, free_percent: int, *, is_taxed: bool) -> int:
        """Say what it would hold, KiB rounded down, at the level of an exact fraction and without limits."""
        rise = self.pull * numerator
        if not is_taxed:
            return self.foot_kib + rise // denominator
        above = (self.foot_kib - self.knee_kib) * denominator + rise
        return self.knee_kib + above * free_percent // (PERCENT * denominator)


def entitlements(budget_kib: int, claims: Sequence[Claim]) -> list[int]:
    """Say what each claim is entitled to: XCP's rule with the range counted as often as the weight says.

    With equal weights it is XCP's rule itself, to the KiB.

    Args:
        budget_kib: what may be divided, KiB.
        claims: with their weights.

    Returns:
        KiB per claim, rounded down; together at most the budget unless the lows alone are more.
    """
    if not claims or all(claim.weight == claims[0].weight for claim in claims):
        return share(budget_kib, claims)
    vessels = [
        Vessel(c.min_kib, c.low_kib, c.high_kib, c.weight * (c.max_kib - c.min_kib), c.high_kib)
        for c in claims
    ]
    return fill(budget_kib, vessels)


def fill(budget_kib: int, vessels: Sequence[Vessel], tax_percent: int = 0) -> list[int]:
    """Pour a budget into vessels.

    Args:
        budget_kib: all that they may hold together, what stands at their feet included.
        vessels: who takes part.
        tax_percent: how much of the growth above a knee is held back, 0 to 99.

    Returns:
        KiB per vessel, rounded down; their lows if the budget does not reach further, their highs if it is
        more than they can hold.
    """
    lows_kib, highs_kib = [v.low_kib for v in vessels], [v.high_kib if v.pull else v.low_kib for v in vessels]
    if budget_kib <= sum(lows_kib):
        return lows_kib
    if budget_kib >= sum(highs_kib):
        return highs_kib
    free_percent = PERCENT - tax_percent
    level = _find_level(budget_kib, vessels, free_percent)
    rising, taxed = _sort_by_level(vessels, level, free_percent)
    sizes_kib = [
        low if v.pull == 0 or v.level_of(low, free_percent) >= level else high
        for v, low, high in zip(vessels, lows_kib, highs_kib, strict=True)
    ]
    return _settle(budget_kib, vessels, sizes_kib, rising, taxed, free_percent=free_percent)


def _find_level(budget_kib: int, vessels: Sequence[Vessel], free_percent: int) -> float:
    """Find the level by walking up from one bend of the curve to the next; exact but for rounding."""
    bends: list[tuple[float, float]] = []
    for vessel in vessels:
        if vessel.pull == 0 or vessel.low_kib >= vessel.high_kib:
            continue
        pull, slow = float(vessel.pull), vessel.pull * free_percent / PERCENT
        knee_kib = min(max(vessel.knee_kib, vessel.low_kib), vessel.high_kib)
        if knee_kib > vessel.low_kib:
            bends.append((vessel.level_of(vessel.low_kib, free_percent), pull))
            bends.append((vessel.level_of(knee_kib, free_percent), slow - pull))
        else:
            bends.append((vessel.level_of(vessel.low_kib, free_percent), slow))
        bends.append((vessel.level_of(vessel.high_kib, free_percent), -slow))
    bends.sort()
    missing_kib = float(budget_kib - sum(vessel.low_kib for vessel in vessels))
    level, slope = bends[0][0], 0.0
    for bend, change in bends:
        step_kib = slope * (bend - level)
        if step_kib >= missing_kib and slope > 0:
            return level + missing_kib / slope
        missing_kib -= step_kib
        level, slope = bend, slope + change
    return level


def _sort_by_level(
    vessels: Sequence[Vessel], level: float, free_percent: int
) -> tuple[list[int], frozenset[int]]:
    """Tell which vessels stand between their limits at a level, and which of them above their knee."""
    rising, taxed = [], set()
    for i, vessel in enumerate(vessels):
        if vessel.pull == 0 or vessel.low_kib >= vessel.high_kib:
            continue
        if (
            vessel.level_of(vessel.low_kib, free_percent)
            < level
            < vessel.level_of(vessel.high_kib, free_percent)
        ):
            rising.append(i)
            if level > vessel.level_of(vessel.knee_kib, free_percent):
                taxed.add(i)
    return rising, frozenset(taxed)


def _settle(
    budget_kib: int,
    vessels: Sequence[Vessel],
    sizes_kib: list[int],
    rising: list[int],
    taxed: frozenset[int],
    *,
    free_percent: int,
) -> list[int]:
    """Solve in whole numbers for the vessels that rise; whom that pushes past a limit stays there."""
    while rising:
        fixed = PERCENT * (budget_kib - sum(sizes_kib) + sum(sizes_kib[i] for i in rising))
        pulls = 0
        for i in rising:
            vessel = vessels[i]
            if i in taxed:
                fixed -= PERCENT * vessel.knee_kib - (vessel.knee_kib - vessel.foot_kib) * free_percent
                pulls += vessel.pull * free_percent
            else:
                fixed -= PERCENT * vessel.foot_kib
                pulls += vessel.pull * PERCENT
        stopped = set()
        for i in rising:
            vessel = vessels[i]
            size_kib = vessel.size_at(fixed, pulls, free_percent, is_taxed=i in taxed)
            sizes_kib[i] = min(max(size_kib, vessel.low_kib), vessel.high_kib)
            if sizes_kib[i] != size_kib:
                stopped.add(i)
        if not stopped:
            break
        rising = [i for i in rising if i not in stopped]
    return sizes_kib
