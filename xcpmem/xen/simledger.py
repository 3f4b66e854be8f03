"""What happened on a simulated host so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Ledger:
    """What happened so far; sizes KiB.

    Args:
        min_free_kib: the least that was free or being scrubbed.
        overcommit_kib: the worst over time of sum of max(actual, maxmem) + reservations granted and not
            transferred - total, at least 0. A moment of no length counts if a daemon made it, not if the
            world did and a daemon ended it.
        moved_kib: what balloons gave and took.
        target_changes: writes of targets that changed a value.
        settled_us: virtual time of the last change of a target or movement of a guest, 0 if none.
        stall_us: time that guests which are gone lost for want of memory, by the guest model.
    """

    min_free_kib: int
    overcommit_kib: int = 0
    moved_kib: int = 0
    target_changes: int = 0
    settled_us: int = 0
    stall_us: int = 0
