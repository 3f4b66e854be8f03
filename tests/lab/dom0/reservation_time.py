"""The figure: from the call to the grant, beside plain `xenstore-write`s of the same targets."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from XenAPI import Failure

from tests.lab.dom0 import report
from tests.lab.dom0.guests import wait_at_targets, write_targets
from tests.lab.dom0.lab import Settlement
from tests.lab.dom0.report import CheckError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

GOAL: Final = 1.15
PAIRS: Final = 10
ATTEMPTS: Final = 15


def reservation_time_beside_plain_writes(lab: Lab) -> str:
    """Ten alternating pairs on the same guests; a figure, not an assertion: the machine is noisy.

    Where the machine stands still for longer than a guest's patience, a pair is rightly refused; it is said
    so and measured again.
    """
    at_rest = lab.rest()
    # Both ends of the range are the same, so that every call leads to the same targets.
    size_kib, _ = lab.range_to_reserve_kib()
    known: Settlement | None = None
    pairs: list[tuple[float, float]] = []
    for attempt in range(ATTEMPTS):
        # The order alternates, lest a drift of the machine's speed favour one of both.
        first = known if attempt % 2 else None
        try:
            daemon_s, plain_s, known = _pair(lab, size_kib, at_rest, first)
        except (Failure, CheckError) as error:
            report.log(f"a pair was disturbed: {error}")
            at_rest = lab.rest()
            continue
        pairs.append((daemon_s, plain_s))
        report.log(
            f"pair {len(pairs)}: reserved in {daemon_s:.2f} s, plain writes obeyed in {plain_s:.2f} s, "
            f"over at {datetime.now(UTC):%H:%M:%S}"
        )
        if len(pairs) == PAIRS:
            break
    else:
        raise CheckError(f"{PAIRS} pairs could be measured, but {len(pairs)} of {ATTEMPTS} could")
    granted_s, obeyed_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    report.figure("reservation_granted", granted_s, "s")
    report.figure("plain_writes_obeyed", obeyed_s, "s")
    by_pairs = statistics.median(daemon_s / plain_s for daemon_s, plain_s in pairs)
    report.figure("reservation_over_plain_writes", granted_s / obeyed_s, "ratio")
    report.figure("reservation_over_plain_writes_by_pairs", by_pairs, "ratio")
    return (
        f"ratio of medians {granted_s / obeyed_s:.2f}, median of ratios {by_pairs:.2f} over {PAIRS} pairs; "
        f"the goal is at most {GOAL}"
    )


def _pair(
    lab: Lab, size_kib: int, at_rest: Mapping[Guest, int], known: Settlement | None
) -> tuple[float, float, Settlement]:
    """Measure the daemon, and plain writes of the targets that it chooses; seconds each.

    With ``known``, where the daemon settled before, the plain writes come first.
    """
    plain_s = _plain(lab, known.targets_kib, at_rest) if known else 0.0
    daemon_s, settlement = _reserved(lab, size_kib)
    _give_back(lab, settlement, at_rest)
    if known is None:
        plain_s = _plain(lab, settlement.targets_kib, at_rest)
    return daemon_s, plain_s, settlement


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
