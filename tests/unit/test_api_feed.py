"""What is written into the journal when VMs, host, pool and tasks change, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.apistack import GIB, OneUser, no_delay
from xcpmem.api.feed import MEMORY_GAP_S, Feed, Pace, followed_classes
from xcpmem.api.fields import metrics_ref
from xcpmem.api.journal import Journal, Subscription
from xcpmem.api.records import Records
from xcpmem.api.sessions import Session, SessionClock, Sessions
from xcpmem.api.tasks import Tasks
from xcpmem.api.typenames import EPOCH
from xcpmem.refs import opaque_ref
from xcpmem.vm import HostFacts, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Mapping

ZERO, WEB, DB, NEW = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "0123")
HOST = "11111111-0000-4000-8000-000000000000"
POOL = "22222222-0000-4000-8000-000000000000"
NAMES = {
    **{
        opaque_ref("VM", uuid): name
        for uuid, name in ((ZERO, "zero"), (WEB, "web"), (DB, "db"), (NEW, "new"))
    },
    **{
        metrics_ref(class_name, uuid): f"{name}'s"
        for class_name in ("VM_metrics", "VM_guest_metrics")
        for uuid, name in ((ZERO, "zero"), (WEB, "web"), (DB, "db"), (NEW, "new"))
    },
    opaque_ref("host", HOST): "host",
    metrics_ref("host_metrics", HOST): "host's",
    opaque_ref("pool", POOL): "pool",
}
START = 1000


def a_vm(uuid: str, *, runs: bool = True) -> Vm:
    vm = Vm(
        uuid=uuid,
        name_label=uuid,
        memory_static_min=0,
        memory_static_max=4 * GIB,
        memory_dynamic_min=GIB,
        memory_dynamic_max=4 * GIB,
        memory_target=2 * GIB,
    )
    return replace(vm, power_state="Running", domid=int(uuid[-1]), memory_actual=2 * GIB) if runs else vm


@dataclass
class Told:
    """A timer that a test lets go off."""

    when_s: float
    callback: Callable[[], None]
    is_off: bool = False

    def cancel(self) -> None:
        self.is_off = True


@dataclass
class House:
    """An inventory, a clock, and the journal that is written about both."""

    all_vms: dict[str, Vm] = field(
        default_factory=lambda: {
            ZERO: replace(a_vm(ZERO), is_control_domain=True),
            WEB: a_vm(WEB),
            DB: a_vm(DB, runs=False),
        }
    )
    pool_uuid: str = POOL
    pool_annotations: Mapping[str, Any] = field(default_factory=dict)
    now_s: float = 100.0
    timers: list[Told] = field(default_factory=list)
    callbacks: list[Callable[[frozenset[tuple[str, str]]], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tasks = Tasks(opaque_ref("host", HOST))
        self.records = Records(
            self, Sessions(OneUser(), keep, clock=SessionClock(sleep=no_delay)), self.tasks
        )
        self.journal = Journal(followed_classes(), START, lambda: self.now_s, lambda *_: None)
        self.feed = Feed(
            self,
            self.tasks,
            self.records,
            self.journal,
            monotonic_s=lambda: self.now_s,
            call_later=self.call_later,
        )
        self.feed.open()
        self.known = self.journal.generation

    def vms(self) -> Mapping[str, Vm]:
        return self.all_vms

    @property
    def version(self) -> Hashable:
        return tuple((uuid, vm.version) for uuid, vm in self.all_vms.items())

    def host(self) -> HostFacts:
        return HostFacts(uuid=HOST, name_label="h", hostname="h", address="192.0.2.1", cpu_count=1)

    def subscribe(self, callback: Callable[[frozenset[tuple[str, str]]], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Told:
        self.timers.append(Told(self.now_s + delay_s, callback))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        for timer in [timer for timer in self.timers if timer.when_s <= self.now_s and not timer.is_off]:
            timer.is_off = True
            timer.callback()

    def change(self, uuid: str, *classes: str, **values: object) -> None:
        """Change a VM as the ledger does, and say which of its objects it touched."""
        self.all_vms[uuid] = replace(self.all_vms[uuid], **values)  # type: ignore[arg-type]
        self.touch(*((class_name, uuid) for class_name in classes))

    def touch(self, *touched: tuple[str, str]) -> None:
        for callback in self.callbacks:
            callback(frozenset(touched))

    def news(self) -> list[str]:
        """What changed since this was last asked: ``+web``, ``~host's``."""
        signs = {"add": "+", "mod": "~", "del": "-"}
        changes = self.journal.since(self.known, Subscription.parse(["*"]))
        self.known = self.journal.generation
        return [signs[each.operation] + NAMES.get(each.ref, each.class_name) for each in changes]


async def keep(_: str) -> None:
    """Give nothing back."""


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    house.feed.close()
    await house.tasks.close()


def test_all_classes_whose_objects_come_and_go_are_followed() -> None:
    assert followed_classes() == (
        *("pool", "host", "host_metrics", "VM", "VM_metrics", "VM_guest_metrics", "task"),
    )


async def test_journal_starts_with_what_there_is(house: House) -> None:
    assert house.journal.counts == {
        "pool": 1,
        "host": 1,
        "host_metrics": 1,
        "vm": 3,
        "vm_metrics": 3,
        "vm_guest_metrics": 1,
        "task": 0,
    }
    assert house.feed.is_open


async def test_vm_pool_and_host_are_noted_when_they_are_touched(house: House) -> None:
    house.change(WEB, "VM", memory_dynamic_max=3 * GIB)
    house.touch(("pool", POOL), ("host", HOST))
    house.touch(("VM", DB))
    assert house.news() == ["~web", "~host", "~pool", "~db"]


async def test_vm_that_comes_brings_its_metrics_and_changes_the_host_that_lists_it(house: House) -> None:
    house.all_vms[NEW] = a_vm(NEW)
    house.touch(("VM", NEW), ("VM_metrics", NEW))
    assert house.news() == ["+new", "+new's", "+new's", "~host"]
    assert house.journal.counts["vm"] == 4


async def test_halted_vm_that_comes_has_metrics_and_no_guest(house: House) -> None:
    house.all_vms[NEW] = a_vm(NEW, runs=False)
    house.touch(("VM", NEW))
    assert house.news() == ["+new", "+new's"]


async def test_vm_that_goes_takes_its_metrics_along(house: House) -> None:
    del house.all_vms[WEB]
    house.touch(("VM", WEB), ("VM_metrics", WEB))
    assert house.news() == ["~host", "-web's", "-web's", "-web"]
    house.touch(("VM", WEB), ("VM_metrics", WEB))
    assert house.news() == []


async def test_start_brings_a_guest_and_shutdown_ends_it(house: House) -> None:
    house.change(DB, "VM", "VM_metrics", power_state="Running", domid=2, memory_actual=2 * GIB)
    assert house.news() == ["+db's", "~db", "~db's", "~host"]
    house.change(DB, "VM", "VM_metrics", power_state="Halted", domid=-1, memory_actual=0)
    assert house.news() == ["~db", "~db's", "~host", "-db's"]


async def test_host_that_is_touched_together_with_its_guests_is_noted_once(house: House) -> None:
    house.change(DB, power_state="Running", domid=2)
    before = house.journal.generation
    house.touch(("VM", DB), ("host", HOST))
    assert house.journal.generation - before == 3


async def test_memory_of_a_guest_that_moves_is_noted_every_few_seconds(house: House) -> None:
    house.change(WEB, "VM", memory_target=4 * GIB)
    assert house.news() == ["~web"]
    noted = []
    for step in range(11):
        house.change(WEB, "VM_metrics", memory_actual=2 * GIB + step * GIB // 20)
        house.touch(("host_metrics", HOST))
        noted.append(house.news())
        house.pass_time(1.0)
    assert noted[0] == ["~web's", "~host's"]
    assert [number for number, news in enumerate(noted) if news] == [0, 5, 10]
    assert house.all_vms[WEB].memory_actual == 2 * GIB + GIB // 2


async def test_last_figure_is_noted_though_nothing_changes_any_more(house: House) -> None:
    house.change(WEB, "VM_metrics", memory_actual=3 * GIB, memory_target=4 * GIB)
    house.change(WEB, "VM_metrics", memory_actual=3 * GIB + 1)
    house.news()
    house.pass_time(MEMORY_GAP_S - 0.001)
    assert house.news() == []
    house.pass_time(0.001)
    assert house.news() == ["~web's"]
    house.pass_time(60)
    assert house.news() == []


async def test_guest_that_comes_to_rest_is_noted_at_once_and_with_the_last_one_the_host(house: House) -> None:
    for uuid in (WEB, ZERO):
        house.change(uuid, "VM_metrics", memory_target=3 * GIB, memory_actual=2 * GIB + 1)
    house.touch(("host_metrics", HOST))
    house.news()
    house.touch(("host_metrics", HOST))
    house.change(WEB, "VM_metrics", memory_actual=3 * GIB)
    assert house.news() == ["~web's"]
    house.change(ZERO, "VM_metrics", memory_actual=3 * GIB - GIB // 1024)
    assert house.news() == ["~zero's", "~host's"]


async def test_guest_whose_target_comes_to_it_is_at_rest_too(house: House) -> None:
    house.change(WEB, "VM_metrics", memory_target=4 * GIB, memory_actual=3 * GIB)
    house.change(WEB, "VM_metrics", memory_actual=3 * GIB + 5)
    house.news()
    house.change(WEB, "VM", memory_target=3 * GIB)
    assert house.news() == ["~web", "~web's"]


async def test_guest_that_jitters_at_rest_is_noted_every_few_seconds(house: House) -> None:
    house.change(WEB, "VM_metrics", memory_actual=2 * GIB + 4096)
    house.change(WEB, "VM_metrics", memory_actual=2 * GIB)
    assert house.news() == ["~web's"]
    house.change(WEB, "VM_metrics", memory_actual=2 * GIB + 4096)
    assert house.news() == []
    house.pass_time(MEMORY_GAP_S)
    assert house.news() == ["~web's"]


async def test_memory_that_is_gone_with_the_domain_is_noted_at_once(house: House) -> None:
    house.change(WEB, "VM_metrics", memory_actual=2 * GIB + 4096)
    house.news()
    house.change(WEB, "VM", "VM_metrics", power_state="Halted", domid=-1, memory_actual=0)
    assert "~web's" in house.news()


async def test_nothing_held_back_outlives_its_vm(house: House) -> None:
    house.change(WEB, "VM_metrics", memory_target=4 * GIB, memory_actual=3 * GIB)
    house.change(WEB, "VM_metrics", memory_actual=3 * GIB + 5)
    del house.all_vms[WEB]
    house.touch(("VM", WEB))
    house.news()
    house.pass_time(60)
    assert house.news() == []
    assert not house.feed._moving


async def test_task_is_noted_from_its_making_to_its_end(house: House) -> None:
    session = Session("r", "u", "root", "", "pool-admin", ("", ""), EPOCH, EPOCH, 0.0)
    ref = house.tasks.create(session, "mine", "")
    assert house.news() == ["+task"]
    house.tasks.change(session, ref, status="success")
    assert house.news() == ["~task"]
    house.tasks.destroy(session, ref)
    assert house.news() == ["-task"]


async def test_closed_feed_follows_nothing(house: House) -> None:
    house.change(WEB, "VM_metrics", memory_target=4 * GIB, memory_actual=3 * GIB)
    house.change(WEB, "VM_metrics", memory_actual=3 * GIB + 5)
    house.news()
    house.feed.close()
    assert house.callbacks == []
    house.pass_time(60)
    assert house.news() == []


def due(pace: Pace) -> float | None:
    return pace.next_due_s


def test_pace_lets_each_thing_through_once_in_a_while() -> None:
    pace, a, b = Pace(5.0), ("VM", "a"), ("VM", "b")
    assert [pace.admit(a, 100.0), pace.admit(b, 103.0)] == [True, True]
    assert [pace.admit(b, 104.0), pace.admit(a, 104.5)] == [False, False]
    assert due(pace) == 105.0
    assert pace.take_due(104.9) == []
    assert pace.take_due(105.0) == [a]
    assert (pace.admit(a, 109.0), due(pace)) == (False, 108.0)
    pace.forget(b)
    assert (pace.admit(b, 109.0), due(pace)) == (True, 110.0)
    assert (pace.release(a, 109.5), due(pace)) == (True, None)
    assert not pace.release(a, 109.6)
    assert [pace.admit(a, 114.0), pace.admit(a, 114.5)] == [False, True]
