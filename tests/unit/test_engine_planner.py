from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders import (
    MIB,
    a_domain,
    a_host,
    a_request,
    maxmems_of,
    planned,
    targets_of,
    uuid_of,
    wanting,
)
from xcpmem.engine.belief import Belief, Beliefs
from xcpmem.engine.looks import LOOK_LATEST_S, LOOK_SOONEST_S
from xcpmem.engine.model import (
    BalloonState,
    DomainState,
    DynamicRange,
    Granted,
    HostState,
    Lifecycle,
    RecordReservation,
    Refused,
    Reservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
    Wishes,
)
from xcpmem.engine.parties import PROBE_KIB
from xcpmem.engine.planner import Plan, PlannerSettings
from xcpmem.engine.policies import find_policy
from xcpmem.engine.reasons import Motive
from xcpmem.engine.sample import Sample
from xcpmem.errors import DomainsUncooperative, NotEnoughMemory
from xcpmem.units import kib_to_bytes

EXACT = PlannerSettings(compensate_inaccuracy=False)
"""For tests whose figures should not carry the margin for guests that stop short."""


def believing(*domains: DomainState, **facts: object) -> Beliefs:
    """Beliefs with the same facts about each domain, and no time gone by since."""
    return Beliefs(
        {d.domid: Belief(d.uuid, d.dynamic_range)._replace(**facts) for d in domains},  # type: ignore[arg-type]  # facts are fields
        0.0,
    )


def obeyed(host: HostState, plan: Plan) -> HostState:
    """The host after everyone did as the plan says, exactly and at once."""
    targets_kib, maxmems_kib = targets_of(plan.actions), maxmems_of(plan.actions)
    domains = []
    for domain in host.domains:
        target_kib = targets_kib.get(domain.domid, domain.target_kib)
        maxmem_kib = maxmems_kib.get(domain.domid, domain.maxmem_kib)
        domains.append(replace(domain, target_kib=target_kib, actual_kib=target_kib, maxmem_kib=maxmem_kib))
    taken_kib = sum(domain.actual_kib for domain in domains) - sum(d.actual_kib for d in host.domains)
    return replace(
        host,
        free_kib=host.free_kib - taken_kib,
        domains=tuple(domains),
        reservations=(
            *host.reservations,
            *(action.reservation for action in plan.actions if isinstance(action, RecordReservation)),
        ),
    )


def test_host_at_rest_is_left_alone() -> None:
    plan = planned(a_host(a_domain(), a_domain(domid=2)))
    assert plan.actions == ()
    assert plan.stable
    assert plan.look_again_s is None


def test_free_memory_goes_to_guests_by_the_same_proportion() -> None:
    small = a_domain(1000 * MIB, 2000 * MIB, 1000 * MIB, domid=1)
    large = a_domain(2000 * MIB, 6000 * MIB, 2000 * MIB, domid=2)
    plan = planned(a_host(small, large, free_kib=2500 * MIB), settings=EXACT)
    assert targets_of(plan.actions) == {1: 1500 * MIB, 2: 4000 * MIB}


def test_guests_leave_the_slush_fund_alone() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB)
    plan = planned(a_host(guest, free_kib=600 * MIB, slush_kib=100 * MIB), settings=EXACT)
    assert targets_of(plan.actions) == {1: 1500 * MIB}


def test_guests_give_the_slush_fund_back() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB)
    plan = planned(a_host(guest, slush_kib=100 * MIB), settings=EXACT)
    assert targets_of(plan.actions) == {1: 1900 * MIB}


def test_guest_below_a_raised_minimum_gets_it() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB)
    wishes = wanting(d1=DynamicRange(1500 * MIB, 3000 * MIB))
    plan = planned(a_host(guest, free_kib=500 * MIB), wishes, settings=EXACT)
    assert targets_of(plan.actions) == {1: 1500 * MIB}


def test_targets_drift_within_the_tolerance_while_nobody_waits() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB)
    assert planned(a_host(guest, free_kib=512), settings=EXACT).actions == ()
    assert targets_of(planned(a_host(guest, free_kib=513), settings=EXACT).actions) == {1: 2000 * MIB + 513}


def test_narrow_range_has_a_narrow_tolerance() -> None:
    guest = a_domain(1000, 1000 + 256 * 40, 2000)
    assert planned(a_host(guest, free_kib=40), settings=EXACT).actions == ()
    assert targets_of(planned(a_host(guest, free_kib=41), settings=EXACT).actions) == {1: 2041}


def test_tolerance_ends_when_somebody_waits() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB)
    plan = planned(a_host(guest), wanting(a_request(100)), settings=EXACT)
    assert targets_of(plan.actions) == {1: 2000 * MIB - 100}


def test_target_outside_a_new_range_is_corrected_even_within_the_tolerance() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB)
    wishes = wanting(d1=DynamicRange(1000 * MIB, 2000 * MIB - 100))
    plan = planned(a_host(guest), wishes)
    assert targets_of(plan.actions) == {1: 2000 * MIB - 100}


def test_impossible_request_is_refused_at_once_and_nobody_moves() -> None:
    peers = [a_domain(domid=domid) for domid in (1, 2, 3, 4)]
    plan = planned(a_host(*peers), wanting(a_request(9000 * MIB)))
    assert plan.actions == ()
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, NotEnoughMemory)
    assert refused.error.available == kib_to_bytes(8000 * MIB)


def test_newcomer_gets_its_fair_part_beside_one_peer() -> None:
    plan = planned(a_host(a_domain()), wanting(a_request(1000 * MIB, 3000 * MIB)), settings=EXACT)
    assert targets_of(plan.actions) == {1: 1500 * MIB}


def test_newcomer_gets_its_fair_part_beside_four_peers() -> None:
    peers = [a_domain(domid=domid) for domid in (1, 2, 3, 4)]
    plan = planned(a_host(*peers), wanting(a_request(1000 * MIB, 3000 * MIB)), settings=EXACT)
    assert set(targets_of(plan.actions).values()) == {2400 * MIB}


def test_request_is_granted_in_the_turn_it_arrives_when_memory_is_spare() -> None:
    plan = planned(a_host(free_kib=500), wanting(a_request(100, 400)))
    assert plan.verdicts == (Granted("r1", 400),)
    assert plan.actions == (RecordReservation(Reservation("r1", "owner", 400)),)


def test_request_waits_until_the_guests_have_given() -> None:
    host = a_host(a_domain())
    asked = planned(host, wanting(a_request(1000 * MIB)))
    assert asked.verdicts == ()
    assert not asked.stable
    given = planned(obeyed(host, asked), wanting(a_request(1000 * MIB)), asked.beliefs, 1.0)
    assert given.verdicts == (Granted("r1", 1000 * MIB),)


def test_request_is_looked_after_by_its_deadline() -> None:
    guest = replace(a_domain(), offset_kib=None)
    plan = planned(a_host(guest), wanting(a_request(500 * MIB, deadline_s=0.5)), now_s=0.0)
    assert plan.look_again_s == 0.5


def test_deadline_that_is_nearly_there_does_not_make_the_ring_spin() -> None:
    guest = replace(a_domain(), offset_kib=None)
    plan = planned(a_host(guest), wanting(a_request(500 * MIB, deadline_s=1e-6)), now_s=0.0)
    assert plan.look_again_s == LOOK_SOONEST_S


def test_requests_are_served_by_arrival_not_by_their_place_in_the_list() -> None:
    late, early = a_request(300, name="late", order=2), a_request(300, name="early", order=1)
    plan = planned(a_host(free_kib=500), wanting(late, early))
    assert plan.verdicts[0].request_id == "late"
    assert isinstance(plan.verdicts[0], Refused)
    assert plan.verdicts[1] == Granted("early", 300)


def test_requests_that_arrive_together_are_solved_together() -> None:
    wishes = wanting(*(a_request(500 * MIB, name=f"r{n}", order=n) for n in range(4)))
    host = a_host(a_domain())
    asked = planned(host, wishes, settings=EXACT)
    assert targets_of(asked.actions) == {1: 1000 * MIB}
    given = planned(obeyed(host, asked), wishes, asked.beliefs, 1.0, EXACT)
    assert len(given.verdicts) == 4
    assert all(isinstance(verdict, Granted) for verdict in given.verdicts)


def test_waiting_request_keeps_growing_guests_from_its_memory() -> None:
    poor = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB, domid=1)
    rich = a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB, domid=2)
    host = a_host(poor, rich, free_kib=400 * MIB)
    plan = planned(host, wanting(a_request(400 * MIB)), settings=EXACT)
    assert plan.verdicts == (Granted("r1", 400 * MIB),)
    assert targets_of(plan.actions) == {2: 2000 * MIB}
    assert plan.reasons[1].motive is Motive.WAITS


def test_scrubbed_memory_is_waited_for() -> None:
    plan = planned(a_host(scrub_kib=600), wanting(a_request(500)))
    assert plan.verdicts == ()
    assert (plan.stable, plan.look_again_s) == (False, LOOK_LATEST_S)


def test_scrubbed_memory_is_waited_for_until_the_deadline_only() -> None:
    plan = planned(a_host(scrub_kib=600), wanting(a_request(500)), now_s=60.0)
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)


def test_guest_that_proves_stuck_ends_the_wait_and_is_blamed() -> None:
    stuck = a_domain(actual_kib=3000 * MIB, target_kib=2000 * MIB)
    beliefs = believing(stuck, direction=-1, waited_s=5.5, mark_kib=3000 * MIB, floor_kib=3000 * MIB)
    plan = planned(a_host(stuck), wanting(a_request(1000 * MIB)), beliefs)
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, DomainsUncooperative)
    assert refused.error.vms == ("1",)


def test_request_for_the_last_page_waits_until_the_guest_stands_still() -> None:
    guest = a_domain(actual_kib=1000 * MIB + 4, target_kib=1000 * MIB)
    host, wishes = a_host(guest, free_kib=2000 * MIB - 4), wanting(a_request(2000 * MIB))
    still_giving = believing(guest, direction=-1, mark_kib=1100 * MIB, asked_kib=3000 * MIB)
    almost = planned(host, wishes, still_giving)
    assert (almost.verdicts, almost.look_again_s) == ((), LOOK_LATEST_S)
    stopped_short = planned(host, wishes, almost.beliefs, 0.1)
    assert isinstance(stopped_short.verdicts[0], Refused)
    exact = replace(host, free_kib=2000 * MIB, domains=(replace(guest, actual_kib=1000 * MIB),))
    assert planned(exact, wishes, almost.beliefs, 0.1).verdicts == (Granted("r1", 2000 * MIB),)


def test_squeezed_guests_get_back_what_a_refused_request_took() -> None:
    obedient = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB, domid=1)
    plan = planned(a_host(obedient, free_kib=990 * MIB), wanting(a_request(992 * MIB, deadline_s=0.0)))
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)
    assert (plan.stable, plan.look_again_s) == (False, LOOK_SOONEST_S)
    assert targets_of(planned(a_host(obedient, free_kib=990 * MIB), settings=EXACT).actions) == {
        1: 2990 * MIB
    }


def test_growth_waits_until_others_have_given() -> None:
    poor = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB, domid=1)
    rich = a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB, domid=2)
    host = a_host(poor, rich)
    first = planned(host)
    assert set(targets_of(first.actions)) == {2}
    assert first.reasons[1].motive is Motive.WAITS
    second = planned(obeyed(host, first), Wishes(), first.beliefs, 1.0)
    assert set(targets_of(second.actions)) == {1}


def test_growers_are_held_back_at_once_by_what_others_took_while_somebody_gives() -> None:
    giver = a_domain(1000, 5000, 4000, domid=1, target_kib=2333)
    growers = [a_domain(1000, 5000, 1000, domid=domid, target_kib=2500) for domid in (2, 3)]
    host = a_host(giver, *growers, free_kib=1000)
    plan = planned(host, settings=EXACT)
    assert targets_of(plan.actions) == {2: 1500, 3: 1500}
    assert maxmems_of(plan.actions) == {2: 1500, 3: 1500}


def test_guests_at_rest_that_stopped_short_are_promised_no_page_that_others_took() -> None:
    domains = [a_domain(1000, 2000, 1996, domid=domid, target_kib=2000) for domid in (1, 2)]
    plan = planned(a_host(*domains), settings=EXACT)
    assert targets_of(plan.actions) == {1: 1996, 2: 1996}
    assert {domid: reason.target_kib for domid, reason in plan.reasons.items()} == {1: 1996, 2: 1996}


def test_grower_is_held_back_when_memory_is_needed_elsewhere() -> None:
    growing = a_domain(0, 8000 * MIB, 3000 * MIB, domid=1, target_kib=6000 * MIB)
    host = a_host(growing, free_kib=3000 * MIB)
    plan = planned(host, wanting(a_request(2000 * MIB)), settings=EXACT)
    assert plan.actions[:2] == (SetTarget(1, 4000 * MIB), SetMaxmem(1, 4000 * MIB))
    assert plan.verdicts == (Granted("r1", 2000 * MIB),)


def test_range_that_moves_up_raises_its_maximum_first() -> None:
    plan = planned(a_host(a_domain(100, 200, 150)), wanting(d1=DynamicRange(300, 400)))
    assert plan.actions[:2] == (SetDynamicMax(1, 400), SetDynamicMin(1, 300))


def test_range_that_moves_down_lowers_its_minimum_first() -> None:
    plan = planned(a_host(a_domain(300, 400, 350)), wanting(d1=DynamicRange(100, 200)))
    assert plan.actions[:2] == (SetDynamicMin(1, 100), SetDynamicMax(1, 200))


def test_range_that_stands_already_is_not_written_again() -> None:
    guest = a_domain(300, 400, 400)
    assert planned(a_host(guest), wanting(d1=DynamicRange(300, 400))).actions == ()


def test_range_is_written_for_a_domain_found_without_one_even_if_it_pins_it_where_it_is() -> None:
    found = replace(a_domain(300, 300, 300), has_range=False)
    plan = planned(a_host(found), wanting(d1=DynamicRange(300, 300)))
    assert plan.actions == (SetDynamicMax(1, 300), SetDynamicMin(1, 300))


def test_range_of_a_dying_domain_is_not_written() -> None:
    dying = a_domain(300, 400, 350, lifecycle=Lifecycle.DYING)
    assert planned(a_host(dying), wanting(d1=DynamicRange(100, 200))).actions == ()


@pytest.mark.parametrize("lifecycle", [Lifecycle.PAUSED, Lifecycle.SUSPENDED, Lifecycle.BUILDING])
def test_range_of_a_domain_that_does_not_run_is_written_but_nothing_is_asked(lifecycle: Lifecycle) -> None:
    idle = a_domain(300, 400, 350, lifecycle=lifecycle)
    plan = planned(a_host(idle), wanting(d1=DynamicRange(100, 200)))
    assert plan.actions == (SetDynamicMin(1, 100), SetDynamicMax(1, 200))
    assert plan.reasons[1].motive is Motive.LEFT_ALONE


def test_domain_that_cannot_be_touched_is_left_alone_in_every_respect() -> None:
    guest = a_domain(300, 4000, 350, uncooperative=True)
    wishes = replace(wanting(d1=DynamicRange(100, 200)), left_alone=frozenset({1}))
    plan = planned(a_host(guest, free_kib=9000), wishes)
    assert plan.actions == ()
    assert plan.reasons[1].motive is Motive.LEFT_ALONE


def test_domain_without_a_driver_is_never_asked() -> None:
    plan = planned(a_host(a_domain(1000, 3000, 2000, can_balloon=False), free_kib=9000))
    assert plan.actions == ()
    assert plan.reasons[1].motive is Motive.NO_DRIVER
    assert plan.reasons[1].state is BalloonState.NO_BALLOON


def test_what_a_domain_that_cannot_be_asked_may_still_take_is_not_given_away() -> None:
    idle = a_domain(1000, 3000, 1000, maxmem_kib=3000, lifecycle=Lifecycle.PAUSED)
    plan = planned(a_host(idle, free_kib=2500), wanting(a_request(501)))
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)
    assert refused.error.params[1] == str(kib_to_bytes(500))


def test_domain_found_without_a_range_keeps_its_maxmem() -> None:
    found = replace(a_domain(1000, 1000, 1000, maxmem_kib=3000), has_range=False)
    assert planned(a_host(found, free_kib=9000)).actions == ()


def test_what_a_domain_found_without_a_range_may_still_take_is_not_given_away() -> None:
    found = replace(a_domain(1000, 1000, 1000, maxmem_kib=3000), has_range=False)
    peer = a_domain(1000, 3000, 3000, domid=2)
    plan = planned(a_host(found, peer, free_kib=2000), wanting(a_request(2500)))
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)
    assert refused.error.params[1] == str(kib_to_bytes(2000))
    assert plan.actions == ()


def test_domain_that_somebody_pinned_gives_up_what_it_may_take() -> None:
    pinned = a_domain(1000, 1000, 1000, maxmem_kib=3000)
    assert planned(a_host(pinned, free_kib=2000)).actions == (SetMaxmem(1, 1000),)


def test_stuck_guest_keeps_its_standing_target_and_others_give_in_its_place() -> None:
    stuck = a_domain(actual_kib=3000 * MIB, target_kib=2000 * MIB, domid=1)
    peer = a_domain(actual_kib=2000 * MIB, domid=2)
    stuck_belief = believing(stuck, direction=-1, waited_s=9.0, mark_kib=3000 * MIB, floor_kib=3000 * MIB)
    host = a_host(stuck, peer)
    plan = planned(host, wanting(a_request(500 * MIB)), stuck_belief, settings=EXACT)
    assert targets_of(plan.actions) == {2: 1500 * MIB}
    assert plan.reasons[1].motive is Motive.FLOOR
    assert plan.reasons[1].state is BalloonState.STUCK


def test_guest_with_a_floor_is_asked_a_little_past_it() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 2500 * MIB)
    beliefs = believing(guest, mark_kib=2500 * MIB, floor_kib=2000 * MIB)
    plan = planned(a_host(guest), wanting(a_request(500 * MIB)), beliefs, settings=EXACT)
    assert targets_of(plan.actions) == {1: 2000 * MIB - PROBE_KIB}


def test_guest_with_a_floor_and_a_narrow_range_is_asked_no_further() -> None:
    guest = a_domain(1000, 2000, 1800)
    beliefs = believing(guest, mark_kib=1800, floor_kib=1500)
    plan = planned(a_host(guest), wanting(a_request(300)), beliefs, settings=EXACT)
    assert targets_of(plan.actions) == {1: 1500}


def test_guest_with_a_floor_grows_when_there_is_more_for_it() -> None:
    stuck = a_domain(actual_kib=2000 * MIB, target_kib=1500 * MIB)
    beliefs = believing(stuck, direction=-1, waited_s=9.0, mark_kib=2000 * MIB, floor_kib=2000 * MIB)
    plan = planned(a_host(stuck, free_kib=500 * MIB), Wishes(), beliefs, settings=EXACT)
    assert targets_of(plan.actions) == {1: 2500 * MIB}


def test_guest_at_its_ceiling_is_asked_a_little_past_it_and_others_get_its_share() -> None:
    limited = a_domain(1000 * MIB, 4000 * MIB, 2000 * MIB, target_kib=2000 * MIB + PROBE_KIB, domid=1)
    peer = a_domain(1000 * MIB, 4000 * MIB, 2000 * MIB, domid=2)
    beliefs = believing(limited, direction=1, waited_s=9.0, mark_kib=2000 * MIB, ceiling_kib=2000 * MIB)
    plan = planned(a_host(limited, peer, free_kib=1000 * MIB), Wishes(), beliefs, settings=EXACT)
    assert targets_of(plan.actions) == {2: 3000 * MIB - PROBE_KIB}
    assert plan.reasons[1].motive is Motive.CEILING
    assert plan.reasons[1].state is BalloonState.AT_LIMIT


def test_guest_with_a_ceiling_below_its_minimum_is_asked_for_its_minimum() -> None:
    limited = a_domain(1000 * MIB, 4000 * MIB, 500 * MIB)
    beliefs = believing(limited, mark_kib=500 * MIB, ceiling_kib=500 * MIB)
    plan = planned(a_host(limited, free_kib=2000 * MIB), Wishes(), beliefs)
    assert targets_of(plan.actions) == {1: 1000 * MIB}


def test_guest_that_is_late_is_flagged_for_others() -> None:
    late = a_domain(actual_kib=3000 * MIB, target_kib=1000 * MIB)
    beliefs = believing(late, direction=-1, away_s=20.1, mark_kib=3000 * MIB, asked_kib=3000 * MIB)
    assert SetUncooperative(1, True) in planned(a_host(late), Wishes(), beliefs).actions


def test_guest_that_arrived_is_flagged_no_longer() -> None:
    assert planned(a_host(a_domain(uncooperative=True))).actions == (SetUncooperative(1, False),)


def test_guest_that_is_flagged_already_is_not_flagged_again() -> None:
    late = a_domain(actual_kib=3000 * MIB, target_kib=3000 * MIB - 100, uncooperative=True)
    beliefs = believing(late, direction=-1, away_s=20.1, mark_kib=3000 * MIB, asked_kib=3000 * MIB)
    plan = planned(a_host(late), Wishes(), beliefs)
    assert not [action for action in plan.actions if isinstance(action, SetUncooperative)]


def test_guest_of_unknown_offset_is_not_asked_for_anything_yet() -> None:
    unmeasured = replace(a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB), offset_kib=None)
    plan = planned(a_host(unmeasured, free_kib=1000 * MIB))
    assert plan.actions == ()
    assert plan.look_again_s == 1.0


def test_request_that_needs_a_guest_of_unknown_offset_waits() -> None:
    unmeasured = replace(a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB), offset_kib=None)
    plan = planned(a_host(unmeasured), wanting(a_request(2000 * MIB)))
    assert (plan.verdicts, plan.actions) == ((), ())


def test_request_is_refused_that_even_a_guest_of_unknown_offset_could_not_serve() -> None:
    unmeasured = replace(a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB), offset_kib=None)
    plan = planned(a_host(unmeasured), wanting(a_request(2001 * MIB)))
    (refused,) = plan.verdicts
    assert isinstance(refused, Refused)


def test_offset_is_measured_once_the_guest_has_stood_still() -> None:
    unmeasured = replace(a_domain(actual_kib=3068 * MIB, target_kib=3000 * MIB), offset_kib=None)
    host, beliefs = a_host(unmeasured), Beliefs()
    for now_s in (0.0, 1.0):
        plan = planned(host, Wishes(), beliefs, now_s)
        assert plan.actions == ()
        beliefs = plan.beliefs
    assert planned(host, Wishes(), beliefs, 2.0).actions == (SetMemoryOffset(1, 68 * MIB),)


def test_offset_that_proved_wrong_is_mended() -> None:
    guest = replace(a_domain(actual_kib=3001 * MIB, target_kib=3000 * MIB), offset_kib=68 * MIB)
    beliefs = believing(guest, direction=-1, mark_kib=3001 * MIB, offset_error_kib=MIB)
    assert SetMemoryOffset(1, 69 * MIB) in planned(a_host(guest), Wishes(), beliefs).actions


@pytest.mark.parametrize(
    ("guest", "free_kib", "motive", "state"),
    [
        (a_domain(actual_kib=2000 * MIB), 0, Motive.SHARE, BalloonState.AT_TARGET),
        (a_domain(actual_kib=2000 * MIB), 500 * MIB, Motive.SHARE, BalloonState.MOVING),
        (a_domain(actual_kib=2000 * MIB), 1100 * MIB, Motive.ALL, BalloonState.MOVING),
        (a_domain(), 0, Motive.ALL, BalloonState.AT_TARGET),
        (a_domain(2000 * MIB, 2000 * MIB), 0, Motive.PINNED, BalloonState.AT_TARGET),
        (a_domain(actual_kib=1000 * MIB), 0, Motive.MINIMUM, BalloonState.AT_TARGET),
    ],
)
def test_reason_tells_what_decided(
    guest: DomainState, free_kib: int, motive: Motive, state: BalloonState
) -> None:
    reason = planned(a_host(guest, free_kib=free_kib)).reasons[1]
    assert (reason.motive, reason.state) == (motive, state)


def test_reason_tells_the_goal_and_the_target_of_one_that_waits() -> None:
    poor = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB, domid=1)
    rich = a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB, domid=2)
    reason = planned(a_host(poor, rich), settings=EXACT).reasons[1]
    assert (reason.motive, reason.goal_kib, reason.target_kib) == (Motive.WAITS, 2000 * MIB, 1000 * MIB)


def test_everybody_has_a_reason() -> None:
    paused = a_domain(domid=2, lifecycle=Lifecycle.PAUSED)
    assert set(planned(a_host(a_domain(), paused)).reasons) == {1, 2}


@pytest.mark.parametrize(
    ("halted_s", "look_again_s"), [(0.0, 1.0), (8.0, 8.0), (300.0, 30.0)], ids=["new", "a while", "long"]
)
def test_paused_domain_is_looked_at_more_rarely_the_longer_it_is_so(
    halted_s: float, look_again_s: float
) -> None:
    paused = a_domain(lifecycle=Lifecycle.PAUSED)
    plan = planned(a_host(paused), Wishes(), believing(paused, halted_s=halted_s))
    assert plan.look_again_s == look_again_s
    assert plan.stable


def test_moving_guest_is_looked_at_soon() -> None:
    plan = planned(a_host(a_domain(actual_kib=2000 * MIB), free_kib=1000 * MIB))
    assert plan.look_again_s == LOOK_LATEST_S
    assert not plan.stable


def test_moving_guest_is_looked_at_when_it_may_have_arrived() -> None:
    moving = a_domain(actual_kib=2950 * MIB, target_kib=3000 * MIB)
    beliefs = believing(moving, direction=1, mark_kib=2950 * MIB, rate_kib_s=1000 * MIB)
    plan = planned(a_host(moving, free_kib=50 * MIB), Wishes(), beliefs)
    assert plan.look_again_s == pytest.approx(0.05)


def test_memory_that_guests_give_for_a_request_is_watched_until_all_may_have_arrived() -> None:
    near = a_domain(500 * MIB, 3000 * MIB, 1100 * MIB, target_kib=1000 * MIB, domid=1)
    far = a_domain(500 * MIB, 3000 * MIB, 1400 * MIB, target_kib=1000 * MIB, domid=2)
    beliefs = believing(near, far, direction=-1, rate_kib_s=1000 * MIB)
    plan = planned(
        a_host(near, far, free_kib=100 * MIB), wanting(a_request(600 * MIB)), beliefs, settings=EXACT
    )
    assert plan.enough_kib == 600 * MIB
    assert plan.look_again_s == pytest.approx(0.4)


def test_pages_that_came_between_the_parts_of_a_look_are_awaited_but_once() -> None:
    guest = a_domain(500 * MIB, 3000 * MIB, 1400 * MIB, target_kib=1000 * MIB)
    host = a_host(guest, free_kib=200 * MIB)
    torn = replace(host, free_kib=205 * MIB, others_kib=host.total_kib - host.common_kib)
    assert torn.torn_kib == -5 * MIB
    plan = planned(torn, wanting(a_request(600 * MIB)), settings=EXACT)
    assert plan.enough_kib == 600 * MIB


def test_guest_that_may_be_late_for_a_request_is_looked_at_when_its_patience_ends() -> None:
    guest = a_domain(500 * MIB, 3000 * MIB, 1400 * MIB, target_kib=1000 * MIB)
    beliefs = believing(guest, direction=-1, mark_kib=1400 * MIB, waited_s=4.7)
    plan = planned(a_host(guest), wanting(a_request(400 * MIB)), beliefs, settings=EXACT)
    assert plan.look_again_s == pytest.approx(0.3)


def test_guest_that_owes_memory_is_looked_at_several_times_within_a_short_wait() -> None:
    guest = a_domain(500 * MIB, 3000 * MIB, 1400 * MIB, target_kib=1000 * MIB)
    brief = replace(a_request(400 * MIB, deadline_s=0.2), wait_s=0.2)
    plan = planned(a_host(guest), wanting(brief), believing(guest, direction=-1), settings=EXACT)
    assert plan.enough_kib is not None
    assert plan.look_again_s == pytest.approx(0.05)


def test_memory_is_not_watched_where_others_want_to_grow_with_it() -> None:
    poor = a_domain(1000 * MIB, 3000 * MIB, 1000 * MIB, domid=1)
    rich = a_domain(1000 * MIB, 3000 * MIB, 3000 * MIB, domid=2)
    plan = planned(a_host(poor, rich), wanting(a_request(400 * MIB)), settings=EXACT)
    assert (plan.verdicts, plan.enough_kib, plan.look_again_s) == ((), None, LOOK_LATEST_S)


def test_host_where_nobody_waits_is_not_watched() -> None:
    plan = planned(a_host(a_domain(actual_kib=2000 * MIB), free_kib=1000 * MIB))
    assert plan.enough_kib is None


def test_fast_guest_does_not_make_the_ring_spin() -> None:
    moving = a_domain(actual_kib=2999 * MIB, target_kib=3000 * MIB)
    beliefs = believing(moving, direction=1, mark_kib=2999 * MIB, rate_kib_s=1000 * MIB)
    assert planned(a_host(moving, free_kib=MIB), Wishes(), beliefs).look_again_s == LOOK_SOONEST_S


@pytest.mark.parametrize(("waited_s", "again_s"), [(5.5, 5.5), (300.0, 30.0)])
def test_stuck_guest_is_looked_at_ever_more_rarely(waited_s: float, again_s: float) -> None:
    stuck = a_domain(actual_kib=3000 * MIB, target_kib=2000 * MIB, uncooperative=True)
    beliefs = believing(
        stuck, direction=-1, waited_s=waited_s, away_s=99.0, mark_kib=3000 * MIB, floor_kib=3000 * MIB
    )
    plan = planned(a_host(stuck, slush_kib=1000 * MIB), Wishes(), beliefs)
    assert plan.actions == ()
    assert plan.look_again_s == again_s
    assert plan.stable


def test_growth_that_nothing_can_serve_is_not_waited_for() -> None:
    poor = a_domain(2000 * MIB, 3000 * MIB, 1000 * MIB)
    plan = planned(a_host(poor, free_kib=999 * MIB))
    assert plan.actions == ()
    assert (plan.stable, plan.look_again_s) == (True, None)


def test_belief_of_a_vm_does_not_pass_to_the_next_domain_of_that_number() -> None:
    stuck = a_domain(actual_kib=3000 * MIB, target_kib=2000 * MIB)
    beliefs = believing(stuck, direction=-1, waited_s=9.0, floor_kib=3000 * MIB)
    reborn = replace(stuck, uuid=uuid_of(99))
    assert planned(a_host(reborn), Wishes(), beliefs).beliefs.by_domid[1].floor_kib is None


def test_look_that_contradicts_what_is_known_of_others_is_taken_again_and_nothing_called_settled() -> None:
    host = a_host(a_domain(), a_domain(domid=2), free_kib=20 * MIB)
    torn = replace(host, others_kib=host.total_kib - host.common_kib + 20 * MIB)
    assert torn.torn_kib == -20 * MIB
    plan = planned(torn)
    assert (plan.stable, plan.look_again_s) == (False, LOOK_LATEST_S)
    plan = planned(replace(host, others_kib=host.total_kib - host.common_kib))
    assert (plan.stable, plan.look_again_s) == (True, None)


def test_request_is_not_refused_by_a_look_that_contradicts_what_is_known_of_others() -> None:
    guest = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB)
    host = a_host(guest, free_kib=1000 * MIB)
    wishes = wanting(a_request(1003 * MIB))
    doubtful = replace(host, others_kib=host.total_kib - host.common_kib - 3 * MIB)
    plan = planned(doubtful, wishes, settings=EXACT)
    assert (plan.actions, plan.verdicts, plan.stable) == ((), (), False)
    plan = planned(replace(doubtful, others_kib=None), wishes, settings=EXACT)
    assert targets_of(plan.actions) == {1: 1997 * MIB}


def test_shrink_that_a_guest_regrets_is_undone_and_counted_under_a_policy_that_hears_it() -> None:
    pressure = find_policy("pressure")

    def seen(at_s: float, target_kib: int, stall_us: int) -> HostState:
        hot = a_domain(0, 4000 * MIB, target_kib, domid=1)
        idle = a_domain(0, 4000 * MIB, 4000 * MIB - target_kib, domid=2)
        said = Sample(at_s, 10.0, 500 * MIB, stall_us=stall_us)
        quiet = Sample(at_s, 10.0, 500 * MIB, stall_us=0)
        return a_host(replace(hot, sample=said), replace(idle, sample=quiet))

    beliefs = Beliefs()
    for at_s, target_kib, stall_us in ((0.0, 3000, 0), (10.0, 3000, 0), (20.0, 1000, 0)):
        beliefs = planned(
            seen(at_s, target_kib * MIB, stall_us), beliefs=beliefs, now_s=at_s, policy=pressure
        ).beliefs
    assert beliefs.regrets == 0
    plan = planned(seen(25.0, 1000 * MIB, 500_000), beliefs=beliefs, now_s=25.0, policy=pressure)
    assert plan.beliefs.regrets == 1
    assert plan.reasons[1].goal_kib >= 3000 * MIB
    assert "since it stalled" in plan.reasons[1].text


def test_policys_own_words_stand_in_the_reason() -> None:
    said = Sample(0.0, 10.0, 1700 * MIB)
    host = a_host(replace(a_domain(0, 4000 * MIB, 2000 * MIB, domid=1), sample=said), free_kib=1000 * MIB)
    plan = planned(host, policy=find_policy("pressure", {"room_percent": 20}))
    assert "needs 2.055 GiB (uses 1.66 GiB, 404 MiB room)" in plan.reasons[1].text


@pytest.mark.parametrize(
    ("used_mib", "policy", "expected"),
    [
        (
            256,
            "pressure",
            "335.4 MiB (uses 256 MiB, 79.36 MiB room), less than the 512 MiB that it has at least",
        ),
        (3000, "pressure", "3.168 GiB (uses 2.93 GiB, 244 MiB room), of which it may have 3 GiB"),
        (256, "shares", "320 MiB (uses 256 MiB, 25 % room) and has 512 MiB at least"),
        (3000, "shares", "3.662 GiB (uses 2.93 GiB, 25 % room) and may have 3 GiB"),
    ],
)
def test_needs_beyond_the_dynamic_range_are_told_with_its_ends(
    used_mib: int, policy: str, expected: str
) -> None:
    said = Sample(0.0, 10.0, used_mib * MIB)
    domain = replace(a_domain(512 * MIB, 3072 * MIB, 3072 * MIB, domid=1), sample=said)
    plan = planned(a_host(domain, free_kib=1000 * MIB), policy=find_policy(policy))
    assert f"needs {expected}" in str(plan.reasons[1].note)


@pytest.mark.parametrize(
    ("low_mib", "high_mib", "bounds_mib"), [(1000, 3000, (1000, 2000)), (2500, 3000, (2000, 2000))]
)
def test_nobody_is_asked_for_more_than_it_was_booted_for_whatever_its_range_says(
    low_mib: int, high_mib: int, bounds_mib: tuple[int, int]
) -> None:
    booted = replace(a_domain(low_mib * MIB, high_mib * MIB, 1500 * MIB), static_max_kib=2000 * MIB)
    assert booted.bounds_kib == (bounds_mib[0] * MIB, bounds_mib[1] * MIB)
    for free_mib in (200, 4000):
        host, beliefs = a_host(booted, free_kib=free_mib * MIB), Beliefs()
        for now_s in range(4):
            plan = planned(host, beliefs=beliefs, now_s=float(now_s), settings=EXACT)
            told = [*targets_of(plan.actions).values(), *maxmems_of(plan.actions).values()]
            assert max(told, default=0) <= 2000 * MIB
            host, beliefs = obeyed(host, plan), plan.beliefs
    assert host.domains[0].target_kib == 2000 * MIB
