"""One thing at a time on each VM: who waits, for what, and how long."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.startstack import WEB
from xcpmem import operations
from xcpmem.errors import (
    BadPowerState,
    ConnectionLost,
    HostError,
    OtherOperationInProgress,
    TaskCancelled,
    UuidInvalid,
)
from xcpmem.law import CHANGING_STATIC_RANGE, CLEAN_SHUTDOWN, HARD_SHUTDOWN, START, check_operation
from xcpmem.ledger import Ledger
from xcpmem.operations import Operations
from xcpmem.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.ledger import Entry
    from xcpmem.vm import Vm


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(Store(tmp_path))
    await ledger.start()
    await ledger.post(lambda entry: entry.put_vm(WEB))
    yield ledger
    await ledger.close()


@pytest.fixture
async def gate(ledger: Ledger) -> Operations:
    gate = Operations(ledger, first_look_s=20.0)
    gate.open()
    return gate


def rename(vm: Vm, _: Entry) -> Vm:
    check_operation(vm, CHANGING_STATIC_RANGE)
    return replace(vm, name_label="renamed")


async def test_nothing_is_judged_before_the_first_look(ledger: Ledger) -> None:
    gate = Operations(ledger, first_look_s=20.0)
    begin, change = (
        asyncio.create_task(gate.begin(WEB.uuid, START)),
        asyncio.create_task(gate.change(WEB.uuid, rename)),
    )
    await asyncio.sleep(0)
    assert not begin.done()
    assert not change.done()
    gate.open()
    assert (await begin).uuid == WEB.uuid
    gate.end(WEB.uuid)
    await change


async def test_host_that_is_never_seen_is_complained_of(ledger: Ledger) -> None:
    gate = Operations(ledger, first_look_s=0.0)
    with pytest.raises(HostError, match="the host could not be seen yet"):
        await gate.begin(WEB.uuid, START)


async def test_vm_under_an_operation_says_so_and_is_free_again_at_its_end(
    gate: Operations, ledger: Ledger
) -> None:
    touched: list[str] = []
    ledger.subscribe(lambda objects: touched.extend(name for name, _ in objects))
    await gate.begin(WEB.uuid, START)
    vm = gate.find(WEB.uuid)
    ((task, name),) = vm.current_operations.items()
    assert (name, vm.is_scheduled) == ("start", True)
    assert task.startswith("OpaqueRef:")
    assert WEB.uuid in ledger.veiled
    gate.unveil(WEB.uuid)
    assert WEB.uuid not in ledger.veiled
    assert gate.find(WEB.uuid).current_operations
    gate.end(WEB.uuid)
    assert gate.find(WEB.uuid).current_operations == {}
    assert gate.find(WEB.uuid).version > vm.version
    assert touched == ["VM", "VM"]


async def test_second_operation_begins_when_the_first_has_ended_if_it_still_makes_sense(
    gate: Operations,
) -> None:
    await gate.begin(WEB.uuid, START)
    second = asyncio.create_task(gate.begin(WEB.uuid, START))
    unfit = asyncio.create_task(gate.begin(WEB.uuid, HARD_SHUTDOWN))
    with pytest.raises(BadPowerState):
        await unfit
    assert not second.done()
    gate.end(WEB.uuid)
    await second
    gate.end(WEB.uuid)


async def test_change_waits_for_the_operation_and_then_sees_the_vm_as_it_is(gate: Operations) -> None:
    await gate.begin(WEB.uuid, START)
    changes = [asyncio.create_task(gate.change(WEB.uuid, rename)) for _ in range(3)]
    await gate.change(WEB.uuid, lambda vm, _: replace(vm, name_description="now"))
    assert not any(change.done() for change in changes)
    gate.end(WEB.uuid)
    await asyncio.gather(*changes)
    assert (gate.find(WEB.uuid).name_label, gate.find(WEB.uuid).name_description) == ("renamed", "now")


async def test_waiting_for_an_operation_ends_as_in_xapi(
    gate: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "BUSY_WAIT_S", 0.0)
    await gate.begin(WEB.uuid, START)
    (task,) = gate.find(WEB.uuid).current_operations
    with pytest.raises(OtherOperationInProgress) as refusal:
        await gate.begin(WEB.uuid, START)
    assert refusal.value.params == ("VM", WEB.ref, "start", task)


async def test_vm_that_nobody_knows_can_be_claimed_but_not_begun_with(
    gate: Operations, ledger: Ledger
) -> None:
    with pytest.raises(UuidInvalid):
        await gate.begin("nobody", START)
    assert gate.claim("nobody", START)
    assert not gate.claim("nobody", START)
    assert "nobody" in ledger.veiled
    gate.end("nobody")
    assert gate.claim("nobody", START)


async def test_operation_is_given_up_only_if_it_is_of_the_kind_that_was_asked(gate: Operations) -> None:
    gate.cancel(WEB.uuid, [START])
    await gate.begin(WEB.uuid, START)
    gate.cancel(WEB.uuid, [CLEAN_SHUTDOWN])
    gate.cancel("nobody", [START])
    gate.check_wanted(WEB.uuid)
    gate.cancel(WEB.uuid, [CLEAN_SHUTDOWN, START])
    (task,) = gate.find(WEB.uuid).current_operations
    with pytest.raises(TaskCancelled) as refusal:
        gate.check_wanted(WEB.uuid)
    assert refusal.value.params == (task,)
    gate.end(WEB.uuid)
    await gate.begin(WEB.uuid, START)
    gate.check_wanted(WEB.uuid)


async def test_change_after_the_end_of_the_daemon_is_refused(gate: Operations, ledger: Ledger) -> None:
    await ledger.close()
    with pytest.raises(ConnectionLost):
        await gate.change(WEB.uuid, rename)
