"""The figure: from the call to the grant, beside plain `xenstore-write`s of the same targets."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.guests import wait_at_targets, write_targets
from tests.lab.dom0.lab import Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

PAIRS: Final = 10


def reservation_time_beside_plain_writes(lab: Lab) -> str:
    """Ten alternating pairs on the same guests; a figure, not an assertion: the machine is noisy."""
    at_rest = lab.rest()
    # Both ends of the range are the same, so that every call leads to the same targets.
    size_kib, _ = lab.range_to_reserve_kib()
    warm_up = _reserved(lab, size_kib)[1]
    _give_back(lab, warm_up, at_rest)
    daemon_s, plain_s = [], []
    for pair in range(PAIRS):
        # The order alternates too, lest a drift of the machine's speed favour one of both.
        if pair % 2:
            plain_s.append(_plain(lab, warm_up.targets_kib, at_rest))
        took_s, settlement = _reserved(lab, size_kib)
        daemon_s.append(took_s)
        _give_back(lab, settlement, at_rest)
        if not pair % 2:
            plain_s.append(_plain(lab, settlement.targets_kib, at_rest))
        report.log(
            f"pair {pair + 1}: reserved in {daemon_s[-1]:.2f} s, plain writes obeyed in {plain_s[-1]:.2f} s"
        )
    ratio = statistics.median(daemon_s) / statistics.median(plain_s)
    report.figure("reservation_granted", statistics.median(daemon_s), "s")
    report.figure("plain_writes_obeyed", statistics.median(plain_s), "s")
    report.figure("reservation_over_plain_writes", ratio, "ratio")
    return f"ratio of medians {ratio:.2f} over {PAIRS} pairs"


def _reserved(lab: Lab, size_kib: int) -> tuple[float, Settlement]:
    """Reserve through the daemon; the seconds are those of the call alone."""
    began = time.perf_counter()
    reservation = lab.reserve(size_kib, size_kib)
    took_s = time.perf_counter() - began
    return took_s, Settlement(size_kib, size_kib, reservation, lab.targets_kib())


def _give_back(lab: Lab, settlement: Settlement, at_rest: Mapping[Guest, int]) -> None:
    lab.delete(settlement.reservation)
    wait_at_targets(lab.hypervisor, at_rest)
    lab.client().balance()


def _plain(lab: Lab, targets_kib: Mapping[Guest, int], at_rest: Mapping[Guest, int]) -> float:
    """Write the same targets by `xenstore-write`, until they are obeyed, and undo that.

    The daemon is paused meanwhile: it would put back its own targets. It finds all as it left it.
    """
    with lab.daemon.paused():
        began = time.perf_counter()
        write_targets(targets_kib)
        wait_at_targets(lab.hypervisor, targets_kib)
        took_s = time.perf_counter() - began
        write_targets(at_rest)
        wait_at_targets(lab.hypervisor, at_rest)
    lab.client().balance()
    return took_s
