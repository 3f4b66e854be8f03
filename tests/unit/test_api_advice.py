"""The sentence that helps: made from the code, the call and the VM as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.apistack import GIB, NETWORK, Stack, running_stack
from tests.cli_double import Line
from xcpmem.api.cli import CommandLine
from xcpmem.api.dispatch import Caller
from xcpmem.errors import (
    DomainsUncooperative,
    NotEnoughMemory,
    OtherOperationInProgress,
    XcpmemError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


RAISE = "raise static-max first, the VM must be halted"
LOWER = "lower static-min first, the VM must be halted"
DYNAMIC_MAX = "lower dynamic-max first"
DYNAMIC_MIN = "raise dynamic-min first"
BOTH = "give sizes that keep the order"
NEW = {
    "name_label": "new",
    **{f"memory_{name}": str(GIB) for name in ("static_min", "dynamic_min", "dynamic_max", "static_max")},
}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


async def advice(stack: Stack, method: str, *params: object, uname: str = "root") -> str:
    session = await stack.login(uname)
    with pytest.raises(XcpmemError) as failure:
        await stack.call(method, session, *params)
    return failure.value.advice


@pytest.mark.parametrize(
    ("method", "sizes", "sentence"),
    [
        ("set_memory_dynamic_range", (1, 6), f"dynamic-max 6 GiB is above static-max 4 GiB; {RAISE}"),
        ("set_memory_dynamic_max", (5,), f"dynamic-max 5 GiB is above static-max 4 GiB; {RAISE}"),
        ("set_memory_dynamic_min", (0,), f"static-min 1 GiB is above dynamic-min 0 bytes; {LOWER}"),
        ("set_memory_dynamic_range", (3, 2), f"dynamic-min 3 GiB is above dynamic-max 2 GiB; {BOTH}"),
        ("set_memory_static_range", (1, 3), f"dynamic-max 4 GiB is above static-max 3 GiB; {DYNAMIC_MAX}"),
        ("set_memory_static_max", (3,), f"dynamic-max 4 GiB is above static-max 3 GiB; {DYNAMIC_MAX}"),
        ("set_memory_static_min", (3,), f"static-min 3 GiB is above dynamic-min 2 GiB; {DYNAMIC_MIN}"),
        ("set_memory_limits", (1, 2, 1, 4), f"dynamic-max 4 GiB is above static-max 2 GiB; {BOTH}"),
    ],
)
async def test_limits_out_of_order_are_named_with_their_sizes(
    stack: Stack, method: str, sizes: tuple[int, ...], sentence: str
) -> None:
    vm = stack.vm("halted")
    assert await advice(stack, f"VM.{method}", vm.ref, *(size * GIB for size in sizes)) == sentence


async def test_running_vm_is_told_what_can_change_now(stack: Stack) -> None:
    vm = stack.vm("web1")
    assert await advice(stack, "VM.set_memory_limits", vm.ref, *[GIB] * 4) == (
        "web1 is running, and this changes only while it is halted; what can change now is its dynamic range "
        "(vm-memory-dynamic-range-set)"
    )
    assert await advice(stack, "VM.unpause", vm.ref) == "web1 is running: this needs it paused"
    assert await advice(stack, "VM.pause", stack.vm("halted").ref) == (
        "halted is halted: start it first (vm-start)"
    )


async def test_suspended_vm_is_told_its_two_ways_out(stack: Stack) -> None:
    vm = replace(stack.vm("halted"), memory_suspended=GIB)
    await stack.service._ledger.post(lambda entry: entry.put_vm(vm))
    back = "halted is suspended: bring it back first (vm-resume)"
    for method, *params in (("start", False, False), ("set_memory", GIB), ("set_memory_dynamic_range", 1, 1)):
        assert await advice(stack, f"VM.{method}", vm.ref, *params) == (
            f"{back}, or discard what it held (vm-shutdown --force)"
        )
    assert await advice(stack, "VM.pause", vm.ref) == back


async def test_control_domain_is_told_why_it_is_pinned(stack: Stack) -> None:
    vm = next(vm for vm in stack.service.vms().values() if vm.is_control_domain)
    assert await advice(stack, "VM.set_memory_dynamic_range", vm.ref, GIB, 2 * GIB) == (
        "domain 0 keeps one size: give dynamic-min, dynamic-max and static-max one size"
    )


async def test_lack_of_memory_is_counted_in_the_unit_of_the_call(stack: Stack) -> None:
    told = await advice(stack, "Memory.reserve_memory", 32 << 20)
    assert told.startswith("32 GiB (34359738368 bytes) are needed and ")
    assert stack.dispatcher._adviser is not None
    session = stack.sessions.find(await stack.login())
    for method, needed, unit in (
        ("VM.set_memory_dynamic_range", 2 << 20, "KiB"),
        ("VM.start", 2 * GIB, "bytes"),
    ):
        message = stack.dispatcher._datamodel.find(method)
        assert message is not None
        error = NotEnoughMemory(needed, needed // 2)
        assert stack.dispatcher._adviser.advise(message, [stack.vm("web1").ref], session, error) == (
            f"2 GiB ({needed} {unit}) are needed and 1 GiB ({needed // 2} {unit}) can be had, 1 GiB too "
            "little: lower another VM's dynamic-min, shut one down, or ask for less"
        )


async def test_limits_that_cannot_be_are_named_before_the_memory_that_they_would_take(stack: Stack) -> None:
    vm = stack.vm("web1")
    told = await advice(stack, "VM.set_memory_dynamic_min", vm.ref, 12 * GIB)
    assert told.startswith(
        f"dynamic-min 12 GiB is above static-max 4 GiB; {RAISE}; besides, 11 GiB (11534336 KiB) are needed "
    )
    assert told.endswith(" too little")


@pytest.mark.parametrize(
    ("method", "sizes", "sentence"),
    [
        ("set_memory_dynamic_range", (1, 3), "static-min 1 GiB is above dynamic-max 3 bytes"),
        ("set_memory_dynamic_min", (1,), "static-min 1 GiB is above dynamic-min 1 byte"),
        ("set_memory", (2048,), "static-min 1 GiB is above static-max 2 KiB"),
    ],
)
async def test_forgotten_unit_is_what_is_wrong_with_a_size_below_one_mib(
    stack: Stack, method: str, sizes: tuple[int, ...], sentence: str
) -> None:
    vm = stack.vm("halted")
    assert await advice(stack, f"VM.{method}", vm.ref, *sizes) == (
        f"{sentence}; sizes are bytes unless they say KiB, MiB, GiB or TiB"
    )


async def test_limits_of_a_vm_that_is_to_be_made_are_named_with_their_sizes(stack: Stack) -> None:
    limits = {"static_min": GIB, "dynamic_min": 4 * GIB, "dynamic_max": 2 * GIB, "static_max": 2 * GIB}
    record = {"name_label": "new", **{f"memory_{name}": size for name, size in limits.items()}}
    assert await advice(stack, "VM.create", record) == (
        f"dynamic-min 4 GiB is above static-max 2 GiB; {BOTH}"
    )


@pytest.mark.parametrize(
    ("method", "params", "sentence"),
    [
        (
            "Memory.add_user",
            ("ann", "admin", ""),
            "the roles are pool-admin, pool-operator, vm-power-admin, vm-admin, vm-operator, read-only",
        ),
        (
            "Memory.add_user",
            ("root", "read-only", ""),
            (
                "a name has 1 to 64 printable characters, no / and no blank at either end; it is not root, "
                "and there are at most 1000 of them"
            ),
        ),
        ("Memory.get_history", ({"limit": "x"},), "it is a whole number from 1 to 10000"),
        ("Memory.get_history", ({"colour": "x"},), ""),
        (
            "VM.create",
            ({**NEW, "VCPUs_max": "0", "VCPUs_at_startup": "0"},),
            "it is at least 1 and at most VCPUs_max",
        ),
    ],
)
async def test_value_out_of_its_range_is_answered_with_the_range(
    stack: Stack, method: str, params: tuple[object, ...], sentence: str
) -> None:
    assert await advice(stack, method, *params) == sentence


async def test_role_that_is_too_weak_is_told_which_would_do(stack: Stack) -> None:
    vm = stack.vm("halted")
    assert await advice(stack, "VM.set_memory", vm.ref, GIB, uname="reader") == (
        "reader is read-only, and this needs vm-power-admin or mightier: a pool admin can change that "
        "(user-role-set)"
    )


async def test_every_sentence_stands_for_what_can_happen(stack: Stack) -> None:
    session = stack.sessions.find(await stack.login())
    message = stack.dispatcher._datamodel.find("VM.start")
    assert message is not None
    assert stack.dispatcher._adviser is not None
    told = [
        stack.dispatcher._adviser.advise(message, ["OpaqueRef:gone"], session, error)
        for error in (
            DomainsUncooperative("OpaqueRef:a"),
            OtherOperationInProgress("VM", "OpaqueRef:a", "start", "OpaqueRef:t"),
        )
    ]
    assert told == [
        "look at their balloon drivers (explain vm=... says what each was asked for), or shut them down",
        "start is under way: wait for it (task-list shows it), or cancel it",
    ]


async def test_advice_is_added_to_what_xe_prints_and_never_to_the_wire(stack: Stack) -> None:
    session, line, vm = await stack.login(), Line(), stack.vm("halted")
    words = ["vm-memory-dynamic-range-set", "vm=halted", "min=1GiB", "max=6GiB"]
    body = "\n".join([f"session_id={session}", *words]).encode()
    await CommandLine(stack.dispatcher).converse(line, body, NETWORK)
    assert line.stderr == (
        "The limits must keep the order static-min <= dynamic-min <= dynamic-max <= static-max: "
        f"dynamic-max 6 GiB is above static-max 4 GiB; {RAISE}.\n"
    )
    with pytest.raises(XcpmemError) as failure:
        await stack.call("VM.set_memory_dynamic_range", session, vm.ref, GIB, 6 * GIB)
    assert (failure.value.code, failure.value.params) == ("MEMORY_CONSTRAINT_VIOLATION_ORDER", ())


async def test_each_of_many_vms_that_failed_is_told_what_to_do(stack: Stack) -> None:
    line = Line()
    words = ["vm-unpause", "power-state=running", "is-control-domain=false", "--multiple"]
    body = "\n".join([f"session_id={await stack.login()}", *words]).encode()
    await CommandLine(stack.dispatcher).converse(line, body, NETWORK)
    for name in ("web1", "db1"):
        assert (
            f"operation failed on {stack.vm(name).uuid}: The VM is in a power state that forbids this: "
            f"{name} is running: this needs it paused.\n"
        ) in line.stdout


async def test_caller_without_a_session_gets_no_advice(stack: Stack) -> None:
    assert Caller(NETWORK, None).session is None
    with pytest.raises(XcpmemError) as failure:
        await stack.call("session.login_with_password", "root", "wrong")
    assert failure.value.advice == ""
