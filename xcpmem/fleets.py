"""Hosts that need no file: the names that ``--scenario`` takes beside paths."""

from __future__ import annotations

import re
from random import Random
from typing import Final

from xcpmem.errors import ConfigError
from xcpmem.specs import DOMID_END, AgentKind, AgentSpec, BalloonSpec, GuestSpec, HostSpec, LoadPoint
from xcpmem.units import mib_to_kib

_HOST_MIB: Final = 16384
_DOMAIN_ZERO_MIB: Final = 1024
_FLEET: Final = re.compile(r"fleet:([0-9]{1,5})")
_FLEET_RANGE_MIB: Final = (64, 256)
_FLEET_ROOM_MIB: Final = 1024

_LOAD_S: Final = 12 * 60 * 60
_LOAD_STEP_S: Final = 30

_Host = tuple[HostSpec, tuple[GuestSpec, ...]]


def named_host(name: str) -> _Host | None:
    """Make one of the hosts that need no file.

    Args:
        name: ``default``: 6 guests of mixed behaviour whose load moves, on a 16 GiB host; ``quiet``: 4
            obedient guests on such a host; ``fleet:N``: N small obedient guests on a host with room for
            them.

    Returns:
        The host and its guests, or None if it is no such name.

    Raises:
        ConfigError: a fleet that is empty or larger than there are domids.
    """
    if name == "default":
        return _on_host(_mixed_guests(), _HOST_MIB)
    if name == "quiet":
        return _on_host(_obedient_guests(4, (1024, 3072), (512, 4096)), _HOST_MIB)
    if not name.startswith("fleet:"):
        return None
    match = _FLEET.fullmatch(name)
    count = int(match[1]) if match else 0
    if not 0 < count < DOMID_END:
        raise ConfigError(name, "", f"must be fleet:N, N from 1 to {DOMID_END - 1}")
    total_mib = _DOMAIN_ZERO_MIB + _FLEET_ROOM_MIB + count * _FLEET_RANGE_MIB[1]
    return _on_host(_obedient_guests(count, _FLEET_RANGE_MIB, _FLEET_RANGE_MIB), total_mib)


def _obedient_guests(
    count: int, dynamic_mib: tuple[int, int], static_mib: tuple[int, int]
) -> tuple[GuestSpec, ...]:
    return tuple(
        GuestSpec(
            domid=domid,
            dynamic_min_kib=mib_to_kib(dynamic_mib[0]),
            dynamic_max_kib=mib_to_kib(dynamic_mib[1]),
            static_min_kib=mib_to_kib(static_mib[0]),
            static_max_kib=mib_to_kib(static_mib[1]),
            vcpus=2,
            balloon=BalloonSpec(rate_kib_s=mib_to_kib(1024), inaccuracy_kib=0),
        )
        for domid in range(1, count + 1)
    )


def _on_host(guests: tuple[GuestSpec, ...], total_mib: int) -> _Host:
    held_kib = sum(guest.actual_kib for guest in guests)
    total_kib = mib_to_kib(total_mib)
    free_kib = total_kib - mib_to_kib(_DOMAIN_ZERO_MIB) - held_kib
    return HostSpec(total_kib=total_kib, free_kib=free_kib), guests


_MIXED: Final = (
    ("web", (1024, 3072), 2048, BalloonSpec(rate_kib_s=mib_to_kib(512)), AgentKind.EVENTS),
    ("database", (2048, 6144), 4096, BalloonSpec(rate_kib_s=mib_to_kib(128)), AgentKind.MEMINFO),
    ("build", (512, 4096), 2048, BalloonSpec(rate_kib_s=mib_to_kib(256), delay_s=1.5), AgentKind.EVENTS),
    (
        "legacy",
        (512, 2048),
        1024,
        BalloonSpec(rate_kib_s=mib_to_kib(64), period_s=2.0, floor_kib=mib_to_kib(768)),
        AgentKind.MEMINFO,
    ),
    (
        "desktop",
        (1024, 4096),
        2048,
        BalloonSpec(rate_kib_s=mib_to_kib(256), ceiling_kib=mib_to_kib(2560)),
        AgentKind.EVENTS,
    ),
    ("appliance", (1024, 1024), 1024, BalloonSpec(feature=False), AgentKind.NONE),
)
"""Name, dynamic range and target in MiB, balloon, agent of the default scenario's guests."""


def _mixed_guests() -> tuple[GuestSpec, ...]:
    guests = []
    for domid, (name, (min_mib, max_mib), target_mib, balloon, agent) in enumerate(_MIXED, start=1):
        guests.append(
            GuestSpec(
                domid=domid,
                name_label=name,
                dynamic_min_kib=mib_to_kib(min_mib),
                dynamic_max_kib=mib_to_kib(max_mib),
                static_min_kib=mib_to_kib(min_mib) // 2,
                target_kib=mib_to_kib(target_mib),
                vcpus=2,
                balloon=balloon,
                agent=AgentSpec(kind=agent, period_s=5.0),
                load=_wandering_load(domid, min_mib, max_mib),
            )
        )
    return tuple(guests)


def _wandering_load(domid: int, min_mib: int, max_mib: int) -> tuple[LoadPoint, ...]:
    """Let a working set wander between half of dynamic-min and dynamic-max, the same at every start."""
    random = Random(domid)  # noqa: S311  (repeatable load, no secret)
    low_kib, high_kib = mib_to_kib(min_mib) // 2, mib_to_kib(max_mib)
    wanted_kib = mib_to_kib(min_mib)
    points = []
    for number in range(_LOAD_S // _LOAD_STEP_S):
        points.append(LoadPoint(float(number * _LOAD_STEP_S), wanted_kib))
        step_kib = int((high_kib - low_kib) * random.uniform(-0.25, 0.25))
        wanted_kib = min(max(wanted_kib + step_kib, low_kib), high_kib)
    return tuple(points)
