"""What the engine knows and says: frozen values that are valid from birth.

All sizes are KiB, all times seconds on a monotonic clock of which only differences count. The driver
makes a `HostState`, the service keeps `Wishes`, the planner turns both into a `Plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from xcpmem.engine.remains import Remains
from xcpmem.engine.tally import Tally
from xcpmem.errors import HostError, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from xcpmem.engine.sample import Sample


class Lifecycle(StrEnum):
    """What the hypervisor and the store say a domain is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    BUILDING = "building"
    SUSPENDED = "suspended"
    DYING = "dying"


class BalloonState(StrEnum):
    """How a domain stands to its target; the words of the scenario files' answers."""

    AT_TARGET = "at_target"
    MOVING = "moving"
    STUCK = "stuck"
    AT_LIMIT = "at_limit"
    NO_BALLOON = "no_balloon"


def check_not_negative(**sizes: int) -> None:
    """Refuse negative sizes.

    Raises:
        InvalidValue: names the first argument below 0 and its value.
    """
    for name, size in sizes.items():
        if size < 0:
            raise InvalidValue(name, size)


@dataclass(frozen=True, slots=True)
class DynamicRange:
    """The range an administrator leaves to the balancer, 0 <= min <= max, KiB."""

    min_kib: int
    max_kib: int

    def __post_init__(self) -> None:
        check_not_negative(dynamic_min_kib=self.min_kib)
        if self.min_kib > self.max_kib:
            raise InvalidValue("dynamic_max_kib", self.max_kib)


@dataclass(frozen=True, slots=True)
class DomainState:
    """One domain as it was seen.

    Args:
        domid: Xen's number, reused after a reboot.
        uuid: the VM's uuid, from the domain's handle.
        dynamic_range: what xenstore says; a domain without the keys is pinned at its target.
        target_kib: what the guest was last told.
        actual_kib: what it holds, without the offset that the guest does not know of.
        maxmem_kib: what Xen lets it hold at most, in the same terms as ``actual_kib``.
        can_balloon: whether a balloon driver is believed to listen.
        lifecycle: only running domains are asked for anything.
        initial_reservation_kib: promised to the domain while it is being built, else 0.
        has_range: whether anybody ever wrote a range for it; without, ``dynamic_range`` pins it where it was
            found.
        uncooperative: whether the flag for other programs stands in xenstore.
        offset_kib: pages that Xen counts and the guest does not know of, already taken off ``actual_kib``;
            None while it was not yet measured (then nothing was taken off).
        sample: what its guest said last about its own memory; None: it says nothing.
        balloon_active: whether its driver says that the balloon moves right now; None: it does not say.
        static_max_kib: the most that it was booted for; None: nothing says so.
        is_ending: whether it is being destroyed and not yet dying: it may still take what it might before.
    """

    domid: int
    uuid: str
    dynamic_range: DynamicRange
    target_kib: int
    actual_kib: int
    maxmem_kib: int
    can_balloon: bool = True
    lifecycle: Lifecycle = Lifecycle.RUNNING
    initial_reservation_kib: int = 0
    has_range: bool = True
    uncooperative: bool = False
    offset_kib: int | None = 0
    sample: Sample | None = None
    balloon_active: bool | None = None
    static_max_kib: int | None = None
    is_ending: bool = False

    @property
    def bounds_kib(self) -> tuple[int, int]:
        """The least and the most that it may be asked to hold: its range, but no more than it was booted for.

        A range above static-max breaks the order law. It stands where a VM's record has larger limits than
        its domain, which somebody else has built.
        """
        low_kib, high_kib = self.dynamic_range.min_kib, self.dynamic_range.max_kib
        if self.static_max_kib is None or high_kib <= self.static_max_kib:
            return low_kib, high_kib
        return min(low_kib, self.static_max_kib), self.static_max_kib

    @property
    def is_dying(self) -> bool:
        """Whether it was destroyed and only gives its pages back."""
        return self.lifecycle is Lifecycle.DYING

    @property
    def held_kib(self) -> int:
        """What nobody else can have: pages it holds or, unless it is dying, may still take."""
        if self.is_dying:  # Xen's assign_pages refuses it, whatever its maxmem
            return self.actual_kib
        held_kib = max(self.actual_kib, self.maxmem_kib)
        return (
            max(held_kib, self.initial_reservation_kib) if self.lifecycle is Lifecycle.BUILDING else held_kib
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """Memory set aside for a domain to come.

    Args:
        reservation_id: as given to the client.
        owner: the session (or service) it belongs to.
        size_kib: at least 0.
        domid: the domain it was transferred to, or None; once that domain exists, the domain's own
            promise counts instead (squeezed counts the same way).
        vm_uuid: the VM that is being started with it, or empty; its domain is known by that as soon as it
            appears, so that no moment of a build counts the memory twice.
    """

    reservation_id: str
    owner: str
    size_kib: int
    domid: int | None = None
    vm_uuid: str = ""

    def __post_init__(self) -> None:
        check_not_negative(size_kib=self.size_kib)

    def is_for(self, domain: DomainState) -> bool:
        """Tell whether this memory is what the domain is being built with."""
        return domain.domid == self.domid or (self.vm_uuid != "" and domain.uuid == self.vm_uuid)


@dataclass(frozen=True, slots=True)
class HostState:
    """One look at a host; sizes KiB.

    Args:
        total_kib: physical memory that xcpmem may count.
        free_kib: usable at once.
        scrub_kib: freed by a domain but not yet cleaned.
        slush_kib: to be kept free (squeezed: 73728).
        domains: in the order of their domids, without domain 0 unless it is managed.
        reservations: all that stand in xenstore.
        others_kib: what neither is free nor belongs to one of ``domains``; None: as this look says. The parts
            of a look are not of one moment, so while guests move a driver knows better.
    """

    total_kib: int
    free_kib: int
    scrub_kib: int
    slush_kib: int
    domains: tuple[DomainState, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    others_kib: int | None = None

    def changes_since(
        self, before: HostState, others: AbstractSet[int | None] = frozenset()
    ) -> list[DomainState] | None:
        """List the domains that come as other objects than at an earlier look; drivers keep what is the same.

        Args:
            before: the earlier look.
            others: domids of domains that are to be listed though they may not have changed.

        Returns:
            In the order of the domids; None if domains came, went or are now doing something else.
        """
        if len(self.domains) != len(before.domains):
            return None
        changes = [pair for pair in zip(self.domains, before.domains, strict=True) if pair[0] is not pair[1]]
        for now, then in changes:
            if now.domid != then.domid or now.uuid != then.uuid or now.lifecycle is not then.lifecycle:
                return None
        domids = {now.domid for now, _ in changes}
        if others <= domids:
            return [now for now, _ in changes]
        return [domain for domain in self.domains if domain.domid in domids or domain.domid in others]

    @property
    def common_kib(self) -> int:
        """All that is free or held by ``domains``."""
        if self.others_kib is not None:
            return self.total_kib - self.others_kib
        return self.free_kib + self.scrub_kib + sum(domain.actual_kib for domain in self.domains)

    @property
    def torn_kib(self) -> int:
        """By how much the parts of this look contradict what is known of ``others_kib``; either sign."""
        return self.torn_by(Tally.of(self.domains))

    def torn_by(self, tally: Tally) -> int:
        """Give `torn_kib` where the domains are counted already."""
        if self.others_kib is None:
            return 0
        return self.common_kib - self.free_kib - self.scrub_kib - tally.actual_kib

    @property
    def reserved_kib(self) -> int:
        """Sum of the reservations that no domain accounts for, see `Remains`."""
        return Remains.of(self.domains, self.reservations).reserved_kib if self.reservations else 0

    @property
    def spare_kib(self) -> int:
        """Free at once and promised to nobody; negative when the slush is being eaten."""
        return self.spare_by(Tally.of(self.domains))

    def spare_by(self, tally: Tally) -> int:
        """Give `spare_kib` where the domains are counted already."""
        # a guest that grew after the free pages were counted must not be counted as free as well
        free_kib = min(self.free_kib, self.free_kib + self.torn_by(tally))
        return free_kib + tally.actual_kib - tally.held_kib - self.slush_kib - self.reserved_kib


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """A wish for a reservation of ``min_kib`` to ``max_kib`` (equal: that much and no less).

    Args:
        request_id: becomes the reservation's id.
        owner: the session or service that asks.
        min_kib: refused if less can be had.
        max_kib: more is never granted.
        order: requests are served by arrival.
        deadline_s: monotonic time at which waiting ends.
        vm_uuid: the VM that is to be started with it, or empty.
        wait_s: how long it waits in all, until ``deadline_s``; infinite: longer than any guest's patience.
    """

    request_id: str
    owner: str
    min_kib: int
    max_kib: int
    order: int
    deadline_s: float
    vm_uuid: str = ""
    wait_s: float = inf

    def __post_init__(self) -> None:
        check_not_negative(min_kib=self.min_kib)
        if self.min_kib > self.max_kib:
            raise InvalidValue("max_kib", self.max_kib)


@dataclass(frozen=True, slots=True)
class Wishes:
    """All that people want of the host right now; state, not commands.

    Args:
        ranges: by VM uuid, the dynamic range to hold; VMs that are absent keep what xenstore says.
        requests: pending reservations, in any order.
        left_alone: domids that are not to be touched this turn, because touching them just failed.
        weights: by VM uuid, for policies that weigh; who is absent has `DEFAULT_WEIGHT`.
    """

    ranges: Mapping[str, DynamicRange] = field(default_factory=dict)
    requests: tuple[MemoryRequest, ...] = ()
    left_alone: frozenset[int] = frozenset()
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetTarget:
    """Tell the guest: write ``memory/target``."""

    domid: int
    target_kib: int


@dataclass(frozen=True, slots=True)
class SetMaxmem:
    """Tell Xen what the domain may hold at most; the driver adds slack and offset.

    It ``frees`` where it lowers that: what comes later in a plan counts on it.
    """

    domid: int
    maxmem_kib: int
    frees: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SetDynamicMin:
    """Write ``memory/dynamic-min``."""

    domid: int
    min_kib: int


@dataclass(frozen=True, slots=True)
class SetDynamicMax:
    """Write ``memory/dynamic-max``."""

    domid: int
    max_kib: int


@dataclass(frozen=True, slots=True)
class SetUncooperative:
    """Raise or lower the flag ``memory/uncooperative`` for other programs."""

    domid: int
    uncooperative: bool


@dataclass(frozen=True, slots=True)
class SetMemoryOffset:
    """Write ``memory/memory-offset``: pages that Xen counts and the guest does not know of; any sign."""

    domid: int
    offset_kib: int


@dataclass(frozen=True, slots=True)
class RecordReservation:
    """Write a reservation to xenstore; only then is it granted."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class TransferReservation:
    """Give a reservation to a domain under construction: its keys, then maxmem, verified."""

    reservation: Reservation
    domid: int


@dataclass(frozen=True, slots=True)
class DeleteReservation:
    """Forget a reservation; an unknown one is no error."""

    reservation: Reservation


Action = (
    SetTarget
    | SetMaxmem
    | SetDynamicMin
    | SetDynamicMax
    | SetUncooperative
    | SetMemoryOffset
    | RecordReservation
    | TransferReservation
    | DeleteReservation
)


@dataclass(frozen=True, slots=True)
class Granted:
    """A request got its memory, once the plan's actions are done."""

    request_id: str
    size_kib: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A request cannot be had; sizes in the error are bytes, domains are domids as text."""

    request_id: str
    error: HostError


Verdict = Granted | Refused
