"""What must hold for the engine on every host, with every wish, and at every moment."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.builders import CAUTION, MIB, a_domain, a_host, a_request, planned, targets_of, uuid_of, wanting
from tests.plainhost import Guest, Manner, PlainHost, Ring
from xcpmem.engine.belief import LOOK_GAP_S, Belief, Beliefs
from xcpmem.engine.model import (
    DomainState,
    DynamicRange,
    Granted,
    HostState,
    Lifecycle,
    Refused,
    Reservation,
    Wishes,
)
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.engine.policy import Claim
from xcpmem.engine.proportional import share
from xcpmem.engine.sample import Sample
from xcpmem.engine.tally import Tally
from xcpmem.engine.targets import BALANCE_TOLERANCE_KIB
from xcpmem.errors import DomainsUncooperative

if TYPE_CHECKING:
    from random import Random

steadily = settings(max_examples=100, derandomize=True, database=None, deadline=None)
"""The same examples in every run, so that the suite takes the same time and never surprises."""

at_length = settings(steadily, max_examples=30)

QUIET_S: Final = 40.0

sizes = st.one_of(
    st.integers(0, 64).map(lambda size: size * 16 * MIB), st.integers(0, 1024 * MIB), st.integers(0, 40)
)


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    low_end, width, floor, ceiling = draw(sizes), draw(sizes), draw(sizes), draw(sizes)
    low = low_end + draw(st.sampled_from([0, floor]))
    high = low_end + draw(st.sampled_from([width, min(width, ceiling)]))
    return Claim(low_end, low_end + width, low, max(low, high))


free_claims = st.builds(lambda low, width: Claim(low, low + width, low, low + width), sizes, sizes)
budgets = st.one_of(st.integers(0, 4096 * MIB), st.integers(0, 400))


@steadily
@given(budgets, st.lists(claims(), max_size=8))
def test_share_stays_within_everyones_limits(budget_kib: int, of: list[Claim]) -> None:
    assert all(c.low_kib <= part <= c.high_kib for c, part in zip(of, share(budget_kib, of), strict=True))


@steadily
@given(budgets, st.lists(claims(), max_size=8))
def test_share_divides_no_more_than_there_is_unless_the_lows_alone_are_more(
    budget_kib: int, of: list[Claim]
) -> None:
    assert sum(share(budget_kib, of)) <= max(budget_kib, sum(claim.low_kib for claim in of))


@steadily
@given(budgets, st.lists(claims(), min_size=1, max_size=8))
def test_share_leaves_nothing_over_that_somebody_could_have(budget_kib: int, of: list[Claim]) -> None:
    left_kib = budget_kib - sum(share(budget_kib, of))
    if any(part < claim.high_kib for claim, part in zip(of, share(budget_kib, of), strict=True)):
        assert left_kib <= len(of)


@steadily
@given(budgets, st.integers(0, 256 * MIB), st.lists(claims(), max_size=8))
def test_share_of_more_gives_nobody_less(budget_kib: int, more_kib: int, of: list[Claim]) -> None:
    for before, after in zip(share(budget_kib, of), share(budget_kib + more_kib, of), strict=True):
        assert after >= before - 1


@steadily
@given(budgets, claims(), st.lists(claims(), max_size=6))
def test_share_treats_equals_equally(budget_kib: int, twin: Claim, others: list[Claim]) -> None:
    first, *_, last = share(budget_kib, [twin, *others, twin])
    assert first == last


@steadily
@given(budgets, st.lists(free_claims, min_size=1, max_size=8))
def test_share_is_squeezeds_when_nobody_is_limited(budget_kib: int, of: list[Claim]) -> None:
    surplus = max(0, budget_kib - sum(claim.min_kib for claim in of))
    ranges = sum(claim.max_kib - claim.min_kib for claim in of)
    gamma = min(1.0, surplus / ranges) if ranges else 0.0
    for claim, part in zip(of, share(budget_kib, of), strict=True):
        assert abs(part - (claim.min_kib + int(gamma * (claim.max_kib - claim.min_kib)))) <= 1


@steadily
@given(budgets, st.lists(claims(), max_size=8), st.randoms(use_true_random=False))
def test_share_does_not_depend_on_the_order(budget_kib: int, of: list[Claim], random: Random) -> None:
    order = random.sample(range(len(of)), len(of))
    parts = share(budget_kib, of)
    assert share(budget_kib, [of[i] for i in order]) == [parts[i] for i in order]


@st.composite
def domain_states(draw: st.DrawFn, domid: int) -> DomainState:
    """Any domain in the middle of anything, maxmem and target in their order."""
    low_kib, width_kib = draw(sizes), draw(sizes)
    target_kib = low_kib + draw(sizes) % (width_kib + 1)
    lifecycle = draw(st.sampled_from([Lifecycle.RUNNING, Lifecycle.RUNNING, *Lifecycle]))
    return replace(
        a_domain(low_kib, low_kib + width_kib, draw(sizes), domid=domid),
        target_kib=target_kib,
        maxmem_kib=target_kib + draw(st.one_of(st.just(0), sizes)),
        can_balloon=draw(st.integers(0, 5)) > 0,
        lifecycle=lifecycle,
        is_ending=lifecycle in {Lifecycle.BUILDING, Lifecycle.SUSPENDED} and draw(st.booleans()),
        has_range=draw(st.integers(0, 3)) > 0,
        uncooperative=draw(st.booleans()),
        offset_kib=draw(st.sampled_from([0, 0, 68 * MIB, None])),
    )


def heard(domain: DomainState) -> st.SearchStrategy[DomainState]:
    """The same domain, with something to say of its memory or not."""
    samples = st.none() | st.builds(
        Sample,
        seen_s=st.just(0.0),
        period_s=st.sampled_from([1.0, 60.0]),
        used_kib=sizes,
        swapped_kib=sizes,
        stall_us=st.none() | st.integers(0, 10**9),
        is_censored=st.booleans(),
    )
    return samples.map(lambda sample: replace(domain, sample=sample))


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    """Any host, over-committed or not."""
    domains = [draw(domain_states(domid)) for domid in range(draw(st.integers(0, 5)))]
    named = st.none() | st.integers(0, 5)
    kept = [
        Reservation(f"kept{n}", "owner", size, domid, "" if vm is None else uuid_of(vm))
        for n, (size, domid, vm) in enumerate(draw(st.lists(st.tuples(sizes, named, named), max_size=2)))
    ]
    return a_host(
        *domains,
        free_kib=draw(sizes),
        scrub_kib=draw(st.one_of(st.just(0), sizes)),
        slush_kib=draw(st.sampled_from([0, 72 * MIB])),
        reservations=tuple(kept),
    )


@st.composite
def looks_in_a_row(draw: st.DrawFn) -> list[tuple[DomainState, ...]]:
    """The domains of some looks: those that did not change are the same objects, others come and go."""
    looks: list[tuple[DomainState, ...]] = [()]
    for _ in range(draw(st.integers(1, 6))):
        before = {domain.domid: domain for domain in looks[-1]}
        domids = draw(st.frozensets(st.integers(0, 5))) if draw(st.booleans()) else before.keys()
        looks.append(
            tuple(
                before[domid]
                if domid in before and draw(st.booleans())
                else replace(draw(domain_states(domid)), initial_reservation_kib=draw(sizes))
                for domid in sorted(domids)
            )
        )
    return looks


@steadily
@given(looks_in_a_row())
def test_sums_kept_from_look_to_look_are_those_counted_anew(looks: list[tuple[DomainState, ...]]) -> None:
    tally = Tally()
    for before, domains in pairwise(looks):
        tally = tally.after(before, domains)
        actual_kib = sum(domain.actual_kib for domain in domains)
        assert tally == (actual_kib, sum(domain.held_kib for domain in domains))


@st.composite
def wishes_of_many(draw: st.DrawFn) -> Wishes:
    ranges = {
        uuid_of(domid): DynamicRange(low, low + width)
        for domid, low, width in draw(st.lists(st.tuples(st.integers(0, 5), sizes, sizes), max_size=3))
    }
    requests = [
        a_request(low, low + more, name=f"r{n}", order=n, deadline_s=deadline_s)
        for n, (low, more, deadline_s) in enumerate(
            draw(st.lists(st.tuples(sizes, sizes, st.sampled_from([0.0, 60.0])), max_size=3))
        )
    ]
    left_alone = draw(st.frozensets(st.integers(0, 5), max_size=1))
    return Wishes(ranges, tuple(requests), left_alone)


@st.composite
def beliefs_about(draw: st.DrawFn, host: HostState) -> Beliefs:
    """Beliefs that watching could have led to, for some of the domains."""
    formed = {}
    for domain in host.domains:
        direction = (domain.target_kib > domain.actual_kib) - (domain.target_kib < domain.actual_kib)
        waited_s = draw(st.sampled_from([0.0, 1.0, 9.0]))
        stood_kib = domain.actual_kib if waited_s > CAUTION.patience_s else None
        formed[domain.domid] = Belief(
            domain.uuid,
            domain.dynamic_range,
            direction=direction,
            asked_kib=domain.actual_kib,
            mark_kib=domain.actual_kib,
            waited_s=waited_s,
            away_s=waited_s,
            offset_error_kib=draw(st.sampled_from([0, 0, 4 * MIB])) if domain.offset_kib else 0,
            floor_kib=stood_kib if direction < 0 else draw(st.none() | sizes),
            ceiling_kib=stood_kib if direction > 0 else draw(st.none() | sizes),
        )
    return Beliefs({n: belief for n, belief in formed.items() if draw(st.booleans())}, 0.0)


def as_plain_host(host: HostState) -> PlainHost:
    """The same host, with a bookkeeper that checks each action."""
    plain = PlainHost(
        (
            Guest(
                d.domid,
                d.dynamic_range.min_kib,
                d.dynamic_range.max_kib,
                d.actual_kib,
                can_balloon=d.can_balloon,
                lifecycle=d.lifecycle,
                target_kib=d.target_kib,
                maxmem_kib=d.maxmem_kib,
                has_range=d.has_range,
                offset_kib=d.offset_kib,
                uncooperative=d.uncooperative,
            )
            for d in host.domains
        ),
        free_kib=host.free_kib,
        slush_kib=host.slush_kib,
    )
    plain.scrub_kib = host.scrub_kib
    plain.total_kib = host.total_kib
    plain.reservations = {r.reservation_id: r for r in host.reservations}
    return plain


@pytest.mark.parametrize("name", POLICIES)
@steadily
@given(st.data(), host_states(), wishes_of_many())
def test_every_action_of_every_plan_keeps_every_promise(
    name: str, data: st.DataObject, host: HostState, wishes: Wishes
) -> None:
    if name != "proportional":
        host = replace(host, domains=tuple(data.draw(heard(domain)) for domain in host.domains))
    beliefs = data.draw(beliefs_about(host))
    plan = planned(host, wishes, beliefs, policy=find_policy(name))
    assert plan.beliefs.policy.trouble == ""
    checked = as_plain_host(host)
    for action in plan.actions:
        checked.apply(action)
    assert all(guest.maxmem_kib >= guest.target_kib for guest in checked.guests.values())
    assert {v.request_id for v in plan.verdicts} <= {request.request_id for request in wishes.requests}
    assert len({v.request_id for v in plan.verdicts}) == len(plan.verdicts)


@steadily
@given(st.data(), host_states(), wishes_of_many())
def test_plan_touches_only_who_may_be_touched(data: st.DataObject, host: HostState, wishes: Wishes) -> None:
    plan = planned(host, wishes, data.draw(beliefs_about(host)))
    movable = {
        d.domid
        for d in host.domains
        if d.can_balloon and d.lifecycle is Lifecycle.RUNNING and d.offset_kib is not None
    }
    touched = {action.domid for action in plan.actions if hasattr(action, "domid")}
    assert set(targets_of(plan.actions)) <= movable
    assert not touched & wishes.left_alone
    assert not touched & {d.domid for d in host.domains if d.lifecycle is Lifecycle.DYING}


@steadily
@given(st.data(), host_states(), wishes_of_many(), st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_the_order_of_the_domains(
    data: st.DataObject, host: HostState, wishes: Wishes, random: Random
) -> None:
    beliefs = data.draw(beliefs_about(host))
    shuffled = replace(host, domains=tuple(random.sample(host.domains, len(host.domains))))
    plan, other = planned(host, wishes, beliefs), planned(shuffled, wishes, beliefs)
    assert set(other.actions) == set(plan.actions)
    assert other.reasons == plan.reasons
    assert [type(verdict) for verdict in other.verdicts] == [type(verdict) for verdict in plan.verdicts]


@steadily
@given(st.data(), host_states(), wishes_of_many())
def test_domain_zero_is_never_blamed_alone(data: st.DataObject, host: HostState, wishes: Wishes) -> None:
    for verdict in planned(host, wishes, data.draw(beliefs_about(host))).verdicts:
        if isinstance(verdict, Refused) and isinstance(verdict.error, DomainsUncooperative):
            assert verdict.error.vms != ("0",)


guests_at_rest = st.lists(
    st.builds(
        lambda low, width, within, rate, short: Guest(
            0,
            low,
            low + width,
            low + within % (width + 1),
            Manner(rate_kib_s=rate, short_kib=short),
        ),
        sizes,
        sizes,
        sizes,
        st.sampled_from([1_000_000.0, 128_000.0]),
        st.sampled_from([0, 4]),
    ),
    max_size=4,
)


@st.composite
def hosts_at_rest(draw: st.DrawFn) -> PlainHost:
    """A host of obedient guests, fast and slow, exact and one page short, each where it was told to be."""
    slush_kib = draw(st.sampled_from([0, 72 * MIB]))
    guests = draw(guests_at_rest)
    for domid, guest in enumerate(guests):
        guest.domid, guest.uuid = domid, uuid_of(domid)
    return PlainHost(guests, free_kib=slush_kib + draw(sizes), slush_kib=slush_kib)


def most_kib(host: PlainHost) -> int:
    """What a request could have with everyone at dynamic-min."""
    above_kib = sum(guest.actual_kib - guest.low_kib for guest in host.guests.values())
    return host.free_kib - host.slush_kib + above_kib


def last_pages_kib(host: PlainHost) -> int:
    """What guests that stop one page short may keep."""
    return CAUTION.inaccuracy_kib * len(host.guests)


@steadily
@given(hosts_at_rest(), sizes)
def test_request_is_refused_in_its_turn_if_it_is_impossible_and_only_then(
    host: PlainHost, min_kib: int
) -> None:
    assume(not most_kib(host) - last_pages_kib(host) < min_kib <= most_kib(host))
    plan = planned(host.look(), wanting(a_request(min_kib)))
    refused = any(isinstance(verdict, Refused) for verdict in plan.verdicts)
    assert refused == (min_kib > most_kib(host))


@at_length
@given(hosts_at_rest(), sizes)
def test_impossible_request_moves_nobody(host: PlainHost, more_kib: int) -> None:
    ring = Ring(host)
    assert ring.settle(quiet_s=QUIET_S, within_s=600)
    written = ring.targets_written
    ring.ask(a_request(max(0, most_kib(host)) + 1 + more_kib, deadline_s=ring.now_s + 60))
    ring.turn()
    assert isinstance(ring.answers["r1"], Refused)
    assert ring.targets_written == written


@at_length
@given(hosts_at_rest(), sizes, sizes)
def test_possible_request_is_granted_in_the_guests_own_time(
    host: PlainHost, min_kib: int, more_kib: int
) -> None:
    assume(min_kib <= most_kib(host) - last_pages_kib(host))
    ring = Ring(host)
    ring.ask(a_request(min_kib, min_kib + more_kib))
    ring.run(60, least_tick_s=0.1)
    granted = ring.answers["r1"]
    assert isinstance(granted, Granted)
    assert host.free_kib >= host.slush_kib + granted.size_kib


@at_length
@given(hosts_at_rest())
def test_host_that_came_to_rest_stays_at_rest(host: PlainHost) -> None:
    ring = Ring(host)
    assert ring.settle(quiet_s=QUIET_S, within_s=600)
    plan = ring.turn()
    assert plan.actions == ()
    assert plan.stable
    assert plan.look_again_s is None


@at_length
@given(hosts_at_rest())
def test_restart_at_rest_moves_nobody(host: PlainHost) -> None:
    ring = Ring(host)
    assert ring.settle(quiet_s=QUIET_S, within_s=600)
    ring.restart()
    written = ring.targets_written
    ring.run(5, least_tick_s=0.5)
    assert ring.targets_written == written


@at_length
@given(hosts_at_rest(), wishes_of_many(), st.integers(0, 20), st.sampled_from([0.0, 0.2, 1.0]))
def test_daemon_that_dies_after_any_action_ends_where_it_would_have(
    host: PlainHost, wishes: Wishes, actions: int, when_s: float
) -> None:
    undisturbed, interrupted = Ring(deepcopy(host)), Ring(host)
    interrupted.ranges = undisturbed.ranges = dict(wishes.ranges)
    for request in wishes.requests:
        interrupted.ask(request)
    interrupted.run(when_s, least_tick_s=0.1)
    interrupted.turn(dies_after=actions)
    interrupted.restart()
    undisturbed.host.reservations = dict(host.reservations)
    assert interrupted.settle(quiet_s=QUIET_S, within_s=900)
    assert undisturbed.settle(quiet_s=QUIET_S, within_s=900)
    least_kib = sum(guest.low_kib for guest in host.guests.values())
    assume(least_kib <= host.total_kib - host.slush_kib - host.look().reserved_kib)
    for guest, other in zip(host.guests.values(), undisturbed.host.guests.values(), strict=True):
        assert (guest.low_kib, guest.high_kib) == (other.low_kib, other.high_kib)
        assert abs(guest.target_kib - other.target_kib) <= 2 * BALANCE_TOLERANCE_KIB
    off_kib = (2 * BALANCE_TOLERANCE_KIB + CAUTION.inaccuracy_kib) * len(host.guests)
    assert abs(host.free_kib - undisturbed.host.free_kib) <= off_kib


looks_at_one = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 1.0, 30.0, 3600.0, -5.0]), st.integers(0, 6), st.integers(0, 6)),
    max_size=12,
)


@steadily
@given(looks_at_one)
def test_only_watched_time_condemns(looks: list[tuple[float, int, int]]) -> None:
    beliefs, now_s = Beliefs(), 0.0
    for gap_s, actual, target in looks:
        now_s += gap_s
        seen = replace(a_domain(0, 6 * MIB, actual * MIB), target_kib=target * MIB)
        before = beliefs.by_domid.get(1)
        beliefs = beliefs.learn([seen], now_s, CAUTION)
        waited_s, away_s = (before.waited_s, before.away_s) if before else (0.0, 0.0)
        assert beliefs.by_domid[1].waited_s <= waited_s + LOOK_GAP_S
        assert beliefs.by_domid[1].away_s <= away_s + max(LOOK_GAP_S, waited_s)


@steadily
@given(looks_at_one)
def test_guest_that_moves_at_every_look_is_never_given_up(looks: list[tuple[float, int, int]]) -> None:
    beliefs, now_s = Beliefs(), 0.0
    for number, (gap_s, *_) in enumerate(looks):
        now_s += gap_s
        seen = a_domain(0, 99 * MIB, (99 - number) * MIB, target_kib=0)
        beliefs = beliefs.learn([seen], now_s, CAUTION)
        assert not beliefs.by_domid[1].gave_up(CAUTION)
