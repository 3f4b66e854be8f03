"""A simulated host as pure physics: guests, free memory, scrubbing, maxmem, and a ledger of what happened.

Deterministic and without I/O, on a virtual clock of whole microseconds. `apply` and `observe` are what a
daemon does to it; the rest is what the world does. What a guest takes is limited by its maxmem and by
what is free; freed pages may have to be scrubbed first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xcpmem.engine.model import (
    Action,
    DeleteReservation,
    HostState,
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
from xcpmem.engine.remains import Remains
from xcpmem.errors import DomainVanished, InvalidValue
from xcpmem.specs import HOST_CPUS, MICROSECONDS_PER_SECOND, microseconds
from xcpmem.xen.driver import Look
from xcpmem.xen.simguest import SimGuest
from xcpmem.xen.simledger import Ledger
from xcpmem.xen.simpages import FreePages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.scenario import Scenario
    from xcpmem.specs import GuestSpec
    from xcpmem.xen.driver import DomainDescription


class SimHost:
    """A host and its guests on a virtual clock.

    `version` counts everything that changed, `reports` what guests' agents said.

    Args:
        scenario: how they start; its script is not acted out here.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._now_us = 0
        self._total_kib = scenario.host.total_kib
        self._pages = FreePages(scenario.host.free_kib, scenario.host.scrub_kib_s)
        self._guests: dict[int, SimGuest] = {}
        self._moving: set[int] = set()
        self._reporting: set[int] = set()
        self._reservations: dict[str, Reservation] = {}
        self._held_kib = 0
        self._reserved_kib = 0
        self._descriptions: Mapping[int, DomainDescription] | None = None
        self.version = 0
        self.reports = 0
        self.ledger = Ledger(min_free_kib=scenario.host.free_kib)
        for spec in scenario.guests:
            self._insert(SimGuest(spec, scenario.uuid_of(spec), 0))

    @property
    def now_us(self) -> int:
        """Virtual time since the start, microseconds."""
        return self._now_us

    @property
    def total_kib(self) -> int:
        """All memory that is still there, KiB."""
        return self._total_kib

    @property
    def free_kib(self) -> int:
        """What can be used at once, KiB."""
        return self._pages.free_kib

    @property
    def scrub_kib(self) -> int:
        """What was freed and is not clean yet, KiB."""
        return self._pages.scrub_kib

    @property
    def physical_free_kib(self) -> int:
        """What no domain holds, scrubbed or not, KiB."""
        return self._pages.physical_kib

    @property
    def is_active(self) -> bool:
        """Whether anything would change if only time passed."""
        return bool(self._moving or self.scrub_kib)

    @property
    def looks_next_us(self) -> int | None:
        """When a guest's agent looks at its guest the next time and may say something; None: never."""
        speakers = [self._guests[domid] for domid in self._reporting]
        looks_us = [each.agent.looks_next_us for each in speakers if each.lifecycle is Lifecycle.RUNNING]
        return min((look_us for look_us in looks_us if look_us is not None), default=None)

    @property
    def guests(self) -> Mapping[int, SimGuest]:
        """The guests by rising domid; to be looked at, not changed."""
        return self._guests

    @property
    def reservations(self) -> Mapping[str, Reservation]:
        """The reservations by their ids, in the order in which they were recorded."""
        return self._reservations

    def guest(self, domid: int) -> SimGuest:
        """Find a guest.

        Raises:
            DomainVanished: there is none of that domid.
        """
        guest = self._guests.get(domid)
        if guest is None:
            raise DomainVanished(f"domain {domid} does not exist")
        return guest

    def reservation_of(self, domid: int) -> Reservation | None:
        """Find the reservation that was transferred to a domain and not deleted since."""
        return next((each for each in self._reservations.values() if each.domid == domid), None)

    def step(self, dt_s: float) -> bool:
        """Let time pass, seconds; see `advance_to`."""
        return self.advance_to(self._now_us + microseconds(dt_s))

    def advance_to(self, end_us: int) -> bool:
        """Let time pass: pages are scrubbed, the guests move, their agents look; in the order of domids.

        If more is promised than there is, then it is so for a while: that goes into the ledger.

        Args:
            end_us: until this virtual time, microseconds; not before now.

        Returns:
            Whether anything changed.

        Raises:
            InvalidValue: the time is past.
        """
        if end_us < self._now_us:
            raise InvalidValue("end_us", end_us)
        if end_us > self._now_us:
            self.audit()
        before = self.version
        while (look_us := self.looks_next_us) is not None and look_us <= end_us:
            self._move(max(look_us, self._now_us))
            self._let_agents_look()
        self._move(end_us)
        return self.version != before

    def _move(self, end_us: int) -> None:
        """Let balloons work until a virtual time."""
        start_us, self._now_us = self._now_us, end_us
        self.version += self._pages.scrub(end_us - start_us)
        for domid in sorted(self._moving):
            guest = self._guests[domid]
            held_kib = guest.held_kib
            moved_kib = guest.move(start_us, end_us, self.free_kib)
            if moved_kib:
                self._held_kib += guest.held_kib - held_kib
                self._pages.release(-moved_kib)
                self.ledger.moved_kib += abs(moved_kib)
                self.ledger.settled_us = end_us
                self._note(guest)
        self.ledger.min_free_kib = min(self.ledger.min_free_kib, self.physical_free_kib)

    def _let_agents_look(self) -> None:
        for domid in sorted(self._reporting):
            guest = self._guests[domid]
            look_us = guest.agent.looks_next_us if guest.lifecycle is Lifecycle.RUNNING else None
            if look_us is not None and look_us <= self._now_us and guest.let_agent_look(self._now_us):
                self.version += 1
                self.reports += 1

    def observe(self) -> Look:
        """Look at everything, as a driver does."""
        if self._descriptions is None:
            self._descriptions = {domid: guest.describe() for domid, guest in self._guests.items()}
        host = HostState(
            total_kib=self._total_kib,
            free_kib=self.free_kib,
            scrub_kib=self.scrub_kib,
            slush_kib=self._scenario.host.slush_kib,
            domains=tuple(guest.state() for guest in self._guests.values()),
            reservations=tuple(self._reservations.values()),
        )
        return Look(host, self._descriptions, cpus=HOST_CPUS)

    def apply(self, action: Action) -> None:
        """Carry out one action of a daemon; doing it twice is the same as once.

        One that promises more than there is goes into the ledger at once.

        Raises:
            DomainVanished: the domain is gone.
            InvalidValue: no right-minded daemon does that: a target above maxmem, a maxmem below the
                target, a range upside down, an offset (these guests have none).
        """
        before_kib = self._excess_kib
        self._carry_out(action)
        self._audit_promise(before_kib)

    def audit(self) -> None:
        """Note in the ledger if more is promised than there is.

        What the world does in no time may be mended in no time, so time that passes is what calls this; at
        the end of a run somebody else must.
        """
        self.ledger.overcommit_kib = max(self.ledger.overcommit_kib, self._excess_kib)

    def _carry_out(self, action: Action) -> None:
        match action:
            case SetTarget(domid, target_kib):
                self._refuse_if(not 0 <= target_kib <= self.guest(domid).maxmem_kib, "target_kib", target_kib)
                self.write_target(domid, target_kib)
            case SetMaxmem(domid, maxmem_kib):
                self._refuse_if(maxmem_kib < self.guest(domid).target_kib, "maxmem_kib", maxmem_kib)
                self._set_maxmem(self.guest(domid), maxmem_kib)
            case SetDynamicMin(domid, min_kib):
                self._refuse_if(min_kib > self.guest(domid).dynamic_max_kib, "dynamic_min_kib", min_kib)
                self.write_dynamic_range(domid, min_kib, self.guest(domid).dynamic_max_kib)
            case SetDynamicMax(domid, max_kib):
                self._refuse_if(max_kib < self.guest(domid).dynamic_min_kib, "dynamic_max_kib", max_kib)
                self.write_dynamic_range(domid, self.guest(domid).dynamic_min_kib, max_kib)
            case SetMemoryOffset(domid, offset_kib):
                self.guest(domid)
                self._refuse_if(offset_kib != 0, "offset_kib", offset_kib)
            case SetUncooperative(domid, uncooperative):
                self.guest(domid).uncooperative = uncooperative
                self._note(self.guest(domid))
            case RecordReservation(reservation):
                self._reservations[reservation.reservation_id] = reservation
                self._recount()
            case TransferReservation(reservation, domid):
                self._transfer(reservation, domid)
            case DeleteReservation(reservation):
                self._reservations.pop(reservation.reservation_id, None)
                self._recount()

    def write_target(self, domid: int, target_kib: int) -> None:
        """Set a target as xenstore takes it: any size, KiB. Raises DomainVanished."""
        guest = self.guest(domid)
        if guest.target_kib != target_kib:
            guest.target_kib = target_kib
            self.ledger.target_changes += 1
            self.ledger.settled_us = self._now_us
            self._note(guest)

    def write_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Set a maxmem as Xen takes it: any size, KiB. Raises DomainVanished."""
        before_kib = self._excess_kib
        self._set_maxmem(self.guest(domid), maxmem_kib)
        self._audit_promise(before_kib)

    def write_dynamic_range(self, domid: int, min_kib: int, max_kib: int) -> None:
        """Set a range as xenstore takes it, KiB; upside down it pins the guest. Raises DomainVanished."""
        guest = self.guest(domid)
        guest.dynamic_min_kib, guest.dynamic_max_kib = min_kib, max_kib
        self._note(guest)

    def add_guest(self, spec: GuestSpec, size_kib: int, *, reservation_id: str | None = None) -> None:
        """Let a guest appear with that much memory; its reservation is gone in the same instant.

        Args:
            spec: the guest.
            size_kib: what it holds, KiB: its actual, target and maxmem.
            reservation_id: what it was reserved under, if it was.

        Raises:
            InvalidValue: the domid is taken, or there is not so much free.
        """
        self._refuse_if(spec.domid in self._guests, "domid", spec.domid)
        self._refuse_if(size_kib > self.physical_free_kib, "size_kib", size_kib)
        before_kib = self._excess_kib
        if reservation_id is not None:
            self._reservations.pop(reservation_id, None)
        self._take(size_kib)
        self._insert(SimGuest(spec, self._scenario.uuid_of(spec), self._now_us, size_kib))
        self._recount()
        self._audit_promise(before_kib)

    def remove_guest(self, domid: int) -> None:
        """Let a guest end: gone at once, its pages free. Raises DomainVanished."""
        guest = self.guest(domid)
        self.ledger.stall_us += guest.count_stall(self._now_us)
        del self._guests[domid]
        self._moving.discard(domid)
        self._reporting.discard(domid)
        self._held_kib -= guest.held_kib
        self._pages.release(guest.actual_kib)
        self._descriptions = None
        self._recount()

    def set_balloon(self, domid: int, changes: Mapping[str, object]) -> None:
        """Change a guest's character from now on. Raises DomainVanished."""
        guest = self.guest(domid)
        guest.change_balloon(changes)
        self._descriptions = None
        self._note(guest)

    def set_lifecycle(self, domid: int, lifecycle: Lifecycle) -> None:
        """Pause a guest, or let it run on; only running guests move. Raises DomainVanished."""
        guest = self.guest(domid)
        self._held_kib -= guest.held_kib
        guest.lifecycle = lifecycle
        self._held_kib += guest.held_kib
        self._note(guest)
        self._recount()

    def take_memory(self, size_kib: int) -> None:
        """Let free memory vanish for good, as if someone else had used it.

        Raises:
            InvalidValue: there is not so much free.
        """
        self._refuse_if(size_kib > self.physical_free_kib, "size_kib", size_kib)
        self._take(size_kib)
        self._total_kib -= size_kib
        self.version += 1

    def stall_s(self) -> float:
        """Sum up the time that guests with a load lost for want of memory, by the guest model, seconds."""
        living_us = sum(guest.count_stall(self._now_us) for guest in self._guests.values())
        return (self.ledger.stall_us + living_us) / MICROSECONDS_PER_SECOND

    def _transfer(self, reservation: Reservation, domid: int) -> None:
        guest, name = self.guest(domid), reservation.reservation_id
        self._refuse_if(name not in self._reservations, "reservation", name)
        self._reservations[name] = replace(reservation, domid=domid)
        guest.reservation_id = name
        guest.initial_reservation_kib = reservation.size_kib
        self._recount()
        self._set_maxmem(guest, max(guest.maxmem_kib, reservation.size_kib))
        self._note(guest)

    def _set_maxmem(self, guest: SimGuest, maxmem_kib: int) -> None:
        if guest.maxmem_kib != maxmem_kib:
            self._held_kib -= guest.held_kib
            guest.maxmem_kib = maxmem_kib
            self._held_kib += guest.held_kib
            self._note(guest)

    def _insert(self, guest: SimGuest) -> None:
        is_last = not self._guests or guest.spec.domid > next(reversed(self._guests))
        self._guests[guest.spec.domid] = guest
        if not is_last:
            self._guests = dict(sorted(self._guests.items()))
        self._held_kib += guest.held_kib
        self._descriptions = None
        if guest.agent.looks_next_us is not None:
            self._reporting.add(guest.spec.domid)
        self._note(guest)

    def _note(self, guest: SimGuest) -> None:
        """Keep the set of guests that move, and tell that something changed."""
        self.version += 1
        guest.note_change(self._now_us)
        guest.agent.wake(self._now_us)
        if guest.goal_kib == guest.actual_kib:
            self._moving.discard(guest.spec.domid)
        else:
            self._moving.add(guest.spec.domid)

    def _take(self, size_kib: int) -> None:
        self._pages.take(size_kib)
        self.ledger.min_free_kib = min(self.ledger.min_free_kib, self.physical_free_kib)

    def _recount(self) -> None:
        """Count what was not transferred, and what is kept for a VM; the rest is in what domains hold."""
        self.version += 1
        standing = [each for each in self._reservations.values() if each.domid is None or each.vm_uuid]
        domains = [guest.state() for guest in self._guests.values()]
        self._reserved_kib = Remains.of(domains, standing).reserved_kib

    @property
    def _excess_kib(self) -> int:
        """By how much more is promised than there is, KiB; negative: so much is nobody's."""
        return self._held_kib + self._reserved_kib - self._total_kib

    def _audit_promise(self, before_kib: int) -> None:
        """Audit a write if it promised more than was promised before; one that promises less mends."""
        if self._excess_kib > before_kib:
            self.audit()

    @staticmethod
    def _refuse_if(wrong: bool, name: str, value: object) -> None:
        if wrong:
            raise InvalidValue(name, value)
