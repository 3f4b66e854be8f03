"""The physics of the simulated host: balloon characters, free memory, scrubbing, and the ledger."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcpmem.engine.model import (
    BalloonState,
    DeleteReservation,
    Lifecycle,
    RecordReservation,
    Reservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
    TransferReservation,
)
from xcpmem.errors import DomainVanished, InvalidValue
from xcpmem.scenario import Scenario
from xcpmem.specs import AgentKind, AgentSpec, BalloonSpec, GuestSpec, HostSpec, LoadPoint
from xcpmem.xen.simhost import SimHost


def one_guest(
    balloon: BalloonSpec | None = None,
    *,
    free_kib: int = 10000,
    scrub_kib_s: float = 0.0,
    tick_s: float = 0.1,
    **guest: Any,
) -> SimHost:
    """A host with guest 1 of 0 to 5000 KiB at 2000 KiB, moving 100 KiB/s, exactly, unless said otherwise."""
    facts: dict[str, Any] = {"dynamic_min_kib": 0, "dynamic_max_kib": 5000, "target_kib": 2000} | guest
    balloon = balloon or BalloonSpec(rate_kib_s=100, inaccuracy_kib=0)
    return SimHost(
        Scenario(
            tick_s=tick_s,
            host=HostSpec(free_kib=free_kib, slush_kib=0, scrub_kib_s=scrub_kib_s),
            guests=(GuestSpec(domid=1, balloon=balloon, **facts),),
        )
    )


def ask(host: SimHost, target_kib: int, domid: int = 1) -> None:
    """Set a target with its maxmem, in the right order."""
    if target_kib > host.guests[domid].maxmem_kib:
        host.apply(SetMaxmem(domid, target_kib))
    host.apply(SetTarget(domid, target_kib))
    host.apply(SetMaxmem(domid, target_kib))


def actual_after(host: SimHost, time_s: float) -> int:
    host.step(time_s)
    return host.guests[1].actual_kib


def test_a_dying_guest_is_promised_what_it_holds_and_no_more() -> None:
    host = one_guest(free_kib=10000)
    host.apply(SetMaxmem(1, 12000))
    host.set_lifecycle(1, Lifecycle.DYING)
    host.apply(RecordReservation(Reservation("r1", "owner", 10000)))
    assert host.observe().host.spare_kib == 0
    assert host.ledger.overcommit_kib == 0


def test_a_guest_rests_when_nobody_asks() -> None:
    host = one_guest()
    assert not host.is_active
    assert not host.step(1000.0)
    assert host.ledger.settled_us == 0


def test_a_guest_moves_at_its_rate_and_stops_at_its_target() -> None:
    host = one_guest()
    ask(host, 1500)
    assert actual_after(host, 2.0) == 1800
    assert host.physical_free_kib == 10200
    assert actual_after(host, 4.0) == 1500
    assert not host.is_active


def test_a_guest_stops_short_of_each_target_by_its_inaccuracy() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=1000, inaccuracy_kib=4))
    ask(host, 1500)
    assert actual_after(host, 9.0) == 1504
    ask(host, 3000)
    assert actual_after(host, 9.0) == 2996
    ask(host, 2992)
    assert actual_after(host, 9.0) == 2996


def test_a_slow_rate_loses_no_fractions() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=3.3, inaccuracy_kib=0))
    ask(host, 1000)
    for _ in range(1000):
        host.step(0.01)
    assert host.guests[1].actual_kib == 2000 - 33


def test_a_late_guest_starts_after_its_delay() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=100, delay_s=2, inaccuracy_kib=0))
    ask(host, 1000)
    assert actual_after(host, 2.0) == 2000
    assert actual_after(host, 1.0) == 1900


def test_a_new_target_during_the_delay_does_not_start_it_anew() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=100, delay_s=2, inaccuracy_kib=0))
    ask(host, 1000)
    host.step(1.5)
    ask(host, 3000)
    assert actual_after(host, 1.5) == 2100


def test_a_new_target_while_moving_is_followed_at_once() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=100, delay_s=2, inaccuracy_kib=0))
    ask(host, 1000)
    host.step(3.0)
    ask(host, 3000)
    assert actual_after(host, 1.0) == 2000


def test_a_guest_that_came_to_rest_needs_its_delay_again() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=1000, delay_s=2, inaccuracy_kib=0))
    ask(host, 1000)
    host.step(10.0)
    ask(host, 1500)
    assert actual_after(host, 2.0) == 1000
    assert actual_after(host, 0.1) == 1100


def test_a_guest_at_its_limit_is_at_rest() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=1000, delay_s=2, floor_kib=1500, inaccuracy_kib=0))
    ask(host, 1000)
    assert actual_after(host, 10.0) == 1500
    ask(host, 2000)
    assert actual_after(host, 2.0) == 1500


def test_a_floor_stops_shrinking_and_a_ceiling_stops_growing() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=1000, floor_kib=1500, ceiling_kib=2500, inaccuracy_kib=0))
    ask(host, 1000)
    assert actual_after(host, 9.0) == 1500
    assert host.guests[1].balloon_state() is BalloonState.AT_LIMIT
    ask(host, 4000)
    assert actual_after(host, 9.0) == 2500
    assert not host.is_active


def test_a_guest_beyond_its_limit_stays_where_it_is() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=1000, floor_kib=3000, inaccuracy_kib=0))
    ask(host, 1000)
    assert actual_after(host, 9.0) == 2000


def test_a_stuck_guest_moves_once_it_is_freed() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=100, stuck=True, inaccuracy_kib=0))
    ask(host, 1000)
    assert actual_after(host, 9.0) == 2000
    assert host.guests[1].balloon_state() is BalloonState.STUCK
    host.set_balloon(1, {"stuck": False})
    assert host.guests[1].balloon_state() is BalloonState.MOVING
    assert actual_after(host, 1.0) == 1900


def test_a_guest_without_driver_never_moves() -> None:
    host = one_guest(BalloonSpec(feature=False))
    ask(host, 1000)
    assert actual_after(host, 9.0) == 2000
    assert not host.observe().host.domains[0].can_balloon
    assert host.guests[1].balloon_state() is BalloonState.NO_BALLOON


def test_an_intermittent_guest_moves_in_even_intervals_only() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=100, period_s=0.25, inaccuracy_kib=0))
    ask(host, 1000)
    assert actual_after(host, 0.25) == 1975
    assert actual_after(host, 0.25) == 1975
    assert actual_after(host, 0.35) == 1950
    assert actual_after(host, 0.15) == 1950


def test_a_paused_guest_rests_until_it_runs_again() -> None:
    host = one_guest()
    ask(host, 1000)
    host.set_lifecycle(1, Lifecycle.PAUSED)
    assert actual_after(host, 5.0) == 2000
    host.set_lifecycle(1, Lifecycle.RUNNING)
    assert actual_after(host, 5.0) == 1500


def test_a_guest_never_grows_beyond_its_maxmem() -> None:
    host = one_guest()
    host.write_target(1, 4000)
    host.write_maxmem(1, 2500)
    assert actual_after(host, 60.0) == 2500
    host.write_maxmem(1, 2000)
    assert actual_after(host, 60.0) == 2500


def test_a_guest_never_takes_more_than_is_free() -> None:
    host = one_guest(free_kib=300)
    ask(host, 4000)
    assert actual_after(host, 60.0) == 2300
    assert host.physical_free_kib == 0


def test_freed_memory_is_scrubbed_before_it_is_free() -> None:
    host = one_guest(BalloonSpec(rate_kib_s=10000, inaccuracy_kib=0), free_kib=0, scrub_kib_s=100)
    ask(host, 1000)
    host.step(0.1)
    seen = host.observe().host
    assert (seen.free_kib, seen.scrub_kib) == (0, 1000)
    host.step(4.0)
    seen = host.observe().host
    assert (seen.free_kib, seen.scrub_kib) == (400, 600)
    host.step(9.0)
    assert host.observe().host.scrub_kib == 0
    assert not host.is_active


def test_targets_above_maxmem_and_maxmem_below_target_are_refused() -> None:
    host = one_guest()
    with pytest.raises(InvalidValue, match="target_kib, 2001"):
        host.apply(SetTarget(1, 2001))
    with pytest.raises(InvalidValue, match="maxmem_kib, 1999"):
        host.apply(SetMaxmem(1, 1999))
    with pytest.raises(InvalidValue, match="target_kib, -1"):
        host.apply(SetTarget(1, -1))
    assert host.ledger.target_changes == 0


def test_an_offset_is_refused_since_simulated_guests_have_none() -> None:
    host = one_guest()
    host.apply(SetMemoryOffset(1, 0))
    with pytest.raises(InvalidValue, match="offset_kib, 4"):
        host.apply(SetMemoryOffset(1, 4))


def test_a_range_upside_down_is_refused() -> None:
    host = one_guest(dynamic_min_kib=1000, dynamic_max_kib=3000)
    with pytest.raises(InvalidValue, match="dynamic_min_kib"):
        host.apply(SetDynamicMin(1, 3001))
    with pytest.raises(InvalidValue, match="dynamic_max_kib"):
        host.apply(SetDynamicMax(1, 999))
    host.apply(SetDynamicMax(1, 5000))
    host.apply(SetDynamicMin(1, 4000))
    assert host.observe().host.domains[0].dynamic_range.min_kib == 4000


def test_a_guest_that_is_gone_cannot_be_touched() -> None:
    host = one_guest()
    host.remove_guest(1)
    assert host.physical_free_kib == 12000
    assert host.observe().host.domains == ()
    for action in (SetTarget(1, 5), SetMaxmem(1, 5), SetDynamicMin(1, 5), SetUncooperative(1, True)):
        with pytest.raises(DomainVanished):
            host.apply(action)


def test_actions_done_twice_count_once() -> None:
    host = one_guest()
    for _ in range(2):
        host.apply(SetTarget(1, 1500))
        host.apply(SetUncooperative(1, True))
        host.apply(RecordReservation(Reservation("r", "me", 700)))
    assert host.ledger.target_changes == 1
    assert host.observe().host.reserved_kib == 700
    assert host.observe().host.domains[0].uncooperative


def test_a_transferred_reservation_raises_maxmem_and_is_no_longer_counted() -> None:
    host = one_guest()
    reservation = Reservation("r", "me", 3000)
    host.apply(RecordReservation(reservation))
    host.apply(TransferReservation(reservation, 1))
    seen = host.observe().host
    assert (seen.reserved_kib, seen.domains[0].maxmem_kib) == (0, 3000)
    assert seen.domains[0].initial_reservation_kib == 3000
    assert seen.reservations[0].domid == 1
    host.apply(DeleteReservation(reservation))
    host.apply(DeleteReservation(reservation))
    assert host.observe().host.reservations == ()


def test_an_orphaned_reservation_is_counted_again() -> None:
    host = one_guest()
    reservation = Reservation("r", "me", 3000)
    host.apply(RecordReservation(reservation))
    host.apply(TransferReservation(reservation, 1))
    host.remove_guest(1)
    assert host.observe().host.reserved_kib == 3000


def test_the_ledger_notices_memory_that_is_promised_twice() -> None:
    host = one_guest(free_kib=1000)
    host.apply(RecordReservation(Reservation("r", "me", 600)))
    assert host.ledger.overcommit_kib == 0
    host.apply(SetMaxmem(1, 2700))
    host.apply(SetMaxmem(1, 2000))
    assert host.ledger.overcommit_kib == 300


def promised_host() -> SimHost:
    """All 1000 KiB that are free are promised to a guest that has taken none of it."""
    host = one_guest(free_kib=1000)
    host.apply(SetMaxmem(1, 3000))
    return host


@pytest.mark.parametrize("is_gone", [True, False])
def test_the_ledger_notices_when_what_is_kept_for_a_vm_is_given_to_others_once_its_domain_ends(
    is_gone: bool,
) -> None:
    host = promised_host()
    host.add_guest(GuestSpec(domid=2, dynamic_min_kib=0, dynamic_max_kib=5000), 0)
    host.apply(RecordReservation(Reservation("kept", "me", 3000, domid=1, vm_uuid=host.guests[1].uuid)))
    host.set_lifecycle(1, Lifecycle.DYING)
    if is_gone:
        host.remove_guest(1)
    assert (host.ledger.overcommit_kib, host.observe().host.spare_kib) == (0, 0)
    host.apply(SetMaxmem(2, 500))
    assert host.ledger.overcommit_kib == 500


def test_the_ledger_counts_nothing_as_promised_that_was_transferred_to_a_domain_that_is_gone() -> None:
    host = one_guest(free_kib=1000)
    reservation = Reservation("r", "me", 1000)
    host.apply(RecordReservation(reservation))
    host.apply(TransferReservation(reservation, 1))
    host.remove_guest(1)
    host.take_memory(3000)
    host.step(1.0)
    assert host.ledger.overcommit_kib == 0


def test_the_ledger_notices_what_the_world_takes_from_a_promise_once_time_passes() -> None:
    host = promised_host()
    host.take_memory(400)
    host.advance_to(host.now_us)
    assert host.ledger.overcommit_kib == 0
    host.advance_to(host.now_us + 1)
    assert host.ledger.overcommit_kib == 400


def test_the_ledger_forgives_a_promise_that_is_taken_back_in_the_instant_in_which_it_broke() -> None:
    host = promised_host()
    host.take_memory(400)
    for maxmem_kib in (2900, 2600):
        host.apply(SetMaxmem(1, maxmem_kib))
    host.step(1.0)
    host.audit()
    assert host.ledger.overcommit_kib == 0


def test_the_ledger_forgives_no_further_promise_while_one_is_broken() -> None:
    host = promised_host()
    host.take_memory(400)
    host.apply(RecordReservation(Reservation("r", "me", 1)))
    host.apply(SetMaxmem(1, 2000))
    assert host.ledger.overcommit_kib == 401


def test_a_transfer_promises_nothing_new_while_a_promise_is_broken() -> None:
    host = one_guest(free_kib=1000, target_kib=100)
    reservation = Reservation("r", "me", 900)
    host.apply(RecordReservation(reservation))
    host.take_memory(1000)
    host.apply(TransferReservation(reservation, 1))
    host.apply(SetMaxmem(1, 100))
    host.step(1.0)
    assert host.ledger.overcommit_kib == 0


def test_taken_memory_is_gone_from_the_total() -> None:
    host = one_guest(free_kib=1000)
    host.take_memory(400)
    assert (host.total_kib, host.physical_free_kib) == (2600, 600)
    assert host.ledger.min_free_kib == 600
    with pytest.raises(InvalidValue):
        host.take_memory(601)


def test_a_new_guest_replaces_its_reservation_in_one_instant() -> None:
    host = one_guest(free_kib=1000)
    host.apply(RecordReservation(Reservation("r", "me", 1000)))
    host.add_guest(GuestSpec(domid=2, dynamic_min_kib=500, dynamic_max_kib=2000), 1000, reservation_id="r")
    guest = host.guests[2]
    assert (guest.actual_kib, guest.target_kib, guest.maxmem_kib) == (1000, 1000, 1000)
    assert host.ledger.overcommit_kib == 0
    assert host.observe().host.reservations == ()
    with pytest.raises(InvalidValue, match="domid, 2"):
        host.add_guest(guest.spec, 0)


def test_domains_are_listed_by_rising_domid() -> None:
    host = one_guest()
    for domid in (7, 3):
        host.add_guest(GuestSpec(domid=domid, dynamic_min_kib=0, dynamic_max_kib=10), 10)
    assert [domain.domid for domain in host.observe().host.domains] == [1, 3, 7]
    assert list(host.observe().descriptions) == [1, 3, 7]


def test_the_ledger_counts_movements_and_when_they_ended() -> None:
    host = one_guest()
    host.step(1.0)
    ask(host, 1800)
    for _ in range(40):
        host.step(0.1)
    ledger = host.ledger
    assert (ledger.moved_kib, ledger.target_changes, ledger.settled_us) == (200, 1, 3_000_000)


def test_stall_counts_the_time_that_is_lost_by_the_guest_model() -> None:
    load = (LoadPoint(1.0, 2000), LoadPoint(3.0, 4000), LoadPoint(7.5, 100))
    host = one_guest(load=load)
    half_is_out = 20 / 21
    host.step(4.0)
    assert host.stall_s() == pytest.approx(half_is_out * 1.0, abs=1e-5)
    host.step(100.0)
    assert host.stall_s() == pytest.approx(half_is_out * 4.5, abs=1e-5)
    host.remove_guest(1)
    assert host.stall_s() == pytest.approx(half_is_out * 4.5, abs=1e-5)


@pytest.mark.parametrize("step_s", [100.0, 10.0, 0.25, 0.01])
def test_a_guest_says_the_same_whatever_the_steps_in_which_time_passes(step_s: float) -> None:
    load = (LoadPoint(1.0, 3000), LoadPoint(30.0, 500))
    host = one_guest(load=load, agent=AgentSpec(kind=AgentKind.EVENTS))
    while host.now_us < 100 * 10**6:
        host.step(step_s)
    sample = host.observe().host.domains[0].sample
    assert sample is not None
    assert (sample.seen_s, sample.used_kib, sample.swapped_kib) == (90.1, 500, 0)
    assert (sample.stall_us, host.reports) == (26_976_728, 37)


def test_reports_of_a_silent_guest_never_come() -> None:
    host = one_guest(load=(LoadPoint(1.0, 3000),))
    host.step(100.0)
    assert host.observe().host.domains[0].sample is None
    assert (host.reports, host.looks_next_us) == (0, None)


def test_a_guest_without_load_never_stalls() -> None:
    host = one_guest()
    host.step(100.0)
    assert host.stall_s() == 0.0


def test_the_wanted_size_follows_the_load() -> None:
    host = one_guest(load=(LoadPoint(1.0, 2000), LoadPoint(3.0, 500)))
    assert [host.guests[1].wanted_kib(at_s * 10**6) for at_s in (0, 1, 2, 3, 99)] == [0, 2000, 2000, 500, 500]


def test_time_does_not_run_backwards() -> None:
    host = one_guest()
    host.step(1.0)
    with pytest.raises(InvalidValue, match="end_us"):
        host.advance_to(0)


balloons = st.builds(
    BalloonSpec,
    rate_kib_s=st.floats(0.5, 5000),
    delay_s=st.floats(0, 3),
    floor_kib=st.integers(0, 3000),
    ceiling_kib=st.integers(0, 3000),
    period_s=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
    inaccuracy_kib=st.integers(0, 8),
    stuck=st.booleans(),
)


@given(balloons, st.lists(st.integers(1, 2_000_000), max_size=30), st.integers(0, 5000))
@settings(deadline=None)
def test_time_passed_in_pieces_ends_as_time_passed_at_once(
    balloon: BalloonSpec, pieces_us: list[int], target_kib: int
) -> None:
    at_once, in_pieces = one_guest(balloon), one_guest(balloon)
    for host in (at_once, in_pieces):
        ask(host, target_kib)
    at_once.advance_to(sum(pieces_us))
    for piece_us in pieces_us:
        in_pieces.advance_to(in_pieces.now_us + piece_us)
    assert in_pieces.observe() == at_once.observe()
    assert in_pieces.ledger.moved_kib == at_once.ledger.moved_kib


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 6000), st.floats(0.01, 5.0)), min_size=1, max_size=20
    ),
    st.sampled_from([0.0, 500.0]),
)
@settings(max_examples=60, deadline=None)
def test_memory_is_neither_made_nor_lost(asks: list[tuple[int, int, float]], scrub_kib_s: float) -> None:
    guests = tuple(
        GuestSpec(
            domid=domid,
            dynamic_min_kib=0,
            dynamic_max_kib=6000,
            target_kib=2000,
            balloon=BalloonSpec(rate_kib_s=700.0 * domid, delay_s=0.3 * domid),
        )
        for domid in (1, 2, 3)
    )
    host = SimHost(Scenario(host=HostSpec(free_kib=1500, scrub_kib_s=scrub_kib_s), guests=guests))
    for domid, target_kib, time_s in asks:
        host.write_target(domid, target_kib)
        host.write_maxmem(domid, 5000)
        host.step(time_s)
        seen = host.observe().host
        held_kib = sum(domain.actual_kib for domain in seen.domains)
        assert seen.free_kib + seen.scrub_kib + held_kib == seen.total_kib
        assert min(seen.free_kib, seen.scrub_kib) >= 0
        assert all(domain.actual_kib <= 5000 for domain in seen.domains)
