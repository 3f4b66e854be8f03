"""Checks of the daemon on a live host: it takes over quietly, obeys XenAPI, and shows what it does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tests.lab.dom0.client import BYTES_PER_KIB
from tests.lab.dom0.guests import (
    STATIC_MAX_KIB,
    require_same_size_in_xl,
    wait_at_targets,
    wait_for_mem_total,
)
from tests.lab.dom0.host import KIB_PER_MIB, Watch, wait_until, xenstore_tree
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

NARROW_KIB: Final = (256 * KIB_PER_MIB, 400 * KIB_PER_MIB)
WIDE_KIB: Final = (256 * KIB_PER_MIB, 760 * KIB_PER_MIB)
PAGE_DEADLINE_S: Final = 30
HTTP_OK: Final = 200

_ACTUAL: Final = re.compile(r"^xcpmem_domain_memory_actual_bytes\{(.*)\} (\S+)$", re.MULTILINE)


def starting_the_daemon_moves_nothing(lab: Lab) -> str:
    """Guests that it never saw stay where they are: no target is written, no memory moves."""

    def sizes() -> dict[str, tuple[int, int]]:
        return {guest.name: (guest.target_kib(), lab.hypervisor.mem_kib(guest.domid)) for guest in lab.guests}

    require(not lab.daemon.is_running, "the daemon is not running before this check")
    before = sizes()
    with Watch([guest.key("memory/target") for guest in lab.guests]) as watch:
        lab.client().balance()
        written = watch.events()
    after = sizes()
    require(not written, f"no target is written, but these were: {written}")
    require(after == before, f"(target, memory) in KiB stay {before}, but became {after}")
    return f"(target, memory) in KiB stay {after}"


def adopted_guests_are_pinned(lab: Lab) -> str:
    """Each running guest has a VM record with dynamic_min = dynamic_max = its target."""
    for guest, limits in lab.limits().items():
        target_kib = guest.target_kib()
        require(
            limits.dynamic_min_kib == limits.dynamic_max_kib == target_kib,
            f"{guest.name} is pinned at {target_kib} KiB, but its record says {limits}",
        )
        require(
            limits.static_max_kib == STATIC_MAX_KIB,
            f"static_max of {guest.name} is {STATIC_MAX_KIB} KiB, but its record says {limits}",
        )
        require(limits.are_ordered, f"limits of {guest.name} are ordered, but its record says {limits}")
    return f"{len(lab.guests)} VM records"


def dynamic_range_moves_a_guest(lab: Lab) -> str:
    """`VM.set_memory_dynamic_range` narrows a guest and widens it again, down and up for real."""
    guest = lab.guests[0]
    mem_kib, mem_total_kib = lab.hypervisor.mem_kib(guest.domid), guest.mem_total_kib()
    seen = []
    for min_kib, max_kib in (NARROW_KIB, WIDE_KIB):
        lab.client().set_dynamic_range(guest, min_kib, max_kib)
        took_s = wait_at_targets(lab.hypervisor, {guest: max_kib})
        require_same_size_in_xl(lab.hypervisor, guest)
        now_total_kib = wait_for_mem_total(guest, mem_total_kib + max_kib - mem_kib)
        _require_range(lab, guest, min_kib, max_kib)
        seen.append(f"at {max_kib} KiB in {took_s:.2f} s with MemTotal {now_total_kib} KiB")
    return ", ".join(seen)


def disordered_range_is_refused(lab: Lab) -> str:
    """A dynamic_max above static_max is answered with XenAPI's error, and changes nothing."""
    guest = lab.guests[0]
    limits, target_kib = lab.client().limits(guest), guest.target_kib()
    details = lab.client().dynamic_range_error(guest, limits.dynamic_min_kib, STATIC_MAX_KIB + KIB_PER_MIB)
    require(
        details == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"], f"the order is violated, but the error is {details}"
    )
    _require_range(lab, guest, limits.dynamic_min_kib, limits.dynamic_max_kib)
    require(guest.target_kib() == target_kib, f"the target stays {target_kib} KiB")
    return details[0]


def metrics_show_what_guests_hold(lab: Lab) -> str:
    """`/metrics` has the memory of each guest as the hypervisor counts it."""
    lab.rest()

    def shown() -> dict[int, float]:
        series = {}
        for labels, value in _ACTUAL.findall(lab.daemon.page("/metrics")[1]):
            if domid := re.search(r'domid="(\d+)"', labels):
                series[int(domid[1])] = float(value)
        return series

    def held() -> dict[int, float]:
        domains = lab.hypervisor.domains()
        return {guest.domid: float(domains[guest.domid].mem_kib * BYTES_PER_KIB) for guest in lab.guests}

    wait_until(
        lambda: held().items() <= shown().items(), f"/metrics shows {held()} bytes", PAGE_DEADLINE_S, shown
    )
    return f"{held()} bytes"


def readiness_is_reported(lab: Lab) -> str:
    """`/readyz` answers 200, and names what it looked at when asked."""
    lab.client()
    status, _ = lab.daemon.page("/readyz")
    require(status == HTTP_OK, f"/readyz answers {HTTP_OK}, but it was {status}")
    _, text = lab.daemon.page("/readyz?verbose")
    lines = [line for line in text.splitlines() if line.startswith("[+]")]
    require(lines, f"/readyz?verbose lists what is ready, but it said {text!r}")
    return " ".join(lines)


def sigterm_ends_the_daemon_and_moves_nothing(lab: Lab) -> str:
    """Stopped in order it ends with exit code 0, and guests keep their targets and memory."""
    targets_kib = lab.rest()
    took_s = lab.daemon.stop()
    require(lab.targets_kib() == targets_kib, f"targets stay {targets_kib}, but became {lab.targets_kib()}")
    wait_at_targets(lab.hypervisor, targets_kib)
    return f"exit code 0 in {took_s:.2f} s"


def _require_range(lab: Lab, guest: Guest, min_kib: int, max_kib: int) -> None:
    """Require a dynamic range in the VM record, in order with the static one, and in xenstore."""
    limits = lab.client().limits(guest)
    require(
        (limits.dynamic_min_kib, limits.dynamic_max_kib) == (min_kib, max_kib),
        f"the record of {guest.name} has the range {min_kib} to {max_kib} KiB, but says {limits}",
    )
    require(limits.are_ordered, f"limits of {guest.name} are ordered, but its record says {limits}")
    keys = xenstore_tree(guest.key("memory"))
    for name, size_kib in (("dynamic-min", min_kib), ("dynamic-max", max_kib)):
        line = f'{guest.key(f"memory/{name}")} = "{size_kib}"'
        require(line in keys.splitlines(), f"xenstore has {line}, but it has\n{keys}")
