"""A machine that runs out: the disk takes no more, no file can be opened; and what becomes of it later."""

from __future__ import annotations

import http.client
import os
import resource
import time
import urllib.error
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Failure, logged_in
from tests.e2e.programs import CLIENT, START_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.programs import Daemon, Workshop

GIB = 1 << 30
FEW = 50
"""asyncio complains of each try to accept a connection in vain, and of each that the end forestalls."""


@contextmanager
def limited(daemon: Daemon, kind: int, most: int) -> Iterator[None]:
    """Bound a resource of a daemon that runs."""
    pid = daemon.process.pid
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def dynamic_max(daemon: Daemon) -> int:
    with logged_in(daemon) as api:
        return int(api.vm("guest-1")["memory_dynamic_max"])


def test_full_disk_refuses_changes_in_words_and_takes_them_again_when_there_is_room(shop: Workshop) -> None:
    daemon = shop.daemon()
    log = daemon.state_dir / "state.db-wal"
    with logged_in(daemon) as api:
        ref = api.ref("guest-1")
        with limited(daemon, resource.RLIMIT_FSIZE, log.stat().st_size):
            with pytest.raises(Failure, match="state cannot be saved"):
                api.call("VM.set_memory_dynamic_range", ref, GIB, 2 * GIB)
            assert int(api.vm("guest-1")["memory_dynamic_max"]) == 3 * GIB
            assert daemon.fetch("/readyz") == "ok"
        api.call("VM.set_memory_dynamic_range", ref, GIB, 2 * GIB)
    daemon.kill()
    assert dynamic_max(shop.daemon()) == 2 * GIB


def test_daemon_without_file_descriptors_serves_again_when_there_are_some(shop: Workshop) -> None:
    daemon = shop.daemon()
    with logged_in(daemon) as api:
        open_files = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))  # noqa: PTH208 -- names are enough
        with limited(daemon, resource.RLIMIT_NOFILE, open_files):
            waiting = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=START_S)
            waiting.request("GET", "/livez")  # in the queue of the socket: nobody can accept it
            api.call("VM.set_memory_dynamic_range", api.ref("guest-1"), GIB, 2 * GIB)
        with closing(waiting):
            assert waiting.getresponse().read() == b"ok"
        assert daemon.fetch("/readyz") == "ok"
    assert dynamic_max(daemon) == 2 * GIB
    assert daemon.end() == 0
    assert daemon.log.count("Traceback") < FEW


def test_xenstore_that_is_lost_while_no_file_can_be_opened_comes_back(shop: Workshop) -> None:
    path = shop.folder / "host"
    simhost = shop.start(*CLIENT, "simhost", "--scenario", "quiet", "--socket", str(path))
    simhost.read_line()
    daemon = shop.daemon("--host", str(path))
    with logged_in(daemon) as api:
        with limited(daemon, resource.RLIMIT_NOFILE, 3):
            simhost.kill()
            wait_until_log_says(daemon, "lost the connection to xenstored")
            shop.simhost("quiet")
        deadline_s = time.monotonic() + START_S
        while not is_ready(daemon):
            assert time.monotonic() < deadline_s, daemon.log
            api.call("VM.get_all")
        api.call("VM.set_memory_dynamic_range", api.ref("guest-1"), GIB, 2 * GIB)
        api.call("VM.wait_memory_target_live", api.ref("guest-1"))


def is_ready(daemon: Daemon) -> bool:
    try:
        return daemon.fetch("/readyz") == "ok"
    except urllib.error.HTTPError as error:
        error.close()
        return False


def wait_until_log_says(daemon: Daemon, words: str) -> None:
    deadline_s = time.monotonic() + START_S
    while words not in daemon.log:
        assert time.monotonic() < deadline_s, daemon.log
        os.sched_yield()
