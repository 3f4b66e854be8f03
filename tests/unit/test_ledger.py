"""Changes of stored facts: one after the other, durable before visible, never half, never lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from xcpmem.errors import ConnectionLost, ConstraintOrder, HostError
from xcpmem.ledger import BACKLOG, Entry, Ledger
from xcpmem.store import Store
from xcpmem.vm import Live, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from xcpmem.ledger import Touched

VM = Vm(
    uuid="0c0ffee0-0000-4000-8000-000000000001",
    name_label="web1",
    memory_static_min=0,
    memory_static_max=1 << 40,
    memory_dynamic_min=0,
    memory_dynamic_max=0,
    memory_target=0,
)
LIVE = Live(domid=3, power_state="Running", memory_target=10, memory_actual=20, start_time_s=30.0)


class WatchedStore(Store):
    """Counts its writes, and refuses them while `is_full`."""

    saves = 0
    is_full = False

    async def save(
        self, vms: Iterable[Vm] = (), values: Mapping[str, str] | None = None, forget: Iterable[str] = ()
    ) -> None:
        self.saves += 1
        if self.is_full:
            raise HostError("disk full")
        await super().save(vms, values, forget)


@pytest.fixture
async def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path)


@pytest.fixture
async def ledger(store: WatchedStore) -> AsyncIterator[Ledger]:
    ledger = Ledger(store)
    await ledger.start()
    await ledger.post(lambda entry: entry.put_vm(VM))
    yield ledger
    await ledger.close()


async def stored(store: Store) -> Vm:
    again = Store(store.path.parent)
    try:
        return (await again.load()).vms[VM.uuid]
    finally:
        await again.close()


def add_to_dynamic_max(size: int) -> Callable[[Entry], int]:
    def decide(entry: Entry) -> int:
        vm = entry.vms[VM.uuid]
        entry.put_vm(replace(vm, memory_dynamic_max=vm.memory_dynamic_max + size))
        return vm.memory_dynamic_max

    return decide


async def test_concurrent_changes_of_one_vm_are_all_kept_in_the_order_they_came(
    ledger: Ledger, store: WatchedStore
) -> None:
    before = await asyncio.gather(*(ledger.post(add_to_dynamic_max(1)) for _ in range(500)))
    assert before == list(range(500))
    assert ledger.vms[VM.uuid].memory_dynamic_max == 500
    await ledger.close()
    assert (await stored(store)).memory_dynamic_max == 500


async def test_changes_that_wait_together_are_written_together(ledger: Ledger, store: WatchedStore) -> None:
    store.saves = 0
    await asyncio.gather(*(ledger.post(add_to_dynamic_max(1)) for _ in range(200)))
    assert store.saves == 1


async def test_change_is_durable_before_it_is_acknowledged(ledger: Ledger, store: WatchedStore) -> None:
    await ledger.post(add_to_dynamic_max(7))
    await store.close()
    assert (await stored(store)).memory_dynamic_max == 7


async def test_change_is_visible_when_its_consequence_is_drawn(ledger: Ledger) -> None:
    seen: list[int] = []
    await ledger.post(add_to_dynamic_max(7), lambda: seen.append(ledger.vms[VM.uuid].memory_dynamic_max))
    assert seen == [7]


async def test_refused_change_leaves_nothing_behind_and_lets_others_pass(
    ledger: Ledger, store: WatchedStore
) -> None:
    def refuse(entry: Entry) -> None:
        entry.put_value("half", "done")
        entry.put_vm(replace(VM, name_label="half"))
        raise ConstraintOrder

    good, bad, later = (
        ledger.post(add_to_dynamic_max(1)),
        ledger.post(refuse),
        ledger.post(add_to_dynamic_max(1)),
    )
    with pytest.raises(ConstraintOrder):
        await bad
    assert (await good, await later) == (0, 1)
    assert (ledger.vms[VM.uuid].name_label, dict(ledger.values)) == ("web1", {})
    await ledger.close()
    assert (await stored(store)).name_label == "web1"


async def test_change_that_the_disk_refuses_is_neither_shown_nor_acted_on(
    ledger: Ledger, store: WatchedStore
) -> None:
    before, acted = ledger.vms[VM.uuid], list[str]()
    store.is_full = True
    with pytest.raises(HostError, match="disk full"):
        await ledger.post(add_to_dynamic_max(1), lambda: acted.append("acted"))
    store.is_full = False
    assert (ledger.vms[VM.uuid], acted) == (before, [])
    assert await ledger.post(add_to_dynamic_max(1)) == 0


async def test_what_needs_no_disk_is_decided_as_if_what_the_disk_refused_had_never_come(
    ledger: Ledger, store: WatchedStore
) -> None:
    store.is_full = True
    growing = ledger.post(add_to_dynamic_max(1))
    seen = ledger.post(lambda entry: entry.vms[VM.uuid].memory_dynamic_max)
    dropping = ledger.post(lambda entry: entry.drop_vm(VM.uuid))
    seen_later = ledger.post(lambda entry: entry.vms[VM.uuid].memory_dynamic_max)
    for change in (growing, dropping):
        with pytest.raises(HostError, match="disk full"):
            await change
    assert (await seen, await seen_later) == (0, 0)


async def test_changes_that_cannot_be_stored_for_a_reason_that_nobody_foresaw_fail_and_later_ones_are_made(
    ledger: Ledger, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    before, acted = ledger.vms[VM.uuid], list[str]()
    unfit = ledger.post(
        lambda entry: entry.put_vm(replace(VM, name_label="\udcff")), lambda: acted.append("x")
    )
    others = ledger.post(add_to_dynamic_max(1)), ledger.post(lambda _: "nothing to be stored")
    for change in (unfit, *others):
        with pytest.raises(HostError, match="could not be made"):
            await change
    assert (ledger.vms[VM.uuid], acted) == (before, [])
    assert ledger.is_alive
    (logged,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert logged.exc_info is not None
    assert logged.exc_info[0] is UnicodeEncodeError
    assert await ledger.post(add_to_dynamic_max(1)) == 0
    await ledger.close()
    assert ((await stored(store)).memory_dynamic_max, ledger.is_alive) == (1, False)


async def test_subscriber_that_fails_is_reported_and_harms_neither_changes_nor_other_subscribers(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Touched) -> None:
        raise RuntimeError("a bug")

    heard: list[Touched] = []
    ledger.subscribe(fail)
    ledger.subscribe(heard.append)
    assert await ledger.post(add_to_dynamic_max(1)) == 0
    assert await ledger.post(add_to_dynamic_max(1)) == 1
    assert heard == [frozenset({("VM", VM.uuid)})] * 2
    assert "a bug" in caplog.text


async def test_ledger_whose_writer_is_gone_says_so_and_lets_nobody_wait(store: WatchedStore) -> None:
    ledger = Ledger(store)
    lived = [ledger.is_alive]
    await ledger.start()
    lived.append(ledger.is_alive)
    (writer,) = [task for task in asyncio.all_tasks() if task.get_name() == "ledger"]
    writer.cancel()
    await asyncio.wait([writer])
    assert [*lived, ledger.is_alive] == [False, True, False]
    with pytest.raises(ConnectionLost):
        ledger.post(add_to_dynamic_max(1))
    await store.close()


async def test_error_of_a_consequence_reaches_the_caller_and_nobody_else(ledger: Ledger) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    change = ledger.post(add_to_dynamic_max(1), fail)
    other = ledger.post(add_to_dynamic_max(1))
    with pytest.raises(RuntimeError, match="a bug"):
        await change
    assert await other == 1


async def test_error_of_a_decision_reaches_the_caller_and_nobody_else(ledger: Ledger) -> None:
    change = ledger.post(lambda entry: entry.vms["no such"])
    other = ledger.post(add_to_dynamic_max(1))
    with pytest.raises(KeyError):
        await change
    assert await other == 0


async def test_change_is_made_though_its_caller_went_away(ledger: Ledger) -> None:
    change = ledger.post(add_to_dynamic_max(1))
    change.cancel()
    assert await ledger.post(add_to_dynamic_max(1)) == 1


async def test_refused_change_of_a_caller_that_went_away_disturbs_nobody(ledger: Ledger) -> None:
    ledger.post(lambda entry: entry.vms["no such"]).cancel()
    assert await ledger.post(add_to_dynamic_max(1)) == 0


async def test_ledger_refuses_more_changes_than_it_can_keep(ledger: Ledger) -> None:
    waiting = [ledger.post(add_to_dynamic_max(1)) for _ in range(BACKLOG)]
    with pytest.raises(HostError, match="waiting"):
        ledger.post(add_to_dynamic_max(1))
    await asyncio.gather(*waiting)
    assert ledger.vms[VM.uuid].memory_dynamic_max == BACKLOG


async def test_closing_ledger_makes_the_changes_that_wait_and_refuses_later_ones(
    ledger: Ledger, store: WatchedStore
) -> None:
    waiting = [ledger.post(add_to_dynamic_max(1)) for _ in range(BACKLOG)]
    await ledger.close()
    assert all(change.done() for change in waiting)
    with pytest.raises(ConnectionLost):
        ledger.post(add_to_dynamic_max(1))
    assert (await stored(store)).memory_dynamic_max == BACKLOG


async def test_live_fields_lie_over_the_row_and_do_not_reach_the_disk(
    ledger: Ledger, store: WatchedStore
) -> None:
    ledger.overlay(VM.uuid, LIVE)
    await ledger.post(add_to_dynamic_max(100))
    vm = ledger.vms[VM.uuid]
    assert (vm.power_state, vm.domid, vm.memory_target, vm.memory_actual) == ("Running", 3, 10, 20)
    assert (vm.memory_dynamic_max, vm.start_time_s) == (100, 30.0)
    ledger.overlay(VM.uuid, None)
    vm = ledger.vms[VM.uuid]
    assert (vm.power_state, vm.domid, vm.memory_actual) == ("Halted", -1, 0)
    await ledger.close()
    assert (await stored(store)).power_state == "Halted"


async def test_live_fields_seen_while_a_change_is_written_are_kept(ledger: Ledger) -> None:
    change = ledger.post(add_to_dynamic_max(100))
    await asyncio.sleep(0)
    ledger.overlay(VM.uuid, LIVE)
    await change
    vm = ledger.vms[VM.uuid]
    assert (vm.memory_dynamic_max, vm.domid) == (100, 3)


async def test_introduced_vm_is_visible_but_not_stored_until_a_change_writes_it(
    ledger: Ledger, store: WatchedStore
) -> None:
    found = replace(VM, uuid="found")
    ledger.introduce(found)
    assert "found" in ledger.vms
    assert not ledger.is_stored("found")
    ledger.withdraw("found")
    assert "found" not in ledger.vms
    ledger.introduce(found)
    await ledger.post(lambda entry: entry.put_vm(entry.vms["found"]))
    ledger.withdraw("found")
    assert ledger.is_stored("found")
    assert "found" in ledger.vms


@pytest.mark.parametrize(
    ("later", "touched"),
    [
        (LIVE, None),
        (LIVE._replace(memory_actual=21), {("VM_metrics", VM.uuid)}),
        (LIVE._replace(memory_target=21), {("VM", VM.uuid)}),
        (LIVE._replace(memory_target=21, memory_actual=21), {("VM", VM.uuid), ("VM_metrics", VM.uuid)}),
        (None, {("VM", VM.uuid), ("VM_metrics", VM.uuid)}),
    ],
)
async def test_subscribers_hear_what_changed_and_nothing_else(
    ledger: Ledger, later: Live | None, touched: set[tuple[str, str]] | None
) -> None:
    ledger.overlay(VM.uuid, LIVE)
    ledger.publish()
    heard: list[Touched] = []
    unsubscribe = ledger.subscribe(heard.append)
    version = ledger.vms[VM.uuid].version
    ledger.overlay(VM.uuid, later)
    ledger.publish()
    assert heard == ([] if touched is None else [frozenset(touched)])
    assert (ledger.vms[VM.uuid].version > version) is (touched is not None)
    unsubscribe()
    ledger.touch("pool", "p")
    ledger.publish()
    assert len(heard) <= 1


async def test_setting_equal_values_is_a_change_too(ledger: Ledger) -> None:
    heard: list[Touched] = []
    ledger.subscribe(heard.append)
    version = ledger.vms[VM.uuid].version
    await ledger.post(add_to_dynamic_max(0))
    assert heard == [frozenset({("VM", VM.uuid)})]
    assert ledger.vms[VM.uuid].version > version
