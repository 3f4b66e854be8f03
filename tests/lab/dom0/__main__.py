"""The test driver inside dom0: starts the guests, runs the checks, says the verdict."""

from __future__ import annotations

import socket
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.dom0 import report
from tests.lab.dom0.guests import start_guests
from tests.lab.dom0.host import Hypervisor
from tests.lab.dom0.lab import DAEMON_DIRECTORY, GUEST_NAMES, Lab
from tests.lab.dom0.report import CheckError

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKS: Final = Path("/opt/lab/checks")
# No check begins later, because the machine is switched off after 10 minutes and a verdict must come out.
BUDGET_S: Final = 450
CALL_TIMEOUT_S: Final = 90


def main() -> None:
    """Run the checks that were asked for and print the verdict."""
    began = time.monotonic()
    # xmlrpc.client, below XenAPI, has no timeout of its own.
    socket.setdefaulttimeout(CALL_TIMEOUT_S)
    DAEMON_DIRECTORY.mkdir()
    checks = [_find(name) for name in CHECKS.read_text().split()]
    counts = {True: 0, False: 0}
    try:
        hypervisor = Hypervisor()
        report.step(f"starting {len(GUEST_NAMES)} guests")
        lab = Lab(hypervisor, start_guests(hypervisor, GUEST_NAMES))
        report.figure("guests_up", time.monotonic() - began, "s")
    except Exception as error:  # noqa: BLE001 - any failure is an answer
        report.failed("guests_start", str(error))
        report.log(traceback.format_exc())
        _log_guest_consoles()
        report.verdict(0, 1)
        return
    for check in checks:
        in_time = time.monotonic() - began < BUDGET_S
        counts[_run(check, lab, in_time=in_time)] += 1
    report.figure("checks", time.monotonic() - began, "s")
    report.verdict(counts[True], counts[False])


def _find(name: str) -> Callable[[Lab], str]:
    """The function that `boots` names: it takes the lab and returns what it saw, or raises."""
    module, _, function = name.rpartition(".")
    check: Callable[[Lab], str] = getattr(import_module(f"tests.lab.dom0.{module}"), function)
    return check


def _run(check: Callable[[Lab], str], lab: Lab, *, in_time: bool) -> bool:
    """Run one check and report it; tell whether it passed."""
    name = check.__name__
    if not in_time:
        report.failed(name, f"not begun: the boot's {BUDGET_S} s were over")
        return False
    report.step(name)
    began = time.monotonic()
    try:
        detail = check(lab)
    except Exception as error:  # noqa: BLE001 - the next check still runs
        report.failed(name, f"({time.monotonic() - began:.1f} s) {type(error).__name__}: {error}")
        if not isinstance(error, CheckError):
            report.log(traceback.format_exc())
        report.log(lab.daemon.news())
        return False
    report.passed(name, f"({time.monotonic() - began:.1f} s) {detail}")
    return True


def _log_guest_consoles() -> None:
    for console in sorted(Path("/var/log/xen/console").glob("guest-*.log")):
        report.log(f"{console.name}:\n{console.read_text(errors='replace')[-2000:]}")


if __name__ == "__main__":
    main()
