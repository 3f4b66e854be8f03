"""The daemon of `xcpmem simulate`: the planner's ring on virtual time, answering the calls of a script.

It turns when the daemon would: when a call is made, when memory moved while the host is not at rest, when a
guest reported, when the plan asked for another look, and once in a while for safety. Killed, it loses its
beliefs and its callers; what stands in `Kept` is stored by the real daemon, and reservations stand with the
host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem import commands, script
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.model import (
    DeleteReservation,
    DynamicRange,
    Granted,
    HostState,
    MemoryRequest,
    Refused,
    SetTarget,
    Wishes,
)
from xcpmem.engine.planner import Plan, plan
from xcpmem.errors import (
    ConnectionLost,
    ConstraintOrder,
    DomainVanished,
    InvalidValue,
    NoReservation,
    UnknownReservation,
    XcpmemError,
)
from xcpmem.plugins import find_installed
from xcpmem.specs import FOLLOWS, MICROSECONDS_PER_SECOND, microseconds
from xcpmem.troubles import Orphans
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.engine.model import Action, Verdict
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.engine.reasons import Reason
    from xcpmem.scenario import Scenario
    from xcpmem.script import DaemonCall, ScriptCall
    from xcpmem.specs import GuestSpec
    from xcpmem.xen.simguest import SimGuest
    from xcpmem.xen.simhost import SimHost

WAIT_S: Final = 60.0
"""A request, or a balance, waits at most so long."""

SAFETY_LOOK_S: Final = 30.0
"""The ring looks at least so often: the daemon's default."""

_OWNER: Final = "script"

Planner = Callable[[HostState, Wishes, Beliefs, float, "ChosenPolicy"], Plan]
"""What decides, as `engine.planner.plan` does."""


@dataclass(slots=True)
class CallRecord:
    """One call of the script and what became of it.

    Args:
        line: the call.
        number: its place in the script.
        ended_us: virtual time of its answer, microseconds; None while it waits.
        error: code and parameters, None if it went well.
        value: the answer, as JSON has it.
    """

    line: ScriptCall
    number: int
    ended_us: int | None = None
    error: tuple[str, ...] | None = None
    value: object = None

    def succeed(self, now_us: int, value: object = None) -> None:
        """Answer the call."""
        self.ended_us, self.value = now_us, value

    def fail(self, now_us: int, error: XcpmemError) -> None:
        """Answer the call with an error."""
        self.ended_us, self.error = now_us, (error.code, *error.params)


@dataclass(slots=True)
class Kept:
    """What the daemon stores: it is there again after a kill.

    Args:
        policy: who should have how much.
        ranges: by VM uuid, what administrators wished.
        reservation_ids: by the names that the script gave, what was granted.
    """

    policy: ChosenPolicy
    ranges: dict[str, DynamicRange] = field(default_factory=dict)
    reservation_ids: dict[str, str] = field(default_factory=dict)

    def name(self, name: str, reservation_id: str) -> None:
        """Remember the script's name for a reservation, if it has one."""
        if name:
            self.reservation_ids[name] = reservation_id


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the ring did."""

    actions: tuple[Action, ...]
    verdicts: tuple[Verdict, ...]


class SimDaemon:
    """One life of the daemon, from its start to its kill.

    Args:
        scenario: what is acted out.
        host: the simulated host; its clock is the daemon's.
        kept: what was stored.
        broken: where broken invariants are noted, a sentence each.
        planner: who thinks; another one only to show what a safeguard is for.
    """

    def __init__(
        self, scenario: Scenario, host: SimHost, kept: Kept, broken: list[str], planner: Planner = plan
    ) -> None:
        self._scenario = scenario
        self._planner = planner
        self._host = host
        self._kept = kept
        self._broken = broken
        self._beliefs = Beliefs()
        self._plan: Plan | None = None
        self._turned_us = host.now_us
        self._requests: dict[str, tuple[MemoryRequest, CallRecord]] = {}
        self._balancing: list[tuple[int, CallRecord]] = []
        # the one session of a script lives to its end
        self._orphans = Orphans(is_owner=lambda _: True, patience_s=math.inf)

    @property
    def is_stable(self) -> bool:
        """Whether nothing moves or waits, as of the last turn."""
        return self._plan is not None and self._plan.stable

    @property
    def next_turn_us(self) -> int:
        """When the ring turns by itself, virtual microseconds."""
        if self._plan is None:
            return self._host.now_us
        after_s = SAFETY_LOOK_S
        if self._plan.look_again_s is not None:
            after_s = min(after_s, self._plan.look_again_s)
        look_us = self._turned_us + max(1, microseconds(after_s))
        deadlines_us = [microseconds(request.deadline_s) for request, _ in self._requests.values()]
        deadlines_us += [deadline_us for deadline_us, _ in self._balancing]
        return min([look_us, *(each for each in deadlines_us if each > self._turned_us)])

    def turn(self) -> Turn:
        """Look, think, touch, and answer who waited for it."""
        now_us = self._host.now_us
        self._turned_us = now_us
        self._free_orphans()
        decided = self._think()
        self._plan, self._beliefs = decided, decided.beliefs
        done = []
        for action in decided.actions:
            try:
                self._check(action)
                self._host.apply(action)
            except (DomainVanished, InvalidValue) as error:
                self._broken.append(f"at {now_us / MICROSECONDS_PER_SECOND} s: {action}: {error}")
                break
            done.append(action)
        else:
            for verdict in decided.verdicts:
                self._announce(verdict)
        self._end_balancing(now_us)
        return Turn(tuple(done), decided.verdicts)

    def _free_orphans(self) -> None:
        """Give back what was transferred to domains that are gone, as the daemon's ring does."""
        if self._host.reservations:
            now_s = self._host.now_us / MICROSECONDS_PER_SECOND
            for orphan in self._orphans.find(self._host.observe().host, now_s):
                self._host.apply(DeleteReservation(orphan))

    def reasons(self) -> dict[int, Reason]:
        """Look and think once more, and say why each domain has the target it has."""
        return dict(self._think().reasons)

    def die(self) -> None:
        """Fail every call that waits, as a lost connection does."""
        for _, call in [*self._requests.values(), *self._balancing]:
            call.fail(self._host.now_us, ConnectionLost())

    def answer(self, record: CallRecord, call: DaemonCall) -> None:
        """Take a call: answer it, or let it wait for a turn."""
        try:
            self._answer(record, call)
        except XcpmemError as error:
            record.fail(self._host.now_us, error)

    def _think(self) -> Plan:
        return self._planner(
            self._host.observe().host,
            Wishes(
                self._kept.ranges,
                tuple(request for request, _ in self._requests.values()),
                weights={guest.uuid: guest.spec.weight for guest in self._host.guests.values()},
            ),
            self._beliefs,
            self._host.now_us / MICROSECONDS_PER_SECOND,
            self._kept.policy,
        )

    def _check(self, action: Action) -> None:
        """Refuse a target that leaves the guest's dynamic range, or leads further away from it.

        Raises:
            InvalidValue: it does.
        """
        if isinstance(action, SetTarget):
            guest = self._host.guest(action.domid)
            if _outside_kib(guest, action.target_kib) > _outside_kib(guest, guest.target_kib):
                raise InvalidValue("target_kib", action.target_kib)

    def _announce(self, verdict: Verdict) -> None:
        _, record = self._requests.pop(verdict.request_id)
        now_us = self._host.now_us
        match verdict, record.line.call:
            case Refused(error=error), _:
                record.fail(now_us, error)
            case Granted(request_id, size_kib), script.Start(guest=guest):
                self._start(record, guest, request_id, size_kib)
            case Granted(request_id, size_kib), script.ReserveMemoryRange(as_name=name):
                self._kept.name(name, request_id)
                record.succeed(now_us, [request_id, size_kib])
            case Granted(request_id), script.ReserveMemory(as_name=name):
                self._kept.name(name, request_id)
                record.succeed(now_us, request_id)

    def _end_balancing(self, now_us: int) -> None:
        still = []
        for deadline_us, record in self._balancing:
            if self.is_stable or now_us >= deadline_us:
                record.succeed(now_us)
            else:
                still.append((deadline_us, record))
        self._balancing = still

    def _answer(self, record: CallRecord, call: DaemonCall) -> None:
        match call:
            case script.ReserveMemory(size_kib=size_kib):
                self._request(record, size_kib, size_kib)
            case script.ReserveMemoryRange(min_kib=min_kib, max_kib=max_kib):
                self._request(record, min_kib, max_kib)
            case script.Start(guest=guest):
                self._check_new(guest)
                self._request(record, guest.dynamic_min_kib, guest.dynamic_max_kib)
            case script.BalanceMemory():
                self._balancing.append((self._host.now_us + microseconds(WAIT_S), record))
            case _:
                record.succeed(self._host.now_us, self._carry_out(call))

    def _carry_out(self, call: DaemonCall) -> object:
        """Do at once what a call says, and return its answer."""
        match call:
            case script.TransferReservation(reservation=name, domid=domid):
                self._transfer(name, domid)
            case script.DeleteReservation(reservation=name, domid=domid):
                self._delete(name, domid)
            case script.SetDynamicRange(domid=domid, min_kib=min_kib, max_kib=max_kib):
                self._set_range(self._living(domid), min_kib, max_kib)
            case script.SetPolicy(name=name, parameters=parameters):
                self._set_policy(name, parameters)
            case _:
                return self._tell(call)
        return None

    def _tell(self, call: DaemonCall) -> object:
        """Answer a question."""
        match call:
            case script.QueryReservation(reservation=name, domid=domid):
                return self._find_transferred(name, domid)
            case script.GetHostReservedMemory():
                return self._scenario.host.slush_kib
            case script.GetHostInitialFreeMemory():
                return kib_to_bytes(self._scenario.boot_free_kib)
            case script.GetDomainZeroPolicy():
                zero = self._host.guests.get(0)
                if zero is None or zero.dynamic_min_kib == zero.dynamic_max_kib:
                    fixed_kib = self._scenario.others_kib if zero is None else zero.actual_kib
                    return ["Fixed_size", kib_to_bytes(fixed_kib)]
                bounds_kib = (zero.dynamic_min_kib, zero.dynamic_max_kib)
                return ["Auto_balloon", [kib_to_bytes(bound_kib) for bound_kib in bounds_kib]]
            case _:
                reasons = self._plan.reasons if self._plan else {}
                return json.dumps({str(domid): reason.text for domid, reason in sorted(reasons.items())})

    def _check_new(self, guest: GuestSpec) -> None:
        """Refuse a guest that is there already.

        Raises:
            InvalidValue: its domid or uuid is taken.
        """
        if guest.domid in self._host.guests:
            raise InvalidValue("domid", guest.domid)
        uuid = self._scenario.uuid_of(guest)
        if any(other.uuid == uuid for other in self._host.guests.values()):
            raise InvalidValue("uuid", uuid)

    def _start(self, record: CallRecord, guest: GuestSpec, reservation_id: str, size_kib: int) -> None:
        """Let a guest appear with its reservation; if it cannot, the reservation ends."""
        try:
            self._check_new(guest)
            self._host.add_guest(guest, size_kib, reservation_id=reservation_id)
        except InvalidValue as error:
            self._host.apply(DeleteReservation(self._host.reservations[reservation_id]))
            record.fail(self._host.now_us, error)
        else:
            self._kept.ranges.pop(self._scenario.uuid_of(guest), None)
            record.succeed(self._host.now_us, size_kib)

    def _request(self, record: CallRecord, min_kib: int, max_kib: int) -> None:
        request_id = self._scenario.make_uuid(f"reservation/{record.number}")
        deadline_us = self._host.now_us + microseconds(WAIT_S)
        request = MemoryRequest(
            request_id=request_id,
            owner=_OWNER,
            min_kib=min_kib,
            max_kib=max_kib,
            order=record.number,
            deadline_s=deadline_us / MICROSECONDS_PER_SECOND,
            wait_s=WAIT_S,
        )
        self._requests[request_id] = (request, record)

    def _living(self, domid: int) -> SimGuest:
        try:
            return self._host.guest(domid)
        except DomainVanished as error:
            raise InvalidValue("domid", domid) from error

    def _transfer(self, name: str, domid: int) -> None:
        make = commands.transfer(self._kept.reservation_ids.get(name, name), domid)
        try:
            actions = make(self._host.observe().host)
        except UnknownReservation as error:
            raise UnknownReservation(name) from error
        for action in actions:
            self._host.apply(action)

    def _delete(self, name: str, domid: int) -> None:
        if not name:
            reservation = self._host.reservation_of(domid)
        else:
            reservation = self._host.reservations.get(self._kept.reservation_ids.get(name, name))
        if reservation is None:
            return
        if domid != FOLLOWS and reservation.domid not in {None, domid}:
            raise NoReservation(domid)
        self._host.apply(DeleteReservation(reservation))

    def _find_transferred(self, name: str, domid: int) -> str:
        """Give the id of the reservation that a domain has got; it keeps the id when that is deleted."""
        reservation_id = self._kept.reservation_ids.get(name, name)
        if domid == FOLLOWS:
            if any(guest.reservation_id == reservation_id for guest in self._host.guests.values()):
                return reservation_id
            raise (NoReservation if reservation_id in self._host.reservations else UnknownReservation)(name)
        found = self._living(domid).reservation_id
        if found is None or (name and found != reservation_id):
            raise NoReservation(domid)
        return found

    def _set_range(self, guest: SimGuest, min_kib: int, max_kib: int) -> None:
        spec = guest.spec
        most_kib = spec.static_max_kib if spec.has_static_max else max_kib
        if not spec.static_min_kib <= min_kib <= max_kib <= most_kib:
            raise ConstraintOrder
        self._kept.ranges[guest.uuid] = DynamicRange(min_kib, max_kib)

    def _set_policy(self, name: str, parameters: Mapping[str, object]) -> None:
        self._kept.policy = find_installed(name, parameters)


def _outside_kib(guest: SimGuest, target_kib: int) -> int:
    """Tell how far a target is outside a guest's dynamic range, KiB; 0 inside."""
    return max(0, guest.dynamic_min_kib - target_kib, target_kib - guest.dynamic_max_kib)
