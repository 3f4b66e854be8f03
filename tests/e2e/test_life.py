"""Starting and ending: what the daemon prints, how it takes signals, and how it refuses to start."""

from __future__ import annotations

import re
import signal
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Failure, XenApi, Xenstore, logged_in, xenstore
from tests.e2e.programs import DAEMON, END_S, START_S, Daemon, Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def hangups_ignored() -> Iterator[None]:
    """Start programs as nohup does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


DAWDLER = """\
name = "a guest that gives 1 MiB a second"
[host]
free_kib = 73728
[[guest]]
domid = 1
name_label = "dawdler"
dynamic_min_kib = 1048576
dynamic_max_kib = 3145728
balloon = { rate_kib_s = 1024 }
"""


def test_ready_line_says_where_the_daemon_serves_and_keeps_its_state(quiet: Daemon) -> None:
    state = quiet.state_dir
    assert (
        quiet.ready
        == f"xcpmemd ready url=http://127.0.0.1:{quiet.port} socket={state}/xcpmem.sock state={state}\n"
    )
    assert quiet.socket.is_socket()


def test_sigterm_ends_the_daemon_in_time_and_who_waits_for_memory_is_told(shop: Workshop) -> None:
    daemon = shop.daemon(scenario=shop.write("dawdler.toml", DAWDLER))
    with logged_in(daemon) as api, ThreadPoolExecutor(1) as caller:
        with xenstore(daemon.store) as store, store.watching_targets(1) as changes:
            waiting = caller.submit(api.call, "Memory.reserve_memory", 1048576)
            changes.wait_for(1)
        assert not waiting.done()
        started_s = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - started_s < END_S
        with pytest.raises(Failure) as told:
            waiting.result(END_S)
    assert told.value.details == ["INTERNAL_ERROR", "connection lost"]
    assert daemon.remaining_output() == ""
    assert not daemon.socket.exists()


def test_password_is_made_at_the_first_start_for_nobody_else_to_read(quiet: Daemon) -> None:
    path = quiet.state_dir / "root.password"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(quiet.state_dir.stat().st_mode) == 0o700
    assert len(quiet.password) >= 20


def test_nobody_else_can_reach_store_hypervisor_or_unix_socket(quiet: Daemon) -> None:
    sockets = [path for path in quiet.state_dir.iterdir() if path.is_socket()]
    assert {path.name for path in sockets} >= {"xcpmem.sock", "xenstored.sock", "xenstored.sock.hypervisor"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}


def refused(shop: Workshop, *options: str) -> str:
    """Start a daemon that cannot be; return its one line."""
    ended = shop.run(*DAEMON, *options)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    return ended.err.rstrip("\n")


def test_config_with_an_unknown_key_is_refused_with_file_line_key_and_why(shared_shop: Workshop) -> None:
    path = shared_shop.write("wrong.toml", 'policy = "proportional"\nstate_dirr = "x"\n')
    said = refused(shared_shop, "--config", path)
    assert said == f"xcpmemd: {path}:2: state_dirr: unknown key, did you mean state_dir?"


def test_unknown_option_is_refused_with_the_nearest_that_exists(shared_shop: Workshop) -> None:
    said = refused(shared_shop, "--lisen", "127.0.0.1:0")
    assert said == "xcpmemd: command line: --lisen: unknown option, did you mean --listen?"


def test_wrong_scenario_is_refused_with_file_key_and_why(shared_shop: Workshop) -> None:
    path = shared_shop.write(
        "wrong-scenario.toml", DAWDLER.replace("dynamic_min_kib = 1", "dynamic_min_kib = -1")
    )
    said = refused(shared_shop, "--scenario", path, "--state-dir", str(shared_shop.folder / "never"))
    assert said.startswith(f"xcpmemd: {path}: guest[0].dynamic_min_kib: must be a whole number from 0 to ")


@pytest.fixture
def taken() -> Iterator[str]:
    """A TCP address that another program has."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_port_in_use_is_refused_by_name(shared_shop: Workshop, taken: str) -> None:
    said = refused(
        shared_shop, "--scenario", "quiet", "--state-dir", str(shared_shop.folder / "p"), "--listen", taken
    )
    assert said == f"xcpmemd: command line: listen: {taken}: Address already in use"


def test_daemon_that_cannot_serve_says_nothing_to_the_host(shop: Workshop, taken: str) -> None:
    host = shop.simhost("default")
    config = shop.write("nowhere.toml", '\nsocket = "/nowhere/x.sock"\n')
    with xenstore(host) as store:
        before = [store.memory_kib(domid) for domid in range(1, 7)]
        for options in (("--listen", taken), ("--config", config, "--listen", "127.0.0.1:0")):
            said = refused(shop, "--host", str(host), "--state-dir", str(shop.folder / "h"), *options)
        assert said == f"xcpmemd: {config}:2: socket: /nowhere/x.sock: No such file or directory"
        assert [store.memory_kib(domid) for domid in range(1, 7)] == before


def test_service_manager_is_told_to_try_again_what_may_pass_and_not_what_a_setting_must_mend(
    shared_shop: Workshop, quiet: Daemon, taken: str
) -> None:
    mine, theirs = ("--state-dir", str(shared_shop.folder / "q")), ("--state-dir", str(quiet.state_dir))
    free = ("--listen", "127.0.0.1:0")
    for status, options in (
        (1, (*mine, "--listen", taken)),
        (1, (*theirs, *free)),
        (2, (*mine, *free, "--socket", "/nowhere/x.sock")),
        (2, (*mine, *free, "--scenario", "nowhere")),
    ):
        ended = shared_shop.run(*DAEMON, *options, NOTIFY_SOCKET=str(shared_shop.folder / "nobody"))
        assert (ended.status, ended.out, ended.err.count("\n")) == (status, "", 1), ended.err


@pytest.mark.parametrize("read_in", ["xcpmem.config", "asyncio", "xcpmem.assembly"])
def test_sigterm_while_the_program_is_still_read_in_ends_it_well(shared_shop: Workshop, read_in: str) -> None:
    impatient = f"""
import os, signal, sys
from xcpmem.daemon import main

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == {read_in!r}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Impatient())
sys.exit(main())
"""
    ended = shared_shop.run("-c", impatient, "--state-dir", str(shared_shop.folder / "i"))
    assert (ended.status, ended.out, ended.err) == (0, "", "")


@pytest.mark.parametrize("waiting", ["a service manager", "nohup"])
def test_sighup_is_answered_in_the_log_where_it_is_not_to_end_the_daemon(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, waiting: str
) -> None:
    if waiting == "nohup":
        with hangups_ignored():
            daemon = shop.daemon()
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", str(shop.folder / "nobody"))
        daemon = shop.daemon()
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.fetch("/livez")
    assert daemon.end() == 0
    assert daemon.log.count("SIGHUP: there is no certificate to read again") == 1


def test_daemon_ends_with_the_terminal_that_it_was_started_in(shop: Workshop) -> None:
    daemon = shop.daemon()
    assert daemon.end(signal.SIGHUP) == 0
    assert not daemon.socket.exists()


def test_sigterm_while_a_host_elsewhere_does_not_answer_ends_the_daemon_well(shop: Workshop) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as hung:
        hung.settimeout(START_S)
        hung.bind(str(shop.folder / "host.toolstack"))
        hung.listen()
        words = ("--host", str(shop.folder / "host"), "--listen", "127.0.0.1:0")
        daemon = shop.start(*DAEMON, *words, "--state-dir", str(shop.folder / "d"))
        asked, _ = hung.accept()
        with closing(asked):
            assert b"definitions" in asked.recv(1000)
            assert daemon.end() == 0
    assert daemon.log == ""


def test_state_dir_of_a_living_daemon_is_refused_and_the_living_one_serves_on(
    shared_shop: Workshop, quiet: Daemon, api: XenApi, store: Xenstore
) -> None:
    said = refused(
        shared_shop, "--scenario", "quiet", "--state-dir", str(quiet.state_dir), "--listen", "127.0.0.1:0"
    )
    assert re.fullmatch(rf"xcpmemd: .*state_dir: {quiet.state_dir} is in use by another xcpmemd", said)
    assert quiet.socket.exists()
    assert set(api.vms()) == {f"guest-{domid}" for domid in range(1, 5)}
    assert store.memory_kib(1)["target"] == 3145728
