"""What stands in the audit trail after a call: who, what, from where, before and after."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, GIB_KIB, LOCAL, NETWORK, Stack, running_stack
from xcpmem.api.auditor import Auditor
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.dispatch import Caller
from xcpmem.audit import CUT_SHORT
from xcpmem.errors import BadPowerState, ConnectionLost, ToolstackError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = "correct horse"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


def changes(stack: Stack) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.trail.latest(100)]


async def test_change_says_who_what_from_where_before_and_after(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    session, vm = await stack.login(), stack.vm("halted")
    await stack.call("VM.set_memory_dynamic_range", session, vm.ref, GIB, 3 * GIB)
    (change,) = changes(stack)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", change.pop("time"))
    assert change == {
        "user": "root",
        "role": "pool-admin",
        "source": "192.0.2.1",
        "call": "VM.set_memory_dynamic_range",
        "target": f"VM {vm.uuid} (halted)",
        "arguments": {"min": str(GIB), "max": str(3 * GIB)},
        "before": {
            "memory_target": str(2 * GIB),
            "memory_dynamic_max": str(4 * GIB),
            "memory_dynamic_min": str(2 * GIB),
        },
        "after": {
            "memory_target": str(GIB),
            "memory_dynamic_max": str(3 * GIB),
            "memory_dynamic_min": str(GIB),
        },
    }
    (record,) = [record for record in caplog.records if record.msg == "%s did %s%s"]
    logged = record.__dict__
    assert (logged["user"], logged["from"], logged["target"]) == ("root", "192.0.2.1", change["target"])
    assert f"memory_dynamic_max={3 * GIB}" in logged["after"]
    assert session not in str(logged)


async def test_change_over_the_unix_socket_names_root_and_the_user_there(stack: Stack) -> None:
    session = await stack.login("alice", peer=LOCAL)
    vm = stack.vm("halted")
    await stack.call("VM.set_memory_dynamic_range", session, vm.ref, GIB, 3 * GIB, peer=LOCAL)
    assert [(change["user"], change["source"]) for change in changes(stack)] == [("root", "unix uid 0")]


async def test_refusal_stands_in_the_log_and_pushes_nothing_out_of_the_trail(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader, root, vm = await stack.login("reader"), await stack.login(), stack.vm("halted")
    for session, maximum in ((reader, 3 * GIB), (root, 9 * GIB)):
        with pytest.raises(XcpmemError):
            await stack.call("VM.set_memory_dynamic_range", session, vm.ref, GIB, maximum)
    assert changes(stack) == []
    told = [record for record in caplog.records if "failed" in record.msg or "refused" in record.msg]
    assert [(entry.__dict__["user"], entry.__dict__["why"]) for entry in told] == [
        ("reader", "RBAC_PERMISSION_DENIED"),
        ("root", "MEMORY_CONSTRAINT_VIOLATION_ORDER"),
    ]
    assert told[1].getMessage() == (
        f"VM.set_memory_dynamic_range of VM {vm.uuid} (halted) by root from 192.0.2.1 failed: "
        "MEMORY_CONSTRAINT_VIOLATION_ORDER, dynamic-max 9 GiB is above static-max 4 GiB; "
        "raise static-max first, the VM must be halted"
    )


async def test_refused_reservation_is_told_by_the_ring_and_by_the_call_and_no_more(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    session = await stack.login()
    caplog.set_level(logging.INFO)
    with pytest.raises(XcpmemError):
        await stack.call("Memory.reserve_memory", session, 32 << 20)
    await stack.controller.settle(10)
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    (decision, call) = [
        each for each in sorted(told, reverse=True) if "refused" in each[1] or "fail" in each[1]
    ]
    assert decision[0] == logging.WARNING
    assert decision[1].startswith("refused 32 GiB for ")
    assert call[0] == logging.INFO
    assert call[1].startswith(
        "Memory.reserve_memory by root from 192.0.2.1 failed: HOST_NOT_ENOUGH_FREE_MEMORY, "
        "32 GiB (34359738368 bytes) are needed and "
    )


async def test_question_that_failed_is_told_with_advice_and_who_asked(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    session = await stack.login()
    caplog.set_level(logging.INFO)
    with pytest.raises(XcpmemError):
        await stack.call("Memory.query_reservation_of_domain", session, 1)
    assert [record.getMessage() for record in caplog.records if "failed" in record.msg] == [
        (
            "Memory.query_reservation_of_domain by root from 192.0.2.1 failed: NO_RESERVATION, "
            "reserve memory and transfer it to the domain first"
        )
    ]


async def test_looking_leaves_no_trace(stack: Stack) -> None:
    session, vm = await stack.login(), stack.vm("halted")
    for method, *params in (
        ("VM.get_all_records",),
        ("VM.maximise_memory", vm.ref, 8 * GIB, False),
        ("VM.compute_memory_overhead", vm.ref),
        ("Memory.get_users",),
        ("Memory.get_audit", 5),
        ("task.create", "label", "description"),
    ):
        await stack.call(str(method), session, *params)
    assert changes(stack) == []


async def test_change_that_nobody_waits_for_is_noted_with_its_task(stack: Stack) -> None:
    session, vm = await stack.login(), stack.vm("halted")
    task = str(await stack.call("Async.VM.set_memory_dynamic_range", session, vm.ref, GIB, 3 * GIB))
    await asyncio.gather(*stack.tasks._work.values())
    assert [(change["call"], change["task"]) for change in changes(stack)] == [
        ("VM.set_memory_dynamic_range", task)
    ]


async def test_change_of_users_shows_roles_and_hides_passwords(stack: Stack) -> None:
    session = await stack.login()
    await stack.call("Memory.add_user", session, "alice", "vm-admin", SECRET)
    await stack.call("Memory.set_user_role", session, "alice", "read-only")
    await stack.call("Memory.set_user_password", session, "alice", f"{SECRET} 2")
    alice = str(await stack.call("session.login_with_password", "alice", f"{SECRET} 2"))
    await stack.call("Memory.change_password", alice, f"{SECRET} 2", f"{SECRET} 3")
    await stack.call("Memory.remove_user", session, "alice")
    seen = [
        (change["user"], change["call"], change.get("before"), change.get("after"))
        for change in changes(stack)
    ]
    assert seen == [
        ("root", "Memory.add_user", None, {"alice": "vm-admin"}),
        ("root", "Memory.set_user_role", {"alice": "vm-admin"}, {"alice": "read-only"}),
        ("root", "Memory.set_user_password", None, None),
        ("alice", "Memory.change_password", None, None),
        ("root", "Memory.remove_user", {"alice": "read-only"}, None),
    ]
    assert SECRET not in "".join(stack.trail.latest(100))
    assert await stack.call("Memory.get_audit", session, 1) == stack.trail.latest(1)


async def test_long_values_are_cut(stack: Stack) -> None:
    session = await stack.login()
    (pool,) = stack.records.refs("pool")
    await stack.call("pool.add_to_other_config", session, pool, "note", "x" * 10_000, peer=NETWORK)
    (change,) = changes(stack)
    assert change["arguments"]["value"] == "x" * 200 + "…"
    assert len(json.dumps(change)) < 1200


async def rename_and_fail(stack: Stack, label: str, failure: BaseException) -> None:
    """Have a VM's name changed by a call that then fails."""
    message, caller = load_datamodel().find("VM.set_name_label"), stack.sessions.find(await stack.login())
    assert message is not None

    async def handle(_: Caller, ref: str, label: str) -> None:
        await stack.rename(stack.records.vm_uuid(ref), label)
        raise failure

    auditor = Auditor(stack.trail, stack.records)
    with pytest.raises(type(failure)):
        await auditor.surround(message, handle)(Caller(NETWORK, caller), stack.vm("halted").ref, label)


@pytest.mark.parametrize("end", [asyncio.CancelledError(), ZeroDivisionError(), ConnectionLost()])
async def test_change_that_was_cut_short_has_a_line_that_says_so(stack: Stack, end: BaseException) -> None:
    await rename_and_fail(stack, "renamed", end)
    (change,) = changes(stack)
    assert (change["call"], change["arguments"]) == ("VM.set_name_label", {"value": "renamed"})
    assert change["target"].endswith("(halted)")
    assert change["outcome"] == CUT_SHORT
    listed = await stack.call("Memory.get_audit", await stack.login(), 1)
    assert listed == stack.trail.latest(1)


async def test_change_that_failed_half_done_has_a_line_with_what_it_did_and_its_error(stack: Stack) -> None:
    await rename_and_fail(stack, "renamed", ToolstackError("the disk is on fire"))
    (change,) = changes(stack)
    assert (change["before"], change["after"]) == ({"name_label": "halted"}, {"name_label": "renamed"})
    assert (change["target"].endswith("(halted)"), change["outcome"]) == (True, "INTERNAL_ERROR")


@pytest.mark.parametrize(
    ("label", "failure"),
    [
        ("halted", ToolstackError("the disk is on fire")),
        ("by others", BadPowerState("vm", "halted", "running")),
    ],
)
async def test_change_that_failed_and_did_nothing_is_a_refusal(
    stack: Stack, label: str, failure: XcpmemError
) -> None:
    await rename_and_fail(stack, label, failure)
    assert changes(stack) == []


async def test_target_that_moves_is_not_laid_to_a_call_that_failed_meanwhile(stack: Stack) -> None:
    message, session = load_datamodel().find("VM.pause"), await stack.login()
    assert message is not None
    known = stack.vm("web1").memory_target

    async def handle(*_: object) -> None:
        await stack.service.reservations.reserve_exactly(caller.owner.uuid, 9 * GIB_KIB)
        raise ToolstackError("it cannot be paused")

    auditor, caller = Auditor(stack.trail, stack.records), Caller(NETWORK, stack.sessions.find(session))
    with pytest.raises(ToolstackError):
        await auditor.surround(message, handle)(caller, stack.vm("web1").ref)
    assert stack.vm("web1").memory_target != known
    assert changes(stack) == []
