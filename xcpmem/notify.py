"""Tell systemd how the daemon is: the datagrams of sd_notify(3).

Nothing is sent when ``NOTIFY_SOCKET`` is not set. ``WATCHDOG`` is to be sent by the ring itself, not by a
timer beside it, so that a ring that hangs is restarted.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"
_MICROSECONDS_PER_S: Final = 1_000_000


def is_awaited(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a service manager waits for this program; ``environ`` as for `notify`."""
    return bool((os.environ if environ is None else environ).get("NOTIFY_SOCKET"))


def status(sentence: str) -> str:
    """Make the line that ``systemctl status`` shows; line breaks become spaces."""
    return "STATUS=" + " ".join(sentence.split())


def notify(*states: str, environ: Mapping[str, str] | None = None) -> bool:
    """Send states to the service manager in one datagram.

    Args:
        states: `READY`, `STOPPING`, `WATCHDOG`, or what `status` made.
        environ: where ``NOTIFY_SOCKET`` is looked up; the process's own if None.

    Returns:
        False if no service manager listens: the variable is unset, or its socket is gone or full.
    """
    address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    ) as channel:
        try:
            channel.sendto("\n".join(states).encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] | None = None, pid: int | None = None) -> float | None:
    """Read how often `WATCHDOG` must be sent: half of what the unit's ``WatchdogSec`` allows.

    Args:
        environ: where ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up; the process's own if None.
        pid: the process that is watched; this one if None.

    Returns:
        Seconds above 0, or None if nobody watches this process.
    """
    environ = os.environ if environ is None else environ
    limit_us = environ.get("WATCHDOG_USEC", "")
    watched = environ.get("WATCHDOG_PID", "")
    if not (limit_us.isascii() and limit_us.isdigit()) or int(limit_us) == 0:
        return None
    if watched and watched != str(os.getpid() if pid is None else pid):
        return None
    return int(limit_us) / _MICROSECONDS_PER_S / 2
