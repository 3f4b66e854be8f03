"""The plainest host that can prove the engine wrong: a few guests, a ring, and a strict bookkeeper.

It is independent of the simulated hosts of the product on purpose: what is counted here is counted by its
own formulas, and every single action is checked at the moment it is applied, so that a daemon that dies
between any two actions is covered.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from tests.builders import PROPORTIONAL, uuid_of
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.model import (
    Action,
    DeleteReservation,
    DomainState,
    DynamicRange,
    Granted,
    HostState,
    Lifecycle,
    RecordReservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
    TransferReservation,
    Wishes,
)
from xcpmem.engine.planner import Plan, PlannerSettings, plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xcpmem.engine.model import MemoryRequest, Reservation, Verdict

LONGEST_TICK_S: Final = 30.0
"""The ring's safety look: it never sleeps longer."""

DYING_KIB_S: Final = 1_000_000
"""As fast does a domain that dies give its pages back."""

ROUNDS: Final = 4
"""A turn whose verdicts end some wishes is followed by another at once, at most this often."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a guest's balloon driver behaves; sizes KiB, times seconds.

    Args:
        rate_kib_s: its speed; 0 is a guest that never moves.
        short_kib: it stops this short of its target.
        delay_s: it begins this late after it was asked.
        pause_s: it works for so long and pauses for as long, over and over; 0 is never.
        floor_kib: it does not shrink below this.
        ceiling_kib: it does not grow above this.
    """

    rate_kib_s: float = 512_000.0
    short_kib: int = 0
    delay_s: float = 0.0
    pause_s: float = 0.0
    floor_kib: int = 0
    ceiling_kib: int | None = None


@dataclass
class Guest:
    """A domain with its driver; ``low_kib`` and ``high_kib`` are its dynamic range.

    Without ``has_range`` nobody wrote a range for it, and it is pinned where it was found.
    """

    domid: int
    low_kib: int
    high_kib: int
    actual_kib: int
    manner: Manner = field(default_factory=Manner)
    can_balloon: bool = True
    lifecycle: Lifecycle = Lifecycle.RUNNING
    target_kib: int = -1
    maxmem_kib: int = -1
    uuid: str = ""
    initial_reservation_kib: int = 0
    has_range: bool = True
    offset_kib: int | None = 0
    uncooperative: bool = False
    asked_s: float | None = None
    carry_kib: float = 0.0
    kept_kib: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    shown: DomainState | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.keys = {"min": self.low_kib, "max": self.high_kib} if self.has_range else {}
        self.target_kib = self.actual_kib if self.target_kib < 0 else self.target_kib
        self.maxmem_kib = max(self.target_kib, self.actual_kib) if self.maxmem_kib < 0 else self.maxmem_kib
        self.uuid = self.uuid or uuid_of(self.domid)

    def write_key(self, key: str, size_kib: int) -> None:
        """Write one end of the range; it is a range once both are written."""
        self.keys[key] = size_kib
        if len(self.keys) == 2:
            self.low_kib, self.high_kib, self.has_range = self.keys["min"], self.keys["max"], True

    @property
    def held_kib(self) -> int:
        """What nobody else may count on; Xen gives a dying domain no more."""
        if self.lifecycle is Lifecycle.DYING:
            return self.actual_kib
        return max(self.actual_kib, self.maxmem_kib, self.initial_reservation_kib)

    @property
    def able(self) -> bool:
        """Whether its driver works at all."""
        return self.can_balloon and self.lifecycle is Lifecycle.RUNNING and self.manner.rate_kib_s > 0

    @property
    def off_kib(self) -> int:
        """How far it still has to go, its own inexactness taken off; negative: give back."""
        gap_kib = self.target_kib - self.actual_kib
        distance_kib = max(0, abs(gap_kib) - self.manner.short_kib)
        return distance_kib if gap_kib > 0 else -distance_kib

    def step_kib(self, now_s: float, dt_s: float) -> int:
        """Tell what its driver takes (or, negative, gives) in the next ``dt_s`` seconds."""
        off_kib = self.off_kib
        if not off_kib or not self.able:
            self.asked_s = None
            self.carry_kib = 0.0
            return 0
        if self.asked_s is None:
            self.asked_s = now_s
        works_s = max(0.0, min(dt_s, now_s + dt_s - self.asked_s - self.manner.delay_s))
        if self.manner.pause_s and int(now_s / self.manner.pause_s) % 2:
            works_s = 0.0
        self.carry_kib += works_s * self.manner.rate_kib_s
        most_kib = int(self.carry_kib)
        self.carry_kib -= most_kib
        if off_kib < 0:
            return -min(-off_kib, most_kib, max(0, self.actual_kib - self.manner.floor_kib))
        top_kib = self.maxmem_kib
        if self.manner.ceiling_kib is not None:
            top_kib = min(top_kib, self.manner.ceiling_kib)
        return min(off_kib, most_kib, max(0, top_kib - self.actual_kib))

    def seen(self) -> DomainState:
        """Show it to the engine; as the very same object while nothing changes, as drivers do."""
        state = DomainState(
            domid=self.domid,
            uuid=self.uuid,
            dynamic_range=DynamicRange(self.low_kib, self.high_kib),
            target_kib=self.target_kib,
            actual_kib=self.actual_kib,
            maxmem_kib=self.maxmem_kib,
            can_balloon=self.can_balloon,
            lifecycle=self.lifecycle,
            initial_reservation_kib=self.initial_reservation_kib,
            has_range=self.has_range,
            uncooperative=self.uncooperative,
            offset_kib=self.offset_kib,
        )
        if self.shown is None or state != self.shown:
            self.shown = state
        return self.shown


class PlainHost:
    """Guests, free memory and reservations; refuses (by assertion) every action that breaks a promise."""

    def __init__(
        self, guests: Iterable[Guest], *, free_kib: int, slush_kib: int = 0, scrub_kib_s: float = 4e6
    ) -> None:
        self.guests = {guest.domid: guest for guest in guests}
        self.free_kib = free_kib
        self.scrub_kib = 0
        self.scrub_kib_s = scrub_kib_s
        self.slush_kib = slush_kib
        self.reservations: dict[str, Reservation] = {}
        self.total_kib = free_kib + sum(guest.actual_kib for guest in self.guests.values())
        self.now_s = 0.0
        self.starved: list[int] = []

    def __repr__(self) -> str:
        guests, kept = list(self.guests.values()), list(self.reservations.values())
        return f"PlainHost({guests}, free_kib={self.free_kib}, slush_kib={self.slush_kib}) with {kept}"

    @property
    def promised_kib(self) -> int:
        """What is held, may be taken at any moment, or is reserved."""
        held_kib = sum(guest.held_kib for guest in self.guests.values())
        dying_kib = {g.domid: g.actual_kib for g in self.guests.values() if g.lifecycle is Lifecycle.DYING}
        reserved_kib = 0
        for reservation in self.reservations.values():
            built_for = [domid for domid, g in self.guests.items() if reservation.is_for(g.seen())]
            if set(built_for) <= dying_kib.keys():
                open_kib = reservation.size_kib
                for domid in sorted(built_for) if reservation.domid is not None else ():
                    back_kib = min(dying_kib[domid], open_kib)
                    dying_kib[domid] -= back_kib
                    open_kib -= back_kib
                reserved_kib += open_kib
        return held_kib + reserved_kib

    @property
    def spare_kib(self) -> int:
        """What is neither promised nor slush."""
        return self.total_kib - self.slush_kib - self.promised_kib

    def look(self) -> HostState:
        """Show everything to the engine."""
        return HostState(
            total_kib=self.total_kib,
            free_kib=self.free_kib,
            scrub_kib=self.scrub_kib,
            slush_kib=self.slush_kib,
            domains=tuple(guest.seen() for _, guest in sorted(self.guests.items())),
            reservations=tuple(self.reservations.values()),
        )

    def apply(self, action: Action) -> None:
        """Carry out one action and check everything that must hold afterwards."""
        spare_before_kib = self.spare_kib
        match action:
            case RecordReservation(reservation):
                assert reservation.reservation_id not in self.reservations
                self.reservations[reservation.reservation_id] = reservation
            case DeleteReservation(reservation):
                self.reservations.pop(reservation.reservation_id, None)
            case TransferReservation(reservation, domid):
                guest = self.guests[domid]
                guest.initial_reservation_kib = guest.maxmem_kib = reservation.size_kib
                self.reservations[reservation.reservation_id] = replace(reservation, domid=domid)
            case _:
                self._touch(self.guests[action.domid], action)
        assert self.spare_kib >= min(0, spare_before_kib), f"{action} promises what is not there"

    def _touch(self, guest: Guest, action: Action) -> None:
        match action:
            case SetTarget(_, target_kib):
                assert guest.low_kib <= target_kib <= guest.high_kib, f"{action} leaves the dynamic range"
                assert target_kib <= guest.maxmem_kib, f"{action} comes before its maxmem"
                guest.target_kib = target_kib
            case SetMaxmem(_, maxmem_kib):
                assert maxmem_kib >= guest.target_kib, f"{action} comes before its target"
                guest.maxmem_kib = maxmem_kib
            case SetDynamicMin(_, min_kib):
                guest.write_key("min", min_kib)
            case SetDynamicMax(_, max_kib):
                guest.write_key("max", max_kib)
            case SetMemoryOffset(_, offset_kib):
                assert offset_kib != guest.offset_kib, f"{action} changes nothing"
                guest.offset_kib = offset_kib
            case SetUncooperative(_, uncooperative):
                assert uncooperative != guest.uncooperative, f"{action} changes nothing"
                guest.uncooperative = uncooperative
        assert guest.low_kib <= guest.high_kib, f"{action} turns the dynamic range over"

    def pass_time(self, dt_s: float) -> None:
        """Let the guests work; one that finds nothing free is noted in `starved`."""
        for guest in self.guests.values():
            step_kib = guest.step_kib(self.now_s, dt_s)
            if step_kib > self.free_kib:
                self.starved.append(guest.domid)
                step_kib = self.free_kib
            guest.actual_kib += step_kib
            self.free_kib -= step_kib
        self._bury(dt_s)
        scrubbed_kib = min(self.scrub_kib, int(self.scrub_kib_s * dt_s))
        self.scrub_kib -= scrubbed_kib
        self.free_kib += scrubbed_kib
        self.now_s += dt_s

    def kill_domain(self, domid: int, kept_kib: int) -> None:
        """A domain begins to die, for ever if somebody keeps some of its pages."""
        guest = self.guests[domid]
        guest.lifecycle, guest.kept_kib = Lifecycle.DYING, min(kept_kib, guest.actual_kib)

    def _bury(self, dt_s: float) -> None:
        """Let dying domains give back what nobody keeps from them."""
        for guest in [guest for guest in self.guests.values() if guest.lifecycle is Lifecycle.DYING]:
            given_kib = min(guest.actual_kib - guest.kept_kib, int(DYING_KIB_S * dt_s))
            guest.actual_kib -= given_kib
            self.scrub_kib += given_kib
            if not guest.actual_kib:
                del self.guests[guest.domid]

    def end_domain(self, domid: int) -> None:
        """A domain is gone; its memory has to be scrubbed."""
        self.scrub_kib += self.guests.pop(domid).actual_kib


class Ring:
    """Looks, thinks, touches; what a daemon does, without the daemon."""

    def __init__(self, host: PlainHost, settings: PlannerSettings | None = None) -> None:
        self.host = host
        self.settings = settings or PlannerSettings()
        self.ranges: dict[str, DynamicRange] = {}
        self.requests: dict[str, MemoryRequest] = {}
        self.left_alone: frozenset[int] = frozenset()
        self.beliefs = Beliefs()
        self.answers: dict[str, Verdict] = {}
        self.answered_s: dict[str, float] = {}
        self.clock_ahead_s = 0.0
        self.targets_written = 0

    @property
    def now_s(self) -> float:
        """The daemon's monotonic clock."""
        return self.host.now_s + self.clock_ahead_s

    def ask(self, request: MemoryRequest) -> None:
        """A client asks for memory."""
        self.requests[request.request_id] = request

    def restart(self) -> None:
        """The daemon dies and comes back: only what is in xenstore and in the store of wishes is left."""
        self.beliefs = Beliefs()
        self.requests.clear()

    def turn(self, dies_after: int | None = None) -> Plan:
        """One turn, and at once another while its verdicts change the wishes.

        Args:
            dies_after: the daemon is killed after that many actions and restarted.
        """
        for _ in range(ROUNDS):
            wishes = Wishes(self.ranges, tuple(self.requests.values()), self.left_alone)
            thought = plan(
                self.host.look(), wishes, self.beliefs, self.now_s, PROPORTIONAL, settings=self.settings
            )
            for action in thought.actions[:dies_after]:
                self.host.apply(action)
                self.targets_written += isinstance(action, SetTarget)
            if dies_after is not None and dies_after < len(thought.actions):
                self.restart()
                return thought
            self.beliefs = thought.beliefs
            for verdict in thought.verdicts:
                self._answer(verdict)
            if not thought.verdicts:
                break
        return thought

    def _answer(self, verdict: Verdict) -> None:
        request = self.requests.pop(verdict.request_id)
        if isinstance(verdict, Granted):
            assert request.min_kib <= verdict.size_kib <= request.max_kib
            assert self.host.reservations[verdict.request_id].size_kib == verdict.size_kib
        self.answers[verdict.request_id] = verdict
        self.answered_s[verdict.request_id] = self.host.now_s

    def run(self, for_s: float, *, least_tick_s: float = 0.05) -> Plan:
        """Turn for so many seconds of the guests' time, as often as each plan asks for."""
        end_s = self.host.now_s + for_s
        thought = self.turn()
        while (left_s := end_s - self.host.now_s) > 1e-9:
            tick_s = LONGEST_TICK_S if thought.look_again_s is None else thought.look_again_s
            self.host.pass_time(min(left_s, max(least_tick_s, tick_s)))
            thought = self.turn()
        return thought

    def settle(self, *, quiet_s: float, within_s: float, least_tick_s: float = 0.9) -> bool:
        """Turn until no target was written for ``quiet_s``; tell whether that happened in time."""
        end_s, quiet_until_s = self.host.now_s + within_s, self.host.now_s + quiet_s
        while self.host.now_s < min(end_s, quiet_until_s):
            written = self.targets_written
            self.run(least_tick_s, least_tick_s=least_tick_s)
            if self.targets_written > written or self.requests:
                quiet_until_s = self.host.now_s + quiet_s
        return self.host.now_s >= quiet_until_s
