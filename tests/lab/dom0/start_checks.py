"""Checks of starts with `xl`: by squeezing others, refused if they can never fit, and cut short by kills."""

from __future__ import annotations

import http.client
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.client import Limits
from tests.lab.dom0.guests import STATIC_MAX_KIB, config_of, wait_at_targets
from tests.lab.dom0.host import KIB_PER_MIB, Watch, wait_until, xenstore_tree
from tests.lab.dom0.report import CheckError, require

if TYPE_CHECKING:
    from tests.lab.dom0.guests import Guest
    from tests.lab.dom0.lab import Lab

ERRANDS_PATH: Final = "/xcpmem/reservations/xcpmem-start"
# What is left for the VM to start without squeezing: half of its dynamic_min.
LEFT_KIB: Final = 200 * KIB_PER_MIB
SHARE_TOLERANCE: Final = 0.01
# libxl leaves each domain a slack of 1 MiB, and Xen takes a few pages of its own at any time.
PROMISE_TOLERANCE_KIB: Final = 4 * KIB_PER_MIB
KILLS: Final = 5
SEED: Final = 20100914
SETTLE_DEADLINE_S: Final = 120
CALL_DEADLINE_S: Final = 120


def vm_starts_by_squeezing_two_others(lab: Lab) -> str:
    """`VM.start` of a VM for which there is no room until two others have given theirs, all alike."""
    starter, others = _halted(lab)
    _fill(lab)
    before_kib = {guest: lab.hypervisor.mem_kib(guest.domid) for guest in others}
    began = time.perf_counter()
    lab.client().start(starter)
    took_s = time.perf_counter() - began
    report.figure("start_by_squeezing", took_s, "s")
    starter = lab.renew(starter)
    lab.client().balance()
    targets_kib = lab.targets_kib()
    wait_at_targets(lab.hypervisor, targets_kib)
    given_kib = sum(size_kib - targets_kib[guest] for guest, size_kib in before_kib.items())
    require(given_kib > 0, f"two others give for it, but they gave {given_kib} KiB")
    shares = [
        (targets_kib[guest] - min_kib) / (max_kib - min_kib)
        for guest, (min_kib, max_kib) in lab.ranges_kib().items()
    ]
    require(
        max(shares) - min(shares) <= SHARE_TOLERANCE,
        f"all three keep the same part of their ranges, but it is {shares}",
    )
    _require_kept_promises(lab)
    return f"in {took_s:.1f} s; others gave {given_kib} KiB, all keep {shares[0]:.3f} of their ranges"


def vm_that_can_never_fit_is_refused_at_once_and_nobody_moves(lab: Lab) -> str:
    """`VM.start` of a VM whose dynamic_min is more than others could ever give."""
    starter, others = _halted(lab)
    freeable_kib = sum(
        max_kib - min_kib for guest, (min_kib, max_kib) in lab.ranges_kib().items() if guest in others
    )
    needed_kib = lab.usable_kib() + freeable_kib + 64 * KIB_PER_MIB
    lab.client().set_limits(starter, Limits(0, needed_kib, needed_kib, needed_kib))
    before = lab.hypervisor.free_kib()
    with Watch([guest.key("memory/target") for guest in others]) as watch:
        began = time.perf_counter()
        error = lab.client().start_error(starter)
        took_s = time.perf_counter() - began
        written = watch.events()
    report.figure("start_refused", took_s, "s")
    require(error[0] == "HOST_NOT_ENOUGH_FREE_MEMORY", f"there is not enough memory, but it said {error}")
    require(not written, f"no target is written for it, but these were: {written}")
    require(lab.client().power_state(starter) == "Halted", "the refused VM stays halted")
    moved_kib = lab.hypervisor.free_kib() - before
    require(abs(moved_kib) <= PROMISE_TOLERANCE_KIB, f"no memory moves, but {moved_kib} KiB did")
    _restart(lab, starter)
    return f"in {took_s:.2f} s, needed {error[1]} bytes, available {error[2]}"


def daemon_killed_at_five_moments_of_a_start(lab: Lab) -> str:
    """Whenever the daemon dies, the next one finishes the start or undoes it, and promises stay kept."""
    starter, _ = _halted(lab)
    _fill(lab)
    began = time.perf_counter()
    lab.client().start(starter)
    usual_s = time.perf_counter() - began
    lab.renew(starter)
    chance = random.Random(SEED)  # noqa: S311 - no secret
    moments_s = sorted(chance.uniform(0, usual_s) for _ in range(KILLS))
    ends = [_end_of_start_killed_after(lab, moment_s) for moment_s in moments_s]
    if lab.client().power_state(starter) == "Halted":
        _restart(lab, starter)
    return f"a start takes {usual_s:.1f} s; killed after {', '.join(ends)}"


def _end_of_start_killed_after(lab: Lab, moment_s: float) -> str:
    """Start the VM, kill the daemon so many seconds later, and say how that ended under the next one."""
    starter, _ = _halted(lab)
    _fill(lab)
    caller = lab.new_client()
    with ThreadPoolExecutor(max_workers=1) as threads:
        call = threads.submit(caller.start, starter)
        time.sleep(moment_s)
        lab.daemon.kill()
        error = call.exception(CALL_DEADLINE_S)
    require(
        error is None or isinstance(error, OSError | http.client.HTTPException),
        f"the killed daemon's caller loses its connection, but it got {error!r}",
    )
    began = time.perf_counter()
    client = lab.client()
    client.balance()
    wait_until(
        lambda: not xenstore_tree(ERRANDS_PATH),
        "nothing of the start is left in xenstore",
        SETTLE_DEADLINE_S,
        lambda: xenstore_tree(ERRANDS_PATH),
    )

    def state() -> str:
        """What Xen and the record agree on, or both words."""
        running = {domain.uuid for domain in lab.hypervisor.domains().values()}
        words = {"Running" if starter.uuid in running else "Halted", client.power_state(starter)}
        return " by Xen or the record, ".join(sorted(words))

    wait_until(
        lambda: state() in {"Halted", "Running"}, "record and Xen agree on the VM", SETTLE_DEADLINE_S, state
    )
    if state() == "Running":
        lab.renew(starter)
    client.balance()
    _require_kept_promises(lab)
    settled_s = time.perf_counter() - began
    report.log(f"killed {moment_s:.2f} s into a start: {state()}, {settled_s:.1f} s after the restart began")
    return f"{moment_s:.2f} s: {state()}"


def _halted(lab: Lab) -> tuple[Guest, tuple[Guest, ...]]:
    """Halt the last guest, with its range at rest, and let the others grow; return it and them."""
    client = lab.client()
    starter, others = lab.guests[-1], lab.guests[:-1]
    if client.power_state(starter) == "Running":
        client.hard_shutdown(starter)
    lab.delete_all()
    min_kib, max_kib = lab.ranges_kib()[starter]
    client.set_limits(starter, Limits(0, min_kib, max_kib, STATIC_MAX_KIB))
    client.set_config(starter, config_of(starter.name))
    for guest in others:
        client.set_dynamic_range(guest, *lab.ranges_kib()[guest])
    wait_at_targets(lab.hypervisor, {guest: lab.at_rest_kib()[guest] for guest in others})
    client.balance()
    return starter, others


def _fill(lab: Lab) -> None:
    """Reserve all that is free but `LEFT_KIB`, so that nothing can start without squeezing others."""
    size_kib = lab.usable_kib() - LEFT_KIB
    lab.reserve(size_kib, size_kib)


def _restart(lab: Lab, starter: Guest) -> None:
    """Leave the host as other checks expect it: the guest runs."""
    lab.delete_all()
    min_kib, max_kib = lab.ranges_kib()[starter]
    lab.client().set_limits(starter, Limits(0, min_kib, max_kib, STATIC_MAX_KIB))
    lab.client().start(starter)
    lab.renew(starter)


def _require_kept_promises(lab: Lab) -> None:
    """Require that all could take what they may take at once, and reservations and slush stayed free."""
    domains = lab.hypervisor.domains().values()
    growth_kib = sum(max(0, d.maxmem_kib - d.mem_kib) for d in domains if d.domid != 0)
    reserved_kib = sum(reservation.granted_kib for reservation in lab.reserved)
    left_kib = lab.usable_kib() - growth_kib - reserved_kib
    if left_kib < -PROMISE_TOLERANCE_KIB:
        raise CheckError(
            f"no more is promised than there is, but {-left_kib} KiB are: guests may take {growth_kib} more, "
            f"{reserved_kib} are reserved, {lab.usable_kib()} usable"
        )
