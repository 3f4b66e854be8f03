"""Each message does what its name says, over the whole line and a simulated host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, GIB_KIB, HALTED, NETWORK, Stack, running_stack
from xcpmem import breather
from xcpmem.api import codec
from xcpmem.api.datamodel import Kind, load_datamodel
from xcpmem.errors import XcpmemError
from xcpmem.refs import NULL_REF, opaque_ref
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOBODY = "OpaqueRef:11111111-1111-4111-8111-111111111111"


class Client:
    """A logged-in caller."""

    def __init__(self, stack: Stack, session: str) -> None:
        self.stack = stack
        self.session = session

    async def __call__(self, method: str, *params: object) -> Any:
        return await self.stack.call(method, self.session, *params)

    async def failure(self, method: str, *params: object) -> list[str]:
        with pytest.raises(XcpmemError) as refusal:
            await self(method, *params)
        return [refusal.value.code, *refusal.value.params]

    def ref(self, name_label: str) -> str:
        return self.stack.vm(name_label).ref

    async def limits(self, ref: str) -> list[object]:
        names = ("static_min", "dynamic_min", "target", "dynamic_max", "static_max")
        return [await self(f"VM.get_memory_{name}", ref) for name in names]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> Client:
    return Client(stack, await stack.login())


SETTERS = [
    ("set_memory_limits", (2 * GIB, 8 * GIB, 3 * GIB, 6 * GIB), [2, 3, 3, 6, 8]),
    ("set_memory", (3 * GIB,), [1, 3, 3, 3, 3]),
    ("set_memory_static_range", (2 * GIB, 16 * GIB), [2, 2, 2, 4, 16]),
    ("set_memory_static_min", (2 * GIB,), [2, 2, 2, 4, 4]),
    ("set_memory_static_max", (5 * GIB,), [1, 2, 2, 4, 5]),
    ("set_memory_dynamic_range", (1 * GIB, 3 * GIB), [1, 1, 1, 3, 4]),
    ("set_memory_dynamic_min", (3 * GIB,), [1, 3, 3, 4, 4]),
    ("set_memory_dynamic_max", (3 * GIB,), [1, 2, 2, 3, 4]),
]


@pytest.mark.parametrize(("name", "values", "gib"), SETTERS)
async def test_setter_takes_its_values_in_xapis_order(
    client: Client, name: str, values: tuple[int, ...], gib: list[int]
) -> None:
    ref = opaque_ref("VM", HALTED)
    assert await client(f"VM.{name}", ref, *(str(value) for value in values)) is None
    assert await client.limits(ref) == [size * GIB for size in gib]


@pytest.mark.parametrize(("name", "values", "_"), SETTERS)
async def test_setter_of_a_vm_that_is_none_is_told_so(
    client: Client, name: str, values: tuple[int, ...], _: list[int]
) -> None:
    assert await client.failure(f"VM.{name}", NOBODY, *values) == ["HANDLE_INVALID", "VM", NOBODY]


async def test_overhead_follows_vcpus_and_shadow_of_a_halted_vm(client: Client) -> None:
    ref = client.ref("halted")
    before = await client("VM.compute_memory_overhead", ref)
    await client("VM.set_VCPUs_max", ref, 64)
    await client("VM.set_HVM_shadow_multiplier", ref, "2.5")
    assert await client("VM.get_VCPUs_max", ref) == 64
    assert await client("VM.get_HVM_shadow_multiplier", ref) == 2.5
    after = await client("VM.compute_memory_overhead", ref)
    assert after > before
    assert await client("VM.get_memory_overhead", ref) == after
    assert await client.failure("VM.set_HVM_shadow_multiplier", ref, 0.5) == [
        "INVALID_VALUE",
        "multiplier",
        "0.5",
    ]
    assert (await client.failure("VM.set_shadow_multiplier_live", ref, 2))[0] == "VM_BAD_POWER_STATE"


async def test_largest_static_max_is_a_whole_number_of_mib(client: Client) -> None:
    ref = client.ref("halted")
    for approximate in (False, True):
        found = await client("VM.maximise_memory", ref, 4 * GIB, approximate)
        assert 3 * GIB < found < 4 * GIB
        assert found % mib_to_bytes(1) == 0


async def test_running_vm_is_ballooned_and_waited_for(client: Client) -> None:
    ref = client.ref("web1")
    await client("VM.set_memory_dynamic_range", ref, GIB, GIB)
    await client("VM.wait_memory_target_live", ref)
    metrics = await client("VM.get_metrics", ref)
    assert await client("VM.get_memory_target", ref) == GIB
    actual = await client("VM_metrics.get_memory_actual", metrics)
    assert abs(actual - GIB) <= mib_to_bytes(1)
    assert await client("VM.set_memory_target_live", ref, 5) is None
    assert await client("VM.get_cooperative", ref) is True


@pytest.mark.parametrize("name", ["compute_memory_overhead", "get_cooperative", "wait_memory_target_live"])
async def test_question_about_a_vm_that_is_none_is_told_so(client: Client, name: str) -> None:
    assert await client.failure(f"VM.{name}", NOBODY) == ["HANDLE_INVALID", "VM", NOBODY]


async def test_host_computes_what_is_left(client: Client) -> None:
    (host,) = await client("host.get_all")
    free = await client("host.compute_free_memory", host)
    vms = client.stack.service.vms().values()
    promised = sum(vm.memory_dynamic_min + vm.memory_overhead for vm in vms if vm.is_resident)
    overhead = await client("host.compute_memory_overhead", host)
    assert free == 16 * GIB - overhead - promised
    assert overhead == await client("host.get_memory_overhead", host)
    assert await client("host.get_uncooperative_resident_VMs", host) == ()
    for name in ("compute_free_memory", "compute_memory_overhead", "get_uncooperative_resident_VMs"):
        assert await client.failure(f"host.{name}", NOBODY) == ["HANDLE_INVALID", "host", NOBODY]


async def test_pool_keeps_notes(client: Client) -> None:
    (pool,) = await client("pool.get_all")
    await client("pool.add_to_other_config", pool, "xo:barrier:1", "x")
    assert await client("pool.get_other_config", pool) == {"xo:barrier:1": "x"}
    assert await client.failure("pool.add_to_other_config", pool, "xo:barrier:1", "y") == [
        *("MAP_DUPLICATE_KEY", "pool", "other_config", pool, "xo:barrier:1"),
    ]
    await client("pool.remove_from_other_config", pool, "xo:barrier:1")
    await client("pool.remove_from_other_config", pool, "xo:barrier:1")
    assert await client("pool.get_other_config", pool) == {}
    await client("pool.set_other_config", pool, {"a": "b"})
    assert await client("pool.get_other_config", pool) == {"a": "b"}
    for name, values in (("set", ({},)), ("add_to", ("a", "b")), ("remove_from", ("a",))):
        assert await client.failure(f"pool.{name}_other_config", NOBODY, *values) == [
            *("HANDLE_INVALID", "pool", NOBODY),
        ]


async def test_reservation_is_granted_named_and_deleted(client: Client) -> None:
    granted = await client("Memory.reserve_memory_range", str(GIB_KIB), 2 * GIB_KIB)
    reservation_id, size_kib = granted
    assert GIB_KIB <= size_kib <= 2 * GIB_KIB
    exact = await client("Memory.reserve_memory", 1024)
    held = {r.reservation_id: r.size_kib for r in client.stack.host.observe().host.reservations}
    assert held == {reservation_id: size_kib, exact: 1024}
    await client("Memory.delete_reservation", reservation_id)
    await client("Memory.delete_reservation", reservation_id)
    await client("Memory.delete_reservation", "never given")
    assert await client.failure("Memory.query_reservation_of_domain", 99) == ["NO_RESERVATION", "99"]
    assert await client.failure("Memory.transfer_reservation_to_domain", "never given", 9) == [
        *("UNKNOWN_RESERVATION", "never given"),
    ]


async def test_reservation_belongs_to_the_public_name_of_its_session(client: Client) -> None:
    await client("Memory.reserve_memory", 1024)
    (held,) = client.stack.host.observe().host.reservations
    assert held.owner == await client("session.get_uuid", client.session)
    assert held.owner not in client.session


async def test_logout_gives_back_what_the_session_had_reserved(client: Client) -> None:
    other = Client(client.stack, await client.stack.login())
    await client("Memory.reserve_memory", 1024)
    kept = await other("Memory.reserve_memory", 2048)
    await client("session.logout")
    assert [r.reservation_id for r in client.stack.host.observe().host.reservations] == [kept]
    assert await client.failure("VM.get_all") == ["SESSION_INVALID", client.session]


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("reserve_memory", ("-1",), "size_kib"),
        ("reserve_memory_range", (-1, 5), "min_kib"),
        ("reserve_memory_range", (5, 4), "max_kib"),
    ],
)
async def test_reservation_of_an_impossible_size_is_refused(
    client: Client, name: str, params: tuple[object, ...], field: str
) -> None:
    assert (await client.failure(f"Memory.{name}", *params))[:2] == ["INVALID_VALUE", field]


async def test_reservation_beyond_the_host_tells_bytes(client: Client) -> None:
    code, needed, free = await client.failure("Memory.reserve_memory", 64 * GIB_KIB)
    assert (code, needed) == ("HOST_NOT_ENOUGH_FREE_MEMORY", str(64 * GIB))
    assert int(free) < 16 * GIB


async def test_balancer_answers_for_itself(client: Client) -> None:
    assert await client("Memory.balance_memory") is None
    assert await client("Memory.get_host_reserved_memory") == 73728
    initial = await client("Memory.get_host_initial_free_memory")
    assert 0 < initial <= 16 * GIB
    assert await client("Memory.get_domain_zero_policy") == ("Fixed_size", 2 * GIB)
    assert "domain 1" in str(await client("Memory.get_diagnostics"))


async def test_session_answers_for_itself(client: Client) -> None:
    session = client.session
    (host,) = await client("host.get_all")
    answers = {
        "this_host": host,
        "is_local_superuser": True,
        "rbac_permissions": (),
        "subject": NULL_REF,
        "auth_user_sid": "",
        "auth_user_name": "root",
        "this_user": NULL_REF,
    }
    for name, value in answers.items():
        assert await client(f"session.get_{name}", session) == value
    uuid = await client("session.get_uuid", session)
    assert await client("session.get_by_uuid", uuid) == session
    assert (await client("session.get_record", session))["uuid"] == uuid
    assert await client.failure("session.get_uuid", NOBODY) == ["HANDLE_INVALID", "session", NOBODY]


async def test_session_that_is_not_the_callers_own_is_found_by_nobody(client: Client) -> None:
    await client("Memory.reserve_memory", 1024)
    reader = Client(client.stack, await client.stack.login("reader"))
    (held,) = client.stack.host.observe().host.reservations
    for caller, others in ((reader, client), (client, reader)):
        uuid = await others("session.get_uuid", others.session)
        assert await caller.failure("session.get_by_uuid", uuid) == ["UUID_INVALID", "session", uuid]
    assert await client("session.get_uuid", client.session) == held.owner


async def test_search_lets_others_have_their_turn_between_two_objects(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breather, "WORK_S", 0.0)
    searching = asyncio.create_task(client("VM.get_all_records_where", 'field "name__label"="web1"'))
    turns = 0
    while not searching.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > len(client.stack.service.vms())
    assert list(await searching) == [client.ref("web1")]


async def test_reference_of_a_session_is_in_no_answer_but_to_its_own_caller(client: Client) -> None:
    task = await client("Async.VM.set_memory", client.ref("halted"), 3 * GIB)
    await client("event.register", ["*"])
    await client("Memory.reserve_memory", 1024)
    reader = Client(client.stack, await client.stack.login("reader"))
    datamodel = load_datamodel()
    answers = [
        await reader("event.from", ["*"], "", 0.0),
        await reader("Memory.get_diagnostics"),
        await reader("Memory.get_history", {}),
    ]
    answers += [
        await reader(message.wire_name)
        for message in datamodel.messages()
        if message.kind in {Kind.GET_ALL, Kind.GET_ALL_RECORDS}
    ]
    told = b"".join(map(codec.encode_value, answers)).decode()
    assert task in told
    assert client.session not in told


async def test_wrong_password_is_refused_with_name_and_message(stack: Stack) -> None:
    with pytest.raises(XcpmemError) as refusal:
        await stack.call("session.login_with_password", "root", "wrong", peer=NETWORK)
    assert [refusal.value.code, *refusal.value.params] == [
        *("SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"),
    ]


async def test_every_getter_of_every_object_answers_what_its_record_has(client: Client) -> None:
    names = await client.stack.call("system.listMethods")
    assert isinstance(names, tuple)
    for class_name in ("pool", "host", "host_metrics", "VM", "VM_metrics", "VM_guest_metrics"):
        records = await client(f"{class_name}.get_all_records")
        assert await client(f"{class_name}.get_all") == tuple(records)
        ref, record = next(iter(records.items()))
        for name in record:
            assert f"{class_name}.get_{name}" in names
            assert await client(f"{class_name}.get_{name}", ref) == record[name]
            assert await client.failure(f"{class_name}.get_{name}", NOBODY) == [
                *("HANDLE_INVALID", class_name, NOBODY),
            ]


async def test_each_listed_method_is_served_and_each_served_one_is_listed(client: Client) -> None:
    names = await client.stack.call("system.listMethods")
    assert isinstance(names, tuple)
    assert sorted(names) == sorted(client.stack.dispatcher._handlers)
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("Async.")] == []
    for name in names:
        if name != "system.listMethods":
            code = (
                (await client.failure(name, *["x"] * 20))[0] if name != "session.login_with_password" else ""
            )
            assert code in {"", "MESSAGE_PARAMETER_COUNT_MISMATCH", "SESSION_INVALID"}
