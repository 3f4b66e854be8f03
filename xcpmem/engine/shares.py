"""Weights and a tax on idle memory, as ESX has them, between dynamic-min and dynamic-max.

Everyone is paid for by its weight; memory that a guest does not use costs it 1 / (1 - tax) times as much, so
that most of it goes to those who use theirs (Waldspurger, OSDI 2002, section 5.2; the peers' study, 9.4).
It needs nothing of a guest but what stock agents say once a minute. A silent guest neither gains nor loses:
it has exactly its entitlement, and those that speak divide the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from xcpmem.engine.note import Note
from xcpmem.engine.parameters import Parameter, Parameters, kib, percent, seconds
from xcpmem.engine.policy import Division
from xcpmem.engine.waterfill import PERCENT, Vessel, entitlements, fill
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.policy import Claim, Snapshot, State

_MEANS: Final = "means"
_GOALS: Final = "goals"
_FLOORS: Final = "floors"
_BUDGET: Final = "budget_kib"
_DECIDED: Final = "decided_s"


SAME_USE_PERCENT: Final = 10
"""What a guest uses is about the same if it differs by no more."""


@dataclass(frozen=True)
class SharesParameters(Parameters):
    """The knobs of `Shares`, with the defaults of the study."""

    idle_tax_percent: Annotated[
        int, Parameter("of its idle memory a guest may lose, percent; ESX: 75", least=0, most=99)
    ] = 75
    room_percent: Annotated[int, percent("more than it uses that counts as used", most=400)] = 25
    fall_percent: Annotated[
        int, percent("of a fall in use that one sample is believed", least=1, most=100)
    ] = 15
    period_s: Annotated[float, seconds("between two decisions", most=3600)] = 5.0
    dead_band_kib: Annotated[int, kib("nobody moves for less")] = mib_to_kib(16)
    dead_band_percent: Annotated[
        float, percent("nobody moves for less than this part of its size", most=100)
    ] = 1.0


@dataclass(frozen=True, slots=True)
class Shares:
    """The policy: who is silent is set apart at its entitlement, the others stand in taxed water."""

    name: str = "shares"
    about: str = "by weight; memory that a guest leaves idle is taxed and goes to those who use theirs"
    parameters: type[SharesParameters] = SharesParameters

    def plan(self, snapshot: Snapshot, state: State, parameters: SharesParameters) -> tuple[Division, State]:
        """Divide the budget, but stay where we are for what is within the dead band."""
        claims = snapshot.claims
        entitled_kib = entitlements(snapshot.budget_kib, claims)
        if parameters.idle_tax_percent == 0:
            return Division(entitled_kib), {}
        means_kib = _means(claims, state.get(_MEANS, {}), parameters)
        floors_kib = _floors(claims, means_kib, state.get(_FLOORS, {}))
        wanted_kib = {
            i: _wanted_kib(claims[i], mean, floors_kib[i], parameters) for i, mean in means_kib.items()
        }
        ideal_kib = tax(snapshot.budget_kib, claims, entitled_kib, wanted_kib, parameters.idle_tax_percent)
        goals_kib, decided_s, wait_s = _settle(snapshot, state, ideal_kib, wanted_kib, parameters)
        notes = {
            claim.domid: _note(
                parameters,
                mean_kib=means_kib[i],
                floor_kib=floors_kib[i],
                wanted_kib=wanted_kib[i],
                goal_kib=goals_kib[i],
                entitled_kib=entitled_kib[i],
            )
            if i in wanted_kib
            else Note.silent()
            for i, claim in enumerate(claims)
            if claim.domid is not None
        }
        new_state = {
            _MEANS: {
                claims[i].uuid: [mean, sample.seen_s]
                for i, mean in means_kib.items()
                if (sample := claims[i].sample)
            },
            _FLOORS: {claims[i].uuid: [floor, means_kib[i]] for i, floor in floors_kib.items() if floor},
            _GOALS: {claim.uuid: goal for claim, goal in zip(claims, goals_kib, strict=True) if claim.uuid},
            _BUDGET: snapshot.budget_kib,
            _DECIDED: decided_s,
        }
        return Division(goals_kib, notes, wait_s), new_state


def tax(
    budget_kib: int,
    claims: Sequence[Claim],
    entitled_kib: Sequence[int],
    wanted_kib: Mapping[int, int],
    tax_percent: int,
) -> list[int]:
    """Divide a budget with a tax on what claims hold above what they want.

    A guest never loses more than the taxed part of what is idle: ``goal >= min(wanted, entitled) + (1 - tax)
    * max(0, entitled - wanted)``, which the study calls the tax bound.

    Args:
        budget_kib: all that the claims may have together.
        claims: everybody.
        entitled_kib: what each would have without tax.
        wanted_kib: by the index of the claim, for those that speak.
        tax_percent: 0 to 99.

    Returns:
        KiB per claim.
    """
    goals_kib = list(entitled_kib)
    left_kib = budget_kib - sum(goal for i, goal in enumerate(goals_kib) if i not in wanted_kib)
    vessels = [
        Vessel(
            foot_kib=claims[i].min_kib,
            low_kib=claims[i].low_kib,
            high_kib=claims[i].high_kib,
            pull=claims[i].weight * (claims[i].max_kib - claims[i].min_kib),
            knee_kib=wanted,
        )
        for i, wanted in wanted_kib.items()
    ]
    for i, goal in zip(wanted_kib, fill(left_kib, vessels, tax_percent), strict=True):
        goals_kib[i] = goal
    return goals_kib


def _means(
    claims: Sequence[Claim], before: Mapping[str, Sequence[float]], parameters: SharesParameters
) -> dict[int, float]:
    """Follow what each speaking guest uses: up at once, down slowly, one step per sample, as ESX does."""
    means = {}
    for i, claim in enumerate(claims):
        if claim.sample is None:
            continue
        used_kib = float(claim.sample.used_kib + claim.sample.swapped_kib)
        mean_kib, seen_s = before.get(claim.uuid, (used_kib, claim.sample.seen_s))
        if used_kib >= mean_kib:
            mean_kib = used_kib
        elif claim.sample.seen_s > seen_s:
            mean_kib += (used_kib - mean_kib) * parameters.fall_percent / PERCENT
        means[i] = mean_kib
    return means


def _floors(
    claims: Sequence[Claim], means_kib: Mapping[int, float], before: Mapping[str, Sequence[float]]
) -> dict[int, int]:
    """Remember below which size each guest was hurt, for as long as what it uses stays about the same.

    Forgotten sooner, it would be shrunk, hurt and given the memory back again and again.
    """
    floors_kib = {}
    for i, mean_kib in means_kib.items():
        floor_kib, then_kib = before.get(claims[i].uuid, (0, mean_kib))
        if abs(mean_kib - then_kib) * PERCENT > then_kib * SAME_USE_PERCENT:
            floor_kib = 0
        floors_kib[i] = max(int(floor_kib), claims[i].regret_kib)
    return floors_kib


def _wanted_kib(claim: Claim, mean_kib: float, floor_kib: int, parameters: SharesParameters) -> int:
    return min(max(_with_room_kib(mean_kib, parameters), floor_kib, claim.min_kib), claim.max_kib)


def _with_room_kib(mean_kib: float, parameters: SharesParameters) -> int:
    return int(mean_kib * (PERCENT + parameters.room_percent) / PERCENT)


def _settle(
    snapshot: Snapshot,
    state: State,
    ideal_kib: list[int],
    wanted_kib: Mapping[int, int],
    parameters: SharesParameters,
) -> tuple[list[int], float, float | None]:
    """Keep what was decided, if it is still good enough or decided just now.

    Returns:
        The goals, when they were decided, and after how many seconds to decide again.
    """
    claims, now_s = snapshot.claims, snapshot.now_s
    before = state.get(_GOALS, {})
    kept_kib = [
        before.get(claim.uuid, claim.target_kib) if i in wanted_kib else ideal
        for i, (claim, ideal) in enumerate(zip(claims, ideal_kib, strict=True))
    ]
    is_same_host = (
        all(claim.domid is not None for claim in claims)
        and (not before or before.keys() == {claim.uuid for claim in claims})
        and abs(snapshot.budget_kib - state.get(_BUDGET, snapshot.budget_kib)) <= parameters.dead_band_kib
        and all(c.low_kib <= kept <= c.high_kib for c, kept in zip(claims, kept_kib, strict=True))
        and sum(kept_kib) <= snapshot.budget_kib
    )
    if not is_same_host or not wanted_kib:
        return ideal_kib, now_s, None
    if all(
        abs(ideal - kept) <= max(parameters.dead_band_kib, kept * parameters.dead_band_percent / PERCENT)
        for ideal, kept in zip(ideal_kib, kept_kib, strict=True)
    ):
        return kept_kib, state.get(_DECIDED, now_s), None
    decided_s: float | None = state.get(_DECIDED)
    if decided_s is not None and now_s < decided_s + parameters.period_s:
        return kept_kib, decided_s, decided_s + parameters.period_s - now_s
    return ideal_kib, now_s, None


def _note(
    parameters: SharesParameters,
    *,
    mean_kib: float,
    floor_kib: int,
    wanted_kib: int,
    goal_kib: int,
    entitled_kib: int,
) -> Note:
    needs_kib = _with_room_kib(mean_kib, parameters)
    figures = {
        "used_kib": mean_kib,
        "room_percent": parameters.room_percent,
        "needs_kib": needs_kib,
        "wanted_kib": wanted_kib,
        "share_kib": entitled_kib,
        "idle_kib": max(0, entitled_kib - wanted_kib),
        "tax_percent": parameters.idle_tax_percent,
    }
    needs = "needs {needs_kib} (uses {used_kib}, {room_percent} % room)"
    if wanted_kib > needs_kib:
        least = "was hurt below {wanted_kib}" if wanted_kib == floor_kib else "has {wanted_kib} at least"
        needs += f" and {least}"
    elif wanted_kib < needs_kib:
        needs += " and may have {wanted_kib}"
    if goal_kib < entitled_kib and wanted_kib < entitled_kib:
        return Note(f"{needs}; {{idle_kib}} of its share of {{share_kib}} are idle and taxed", figures)
    if goal_kib > entitled_kib:
        return Note(f"{needs}; gets more than its share of {{share_kib}}, which others leave idle", figures)
    return Note(f"{needs}; has its share", figures)
