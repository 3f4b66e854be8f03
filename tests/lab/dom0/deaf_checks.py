"""Checks of requests that meet guests who do not listen, and of many requests at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.guests import create_guest, find_guest, wait_at_targets, wait_for_first_report
from tests.lab.dom0.host import KIB_PER_MIB, Watch, run, wait_until
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

REQUESTS: Final = 8
FREE_TOLERANCE_KIB: Final = 512
DRIVERLESS: Final = "lab-driverless"
DRIVERLESS_KIB: Final = 200 * KIB_PER_MIB
# The kernel's balloon driver is built in; without this call of its start-up it never listens.
WITHOUT_BALLOON: Final = "initcall_blacklist=balloon_init"
SEEN_DEADLINE_S: Final = 30


def eight_reservations_together_take_as_long_as_one(lab: Lab) -> str:
    """Eight callers at once are all granted; beside them one reservation of the same memory, as a figure."""
    lab.rest()
    size_kib = lab.range_to_reserve_kib()[0] // REQUESTS
    alone_s = _reserve_together(lab, 1, size_kib * REQUESTS)
    lab.rest()
    together_s = _reserve_together(lab, REQUESTS, size_kib)
    free_kib, slush_kib = lab.hypervisor.free_kib(), lab.client().slush_kib()
    require(
        free_kib >= REQUESTS * size_kib + slush_kib - FREE_TOLERANCE_KIB,
        f"{REQUESTS} times {size_kib} KiB and slush {slush_kib} KiB are free, but only {free_kib} KiB are",
    )
    lab.rest()
    report.figure("one_reservation", alone_s, "s")
    report.figure("eight_reservations", together_s, "s")
    return f"{REQUESTS} of {size_kib} KiB in {together_s:.2f} s, one of the same sum in {alone_s:.2f} s"


def frozen_guest_is_worked_around(lab: Lab) -> str:
    """A guest whose kernel stands still gives nothing; others do, and what they cannot give is refused."""
    lab.rest()
    frozen, *others = lab.guests
    run("xl", "pause", str(frozen.domid))
    try:
        # Nobody tells that a domain was paused: a look is asked for.
        lab.client().balance()
        _wait_for_power_state(lab, frozen, "Paused")
        ranges_kib = [lab.ranges_kib()[guest] for guest in others]
        freeable_kib = lab.usable_kib() + sum(max_kib - min_kib for min_kib, max_kib in ranges_kib)
        with Watch([guest.key("memory/target") for guest in lab.guests]) as watch:
            began = time.perf_counter()
            error = lab.client().reservation_error(freeable_kib + 4 * KIB_PER_MIB, freeable_kib * 2)
            refused_s = time.perf_counter() - began
            written = watch.events()
        require(error[0] == "HOST_NOT_ENOUGH_FREE_MEMORY", f"too much for two is refused, but: {error}")
        require(not written, f"no target is written for it, but these were: {written}")
        target_kib = frozen.target_kib()
        began = time.perf_counter()
        granted = lab.reserve(freeable_kib * 3 // 4, freeable_kib * 3 // 4)
        granted_s = time.perf_counter() - began
        require(frozen.target_kib() == target_kib, f"{frozen.name} is asked for nothing while it is paused")
    finally:
        run("xl", "unpause", str(frozen.domid))
    lab.client().balance()
    _wait_for_power_state(lab, frozen, "Running")
    lab.client().balance()
    wait_at_targets(lab.hypervisor, lab.targets_kib())
    require(
        frozen.target_kib() < target_kib, f"{frozen.name} gives its part once it runs, but holds {target_kib}"
    )
    report.figure("granted_beside_frozen", granted_s, "s")
    lab.rest()
    return f"{granted.granted_kib} KiB in {granted_s:.2f} s; too much for two refused in {refused_s:.2f} s"


def guest_without_balloon_driver_is_worked_around(lab: Lab) -> str:
    """A guest that was booted without the driver is asked, seen to stand still, and planned around."""
    lab.rest()
    create_guest(DRIVERLESS, DRIVERLESS_KIB, DRIVERLESS_KIB, WITHOUT_BALLOON)
    try:
        driverless = find_guest(lab.hypervisor, DRIVERLESS)
        wait_for_first_report(driverless)
        _wait_for_power_state(lab, driverless, "Running")
        lab.client().set_dynamic_range(driverless, DRIVERLESS_KIB // 2, DRIVERLESS_KIB)
        held_kib = lab.hypervisor.mem_kib(driverless.domid)
        first_s = _reserve_half(lab)
        why = lab.client().why(driverless)
        lab.rest()
        second_s = _reserve_half(lab)
        lab.rest()
        require(
            lab.hypervisor.mem_kib(driverless.domid) == held_kib,
            f"{DRIVERLESS} holds what it held, {held_kib}",
        )
        require("stopped at" in why, f"the reason says that {DRIVERLESS} did not move, but it is: {why}")
    finally:
        run("xl", "destroy", DRIVERLESS)
    lab.rest()
    report.figure("granted_beside_driverless_first", first_s, "s")
    report.figure("granted_beside_driverless_again", second_s, "s")
    return f"granted in {first_s:.2f} s, when it was known in {second_s:.2f} s; it {why}"


def _reserve_half(lab: Lab) -> float:
    """Reserve what takes half of all ranges; return the seconds it took."""
    size_kib = sum(lab.range_to_reserve_kib()) // 2
    began = time.perf_counter()
    lab.reserve(size_kib, size_kib)
    return time.perf_counter() - began


def _reserve_together(lab: Lab, count: int, size_kib: int) -> float:
    """Let so many sessions reserve at once; return the seconds until the last was granted."""
    clients = [lab.new_client() for _ in range(count)]
    with ThreadPoolExecutor(max_workers=count) as threads:
        began = time.perf_counter()
        granted = list(threads.map(lambda client: client.reserve_range(size_kib, size_kib), clients))
        took_s = time.perf_counter() - began
    lab.reserved += granted
    return took_s


def _wait_for_power_state(lab: Lab, guest: Guest, state: str) -> None:
    client = lab.client()
    wait_until(
        lambda: client.power_state_or_none(guest) == state,
        f"the record of {guest.name} says {state}",
        SEEN_DEADLINE_S,
        lambda: client.power_state_or_none(guest),
    )
