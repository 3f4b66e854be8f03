"""The client as a process: its commands over the Unix socket and over TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.programs import CLIENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.clients import XenApi, Xenstore
    from tests.e2e.programs import Daemon, Workshop

GIB = 1 << 30
GIB_KIB = 1 << 20


class Client:
    """Runs commands as one would type them.

    Args:
        shop: where.
        options: before the command: how to reach the daemon.
        settings: in the environment.
    """

    def __init__(self, shop: Workshop, *options: str, **settings: str) -> None:
        self._shop = shop
        self._options = options
        self._settings = settings

    def __call__(self, *words: str) -> str:
        """Run a command that works; return what it prints."""
        ended = self._shop.run(*CLIENT, *self._options, *words, **self._settings)
        assert (ended.status, ended.err) == (0, "")
        return ended.out


@pytest.fixture
def client(shared_shop: Workshop, quiet: Daemon) -> Client:
    return Client(shared_shop, XCPMEM_SOCKET=str(quiet.socket))


@pytest.fixture
def uuid(api: XenApi) -> Iterator[str]:
    """A VM whose range is put back at the end."""
    yield str(api.vm("guest-2")["uuid"])
    api.call("VM.set_memory_dynamic_range", api.ref("guest-2"), GIB, 3 * GIB)
    api.call("VM.wait_memory_target_live", api.ref("guest-2"))


def test_vm_list_gives_the_uuids_that_xenapi_gives(client: Client, api: XenApi) -> None:
    uuids = client("vm-list", "--minimal", "is-control-domain=false").rstrip("\n").split(",")
    assert sorted(uuids) == sorted(vm["uuid"] for vm in api.vms().values())


def test_plan_shows_who_would_give_what_and_changes_nothing(client: Client, api: XenApi) -> None:
    before = api.vms()
    lines = client("plan", "reserve-min=2GiB", "reserve-max=16GiB").splitlines()
    assert lines[0].startswith("Would be granted: ")
    assert [line.split()[0] for line in lines[2:6]] == ["guest-1", "guest-2", "guest-3", "guest-4"]
    assert lines[-1] == "Nothing was changed."
    limits = ("memory_dynamic_min", "memory_dynamic_max", "memory_target")
    now = api.vms()
    assert {(ref, name): before[ref][name] for ref in before for name in limits} == {
        (ref, name): now[ref][name] for ref in before for name in limits
    }


def test_what_was_decided_is_told_and_can_be_thought_through_again(
    client: Client, uuid: str, shared_shop: Workshop
) -> None:
    client("vm-memory-dynamic-range-set", f"uuid={uuid}", "min=1GiB", "max=2GiB")
    client("vm-memory-target-wait", f"uuid={uuid}")
    told = client("history", f"vm={uuid}")
    assert "root asked for VM.set_memory_dynamic_range of guest-2: 1 GiB, 2 GiB" in told
    assert "guest-2 is to hold 2 GiB instead of 3 GiB" in told
    assert " looks from " in client("replay", "since=1h", "policy=shares")
    file = shared_shop.folder / "recorded.jsonl"
    file.write_text(client("journal-export"), encoding="utf-8")
    assert "guest-2" in client("replay", str(file), "policy=pressure")


def test_range_is_set_waited_for_and_obeyed(client: Client, uuid: str, store: Xenstore) -> None:
    assert client("vm-memory-dynamic-range-set", f"uuid={uuid}", "min=1GiB", "max=2816MiB") == ""
    assert client("vm-memory-target-wait", f"uuid={uuid}") == ""
    assert store.memory_kib(2) == {"dynamic-min": GIB_KIB, "dynamic-max": 2816 * 1024, "target": 2816 * 1024}


def test_free_memory_is_what_xenapi_computes(shared_shop: Workshop, quiet: Daemon, api: XenApi) -> None:
    (host,) = api.call("host.get_all")
    client = Client(shared_shop, "-s", str(quiet.socket))
    assert client("host-compute-free-memory").strip() == api.call("host.compute_free_memory", host)


def test_client_logs_in_over_tcp_with_a_password_file(
    shared_shop: Workshop, quiet: Daemon, api: XenApi
) -> None:
    path = shared_shop.write("login", f"root\n{quiet.password}\n")
    client = Client(shared_shop, "-s", "127.0.0.1", "-p", str(quiet.port), "-pwf", path)
    name = client("vm-list", "name-label=guest-1", "params=uuid", "--minimal").strip()
    assert name == api.vm("guest-1")["uuid"]


def test_refusal_is_said_and_ends_with_1(shared_shop: Workshop, quiet: Daemon, uuid: str) -> None:
    ended = shared_shop.run(
        *CLIENT,
        *("-s", str(quiet.socket), "vm-memory-dynamic-range-set", f"uuid={uuid}", "min=2GiB", "max=1GiB"),
    )
    assert (ended.status, ended.out) == (1, "")
    assert "dynamic" in ended.err


def test_daemon_that_is_not_there_is_said_in_one_line(shared_shop: Workshop) -> None:
    ended = shared_shop.run(*CLIENT, "-s", str(shared_shop.folder / "nobody"), "vm-list")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert "nobody" in ended.err
