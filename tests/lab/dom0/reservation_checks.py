"""Checks of reservations: fairly taken, really free, given back, and safe from a killed daemon."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.guests import wait_at_targets
from tests.lab.dom0.host import KIB_PER_MIB, wait_until, xenstore_tree
from tests.lab.dom0.report import CheckError, require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab, Settlement

STATE_PATH: Final = "/xcpmem"
# Shares are equal but for whole KiB and pages: a thousandth of the narrowest range is 300 KiB.
SHARE_TOLERANCE: Final = 0.001
# The hypervisor takes and returns a few pages of its own at any time.
FREE_TOLERANCE_KIB: Final = 512
SAME_TARGET_KIB: Final = 16
GIVEN_BEFORE_THE_KILL_KIB: Final = 64 * KIB_PER_MIB
GIVING_DEADLINE_S: Final = 30
CALL_DEADLINE_S: Final = 120


def reservation_is_taken_proportionally_and_really_free(lab: Lab) -> str:
    """`Memory.reserve_memory_range` takes the same share of each guest's range, and the memory is there."""
    at_rest = lab.rest()
    free_before_kib = lab.hypervisor.free_kib()
    min_kib, max_kib = lab.range_to_reserve_kib()
    settlement = lab.granted = lab.settle(min_kib, max_kib)
    free_kib = lab.hypervisor.free_kib()
    granted_kib = settlement.reservation.granted_kib
    require(min_kib <= granted_kib <= max_kib, f"granted {granted_kib} KiB is within {min_kib} to {max_kib}")
    _require_free(lab, free_kib, granted_kib)
    shares = _shares(lab, settlement.targets_kib)
    require(
        all(0 < share < 1 for share in shares) and max(shares) - min(shares) <= SHARE_TOLERANCE,
        f"all guests keep the same part of their ranges, but it is {shares}",
    )
    wait_at_targets(lab.hypervisor, settlement.targets_kib)
    given_kib = sum(at_rest.values()) - sum(settlement.targets_kib.values())
    grown_kib = free_kib - free_before_kib
    require(
        abs(grown_kib - given_kib) <= FREE_TOLERANCE_KIB,
        f"free memory grows by the {given_kib} KiB that guests gave, but it grew by {grown_kib}",
    )
    return (
        f"asked {min_kib} to {max_kib}, granted {granted_kib}, free {free_kib} KiB; "
        f"guests keep {shares[0]:.4f} of their ranges"
    )


def deleted_reservation_lets_guests_grow_back(lab: Lab) -> str:
    """`Memory.delete_reservation` gives the memory back to whom it came from."""
    settlement = lab.granted
    if settlement is None:
        raise CheckError("no reservation was granted before, to be deleted")
    lab.delete(settlement.reservation)
    took_s = wait_at_targets(lab.hypervisor, lab.at_rest_kib())
    require(
        settlement.reservation.id not in xenstore_tree(STATE_PATH),
        f"nothing below {STATE_PATH} keeps the deleted reservation {settlement.reservation.id}",
    )
    return f"in {took_s:.2f} s"


def daemon_killed_while_guests_give_ends_in_the_same_state(lab: Lab) -> str:
    """The call dies with the daemon; asked again after the restart, the host ends where it would have."""
    expected = _undisturbed(lab)
    at_rest = lab.rest()
    other_client = lab.new_client()

    def given_kib() -> int:
        domains = lab.hypervisor.domains()
        return sum(size_kib - domains[guest.domid].mem_kib for guest, size_kib in at_rest.items())

    with ThreadPoolExecutor(max_workers=1) as threads:
        call = threads.submit(other_client.reserve_range, expected.min_kib, expected.max_kib)
        try:
            wait_until(
                lambda: given_kib() >= GIVEN_BEFORE_THE_KILL_KIB,
                "guests begin to give",
                GIVING_DEADLINE_S,
                lambda: f"{given_kib()} KiB given",
            )
        finally:
            lab.daemon.kill()
        given_at_kill_kib = given_kib()
        error = call.exception(CALL_DEADLINE_S)
    require(
        isinstance(error, OSError | http.client.HTTPException),
        f"the killed daemon's caller loses its connection, but it got {error!r}",
    )
    lab.client().balance()
    wait_at_targets(lab.hypervisor, at_rest)
    settlement = lab.settle(expected.min_kib, expected.max_kib)
    _require_same_end(lab, settlement, expected)
    lab.delete(settlement.reservation)
    return f"killed when {given_at_kill_kib} KiB were given, same targets after the restart"


def reservation_survives_a_killed_daemon(lab: Lab) -> str:
    """Granted memory stays reserved in xenstore and free on the host, before and after the restart."""
    expected = _undisturbed(lab)
    lab.rest()
    settlement = lab.settle(expected.min_kib, expected.max_kib)
    reservation = settlement.reservation
    lab.daemon.kill()
    _require_kept(reservation.id)
    lab.client().balance()
    _require_kept(reservation.id)
    _require_free(lab, lab.hypervisor.free_kib(), reservation.granted_kib)
    require(
        lab.targets_kib() == settlement.targets_kib,
        f"targets stay {_named(settlement.targets_kib)}, but became {_named(lab.targets_kib())}",
    )
    _require_same_end(lab, settlement, expected)
    lab.delete(reservation)
    wait_at_targets(lab.hypervisor, lab.at_rest_kib())
    return f"{reservation.granted_kib} KiB kept, then given back"


def _undisturbed(lab: Lab) -> Settlement:
    """Where a reservation ends that nothing disturbs; its size is fixed, so that it always ends there."""
    if lab.undisturbed is None:
        lab.rest()
        size_kib = sum(lab.range_to_reserve_kib()) // 2
        lab.undisturbed = lab.settle(size_kib, size_kib)
        wait_at_targets(lab.hypervisor, lab.undisturbed.targets_kib)
        lab.delete(lab.undisturbed.reservation)
    return lab.undisturbed


def _shares(lab: Lab, targets_kib: Mapping[Guest, int]) -> list[float]:
    """The part of its dynamic range that each guest keeps above its dynamic_min."""
    return [
        (targets_kib[guest] - min_kib) / (max_kib - min_kib)
        for guest, (min_kib, max_kib) in lab.ranges_kib().items()
    ]


def _require_free(lab: Lab, free_kib: int, granted_kib: int) -> None:
    slush_kib = lab.client().slush_kib()
    require(
        free_kib >= granted_kib + slush_kib - FREE_TOLERANCE_KIB,
        f"granted {granted_kib} KiB and slush {slush_kib} KiB are free, but only {free_kib} KiB are",
    )


def _require_kept(reservation_id: str) -> None:
    kept = xenstore_tree(STATE_PATH)
    require(reservation_id in kept, f"{STATE_PATH} keeps reservation {reservation_id}, but it has\n{kept}")


def _require_same_end(lab: Lab, settlement: Settlement, expected: Settlement) -> None:
    """Require the targets of the undisturbed run, obeyed by the guests."""
    differences = {
        guest.name: settlement.targets_kib[guest] - target_kib
        for guest, target_kib in expected.targets_kib.items()
    }
    report.log(f"targets beside the undisturbed run's, KiB: {differences}")
    require(
        all(abs(difference) <= SAME_TARGET_KIB for difference in differences.values()),
        f"targets are those of the undisturbed run, but differ by {differences} KiB",
    )
    wait_at_targets(lab.hypervisor, settlement.targets_kib)


def _named(targets_kib: Mapping[Guest, int]) -> dict[str, int]:
    return {guest.name: size_kib for guest, size_kib in targets_kib.items()}
