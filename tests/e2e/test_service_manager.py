"""What systemd hears of the daemon: that it serves, that its ring turns, that it ends."""

from __future__ import annotations

import re
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.e2e.programs import START_S, Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = """\
name = "a host on which nothing happens"
[host]
total_kib = 2097152
free_kib = 1048576
"""
WATCHDOG_S = 2


@pytest.fixture
def manager(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which a service manager listens; programs of the workshop find it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(shop.folder / "notify"))
        listening.settimeout(START_S)
        monkeypatch.setenv("NOTIFY_SOCKET", listening.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", str(WATCHDOG_S * 1_000_000))
        yield listening


def test_watchdog_is_fed_in_time_where_nothing_happens(shop: Workshop, manager: socket.socket) -> None:
    daemon = shop.daemon(scenario=shop.write("nobody.toml", NOBODY))
    ready = manager.recv(1000).decode()
    assert re.fullmatch(rf"READY=1\nSTATUS=serving {re.escape(daemon.url)}", ready)
    for _ in range(4):
        began_s = time.monotonic()
        assert manager.recv(1000) == b"WATCHDOG=1"
        assert time.monotonic() - began_s < WATCHDOG_S
    assert daemon.end() == 0
    while (told := manager.recv(1000)) == b"WATCHDOG=1":
        pass
    assert told == b"STOPPING=1"
