"""The messages that start, stop and name VMs, over the whole line; this host has no toolstack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.apistack import GIB, HALTED, NETWORK, Stack, running_stack
from tests.unit.test_api_methods import NOBODY, Client
from xcpmem.refs import NULL_REF, opaque_ref

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VM = opaque_ref("VM", HALTED)
CALLS = ("pause", "unpause", "clean_shutdown", "hard_shutdown", "shutdown", "clean_reboot", "hard_reboot")


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> Client:
    return Client(stack, await stack.login())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pause", "running"),
        ("unpause", "paused"),
        ("clean_shutdown", "running"),
        ("hard_shutdown", "paused, suspended, running"),
        ("shutdown", "paused, suspended, running"),
        ("clean_reboot", "running"),
        ("hard_reboot", "paused, running"),
    ],
)
async def test_call_names_the_power_states_that_it_wants(client: Client, name: str, expected: str) -> None:
    assert await client.failure(f"VM.{name}", VM) == ["VM_BAD_POWER_STATE", VM, expected, "halted"]
    assert await client.failure(f"VM.{name}", NOBODY) == ["HANDLE_INVALID", "VM", NOBODY]


async def test_start_looks_at_power_state_host_and_memory_before_it_does_anything(client: Client) -> None:
    web = client.ref("web1")
    (host,) = await client("host.get_all")
    bad_state = ["VM_BAD_POWER_STATE", web, "halted", "running"]
    assert await client.failure("VM.start", web, False, False) == bad_state
    assert await client.failure("VM.start_on", web, host, False, False) == bad_state
    assert await client.failure("VM.start_on", VM, NOBODY, False, False) == ["HANDLE_INVALID", "host", NOBODY]
    no_toolstack = ["INTERNAL_ERROR", f"VM halted ({HALTED}): this host has no toolstack"]
    assert await client.failure("VM.start", VM, False, False) == no_toolstack
    assert await client("VM.get_power_state", VM) == "Halted"


async def test_reader_may_start_and_stop_nothing(stack: Stack) -> None:
    reader = Client(stack, await stack.login("reader", NETWORK))
    for name in CALLS:
        assert (await reader.failure(f"VM.{name}", VM))[:2] == ["RBAC_PERMISSION_DENIED", f"vm.{name}"]


async def test_record_lists_what_may_be_done_in_each_power_state(client: Client) -> None:
    halted = await client("VM.get_record", VM)
    running = await client("VM.get_record", client.ref("web1"))
    assert {"start", "start_on", "changing_static_range"} <= {*halted["allowed_operations"]}
    assert {"pause", "unpause", "clean_shutdown"}.isdisjoint(halted["allowed_operations"])
    assert {"pause", "clean_shutdown", "hard_shutdown", "shutdown", "clean_reboot", "hard_reboot"} <= {
        *running["allowed_operations"]
    }
    assert {"start", "start_on", "unpause"}.isdisjoint(running["allowed_operations"])
    for record in (halted, running):
        assert record["current_operations"] == {}
        assert record["scheduled_to_be_resident_on"] == NULL_REF


async def test_record_of_a_vm_under_start_says_so_and_allows_nothing(client: Client) -> None:
    (host,) = await client("host.get_all")
    before = await client("host.compute_free_memory", host)
    ledger = client.stack.service._ledger
    ledger.begin(HALTED, "start", is_veiled=True)
    record = await client("VM.get_record", VM)
    assert (record["power_state"], record["scheduled_to_be_resident_on"]) == ("Halted", host)
    assert list(record["current_operations"].values()) == ["start"]
    assert record["allowed_operations"] == ()
    after = await client("host.compute_free_memory", host)
    assert before - after == 2 * GIB + record["memory_overhead"]
    ledger.end(HALTED)
    assert (await client("VM.get_record", VM))["current_operations"] == {}


async def test_name_and_notes_of_a_vm_are_kept_whether_it_runs_or_not(client: Client) -> None:
    for ref in (VM, client.ref("web1")):
        await client("VM.set_name_label", ref, "renamed")
        assert await client("VM.get_name_label", ref) == "renamed"
        await client("VM.add_to_other_config", ref, "xcpmem-xl-config", "/etc/xen/web.cfg")
        assert await client.failure("VM.add_to_other_config", ref, "xcpmem-xl-config", "x") == [
            *("MAP_DUPLICATE_KEY", "VM", "other_config", ref, "xcpmem-xl-config"),
        ]
        assert await client("VM.get_other_config", ref) == {"xcpmem-xl-config": "/etc/xen/web.cfg"}
        await client("VM.remove_from_other_config", ref, "xcpmem-xl-config")
        await client("VM.remove_from_other_config", ref, "xcpmem-xl-config")
        assert await client("VM.get_other_config", ref) == {}
        await client("VM.set_other_config", ref, {"a": "b"})
        assert await client("VM.get_other_config", ref) == {"a": "b"}
    assert await client.failure("VM.set_name_label", NOBODY, "x") == ["HANDLE_INVALID", "VM", NOBODY]
