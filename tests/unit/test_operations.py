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
    VmIsTemplate,
    XcpmemError,
)
from xcpmem.law import (
    CHANGING_STATIC_RANGE,
    CLEAN_SHUTDOWN,
    DESTROY,
    HARD_SHUTDOWN,
    MAKE_INTO_TEMPLATE,
    RESUME,
    START,
    check_operation,
)
from xcpmem.ledger import Ledger
from xcpmem.operations import Operations
from xcpmem.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from xcpmem.law import Operation
    from xcpmem.ledger import Entry
    from xcpmem.vm import Vm


class HeldStore(Store):
    """Takes its time to write while `is_held`."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.is_held = False
        self.writing, self.released = asyncio.Event(), asyncio.Event()

    async def save(
        self, vms: Iterable[Vm] = (), values: Mapping[str, str] | None = None, forget: Iterable[str] = ()
    ) -> None:
        if self.is_held:
            self.writing.set()
            await self.released.wait()
        await super().save(vms, values, forget)


@pytest.fixture
async def store(tmp_path: Path) -> HeldStore:
    return HeldStore(tmp_path)


@pytest.fixture
async def ledger(store: HeldStore) -> AsyncIterator[Ledger]:
    ledger = Ledger(store)
    await ledger.start()
    await ledger.post(lambda entry: entry.put_vm(WEB))
    yield ledger
    store.released.set()
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


def destroy(vm: Vm, entry: Entry) -> None:
    check_operation(vm, DESTROY)
    entry.drop_vm(vm.uuid)


def make_into_template(vm: Vm, entry: Entry) -> None:
    check_operation(vm, MAKE_INTO_TEMPLATE)
    entry.put_vm(replace(vm, is_a_template=True))


async def begin_while(
    gate: Operations, store: HeldStore, change: Callable[[Vm, Entry], None], operation: Operation
) -> Vm:
    """Begin an operation while a change that was decided before is being stored."""
    store.is_held = True
    changing = asyncio.create_task(gate.decide(WEB.uuid, change))
    await store.writing.wait()
    beginning = asyncio.create_task(gate.begin(WEB.uuid, operation))
    await asyncio.sleep(0)
    assert gate.find(WEB.uuid).current_operations
    assert not beginning.done()
    store.released.set()
    await changing
    return await beginning


@pytest.mark.parametrize(("change", "refusal"), [(make_into_template, VmIsTemplate), (destroy, UuidInvalid)])
async def test_vm_is_not_started_that_a_change_which_is_being_stored_makes_unfit(
    gate: Operations, store: HeldStore, change: Callable[[Vm, Entry], None], refusal: type[XcpmemError]
) -> None:
    with pytest.raises(refusal):
        await begin_while(gate, store, change, START)
    assert gate.claim(WEB.uuid, START)


async def test_suspended_vm_is_not_resumed_whose_end_is_being_stored(
    gate: Operations, ledger: Ledger, store: HeldStore
) -> None:
    await gate.change(WEB.uuid, lambda vm, _: replace(vm, memory_suspended=256))
    with pytest.raises(UuidInvalid):
        await begin_while(gate, store, destroy, RESUME)
    assert not ledger.veiled


async def test_change_after_an_operation_has_begun_waits_though_an_earlier_one_is_still_being_stored(
    gate: Operations, store: HeldStore
) -> None:
    store.is_held = True
    earlier = asyncio.create_task(gate.change(WEB.uuid, rename))
    await store.writing.wait()
    beginning = asyncio.create_task(gate.begin(WEB.uuid, START))
    await asyncio.sleep(0)
    later = asyncio.create_task(gate.decide(WEB.uuid, destroy))
    store.released.set()
    await earlier
    assert (await beginning).name_label == "renamed"
    assert not later.done()
    gate.end(WEB.uuid)
    await later


async def test_caller_that_goes_away_before_an_operation_has_begun_leaves_the_vm_free(
    gate: Operations, ledger: Ledger, store: HeldStore
) -> None:
    store.is_held = True
    earlier = asyncio.create_task(gate.change(WEB.uuid, rename))
    await store.writing.wait()
    beginning = asyncio.create_task(gate.begin(WEB.uuid, START))
    await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert not ledger.vms[WEB.uuid].current_operations
    store.released.set()
    await earlier


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
