"""sd_notify, read at the other end by a real datagram socket."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from xcpmem.notify import READY, STOPPING, WATCHDOG, is_awaited, notify, status, watchdog_interval_s

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_states_arrive_in_one_datagram_in_order(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    assert notify(READY, status("6 domains,\nall at target"), environ=environ)
    assert manager.recv(1000) == b"READY=1\nSTATUS=6 domains, all at target"
    assert notify(WATCHDOG, environ=environ)
    assert manager.recv(1000) == b"WATCHDOG=1"
    assert notify(STOPPING, environ=environ)
    assert manager.recv(1000) == b"STOPPING=1"


def test_states_arrive_when_the_address_is_in_the_abstract_namespace() -> None:
    name = f"xcpmem-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind("\0" + name)
        listening.settimeout(5)
        assert notify(READY, environ={"NOTIFY_SOCKET": "@" + name})
        assert listening.recv(1000) == b"READY=1"


def test_address_comes_from_the_processs_environment_when_none_is_given(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    assert notify(READY)
    assert manager.recv(1000) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nonexistent/notify"}])
def test_nothing_is_sent_when_nobody_listens(environ: dict[str, str]) -> None:
    assert not notify(READY, environ=environ)


def test_ring_is_not_held_up_when_the_managers_queue_is_full(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    sent = [notify(WATCHDOG, environ=environ) for _ in range(5000)]
    assert sent[0]
    assert not sent[-1]


@pytest.mark.parametrize(
    ("environ", "expected_s"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "17"}, 15.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "18"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_wants_half_the_units_limit_when_this_process_is_watched(
    environ: dict[str, str], expected_s: float | None
) -> None:
    assert watchdog_interval_s(environ, pid=17) == expected_s


def test_service_manager_waits_for_whom_it_has_told_where_to_answer() -> None:
    assert is_awaited({"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert not is_awaited({"NOTIFY_SOCKET": ""})
    assert not is_awaited({})
