"""From where everybody stands towards where everybody should be, without moving memory to and fro.

Each byte that moves costs both guests time, and performance over memory is a cliff: taking goes slowly where
nobody waits, giving at once. The rules are those of the peers' study, section 9.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from xcpmem.engine.demand import PERCENT
from xcpmem.engine.parameters import Parameter, Parameters, kib, percent, seconds
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class MovementParameters(Parameters):
    """The knobs of movement, with the defaults of the study."""

    reserve_percent: Annotated[float, percent("is kept free for domains to come, if not needed", most=50)] = (
        1.0
    )
    dead_band_kib: Annotated[int, kib("in scarcity nobody moves for less")] = mib_to_kib(8)
    dead_band_percent: Annotated[float, percent("... or for less than this part of its size", most=100)] = 1.0
    drift_s: Annotated[float, seconds("between two steps of levelling", least=0.1)] = 10.0
    drift_steps: Annotated[int, Parameter("each step goes the gap over this", least=1)] = 4
    uneven_percent: Annotated[float, percent("levelling begins when somebody is further off")] = 15.0
    idle_pool_kib: Annotated[int, kib("... or when that and twice the reserve is free")] = mib_to_kib(64)


class Pool(NamedTuple):
    """What the guests that speak may have together, and what of it stays free if nobody needs it; KiB."""

    size_kib: int
    reserve_kib: int


class Standing(NamedTuple):
    """One guest that speaks; sizes KiB.

    Args:
        now_kib: what it is given now.
        floor_kib: what it must be given at least.
        comfort_kib: with this much it needs no more.
        ideal_kib: where it should be in the end.
    """

    now_kib: int
    floor_kib: int
    comfort_kib: int
    ideal_kib: int


class Move(NamedTuple):
    """Where everybody is to go now.

    Args:
        goals_kib: KiB each, in the order of the standings.
        drifted_s: when surplus was last levelled, monotonic seconds; None: never.
        wait_s: after so many seconds there is a next step; None: there is none.
    """

    goals_kib: list[int]
    drifted_s: float | None
    wait_s: float | None


def move(
    standings: Sequence[Standing],
    pool: Pool,
    now_s: float,
    drifted_s: float | None,
    parameters: MovementParameters,
) -> Move:
    """Decide the next step.

    Args:
        standings: all that take part; their ideals are at most the pool together.
        pool: what they may have.
        now_s: monotonic seconds.
        drifted_s: as the last step said.
        parameters: the knobs.
    """
    if sum(standing.comfort_kib for standing in standings) > pool.size_kib:
        return Move(_in_scarcity(standings, pool.size_kib, parameters), drifted_s, None)
    goals_kib = [max(standing.now_kib, standing.comfort_kib) for standing in standings]
    free_kib = pool.size_kib - sum(goals_kib)
    if free_kib < pool.reserve_kib // 2 or free_kib < 0:
        goals_kib = _pulled(standings, goals_kib, pool.reserve_kib - free_kib)
    standings = [standing._replace(now_kib=goal) for standing, goal in zip(standings, goals_kib, strict=True)]
    return _drift(standings, pool, now_s, drifted_s, parameters)


def _in_scarcity(standings: Sequence[Standing], budget_kib: int, parameters: MovementParameters) -> list[int]:
    """Go where everybody should be at once, but for those who are near enough."""
    goals_kib = [
        standing.now_kib
        if standing.now_kib >= standing.floor_kib
        and abs(standing.ideal_kib - standing.now_kib)
        <= max(parameters.dead_band_kib, standing.now_kib * parameters.dead_band_percent / PERCENT)
        else standing.ideal_kib
        for standing in standings
    ]
    if sum(goals_kib) > budget_kib:
        goals_kib = [
            min(goal, standing.ideal_kib) for goal, standing in zip(goals_kib, standings, strict=True)
        ]
    return goals_kib


def _pulled(standings: Sequence[Standing], goals_kib: Sequence[int], missing_kib: int) -> list[int]:
    """Take what is missing from those who have more than they need, each by its part of the surplus."""
    surplus_kib = [goal - standing.comfort_kib for goal, standing in zip(goals_kib, standings, strict=True)]
    all_kib = sum(surplus_kib)
    if all_kib <= missing_kib:
        return [goal - more for goal, more in zip(goals_kib, surplus_kib, strict=True)]
    return [
        goal + (-more * missing_kib // all_kib) for goal, more in zip(goals_kib, surplus_kib, strict=True)
    ]


def _drift(
    standings: Sequence[Standing],
    pool: Pool,
    now_s: float,
    drifted_s: float | None,
    parameters: MovementParameters,
) -> Move:
    """Level what nobody needs, a little at a time, if it is uneven enough to be worth it."""
    stay_kib = [standing.now_kib for standing in standings]
    free_kib = pool.size_kib - sum(stay_kib)
    gaps_kib = [standing.ideal_kib - standing.now_kib for standing in standings]
    is_near = all(abs(gap) <= parameters.dead_band_kib for gap in gaps_kib)
    steps_kib = gaps_kib if is_near else [gap // parameters.drift_steps for gap in gaps_kib]
    is_uneven = any(
        abs(s.ideal_kib - s.now_kib) * PERCENT > s.ideal_kib * parameters.uneven_percent for s in standings
    )
    if not any(steps_kib) or not (is_uneven or free_kib > 2 * pool.reserve_kib + parameters.idle_pool_kib):
        return Move(stay_kib, drifted_s, None)
    wait_s = 0.0 if drifted_s is None else drifted_s + parameters.drift_s - now_s
    if wait_s > 0:
        return Move(stay_kib, drifted_s, wait_s)
    goals_kib = [now + step for now, step in zip(stay_kib, steps_kib, strict=True)]
    return Move(goals_kib, now_s, parameters.drift_s)
