"""Memory follows what guests need: demand, stalls that demand does not explain, and a small start reserve.

Everybody is first given what it needs, up to its entitlement under XCP's rule with weights: nobody who needs
memory ever gets less than that. What is left goes to those who need more: first what they use, then room to
grow, then what their stalls ask for, then what they may need again soon. What nobody needs stays inside the
guests as cache that can be dropped at memory speed, but for a reserve with which domains to come start at
once: it goes first to those who hold less than their entitlement, then to those who needed more before. A
silent guest has exactly its entitlement, and those that speak divide the rest. (The peers' study, 9.5.)

Memory moves when it must, exactly as much as it must, and else slowly: see `xcpmem.engine.movement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from xcpmem.engine.demand import (
    PERCENT,
    Demand,
    DemandParameters,
    Needs,
    follow,
    is_believed,
    needs_of,
    with_room_kib,
)
from xcpmem.engine.movement import MovementParameters, Pool, Standing, move
from xcpmem.engine.note import Note
from xcpmem.engine.parameters import Parameter
from xcpmem.engine.policy import Division
from xcpmem.engine.waterfill import Vessel, entitlements, fill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.policy import Claim, Snapshot, State

_GUESTS: Final = "guests"
_GOALS: Final = "goals"
_DRIFTED: Final = "drifted_s"
_CONTENDED: Final = "is_contended"


@dataclass(frozen=True)
class PressureParameters(MovementParameters, DemandParameters):
    """The knobs of `Pressure`: those of demand, of movement, and what shares are counted in."""

    unit: Annotated[
        str,
        Parameter(
            "in scarcity a weight counts for each VM, or for each MiB of its range", choices=("vm", "range")
        ),
    ] = "vm"


@dataclass(frozen=True, slots=True)
class Pressure:
    """The policy; what it remembers is each guest's `Demand` and its last goal."""

    name: str = "pressure"
    about: str = "follows what guests use and how much they stall; nobody in need has less than its share"
    parameters: type[PressureParameters] = PressureParameters

    def plan(
        self, snapshot: Snapshot, state: State, parameters: PressureParameters
    ) -> tuple[Division, State]:
        """Divide the budget by need, and take the next step from where everybody stands."""
        claims, now_s = snapshot.claims, snapshot.now_s
        entitled_kib = entitlements(snapshot.budget_kib, claims)
        demands = _follow(claims, state, parameters)
        needs = {
            i: needs_of(demand, claims[i], sample, parameters)
            for i, demand in demands.items()
            if (sample := claims[i].sample) and is_believed(demand)
        }
        goals_kib = list(entitled_kib)
        pool = _pool(snapshot.budget_kib, goals_kib, needs, parameters)
        ideal_kib = ideal(pool, claims, entitled_kib, needs, parameters)
        before: Mapping[str, int] = state.get(_GOALS, {})
        moved = move(
            [_standing(claims[i], before, need, entitled_kib[i], ideal_kib[i]) for i, need in needs.items()],
            pool,
            now_s,
            state.get(_DRIFTED),
            parameters,
        )
        for i, goal_kib in zip(needs, moved.goals_kib, strict=True):
            goals_kib[i] = goal_kib
            if goal_kib < min(needs[i].need_kib, entitled_kib[i]):
                raise AssertionError(f"{claims[i].uuid} is in need and would have less than its share")
        notes = {
            claim.domid: _note(
                demands[i],
                needs[i],
                claim,
                parameters,
                goal_kib=goals_kib[i],
                entitled_kib=entitled_kib[i],
            )
            if i in needs
            else Note.silent()
            for i, claim in enumerate(claims)
            if claim.domid is not None
        }
        new_state: dict[str, Any] = {
            _GUESTS: {claims[i].uuid: list(demand) for i, demand in demands.items()},
            _GOALS: {claim.uuid: goal for claim, goal in zip(claims, goals_kib, strict=True) if claim.uuid},
            _DRIFTED: moved.drifted_s,
            _CONTENDED: sum(need.peak_kib for need in needs.values()) > pool.size_kib,
        }
        return Division(goals_kib, notes, moved.wait_s), new_state


def ideal(
    pool: Pool,
    claims: Sequence[Claim],
    entitled_kib: Sequence[int],
    needs: Mapping[int, Needs],
    parameters: PressureParameters,
) -> dict[int, int]:
    """Say where everybody should be in the end; each step is taken as far as the pool reaches.

    Args:
        pool: what the speaking guests may have.
        claims: everybody.
        entitled_kib: what each is entitled to.
        needs: of the speaking guests, by the index of their claims.
        parameters: the knobs.

    Returns:
        KiB by the index of the claim.
    """
    sizes_kib = {i: max(claims[i].low_kib, min(need.need_kib, entitled_kib[i])) for i, need in needs.items()}
    for stage in ("used_kib", "room_kib", "boost_kib", "peak_kib"):
        caps_kib = {i: max(sizes_kib[i], getattr(need, stage)) for i, need in needs.items()}
        if sum(caps_kib.values()) > pool.size_kib:
            return _poured(
                pool.size_kib,
                {
                    i: Vessel(claims[i].min_kib, sizes_kib[i], cap, _pull(claims[i], parameters), cap)
                    for i, cap in caps_kib.items()
                },
            )
        sizes_kib = caps_kib
    left_kib = pool.size_kib - pool.reserve_kib
    for caps_kib in (
        {i: entitled_kib[i] for i in needs},
        {i: need.crest_kib for i, need in needs.items()},
    ):
        sizes_kib = _poured(
            left_kib,
            {
                i: Vessel(claims[i].min_kib, size, cap, _pull(claims[i], parameters), cap)
                for i, size in sizes_kib.items()
                for cap in (max(size, min(caps_kib[i], claims[i].high_kib)),)
            },
        )
    return _poured(
        left_kib,
        {
            i: Vessel(size, size, c.high_kib, c.weight * (c.high_kib - size), c.high_kib)
            for i, size in sizes_kib.items()
            if (c := claims[i])
        },
    )


def _pool(
    budget_kib: int, entitled_kib: Sequence[int], needs: Mapping[int, Needs], parameters: PressureParameters
) -> Pool:
    """Set silent guests apart, and a reserve if all needs are met."""
    size_kib = budget_kib - sum(entitled for i, entitled in enumerate(entitled_kib) if i not in needs)
    spare_kib = max(0, size_kib - sum(need.peak_kib for need in needs.values()))
    return Pool(size_kib, min(int(size_kib * parameters.reserve_percent / PERCENT), spare_kib))


def _pull(claim: Claim, parameters: PressureParameters) -> int:
    if parameters.unit == "vm":
        return claim.weight
    return claim.weight * (claim.max_kib - claim.min_kib)


def _poured(pool_kib: int, vessels: Mapping[int, Vessel]) -> dict[int, int]:
    return dict(zip(vessels, fill(pool_kib, list(vessels.values())), strict=True))


def _follow(claims: Sequence[Claim], state: State, parameters: PressureParameters) -> dict[int, Demand]:
    before: Mapping[str, Sequence[Any]] = state.get(_GUESTS, {})
    is_contended = state.get(_CONTENDED, False)
    demands = {}
    for i, claim in enumerate(claims):
        if claim.sample is not None:
            known = before.get(claim.uuid)
            demand = Demand(*known) if known is not None else None
            demands[i] = follow(demand, claim, claim.sample, parameters, is_contended=is_contended)
    return demands


def _standing(
    claim: Claim, before: Mapping[str, int], need: Needs, entitled_kib: int, ideal_kib: int
) -> Standing:
    now_kib = min(max(before.get(claim.uuid, claim.target_kib), claim.low_kib), claim.high_kib)
    floor_kib = min(need.need_kib, entitled_kib)
    return Standing(now_kib, floor_kib, max(need.peak_kib, floor_kib), ideal_kib)


def _note(
    demand: Demand,
    needs: Needs,
    claim: Claim,
    parameters: PressureParameters,
    *,
    goal_kib: int,
    entitled_kib: int,
) -> Note:
    used_kib, roomy_kib = demand.demand_kib, demand.demand_kib
    if claim.sample is not None:
        roomy_kib = with_room_kib(used_kib, claim.sample, parameters)
    asked_kib = max(roomy_kib + demand.boost_for(used_kib, demand.boost_kib), claim.regret_kib)
    figures: dict[str, float] = {
        "needs_kib": asked_kib,
        "used_kib": used_kib,
        "room_kib": roomy_kib - used_kib,
        "share_kib": entitled_kib,
        "more_kib": asked_kib - roomy_kib,
        "stall_percent": demand.stall * PERCENT,
        "limit_kib": needs.boost_kib,
    }
    words = "needs {needs_kib} (uses {used_kib}, {room_kib} room"
    if asked_kib > roomy_kib and demand.boost_kib:
        words += ", {more_kib} more since it stalled for memory: now {stall_percent} % of the time"
    elif asked_kib > roomy_kib:
        words += ", {more_kib} more since it stalled when it was shrunk"
    words += ")"
    if asked_kib < needs.boost_kib:
        words += ", less than the {limit_kib} that it has at least,"
    elif asked_kib > needs.boost_kib:
        words += ", of which it may have {limit_kib},"
    if goal_kib > needs.boost_kib:
        return Note(f"{words} and has what nobody else needs as cache", figures)
    words = words.removesuffix(",")
    if goal_kib < needs.boost_kib:
        relation = "at least" if goal_kib >= entitled_kib else "less than"
        return Note(
            f"{words}; more than there is for it, it has {relation} its share of {{share_kib}}", figures
        )
    return Note(words, figures)
