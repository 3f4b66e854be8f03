"""What a simulated host is made of: the machine and its guests, frozen values that are valid from birth.

`scenario` reads them from TOML, the simulated hosts act them out. Sizes are KiB, times seconds of
virtual time. A complaint about a value is a ConfigError whose ``where`` the reader of the file completes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from xcpmem.errors import ConfigError

FOLLOWS: Final = -1
"""A size that is not given and follows another one; replaced at birth."""

DOMID_END: Final = 0x7FF0
"""Domids from here on are Xen's own (``DOMID_FIRST_RESERVED`` in xen's public/xen.h)."""

HOST_CPUS: Final = 64
"""The physical CPUs of the simulated machine: as many as a VM of xapi's can have."""

MICROSECONDS_PER_SECOND: Final = 10**6


def microseconds(time_s: float) -> int:
    """Convert seconds to the whole microseconds in which virtual time is counted, to the nearest."""
    return round(time_s * MICROSECONDS_PER_SECOND)


class DomainType(StrEnum):
    """Kinds of domains, in XenAPI's words."""

    HVM = "hvm"
    PV = "pv"
    PV_IN_PVH = "pv_in_pvh"
    PVH = "pvh"


class AgentKind(StrEnum):
    """What a guest says about its memory: nothing, from time to time, or whenever it changes."""

    NONE = "none"
    MEMINFO = "meminfo"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalloonSpec:
    """The character of a guest's balloon driver; sizes KiB, times seconds.

    Args:
        rate_kib_s: how fast it moves, KiB a second.
        delay_s: from being asked while at rest to the first movement.
        floor_kib: it never gives back below this; 0: no limit.
        ceiling_kib: it never grows beyond this; 0: no limit.
        stuck: it does not move at all.
        period_s: it moves only in even intervals of this length; 0: always.
        inaccuracy_kib: it stops so far short of its target, each time.
        feature: whether there is a balloon driver.
    """

    rate_kib_s: float = 524288.0
    delay_s: float = 0.0
    floor_kib: int = 0
    ceiling_kib: int = 0
    stuck: bool = False
    period_s: float = 0.0
    inaccuracy_kib: int = 4
    feature: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """A guest agent: of what kind, and every how many seconds it reports if it reports from time to time."""

    kind: AgentKind = AgentKind.NONE
    period_s: float = 60.0

    def __post_init__(self) -> None:
        if self.kind is AgentKind.MEMINFO and self.period_s <= 0:
            raise ConfigError("", "period_s", "must be more than 0")


class LoadPoint(NamedTuple):
    """From ``at_s`` on the guest's working set is ``wanted_kib``.

    Args:
        at_s: seconds.
        wanted_kib: memory that its programs touch all the time.
        cache_kib: file pages that they read again and again.
        cold_kib: memory that they touched once.
    """

    at_s: float
    wanted_kib: int
    cache_kib: int = 0
    cold_kib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """One guest as it stands at the start; sizes KiB.

    Args:
        domid: 0 to 32751; 0 is the host's domain 0, balanced as any other.
        dynamic_min_kib: its keys in xenstore.
        dynamic_max_kib: its keys in xenstore.
        static_min_kib: for the VM record only.
        static_max_kib: what it was booted for; follows ``dynamic_max_kib``, also when that changes.
        target_kib: what it was last told; follows ``dynamic_max_kib``.
        actual_kib: what it holds; follows ``target_kib``.
        weight: for weighted policies, 1 or more.
        balloon: the character of its balloon driver.
        load: its working set over time, by rising time; none before the first point.
        agent: what it says about its memory.
        uuid: of its VM; empty: made from the scenario's seed and the domid.
        name_label: of its VM; made from the domid if empty.
        vcpus: 1 or more.
        domain_type: kind of domain.
        has_static_max: whether ``static_max_kib`` was given.
    """

    domid: int
    dynamic_min_kib: int
    dynamic_max_kib: int
    static_min_kib: int = 0
    static_max_kib: int = FOLLOWS
    target_kib: int = FOLLOWS
    actual_kib: int = FOLLOWS
    weight: int = 1
    balloon: BalloonSpec = field(default_factory=BalloonSpec)
    load: tuple[LoadPoint, ...] = ()
    agent: AgentSpec = field(default_factory=AgentSpec)
    uuid: str = ""
    name_label: str = ""
    vcpus: int = 1
    domain_type: DomainType = DomainType.PVH
    has_static_max: bool = field(init=False, default=True, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_static_max", self.static_max_kib != FOLLOWS)
        for key, leader in (
            ("static_max_kib", "dynamic_max_kib"),
            ("target_kib", "dynamic_max_kib"),
            ("actual_kib", "target_kib"),
        ):
            if getattr(self, key) == FOLLOWS:
                object.__setattr__(self, key, getattr(self, leader))
        if not self.name_label:
            object.__setattr__(self, "name_label", f"guest-{self.domid}")
        if not 0 <= self.domid < DOMID_END:
            raise ConfigError("", "domid", f"must be 0 to {DOMID_END - 1}")
        for low, high in (
            ("static_min_kib", "dynamic_min_kib"),
            ("dynamic_min_kib", "dynamic_max_kib"),
            ("dynamic_max_kib", "static_max_kib"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError("", high, f"{getattr(self, high)} is below {low} {getattr(self, low)}")
        if any(later.at_s <= earlier.at_s for earlier, later in pairwise(self.load)):
            raise ConfigError("", "load", "times must rise")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """The machine; sizes KiB.

    Args:
        total_kib: all its memory; follows free memory and what the guests hold. What is neither free nor
            held by a guest is domain 0's and Xen's, or Xen's alone where domain 0 is one of the guests.
        free_kib: free at the start.
        slush_kib: to be kept free (squeezed: 73728).
        scrub_kib_s: how fast freed memory is cleaned before it can be used; 0: at once.
    """

    total_kib: int = FOLLOWS
    free_kib: int = 73728
    slush_kib: int = 73728
    scrub_kib_s: float = 0.0
