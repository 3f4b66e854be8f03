"""The Debian package: it installs in dom0, serves under its unit's command line, and goes again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.request import urlopen

from tests.lab.dom0.daemon import READY_DEADLINE_S, STOP_DEADLINE_S, first_line
from tests.lab.dom0.report import require

if TYPE_CHECKING:
    from tests.lab.dom0.lab import Lab

PACKAGE: Final = "/opt/lab/xcpmem.deb"
UNIT: Final = Path("/lib/systemd/system/xcpmemd.service")
RUNTIME: Final = Path("/run/xcpmem")  # systemd would make it
COMMAND_S: Final = 120
URL: Final = "http://127.0.0.1:8080"

# Nothing of the lab's own Python path: what the package needs it must bring, or find in Debian's places.
ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def package_serves_under_its_units_command_line(lab: Lab) -> str:
    """Install it, start what the unit starts, ask it over its socket and by HTTP, end it, remove it."""
    lab.rest()
    lab.daemon.stop()
    targets = lab.targets_kib()
    _run("dpkg", "--install", PACKAGE)
    command = _unit_setting("ExecStart").split()
    require(command[0] == "/usr/bin/xcpmemd", f"the unit starts {command[0]}")
    _run(command[0], "--config", "/etc/xcpmem/xcpmem.toml", "--driver", "xen", "--check-config")
    RUNTIME.mkdir(mode=0o750, exist_ok=True)
    with Path("/run/lab/package.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT
        )
    try:
        assert process.stdout is not None
        line = first_line(process.stdout, READY_DEADLINE_S)
        socket = RUNTIME / "xcpmem.sock"
        require(f"url={URL} socket={socket} state=/var/lib/xcpmem" in line, f"it said {line!r}")
        names = set(_run("xcpmem", "vm-list", "params=name-label", "--minimal").strip().split(","))
        require({guest.name for guest in lab.guests} <= names, f"it knows {sorted(names)}")
        with urlopen(f"{URL}/readyz?verbose", timeout=COMMAND_S) as answer:  # noqa: S310 - our own daemon's
            require(b"[+]host ok" in answer.read(), "it is not ready")
        reason = _run("xcpmem", "explain", f"vm={lab.guests[0].name}").strip()
        require(lab.guests[0].name in reason, f"it explains: {reason}")
        top = _run("xcpmem", "top")
        require(all(guest.name in top for guest in lab.guests), f"top shows:\n{top}")
        require(lab.targets_kib() == targets, "taking the host over moved a guest")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_DEADLINE_S)
    require(code == 0, f"it ended with {code}")
    _run("dpkg", "--purge", "xcpmem")
    left = [path for path in ("/usr/bin/xcpmem", "/usr/lib/xcpmem", "/etc/xcpmem") if os.path.exists(path)]  # noqa: PTH110 links too
    require(not left, f"purging it left {', '.join(left)}")
    return f"served {len(names)} VMs by {' '.join(command[:1])}; {reason}"


def _unit_setting(name: str) -> str:
    lines = UNIT.read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{name}="))


def _run(*words: str) -> str:
    """Run a command to its end; what it printed."""
    done = subprocess.run(
        words, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=COMMAND_S
    )
    require(done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
