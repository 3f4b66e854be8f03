"""A script that knows nothing of xcpmem, run inside dom0 against real guests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.lab.dom0.client import BYTES_PER_KIB
from tests.lab.dom0.guests import wait_at_targets
from tests.lab.dom0.host import KIB_PER_MIB
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.lab import Lab

SCRIPT: Final = Path(__file__).with_name("xenapi_script.py")
SCRIPT_S: Final = 90
RANGE_KIB: Final = (250 * KIB_PER_MIB, 450 * KIB_PER_MIB)
SLACK_KIB: Final = KIB_PER_MIB


def script_for_xapi_lists_sets_and_follows_events(lab: Lab) -> str:
    """An unmodified XenAPI script lists VMs, sets a dynamic range and waits for the events of it."""
    lab.rest()
    guest = lab.guests[0]
    least, most = (str(size_kib * BYTES_PER_KIB) for size_kib in RANGE_KIB)
    words = [lab.daemon.url, lab.daemon.root_password(), guest.name, least, most]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=SCRIPT_S, check=False
    )
    require(done.returncode == 0, f"the script ends well, but it said {done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    for each in lab.guests:
        require(
            any(line.startswith(f"VM {each.name} Running ") for line in lines),
            f"{each.name} is listed: {lines}",
        )
    require("EVENT vm mod" in lines, f"a change of the VM is told: {lines}")
    require("EVENT vm_metrics mod" in lines, f"a change of its metrics is told: {lines}")
    took_s = wait_at_targets(lab.hypervisor, {guest: RANGE_KIB[1]})
    held_kib = lab.hypervisor.mem_kib(guest.domid)
    told_kib = int(lines[-1].split()[1]) // BYTES_PER_KIB
    require(abs(told_kib - held_kib) <= SLACK_KIB, f"it holds {held_kib} KiB, the script was told {told_kib}")
    return f"{len(lines)} lines, {lines[-1]}, settled {took_s:.2f} s later"
