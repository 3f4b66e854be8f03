"""A daemon that attaches to a simulated host takes it as it is: nobody need tell it what runs there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.clients import XenApi, logged_in, xenstore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.programs import Daemon, Workshop

MIB = 1 << 20
GIB_KIB = 1 << 20

# Its uuids are those of any other scenario of the same seed, its sizes are not.
MIXED = f"""\
name = "mixed"
policy = "shares"
[host]
free_kib = {2 * GIB_KIB}
slush_kib = {GIB_KIB}
[[guest]]
domid = 1
name_label = "web"
static_min_kib = {GIB_KIB // 2}
dynamic_min_kib = {GIB_KIB}
dynamic_max_kib = {2 * GIB_KIB}
static_max_kib = {4 * GIB_KIB}
weight = 3
vcpus = 2
[[guest]]
domid = 2
name_label = "database"
dynamic_min_kib = {GIB_KIB}
dynamic_max_kib = {3 * GIB_KIB}
domain_type = "hvm"
"""


def attach(shop: Workshop, host: Path, state: str) -> Daemon:
    """Start a daemon as the guide has it: no word of a scenario."""
    words = ("--driver", "simulated", "--host", str(host), "--state-dir", str(shop.folder / state))
    return shop.own_daemon(*words, "--listen", "127.0.0.1:0")


def what_is_known(daemon: Daemon) -> dict[str, object]:
    """Everything that is said of the VMs and the policy, but for what is another in every process."""
    with logged_in(daemon) as api:
        api.call("Memory.balance_memory")
        return {"vms": vms_of(api), "policy": api.call("Memory.get_policy")}


def vms_of(api: XenApi) -> dict[str, object]:
    """What is said of each VM."""
    passing = {"metrics", "guest_metrics", "current_operations", "allowed_operations", "resident_on"}
    placed = {"affinity", "last_booted_record", "start_time"}
    return {
        name: {key: value for key, value in vm.items() if key not in passing | placed}
        for name, vm in api.vms().items()
    }


def test_attached_daemon_is_as_one_that_runs_the_same_scenario_itself(shop: Workshop) -> None:
    scenario = shop.write("mixed.toml", MIXED)
    beside = attach(shop, shop.simhost(scenario), "beside")
    within = shop.daemon(scenario=scenario, state="within")
    assert what_is_known(beside) == what_is_known(within)
    assert beside.series("xcpmem_host_memory_free_bytes") == within.series("xcpmem_host_memory_free_bytes")


def test_attached_daemon_leaves_guests_where_the_quiet_host_has_them(shop: Workshop) -> None:
    host = shop.simhost("quiet")
    daemon = attach(shop, host, "d")
    with logged_in(daemon) as api, xenstore(host) as store:
        api.call("Memory.balance_memory")
        assert set(api.vms()) == {f"guest-{domid}" for domid in range(1, 5)}
        for domid in range(1, 5):
            keys = store.memory_kib(domid)
            assert (keys["dynamic-min"], keys["dynamic-max"]) == (GIB_KIB, 3 * GIB_KIB)
            assert keys["target"] == 3 * GIB_KIB
    assert "stored limits win" not in daemon.log


def test_daemon_that_comes_later_finds_the_ranges_as_they_are_and_the_vms_that_do_not_run(
    shop: Workshop,
) -> None:
    host = shop.simhost("quiet")
    first = attach(shop, host, "first")
    with logged_in(first) as api:
        api.call("VM.set_memory_dynamic_range", api.ref("guest-1"), 1536 * MIB, 2048 * MIB)
        api.call("VM.hard_shutdown", api.ref("guest-2"))
        api.call("Memory.balance_memory")
    assert first.end() == 0
    second = attach(shop, host, "second")
    with logged_in(second) as api, xenstore(host) as store:
        api.call("Memory.balance_memory")
        assert store.memory_kib(1)["dynamic-max"] == 2 * GIB_KIB
        found = api.vms()
    assert found["guest-1"]["memory_dynamic_min"] == str(1536 * MIB)
    assert found["guest-1"]["memory_static_min"] == str(512 * MIB)
    assert (found["guest-2"]["power_state"], found["guest-2"]["memory_static_max"]) == (
        "Halted",
        str(4096 * MIB),
    )


def test_limits_of_another_hosts_vm_of_the_same_uuid_take_no_guest_above_what_it_was_booted_for(
    shop: Workshop,
) -> None:
    assert shop.daemon(scenario="default", state="d").end() == 0
    host = shop.simhost("quiet")
    with xenstore(host) as store, store.watching_targets(2) as changes:
        daemon = attach(shop, host, "d")
        changes.wait_for(1)
        with logged_in(daemon) as api:
            assert api.vm("database")["memory_dynamic_max"] == str(6 * GIB_KIB * 1024)
            api.call("Memory.balance_memory")
        assert store.memory_kib(2)["dynamic-max"] == 6 * GIB_KIB
        assert 3 * GIB_KIB < store.memory_kib(2)["target"] <= 4 * GIB_KIB
    assert daemon.series("xcpmem_domain_memory_target_bytes")["2"] <= 4 * GIB_KIB * 1024
