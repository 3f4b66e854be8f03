"""Starting and stopping VMs: over XenAPI, by the command line, and by daemons that are killed halfway."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING

import pytest
from pyxs.client import Client as XenstoreClient

from tests.e2e.clients import Failure, TargetChanges, XenApi, logged_in, xenstore
from tests.e2e.programs import CLIENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.programs import Daemon, Workshop

MIB = 1 << 20
MIB_KIB = 1 << 10
SETTLE_S = 20.0
SIZES_MIB = (256, 768)
"""Everybody's dynamic range."""

# Three guests that share all there is, and move 1 GiB a second: without the third the others grow to the top.
CROWD = f"""\
name = "crowd"
[host]
free_kib = {72 * MIB_KIB}
""" + "".join(
    f"""\
[[guest]]
domid = {domid}
dynamic_min_kib = {SIZES_MIB[0] * MIB_KIB}
dynamic_max_kib = {SIZES_MIB[1] * MIB_KIB}
static_max_kib = {1024 * MIB_KIB}
target_kib = {512 * MIB_KIB}
balloon = {{ rate_kib_s = {1024 * MIB_KIB} }}
"""
    for domid in (1, 2, 3)
)
NEWCOMER = "guest-3"


class Crowd:
    """A host of its own process whose third guest is shut down, and the daemon attached to it."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._scenario = shop.write("crowd.toml", CROWD)
        self.host = shop.simhost(self._scenario)
        self.restart_daemon()

    def restart_daemon(self) -> None:
        self.daemon: Daemon = self._shop.daemon("--host", str(self.host), scenario=self._scenario, state="c")

    def xcpmem(self, *words: str) -> str:
        """Run a command that works; return what it prints."""
        ended = self._shop.run(*CLIENT, *words, XCPMEM_SOCKET=str(self.daemon.socket))
        assert (ended.status, ended.err) == (0, "")
        return ended.out

    def reservations_kib(self) -> dict[str, int]:
        with xenstore(self.host) as store:
            return store.reservations_kib()


@pytest.fixture(scope="module")
def shared_crowd(shared_shop: Workshop) -> Crowd:
    return Crowd(shared_shop)


@pytest.fixture
def crowd(shared_crowd: Crowd) -> Crowd:
    """The newcomer is not there, and the others have grown into its memory."""
    with logged_in(shared_crowd.daemon) as api:
        if api.vm(NEWCOMER)["power_state"] != "Halted":
            api.call("VM.hard_shutdown", api.ref(NEWCOMER))
        for name in ("guest-1", "guest-2"):
            api.call("VM.wait_memory_target_live", api.ref(name))
        api.call("Memory.balance_memory")
    return shared_crowd


@pytest.fixture
def api(crowd: Crowd) -> Iterator[XenApi]:
    with logged_in(crowd.daemon) as opened:
        yield opened


def targets(api: XenApi) -> dict[str, int]:
    return {name: int(vm["memory_target"]) for name, vm in api.vms().items() if name != NEWCOMER}


def test_vm_starts_in_memory_that_others_give_back_and_stops(crowd: Crowd, api: XenApi) -> None:
    before = targets(api)
    (host,) = api.call("host.get_all")
    api.call("VM.start_on", api.ref(NEWCOMER), host, False, False)
    vm = api.vm(NEWCOMER)
    assert (vm["power_state"], vm["resident_on"], vm["current_operations"]) == ("Running", host, {})
    api.call("Memory.balance_memory")
    assert sum(targets(api).values()) < sum(before.values())
    with xenstore(crowd.host) as store:
        keys = store.memory_kib(int(vm["domid"]))
        assert (keys["dynamic-min"], keys["dynamic-max"]) == tuple(mib * MIB_KIB for mib in SIZES_MIB)
        assert keys["target"] >= SIZES_MIB[0] * MIB_KIB
    assert crowd.reservations_kib() == {}
    api.call("VM.clean_shutdown", api.ref(NEWCOMER))
    assert (api.vm(NEWCOMER)["power_state"], api.vm(NEWCOMER)["domid"]) == ("Halted", "-1")
    api.call("Memory.balance_memory")
    assert targets(api) == pytest.approx(before, abs=MIB)


def test_vm_that_can_never_fit_is_refused_at_once_and_nobody_moves(crowd: Crowd, api: XenApi) -> None:
    ref, before = api.ref(NEWCOMER), targets(api)
    size = 16384 * MIB
    api.call("VM.set_memory_limits", ref, 0, size, size, size)
    started_s = time.monotonic()
    with pytest.raises(Failure) as refusal:
        api.call("VM.start", ref, False, False)
    assert time.monotonic() - started_s < 1.0
    code, needed, available = refusal.value.details
    assert code == "HOST_NOT_ENOUGH_FREE_MEMORY"
    assert int(needed) == size + int(api.vm(NEWCOMER)["memory_overhead"])
    assert 0 < int(available) < int(needed)
    assert targets(api) == before
    assert crowd.reservations_kib() == {}
    api.call("VM.set_memory_limits", ref, 0, 1024 * MIB, *(mib * MIB for mib in SIZES_MIB))


def test_vm_is_started_paused_rebooted_and_ended_from_the_command_line(crowd: Crowd, api: XenApi) -> None:
    select = f"vm={NEWCOMER}"
    uuid = api.vm(NEWCOMER)["uuid"]
    assert crowd.xcpmem("vm-param-add", f"uuid={uuid}", "param-name=other-config", "note=first") == ""
    assert crowd.xcpmem("vm-param-get", f"uuid={uuid}", "param-name=other-config") == "note: first\n"
    crowd.xcpmem("vm-param-remove", f"uuid={uuid}", "param-name=other-config", "param-key=note")
    crowd.xcpmem("vm-start", select, "paused=true")
    assert api.vm(NEWCOMER)["power_state"] == "Paused"
    crowd.xcpmem("vm-unpause", select)
    assert api.vm(NEWCOMER)["power_state"] == "Running"
    domids = [api.vm(NEWCOMER)["domid"]]
    for words in (["vm-reboot"], ["vm-reboot", "--force"]):
        crowd.xcpmem(*words, select)
        assert (api.vm(NEWCOMER)["power_state"], api.vm(NEWCOMER)["uuid"]) == ("Running", uuid)
        domids.append(api.vm(NEWCOMER)["domid"])
    assert len(set(domids)) == 3
    crowd.xcpmem("vm-pause", select)
    crowd.xcpmem("vm-shutdown", "--force", select)
    assert api.vm(NEWCOMER)["power_state"] == "Halted"


def test_suspended_vm_survives_a_killed_daemon_and_comes_back_as_large_as_it_was(crowd: Crowd) -> None:
    select = f"vm={NEWCOMER}"
    crowd.xcpmem("vm-start", select)
    with logged_in(crowd.daemon) as api:
        ref = api.ref(NEWCOMER)
        api.call("VM.set_memory_dynamic_range", ref, 512 * MIB, 512 * MIB)
        api.call("VM.wait_memory_target_live", ref)
        crowd.xcpmem("vm-suspend", select)
        vm = api.vm(NEWCOMER)
        assert (vm["power_state"], vm["domid"], vm["current_operations"]) == ("Suspended", "-1", {})
        assert vm["resident_on"] == vm["scheduled_to_be_resident_on"] == "OpaqueRef:NULL"
        assert api.call("VM_metrics.get_memory_actual", vm["metrics"]) == "0"
        allowed = {"resume", "resume_on", "hard_shutdown", "shutdown", "destroy"}
        assert allowed <= set(vm["allowed_operations"])
        assert not {"start", "suspend", "pause", "changing_dynamic_range"} & set(vm["allowed_operations"])
    crowd.daemon.kill()
    crowd.restart_daemon()
    with logged_in(crowd.daemon) as api:
        assert api.vm(NEWCOMER)["power_state"] == "Suspended"
        api.call("VM.resume", ref, False, False)
        vm = api.vm(NEWCOMER)
        assert vm["power_state"] == "Running"
        assert int(api.call("VM_metrics.get_memory_actual", vm["metrics"])) == pytest.approx(
            512 * MIB, abs=MIB
        )
        sizes = (0, 1024 * MIB, *(mib * MIB for mib in SIZES_MIB))
        api.call("VM.hard_shutdown", ref)
        api.call("VM.set_memory_limits", ref, *sizes)


def test_suspended_vm_stays_so_when_host_and_daemon_die_together(shop: Workshop) -> None:
    daemon = shop.daemon(state="one")
    with logged_in(daemon) as api:
        (first, *_) = sorted(name for name, vm in api.vms().items() if vm["domid"] not in {"0", "-1"})
        ref = api.ref(first)
        api.call("VM.suspend", ref)
    daemon.kill()
    with logged_in(shop.daemon(state="one")) as api:
        assert api.vm(first)["power_state"] == "Suspended"
        api.call("VM.resume", ref, False, False)
        assert api.vm(first)["power_state"] == "Running"


@contextmanager
def counting_changes(path: Path) -> Iterator[TargetChanges]:
    """See each change in a host's xenstore, of reservations and of domains."""
    with XenstoreClient(unix_socket_path=str(path).encode()) as client, client.monitor() as monitor:
        for number, watched in enumerate((b"/xcpmem", b"/local/domain")):
            monitor.watch(watched, str(number).encode())
        changes = TargetChanges(monitor)
        changes.wait_for(2)
        yield changes


MOMENTS = (1, 3, 9, 13, 15, 17)
"""Changes in xenstore after which the daemon is killed; an undisturbed start makes 18."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_daemon_killed_during_a_start_leaves_a_whole_vm_or_none(crowd: Crowd, moment: int) -> None:
    leave_whole(crowd, "VM.start", moment, otherwise="Halted")


@pytest.mark.parametrize("moment", [1, 9, 15])
def test_daemon_killed_during_a_resume_leaves_a_whole_vm_or_its_image(crowd: Crowd, moment: int) -> None:
    with logged_in(crowd.daemon) as api:
        ref = api.ref(NEWCOMER)
        api.call("VM.start", ref, False, False)
        api.call("VM.suspend", ref)
    leave_whole(crowd, "VM.resume", moment, otherwise="Suspended")


def leave_whole(crowd: Crowd, method: str, moment: int, *, otherwise: str) -> None:
    """Kill the daemon during a call for the newcomer; under the next it runs, or will when called again."""
    with logged_in(crowd.daemon) as api, ThreadPoolExecutor(1) as caller:
        ref = api.ref(NEWCOMER)
        with counting_changes(crowd.host) as changes:
            lost = caller.submit(api.call, method, ref, False, False)
            changes.wait_for(moment)
            crowd.daemon.kill()
        assert isinstance(lost.exception(), RemoteDisconnected | ConnectionError | None)
    crowd.restart_daemon()
    with logged_in(crowd.daemon) as api:
        vm = settled(crowd, api)
        assert vm["power_state"] in {otherwise, "Running"}
        with xenstore(crowd.host) as store:
            names = store.domain_names()
        assert (NEWCOMER in names) is (vm["power_state"] == "Running")
        assert crowd.daemon.series("xcpmem_host_memory_reserved_bytes") == {"": 0}
        if vm["power_state"] == otherwise:
            api.call(method, ref, False, False)
        assert api.vm(NEWCOMER)["power_state"] == "Running"


def settled(crowd: Crowd, api: XenApi) -> dict[str, object]:
    """Wait until nothing is left to do for the newcomer."""
    deadline_s = time.monotonic() + SETTLE_S
    while crowd.reservations_kib() or api.vm(NEWCOMER)["current_operations"]:
        assert time.monotonic() < deadline_s
        api.call("Memory.balance_memory")
    return api.vm(NEWCOMER)
