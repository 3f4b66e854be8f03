"""Checks of suspending a guest to disk with `xl save`, and of bringing it back with `xl restore`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.guests import wait_at_targets, wait_for_first_report
from tests.lab.dom0.host import KIB_PER_MIB
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.lab import Lab

# Dom0 keeps the image in its own memory here.
SIZE_KIB: Final = 220 * KIB_PER_MIB
TOLERANCE_KIB: Final = 2 * KIB_PER_MIB


def suspended_guest_comes_back_as_large_as_it_was(lab: Lab) -> str:
    """`VM.suspend`, a killed daemon, `VM.resume`: the same guest runs on, and follows its range again."""
    guest, client = lab.guests[0], lab.client()
    lab.delete_all()
    client.set_dynamic_range(guest, SIZE_KIB, SIZE_KIB)
    wait_at_targets(lab.hypervisor, {guest: SIZE_KIB})
    client.balance()
    held_kib = lab.hypervisor.mem_kib(guest.domid)
    began = time.perf_counter()
    client.suspend(guest)
    suspend_s = time.perf_counter() - began
    require(guest.domid not in lab.hypervisor.domains(), "a suspended guest has no domain")
    lab.daemon.kill()
    client = lab.client()
    require(client.power_state(guest) == "Suspended", "the next daemon knows that it is suspended")
    began = time.perf_counter()
    client.resume(guest)
    resume_s = time.perf_counter() - began
    guest = lab.find(guest)
    back_kib = lab.hypervisor.mem_kib(guest.domid)
    require(
        abs(back_kib - held_kib) <= TOLERANCE_KIB, f"it held {held_kib} KiB, and comes back with {back_kib}"
    )
    require(client.power_state(guest) == "Running", "it runs again")
    lab.rest()
    wait_for_first_report(guest)
    report.figure("suspend", suspend_s, "s")
    report.figure("resume", resume_s, "s")
    return f"{held_kib} KiB written in {suspend_s:.1f} s, back in {resume_s:.1f} s with {back_kib} KiB"
