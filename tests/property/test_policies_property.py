"""The twelve invariants of policies (I1 to I12), for all three.

Each says what holds of the place where a policy wants everybody in the end, unless it speaks of the way. A
policy that moves slowly is asked again and again until it rests; the knobs with which it rests only there
are `AT_ONCE`, those of the product are the defaults.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import MIB
from xcpmem.engine.containment import find_fault
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import Claim, Snapshot
from xcpmem.engine.proportional import share
from xcpmem.engine.sample import Sample
from xcpmem.engine.waterfill import Vessel, entitlements, fill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from xcpmem.engine.policy import ChosenPolicy, State

steadily = settings(max_examples=60, derandomize=True, database=None, deadline=None)

PERIOD_S: Final = 10.0
TURNS_MOST: Final = 100

AT_ONCE: Final[Mapping[str, Mapping[str, object]]] = {
    "proportional": {},
    "shares": {"dead_band_kib": 0, "dead_band_percent": 0, "period_s": 0},
    "pressure": {
        "dead_band_kib": 0,
        "dead_band_percent": 0,
        "drift_steps": 1,
        "uneven_percent": 0,
        "idle_pool_kib": 0,
        "room_kib": 0,
    },
}

NO_STATE: State = {}
NAMES: Final = tuple(AT_ONCE)
each_policy = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Guest:
    """What is drawn of a guest; sizes KiB."""

    min_kib: int
    width_kib: int
    weight: int
    used_kib: int | None
    stall: float
    now: float

    @property
    def max_kib(self) -> int:
        return self.min_kib + self.width_kib

    def claim(self, domid: int, at_s: float, *, weight: int | None = None) -> Claim:
        now_kib = self.min_kib + int(self.width_kib * self.now)
        sample = None
        if self.used_kib is not None:
            sample = Sample(at_s, PERIOD_S, self.used_kib, stall_us=int(self.stall * at_s * 1e6))
        return Claim(
            self.min_kib,
            self.max_kib,
            self.min_kib,
            self.max_kib,
            domid,
            f"vm{domid}",
            now_kib,
            now_kib,
            self.weight if weight is None else weight,
            sample,
        )


sizes = st.integers(0, 64).map(lambda size: size * 64 * MIB)
guests_that_speak = st.builds(
    Guest,
    sizes,
    sizes,
    st.sampled_from([1000, 1000, 1, 500, 4000, 10000]),
    sizes,
    st.sampled_from([0.0, 0.0, 0.02, 0.4]),
    st.floats(0, 1),
)
guests_of_any_kind = st.one_of(
    guests_that_speak, guests_that_speak.map(lambda guest: replace(guest, used_kib=None))
)
crowds = st.lists(guests_of_any_kind, min_size=1, max_size=6)
talking_crowds = st.lists(guests_that_speak, min_size=1, max_size=6)
parts = st.floats(0, 1.2)


def claims_of(guests: Sequence[Guest], at_s: float, *, weight: int | None = None) -> list[Claim]:
    return [guest.claim(domid, at_s, weight=weight) for domid, guest in enumerate(guests, 1)]


def budget_for(guests: Sequence[Guest], part: float) -> int:
    """A budget between too little for the minimums and too much for the maximums."""
    least, most = sum(guest.min_kib for guest in guests), sum(guest.max_kib for guest in guests)
    return int(least * 0.9 + (most - least * 0.9) * part)


def at_once(name: str, **more: object) -> ChosenPolicy:
    return find_policy(name, {**AT_ONCE[name], **more})


def rest(
    policy: ChosenPolicy, guests: Sequence[Guest], budget_kib: int, *, weight: int | None = None
) -> list[int]:
    """Let a policy hear everybody twice, and then ask it until it wants nothing else."""
    state: State = {}
    _, state = policy.plan(Snapshot(1.0, budget_kib, claims_of(guests, 1.0, weight=weight)), state)
    heard = claims_of(guests, 11.0, weight=weight)
    before: list[int] = []
    for turn in range(TURNS_MOST):
        division, state = policy.plan(Snapshot(11.0 + 10.0 * turn, budget_kib, heard), state)
        if list(division.goals_kib) == before:
            return before
        before = list(division.goals_kib)
    raise AssertionError(f"no rest: {before}")


@each_policy
@steadily
@given(guests=crowds, part=parts)
def test_i1_and_i2_everybody_within_its_range_and_all_within_the_budget(
    name: str, guests: list[Guest], part: float
) -> None:
    budget_kib = budget_for(guests, part)
    goals = rest(at_once(name), guests, budget_kib)
    assert all(g.min_kib <= goal <= g.max_kib for g, goal in zip(guests, goals, strict=True))
    if budget_kib <= sum(guest.min_kib for guest in guests):
        assert goals == [guest.min_kib for guest in guests]
    else:
        reserve = budget_kib * 2 // 100 if name == "pressure" else 0
        most_kib = sum(guest.max_kib for guest in guests)
        assert min(budget_kib, most_kib) - reserve - 2 * len(guests) <= sum(goals) <= budget_kib


@each_policy
@steadily
@given(guests=crowds, part=parts, more_kib=sizes)
def test_i4_more_memory_gives_nobody_less(name: str, guests: list[Guest], part: float, more_kib: int) -> None:
    budget_kib = budget_for(guests, part)
    before = rest(at_once(name), guests, budget_kib)
    after = rest(at_once(name), guests, budget_kib + more_kib)
    assert all(b <= a + len(guests) + 1 for b, a in zip(before, after, strict=True))


@each_policy
@steadily
@given(guests=crowds, part=parts)
def test_i3_a_plan_that_was_carried_out_is_planned_again(name: str, guests: list[Guest], part: float) -> None:
    policy, budget_kib, state = find_policy(name), budget_for(guests, part), NO_STATE
    for at_s in (1.0, 11.0):
        claims = claims_of(guests, at_s)
        division, state = policy.plan(Snapshot(at_s, budget_kib, claims), state)
        carried_out = [
            claim._replace(target_kib=goal, actual_kib=goal)
            for claim, goal in zip(claims, division.goals_kib, strict=True)
        ]
        again, again_state = policy.plan(Snapshot(at_s, budget_kib, carried_out), state)
        assert list(again.goals_kib) == list(division.goals_kib)
        assert again_state == state


@each_policy
@steadily
@given(guests=crowds, newcomer=guests_that_speak, part=parts)
def test_i5_a_newcomer_that_takes_its_share_raises_nobody(
    name: str, guests: list[Guest], newcomer: Guest, part: float
) -> None:
    budget_kib = budget_for(guests, part)
    before = rest(at_once(name), guests, budget_kib)
    after = rest(at_once(name), [*guests, replace(newcomer, used_kib=None)], budget_kib)
    assert all(a <= b + len(guests) + 2 for b, a in zip(before, after, strict=False))


@pytest.mark.parametrize("silent", [1, 2, 3, 9])
@pytest.mark.parametrize("tax_percent", [0, 10, 25, 50, 75, 99])
def test_i5_an_idle_newcomer_raises_another_if_it_lends_more_than_silent_guests_leave(
    silent: int, tax_percent: int
) -> None:
    """What I12 takes from the silent, I2 gives to those that speak: see ``api-spec/policies.md``."""
    budget_kib, quiet = 8192 * MIB, Guest(0, 8192 * MIB, 1000, None, 0.0, 0.0)
    needy, idle = replace(quiet, used_kib=8192 * MIB), replace(quiet, used_kib=0)
    policy = at_once("shares", idle_tax_percent=tax_percent)
    before = rest(policy, [needy, *[quiet] * silent], budget_kib)
    after = rest(policy, [needy, *[quiet] * silent, idle], budget_kib)
    share_kib = budget_kib // (silent + 2)
    assert (after[0] > before[0]) == (after[-1] < share_kib * silent // (silent + 1))


@pytest.mark.parametrize("name", ["proportional", "shares"])
@steadily
@given(guests=talking_crowds, newcomer=guests_that_speak, part=parts)
def test_i5_no_newcomer_raises_anybody_where_all_speak(
    name: str, guests: list[Guest], newcomer: Guest, part: float
) -> None:
    budget_kib = budget_for(guests, part)
    before = rest(at_once(name), guests, budget_kib)
    after = rest(at_once(name), [*guests, newcomer], budget_kib)
    assert all(a <= b + len(guests) + 2 for b, a in zip(before, after, strict=False))


@each_policy
@steadily
@given(guests=crowds, first=guests_that_speak, more_kib=sizes, part=parts)
def test_i6_higher_demand_never_lowers_my_target_nor_raises_anothers(
    name: str, guests: list[Guest], first: Guest, more_kib: int, part: float
) -> None:
    first = replace(first, stall=0.0)
    budget_kib = budget_for([first, *guests], part)
    before = rest(at_once(name), [first, *guests], budget_kib)
    hungrier = replace(first, used_kib=(first.used_kib or 0) + more_kib)
    after = rest(at_once(name), [hungrier, *guests], budget_kib)
    slack = len(before) + 1
    assert after[0] >= before[0] - slack
    assert all(a <= b + slack for b, a in zip(before[1:], after[1:], strict=True))


@each_policy
@steadily
@given(guests=crowds, first=guests_that_speak, stall=st.floats(0, 1), part=parts)
def test_i6_more_stalls_never_lower_my_target_nor_raise_anothers(
    name: str, guests: list[Guest], first: Guest, stall: float, part: float
) -> None:
    budget_kib = budget_for([first, *guests], part)
    before = rest(at_once(name), [replace(first, stall=0.0), *guests], budget_kib)
    after = rest(at_once(name), [replace(first, stall=stall), *guests], budget_kib)
    slack = len(before) + 1
    assert after[0] >= before[0] - slack
    assert all(a <= b + slack for b, a in zip(before[1:], after[1:], strict=True))


@pytest.mark.parametrize(
    ("name", "more"),
    [("proportional", {}), ("shares", {}), ("pressure", {"unit": "vm"}), ("pressure", {"unit": "range"})],
)
@steadily
@given(guests=crowds, first=guests_of_any_kind, factor_and_part=st.tuples(st.integers(2, 50), parts))
def test_i7_a_higher_weight_never_lowers_my_target(
    name: str,
    more: Mapping[str, object],
    guests: list[Guest],
    first: Guest,
    factor_and_part: tuple[int, float],
) -> None:
    factor, part = factor_and_part
    budget_kib = budget_for([first, *guests], part)
    before = rest(at_once(name, **more), [first, *guests], budget_kib)
    heavier = replace(first, weight=first.weight * factor)
    after = rest(at_once(name, **more), [heavier, *guests], budget_kib)
    assert after[0] >= before[0] - len(before) - 1


@each_policy
@steadily
@given(guests=crowds, twin=guests_of_any_kind, part=parts, random=st.randoms(use_true_random=False))
def test_i8_equal_guests_get_equal_targets_whatever_their_order(
    name: str, guests: list[Guest], twin: Guest, part: float, random: Random
) -> None:
    crowd = [twin, *guests, twin]
    budget_kib = budget_for(crowd, part)
    goals = rest(at_once(name), crowd, budget_kib)
    assert goals[0] == goals[-1]
    order = random.sample(range(len(crowd)), len(crowd))
    assert rest(at_once(name), [crowd[i] for i in order], budget_kib) == [goals[i] for i in order]


@each_policy
@steadily
@given(
    guests=crowds,
    liar=guests_that_speak,
    lies=st.lists(st.tuples(sizes, st.integers(0, 10**9)), min_size=1, max_size=6),
    part=parts,
)
def test_i9_whatever_one_says_the_others_keep_what_they_need_up_to_their_entitlement(
    name: str, guests: list[Guest], liar: Guest, lies: list[tuple[int, int]], part: float
) -> None:
    policy, budget_kib, state = find_policy(name), budget_for([liar, *guests], part), NO_STATE
    for turn, (used_kib, stall_us) in enumerate(lies):
        at_s = 1.0 + 7 * turn
        claims = claims_of([liar, *guests], at_s, weight=1 if name == "proportional" else None)
        claims[0] = claims[0]._replace(sample=Sample(at_s, 1.0, used_kib, stall_us=stall_us))
        division, state = policy.plan(Snapshot(at_s, budget_kib, claims), state)
        for claim, entitled, goal in list(
            zip(claims, entitlements(budget_kib, claims), division.goals_kib, strict=True)
        )[1:]:
            band_kib = max(16 * MIB, goal // 99) if name == "shares" else 0
            assert goal >= min(need_of(name, claim), entitled) - band_kib


def need_of(name: str, claim: Claim) -> int:
    """What a guest needs, by the rule that each policy publishes."""
    if claim.sample is None or name == "proportional":
        return claim.max_kib
    room = 1.25 if name == "shares" else 1.1
    more_kib = 0 if name == "shares" else 64 * MIB
    return min(int(claim.sample.used_kib * room) + more_kib, claim.max_kib)


@each_policy
@steadily
@given(guests=crowds, part=parts)
def test_i10_constant_inputs_come_to_rest(name: str, guests: list[Guest], part: float) -> None:
    policy, budget_kib = find_policy(name), budget_for(guests, part)
    _, state = policy.plan(Snapshot(1.0, budget_kib, claims_of(guests, 1.0)), {})
    claims = claims_of(guests, 11.0)
    now = [claim.target_kib for claim in claims]
    ideal = rest(at_once(name, **({"room_kib": 64 * MIB} if name == "pressure" else {})), guests, budget_kib)
    paths = [now]
    for turn in range(TURNS_MOST):
        division, state = policy.plan(Snapshot(11.0 + 10 * turn, budget_kib, claims), state)
        paths.append(list(division.goals_kib))
    steps = [[b - a for a, b in pairwise(path)] for path in zip(*paths, strict=True)]
    for path in steps:
        turns = [1 if step > 0 else -1 for step in path if abs(step) > 1]
        assert sum(a != b for a, b in pairwise(turns)) <= 1
        assert not any(path[-TURNS_MOST // 4 :])
    gap_kib = sum(abs(a - b) for a, b in zip(now, ideal, strict=True))
    assert sum(abs(step) for path in steps for step in path) <= 2 * gap_kib + 8 * len(guests)


@each_policy
@steadily
@given(guests=crowds, part=parts, factor=st.integers(2, 16))
def test_i11_larger_sizes_give_larger_targets(
    name: str, guests: list[Guest], part: float, factor: int
) -> None:
    budget_kib = budget_for(guests, part)
    larger = [
        replace(
            guest,
            min_kib=guest.min_kib * factor,
            width_kib=guest.width_kib * factor,
            used_kib=None if guest.used_kib is None else guest.used_kib * factor,
        )
        for guest in guests
    ]
    before = rest(at_once(name), guests, budget_kib)
    after = rest(at_once(name), larger, budget_kib * factor)
    slack = factor * (len(guests) + 2)
    assert all(abs(a - b * factor) <= slack for b, a in zip(before, after, strict=True))


@each_policy
@steadily
@given(guests=crowds, part=parts, at_s=st.lists(st.floats(0, 100), min_size=1, max_size=4).map(sorted))
def test_i12_a_silent_guest_has_exactly_its_proportional_share_at_every_moment(
    name: str, guests: list[Guest], part: float, at_s: list[float]
) -> None:
    policy, budget_kib, state = find_policy(name), budget_for(guests, part), NO_STATE
    for now_s in at_s:
        claims = claims_of(guests, now_s, weight=1000)
        division, state = policy.plan(Snapshot(now_s, budget_kib, claims), state)
        for claim, goal, fair in zip(claims, division.goals_kib, share(budget_kib, claims), strict=True):
            assert claim.sample is not None or goal == fair


@each_policy
@steadily
@given(guests=crowds, part=parts, moments=st.lists(st.tuples(st.floats(0.1, 40), parts), max_size=8))
def test_every_plan_is_good_and_every_state_is_json(
    name: str, guests: list[Guest], part: float, moments: list[tuple[float, float]]
) -> None:
    policy, budget_kib, state, now_s = find_policy(name), budget_for(guests, part), NO_STATE, 0.0
    for gap_s, change in moments:
        now_s += gap_s
        snapshot = Snapshot(now_s, int(budget_kib * change), claims_of(guests, now_s))
        division, state = policy.plan(snapshot, json.loads(json.dumps(state)))
        assert find_fault(division, snapshot) == ""
        assert policy.plan(snapshot, state)[0].notes.keys() == division.notes.keys()


@steadily
@given(guests=crowds, part=parts)
def test_shares_without_tax_and_with_equal_weights_are_proportional_to_the_kib(
    guests: list[Guest], part: float
) -> None:
    budget_kib = budget_for(guests, part)
    untaxed = find_policy("shares", {"idle_tax_percent": 0})
    snapshot = Snapshot(1.0, budget_kib, claims_of(guests, 1.0, weight=7))
    fair, _ = find_policy("proportional").plan(snapshot, {})
    assert list(untaxed.plan(snapshot, {})[0].goals_kib) == list(fair.goals_kib)


@steadily
@given(guests=crowds, part=parts)
def test_the_solver_agrees_with_xcps_rule_where_nobody_is_taxed(guests: list[Guest], part: float) -> None:
    budget_kib, claims = budget_for(guests, part), claims_of(guests, 1.0, weight=7)
    vessels = [
        Vessel(c.min_kib, c.low_kib, c.high_kib, 7 * (c.max_kib - c.min_kib), c.high_kib) for c in claims
    ]
    fair = share(budget_kib, claims)
    assert all(abs(a - b) <= 1 for a, b in zip(fill(budget_kib, vessels), fair, strict=True))


@steadily
@given(guests=talking_crowds, part=parts, tax_percent=st.integers(1, 99))
def test_tax_takes_no_more_than_its_part_of_what_is_idle(
    guests: list[Guest], part: float, tax_percent: int
) -> None:
    budget_kib = budget_for(guests, part)
    claims = claims_of(guests, 1.0)
    entitled = entitlements(budget_kib, claims)
    goals = rest(at_once("shares", idle_tax_percent=tax_percent), guests, budget_kib)
    for claim, before, after in zip(claims, entitled, goals, strict=True):
        wanted = max(min(need_of("shares", claim), before), claim.min_kib)
        bound = min(wanted, before) + (1 - tax_percent / 100) * max(0, before - wanted)
        assert after >= bound - len(guests) - 2
