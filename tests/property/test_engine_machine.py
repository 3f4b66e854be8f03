"""The engine against everything that happens to a host, in any order.

A state machine draws a host and then starts, stops, pauses and restarts whatever there is, changes ranges,
asks for memory, kills the daemon between two actions, moves the clock, and makes balloon drivers late,
slow, stuck, inexact or deaf. `PlainHost` checks every action as it is applied; the machine checks what
must hold between steps, and that the host comes to rest when nobody wants anything any more.

The suite runs 20,000 steps. ``XCPMEM_MACHINE_STEPS=1000000`` in the environment runs as many as it says,
with other hosts every time::

    XCPMEM_MACHINE_STEPS=1000000 python -m pytest tests/property/test_engine_machine.py
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.builders import CAUTION, MIB, a_request, uuid_of
from tests.plainhost import Guest, Manner, PlainHost, Ring
from xcpmem.engine.model import (
    DeleteReservation,
    DynamicRange,
    Granted,
    Lifecycle,
    Reservation,
    TransferReservation,
)
from xcpmem.engine.parties import PROBE_KIB
from xcpmem.engine.targets import BALANCE_TOLERANCE_KIB, TOLERANCE_SHARE

STEPS_IN_CI: Final = 20_000
STEPS_PER_HOST: Final = 100
STEPS_TAKEN_PER_HOST: Final = 75
"""Hypothesis ends some hosts' lives early; on average it takes more steps than this."""

QUIET_S: Final = 60.0
SETTLED_WITHIN_S: Final = 1200.0

picks = st.integers(0, 59)
sizes = st.one_of(st.integers(0, 64).map(lambda size: size * 32 * MIB), st.integers(0, 2048 * MIB))
small_sizes = sizes.map(lambda size_kib: size_kib // 4)
rates = st.sampled_from([1_000_000.0, 250_000.0, 64_000.0])
manners = st.one_of(
    st.builds(Manner, rate_kib_s=rates, short_kib=st.sampled_from([0, 4])),
    st.builds(Manner, rate_kib_s=rates, delay_s=st.sampled_from([0.5, 2.0, 4.0, 8.0])),
    st.builds(Manner, rate_kib_s=rates, pause_s=st.sampled_from([0.25, 1.5, 4.0, 8.0])),
    st.builds(Manner, rate_kib_s=rates, short_kib=st.sampled_from([12, 100, 1000])),
    st.builds(Manner, rate_kib_s=rates, floor_kib=sizes),
    st.builds(Manner, rate_kib_s=rates, ceiling_kib=sizes),
    st.just(Manner(rate_kib_s=0.0)),
)


@st.composite
def guests(draw: st.DrawFn) -> Guest:
    low_kib, width_kib, within_kib = draw(small_sizes), draw(sizes), draw(sizes)
    actual_kib = low_kib + within_kib % (width_kib + 1)
    has_range = draw(st.integers(0, 4)) > 0
    return Guest(
        domid=0,
        low_kib=low_kib if has_range else actual_kib,
        high_kib=low_kib + width_kib if has_range else actual_kib,
        actual_kib=actual_kib,
        manner=draw(manners),
        can_balloon=draw(st.integers(0, 5)) > 0,
        has_range=has_range,
    )


class HostMachine(RuleBasedStateMachine):
    """Whatever may happen to a host; each rule is one thing that does."""

    steps = 0

    @initialize(
        drawn=st.lists(guests(), max_size=5),
        free_kib=sizes,
        extra_kib=st.one_of(st.just(0), sizes),
        slush_kib=st.sampled_from([0, 72 * MIB]),
    )
    def a_host(self, drawn: list[Guest], free_kib: int, extra_kib: int, slush_kib: int) -> None:
        for domid, guest in enumerate(drawn):
            guest.domid, guest.uuid = domid, uuid_of(domid)
            guest.maxmem_kib += extra_kib // len(drawn)
        self.host = PlainHost(drawn, free_kib=free_kib + extra_kib, slush_kib=slush_kib)
        self.ring = Ring(self.host)
        self.next_domid = len(drawn)
        self.asked = 0
        self.granted: dict[str, int] = {}

    def pick(self, number: int) -> Guest:
        domids = sorted(self.host.guests)
        return self.host.guests[domids[number % len(domids)]]

    def has_guests(self) -> bool:
        return bool(self.host.guests)

    def turn(self, dies_after: int | None = None) -> None:
        self.ring.turn(dies_after)
        self.note_answers()

    def note_answers(self) -> None:
        verdicts = self.ring.answers.values()
        self.granted |= {v.request_id: v.size_kib for v in verdicts if isinstance(v, Granted)}
        self.ring.answers.clear()

    @rule(for_s=st.sampled_from([0.05, 0.3, 1.0, 3.0]))
    def time_passes(self, for_s: float) -> None:
        self.ring.run(for_s, least_tick_s=0.25)
        self.note_answers()

    @rule(
        min_kib=small_sizes,
        more_kib=sizes,
        exact=st.booleans(),
        for_a_vm=st.booleans(),
        timeout_s=st.sampled_from([0.0, 2.0, 20.0, 60.0]),
    )
    def somebody_asks_for_memory(
        self, min_kib: int, more_kib: int, exact: bool, for_a_vm: bool, timeout_s: float
    ) -> None:
        self.asked += 1
        self.ring.ask(
            a_request(
                min_kib,
                min_kib if exact else min_kib + more_kib,
                name=f"r{self.asked}",
                order=self.asked,
                deadline_s=self.ring.now_s + timeout_s,
                vm_uuid=f"vm{self.asked}" if for_a_vm else "",
            )
        )
        self.turn()

    @precondition(has_guests)
    @rule(number=picks, low_kib=small_sizes, width_kib=st.one_of(st.just(0), sizes))
    def somebody_changes_a_range(self, number: int, low_kib: int, width_kib: int) -> None:
        self.ring.ranges[self.pick(number).uuid] = DynamicRange(low_kib, low_kib + width_kib)

    @rule(number=picks)
    def somebody_deletes_a_reservation(self, number: int) -> None:
        names = sorted(self.host.reservations)
        if names:
            self.delete(self.host.reservations[names[number % len(names)]])

    def delete(self, reservation: Reservation) -> None:
        self.host.apply(DeleteReservation(reservation))
        self.granted.pop(reservation.reservation_id, None)

    @rule(number=picks, manner=manners, can_balloon=st.integers(0, 5).map(bool))
    def a_vm_starts(self, number: int, manner: Manner, can_balloon: bool) -> None:
        free = sorted(
            name
            for name, r in self.host.reservations.items()
            if r.domid is None and not any(r.is_for(guest.seen()) for guest in self.host.guests.values())
        )
        if not free:
            return
        reservation = self.host.reservations[free[number % len(free)]]
        domid, self.next_domid = self.next_domid, self.next_domid + 1
        spare_kib = self.host.look().spare_kib
        self.host.guests[domid] = Guest(
            domid,
            low_kib=reservation.size_kib,
            high_kib=reservation.size_kib,
            actual_kib=0,
            manner=manner,
            can_balloon=can_balloon,
            lifecycle=Lifecycle.BUILDING,
            uuid=reservation.vm_uuid,
            initial_reservation_kib=reservation.size_kib if reservation.vm_uuid else 0,
        )
        assert self.host.look().spare_kib == spare_kib
        self.host.apply(TransferReservation(reservation, domid))
        assert self.host.look().spare_kib == spare_kib

    @rule(part=st.sampled_from([1, 2, 3]))
    def a_vm_is_built_further(self, part: int) -> None:
        guest = next((g for g in self.host.guests.values() if g.lifecycle is Lifecycle.BUILDING), None)
        if guest is None:
            return
        spare_kib = self.host.look().spare_kib
        size_kib = guest.initial_reservation_kib
        step_kib = min(size_kib - guest.actual_kib, -(-size_kib // part))
        guest.actual_kib += step_kib
        self.host.free_kib -= step_kib
        if guest.actual_kib == size_kib:
            guest.target_kib = size_kib
            guest.lifecycle = Lifecycle.RUNNING
            guest.initial_reservation_kib = 0
            for reservation in [r for r in self.host.reservations.values() if r.domid == guest.domid]:
                self.delete(reservation)
        assert self.host.look().spare_kib == spare_kib

    @precondition(has_guests)
    @rule(number=picks)
    def a_vm_ends(self, number: int) -> None:
        self.host.end_domain(self.pick(number).domid)

    @precondition(has_guests)
    @rule(number=picks, kept_kib=st.sampled_from([0, 0, 4 * MIB]))
    def a_vm_begins_to_die(self, number: int, kept_kib: int) -> None:
        spare_kib = self.host.look().spare_kib
        self.host.kill_domain(self.pick(number).domid, kept_kib)
        assert self.host.look().spare_kib >= spare_kib

    @precondition(has_guests)
    @rule(number=picks)
    def a_vm_is_paused_or_goes_on(self, number: int) -> None:
        paused = [guest for guest in self.host.guests.values() if guest.lifecycle is Lifecycle.PAUSED]
        if paused:
            paused[0].lifecycle = Lifecycle.RUNNING
        elif (guest := self.pick(number)).lifecycle is Lifecycle.RUNNING:
            guest.lifecycle = Lifecycle.PAUSED

    @precondition(has_guests)
    @rule(number=picks, manner=manners)
    def a_driver_changes_its_manner(self, number: int, manner: Manner) -> None:
        self.pick(number).manner = manner

    @precondition(has_guests)
    @rule(number=picks)
    def a_driver_comes_or_goes(self, number: int) -> None:
        deaf = [guest for guest in self.host.guests.values() if not guest.can_balloon]
        guest = deaf[0] if deaf else self.pick(number)
        guest.can_balloon = not guest.can_balloon

    @precondition(has_guests)
    @rule(number=picks)
    def a_domain_cannot_be_touched_for_a_turn(self, number: int) -> None:
        domid = self.pick(number).domid
        self.ring.left_alone = frozenset({domid})
        before = self.host.guests[domid].seen()
        self.turn()
        assert self.host.guests[domid].seen() == before
        self.ring.left_alone = frozenset()

    @rule()
    def the_daemon_restarts(self) -> None:
        self.ring.restart()

    @rule(actions=st.integers(0, 12))
    def the_daemon_dies_between_two_actions(self, actions: int) -> None:
        self.turn(dies_after=actions)

    @rule()
    def the_clock_jumps(self) -> None:
        self.ring.clock_ahead_s += 3600.0
        self.turn()

    @invariant()
    def nobody_was_promised_what_is_not_there(self) -> None:
        type(self).steps += 1
        assert not self.host.starved

    @invariant()
    def no_reservation_is_lost(self) -> None:
        stand = {name: r.size_kib for name, r in self.host.reservations.items()}
        assert stand | self.granted == stand

    @invariant()
    def the_engine_counts_as_the_bookkeeper_does(self) -> None:
        assert self.host.look().spare_kib == self.host.spare_kib - self.host.scrub_kib

    @invariant()
    def no_request_outlives_its_deadline(self) -> None:
        assert all(request.deadline_s > self.ring.now_s for request in self.ring.requests.values())

    def teardown(self) -> None:
        settled = self.ring.settle(quiet_s=QUIET_S, within_s=SETTLED_WITHIN_S)
        assert settled, f"targets still change long after the last wish\n{self.describe()}"
        assert not self.ring.requests
        # A slow guest may still be on its way, though nobody's target has changed for long.
        self.ring.run(QUIET_S)
        assert self.ring.turn().stable, self.describe()
        assert not self.host.starved
        self.nobody_keeps_what_it_cannot_use()
        self.everybody_has_a_fair_share()

    def movable(self) -> list[Guest]:
        return [g for g in self.host.guests.values() if g.can_balloon and g.lifecycle is Lifecycle.RUNNING]

    def nobody_keeps_what_it_cannot_use(self) -> None:
        for guest in self.movable():
            if guest.has_range and guest.actual_kib >= guest.low_kib:
                most_kib = max(PROBE_KIB, guest.manner.short_kib) + tolerance_kib(guest)
                assert guest.held_kib - guest.actual_kib <= most_kib, self.describe()

    def everybody_has_a_fair_share(self) -> None:
        beliefs, movable = self.ring.beliefs.by_domid, self.movable()
        if short := [g for g in movable if g.target_kib < g.low_kib]:
            assert all(self.host.spare_kib < g.low_kib - g.held_kib for g in short), self.describe()
            return
        plain = [
            Share.of(g)
            for g in movable
            if g.high_kib > g.low_kib and beliefs[g.domid].floor_kib is beliefs[g.domid].ceiling_kib is None
        ]
        if plain:
            poorest, richest = min(plain), max(plain)
            assert richest.part - poorest.part <= richest.slack + poorest.slack, self.describe()
            if poorest.part + poorest.slack < 1:
                most_kib = sum(tolerance_kib(g) + CAUTION.inaccuracy_kib for g in movable)
                assert self.host.spare_kib <= most_kib, self.describe()

    def describe(self) -> str:
        return "\n".join(
            [f"slush {self.host.slush_kib} spare {self.host.spare_kib}"]
            + [f"{guest}\n  {self.ring.beliefs.by_domid.get(n)}" for n, guest in self.host.guests.items()]
        )


class Share(NamedTuple):
    """How far a guest's target is on its way through the range, and how far that may be off."""

    part: float
    slack: float

    @classmethod
    def of(cls, guest: Guest) -> Share:
        width_kib = guest.high_kib - guest.low_kib
        return cls((guest.target_kib - guest.low_kib) / width_kib, tolerance_kib(guest) / width_kib)


def tolerance_kib(guest: Guest) -> int:
    tolerable_kib = (guest.high_kib - guest.low_kib) // TOLERANCE_SHARE
    return max(2 * CAUTION.inaccuracy_kib, min(BALANCE_TOLERANCE_KIB, tolerable_kib)) + 1


def test_engine_keeps_every_promise_whatever_happens() -> None:
    asked = os.environ.get("XCPMEM_MACHINE_STEPS")
    steps = int(asked) if asked else STEPS_IN_CI
    HostMachine.steps = 0
    run_state_machine_as_test(
        HostMachine,
        settings=settings(
            max_examples=-(-steps // STEPS_TAKEN_PER_HOST),
            stateful_step_count=STEPS_PER_HOST,
            derandomize=asked is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert HostMachine.steps >= steps
