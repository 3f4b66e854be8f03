"""The check of squeezed's place: xenopsd's own sequence of calls builds a real guest under pressure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests import fakexenopsd
from tests.lab.dom0 import report
from tests.lab.dom0.daemon import SQUEEZED_SOCKET
from tests.lab.dom0.guests import create_guest, find_guest, wait_at_targets, wait_for_first_report
from tests.lab.dom0.host import KIB_PER_MIB, run, xenstore_read, xenstore_tree, xenstore_write
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.lab import Lab

NAME: Final = "lab-xenopsd"
RANGE_KIB: Final = (300 * KIB_PER_MIB, 500 * KIB_PER_MIB)
OVERHEAD_KIB: Final = 10 * KIB_PER_MIB
SLACK_KIB: Final = 2 * KIB_PER_MIB


def xenopsds_start_sequence_builds_a_guest_under_pressure(lab: Lab) -> str:
    """Log in, reserve a range, build paused, transfer, query, delete, balance: as xenopsd starts a VM."""
    lab.rest()
    filling_kib = lab.usable_kib() - 100 * KIB_PER_MIB
    lab.reserve(filling_kib, filling_kib)
    before_kib = {guest: lab.hypervisor.mem_kib(guest.domid) for guest in lab.guests}
    least_kib, most_kib = (size_kib + OVERHEAD_KIB for size_kib in RANGE_KIB)
    fakexenopsd.login(SQUEEZED_SOCKET)
    began = time.perf_counter()
    reservation_id, amount_kib = fakexenopsd.reserve_range(SQUEEZED_SOCKET, least_kib, most_kib)
    reserved_s = time.perf_counter() - began
    require(
        lab.hypervisor.free_kib() >= amount_kib, f"the {amount_kib} KiB that were granted are really free"
    )
    memory_kib = (amount_kib - OVERHEAD_KIB) // KIB_PER_MIB * KIB_PER_MIB
    try:
        create_guest(NAME, memory_kib, RANGE_KIB[1], paused=True)
        guest = find_guest(lab.hypervisor, NAME)
        _transfer(lab, reservation_id, guest.domid, amount_kib)
        # The two keys as xenopsd writes them once a domain is built.
        ends = zip(("dynamic-max", "dynamic-min"), reversed(RANGE_KIB), strict=True)
        xenstore_write({guest.key(f"memory/{key}"): str(size_kib) for key, size_kib in ends})
        fakexenopsd.hand_over(SQUEEZED_SOCKET, guest.domid)
        run("xl", "unpause", NAME)
        wait_for_first_report(guest)
        lab.client().balance()
        wait_at_targets(lab.hypervisor, {**lab.targets_kib(), guest: guest.target_kib()})
        maxmem_kib = lab.hypervisor.domains()[guest.domid].maxmem_kib
        require(
            0 <= maxmem_kib - guest.target_kib() <= SLACK_KIB,
            f"maxmem {maxmem_kib} KiB is the target {guest.target_kib()} with its slack",
        )
        target_kib = guest.target_kib()
        given_kib = sum(
            size_kib - lab.hypervisor.mem_kib(other.domid) for other, size_kib in before_kib.items()
        )
        require(given_kib > 0, "others gave memory for it")
    finally:
        run("xl", "destroy", NAME)
    lab.rest()
    report.figure("xenopsd_range_granted", reserved_s, "s")
    return f"granted {amount_kib} KiB in {reserved_s:.2f} s; others gave {given_kib} KiB; it has {target_kib}"


def _transfer(lab: Lab, reservation_id: str, domid: int, amount_kib: int) -> None:
    """Transfer the reservation, and see that Xen really lets the domain have it."""
    fakexenopsd.call(
        SQUEEZED_SOCKET, "transfer_reservation_to_domain", fakexenopsd.SERVICE, reservation_id, domid
    )
    maxmem_kib = lab.hypervisor.domains()[domid].maxmem_kib
    require(
        0 <= maxmem_kib - amount_kib <= SLACK_KIB,
        f"maxmem {maxmem_kib} KiB is what was reserved, {amount_kib}",
    )
    tree = xenstore_tree(f"/local/domain/{domid}/memory")
    require(f'reservation-id = "{reservation_id}"' in tree, f"the domain names its reservation:\n{tree}")
    (initial,) = xenstore_read(f"/local/domain/{domid}/memory/initial-reservation")
    require(int(initial) == amount_kib, f"initial-reservation {initial} is {amount_kib} KiB")
