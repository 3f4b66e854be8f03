"""Checks of the host alone: real guests obey plain `xenstore-write`. The daemon does not run yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.guests import (
    MEMORY_KIB,
    require_same_size_in_xl,
    wait_at_targets,
    wait_for_mem_total,
    write_targets,
)
from tests.lab.dom0.host import KIB_PER_MIB

if TYPE_CHECKING:
    from tests.lab.dom0.lab import Lab

DOWN_KIB: Final = 300 * KIB_PER_MIB
UP_KIB: Final = 700 * KIB_PER_MIB


def guests_obey_plain_xenstore_writes(lab: Lab) -> str:
    """All guests balloon down, up, and back, by target alone; their own MemTotal follows."""
    maxmem_kib = {guest: lab.hypervisor.domains()[guest.domid].maxmem_kib for guest in lab.guests}
    mem_total_kib = {guest: guest.mem_total_kib() for guest in lab.guests}
    took_s = {}
    for direction, size_kib in (("down", DOWN_KIB), ("up", UP_KIB), ("back", MEMORY_KIB)):
        for guest in lab.guests:
            # libxl leaves room for little more than the memory at start.
            slack_kib = maxmem_kib[guest] - MEMORY_KIB
            lab.hypervisor.set_maxmem(guest.domid, max(maxmem_kib[guest], size_kib + slack_kib))
        targets_kib = dict.fromkeys(lab.guests, size_kib)
        write_targets(targets_kib)
        took_s[direction] = wait_at_targets(lab.hypervisor, targets_kib)
        for guest in lab.guests:
            wait_for_mem_total(guest, mem_total_kib[guest] + size_kib - MEMORY_KIB)
            require_same_size_in_xl(lab.hypervisor, guest)
        report.figure(f"plain_balloon_{direction}", took_s[direction], "s")
    for guest in lab.guests:
        lab.hypervisor.set_maxmem(guest.domid, maxmem_kib[guest])
    return ", ".join(f"{direction} in {seconds:.2f} s" for direction, seconds in took_s.items())
