"""Follows all objects and writes into the journal what happens to them.

The service says which of the VMs, the host and the pool it touched, the tasks say so themselves; what that
means for the objects that XenAPI shows is found out here. What a guest holds changes all the time while its
balloon moves: that is noted every few seconds, and at once when it has come to rest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from xcpmem.api import fields
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.records import Inventory
from xcpmem.api.roles import ROLE, SUBJECT
from xcpmem.refs import opaque_ref
from xcpmem.units import BYTES_PER_MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.api.journal import Journal
    from xcpmem.api.records import Records
    from xcpmem.api.tasks import Tasks
    from xcpmem.vm import Vm

    Key = tuple[str, str]

MEMORY_GAP_S: Final = 5.0
"""``memory_actual`` and ``memory_free`` of what moves are noted no more often (xapi's own cadence)."""

AT_REST: Final = BYTES_PER_MIB
"""A VM this close to its target counts as having reached it, bytes (xapi's wait_memory_target_live)."""

_VM: Final = "VM"
_VM_METRICS: Final = "VM_metrics"
_GUEST_METRICS: Final = "VM_guest_metrics"
_HOST_METRICS: Final = "host_metrics"
_TASK: Final = "task"
_UNFOLLOWED: Final = frozenset({ROLE, SUBJECT})


def followed_classes() -> tuple[str, ...]:
    """List the classes whose objects come, change and go; roles never do, users are not told of."""
    classes = load_datamodel().classes.items()
    return tuple(name for name, each in classes if "get_all" in each.messages and name not in _UNFOLLOWED)


class Watched(Inventory, Protocol):
    """What is followed; the service."""

    def subscribe(self, callback: Callable[[frozenset[Key]], None]) -> Callable[[], None]:
        """Call back with class and uuid of what changed; returns a function that ends this."""


class Timer(Protocol):
    """Something that is going to happen; asyncio's TimerHandle."""

    def cancel(self) -> None:
        """Let it not happen."""


class Pace:
    """Lets each thing through once in a while, and what was held back when its time has come.

    Args:
        gap_s: between two of the same thing.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._passed_s: dict[Key, float] = {}
        self._held: dict[Key, float] = {}

    @property
    def next_due_s(self) -> float | None:
        """When the next thing that is held back may pass; None if there is none."""
        return min(self._held.values(), default=None)

    def admit(self, key: Key, now_s: float) -> bool:
        """Tell whether a thing may pass now; else it is held back."""
        due_s = self._passed_s.get(key, -math.inf) + self._gap_s
        if now_s < due_s:
            self._held[key] = due_s
            return False
        self._held.pop(key, None)
        self._passed_s[key] = now_s
        return True

    def release(self, key: Key, now_s: float) -> bool:
        """Let a thing pass before its time; tell whether it was held back."""
        if self._held.pop(key, None) is None:
            return False
        self._passed_s[key] = now_s
        return True

    def take_due(self, now_s: float) -> list[Key]:
        """Let everything pass whose time has come."""
        due = [key for key, due_s in self._held.items() if due_s <= now_s]
        for key in due:
            self.release(key, now_s)
        return due

    def forget(self, key: Key) -> None:
        """Know nothing of a thing any more."""
        self._passed_s.pop(key, None)
        self._held.pop(key, None)


class Feed:
    """Writes the journal from the moment it is opened.

    Args:
        watched: the VMs, the host and the pool.
        tasks: all of them.
        records: know which objects there are.
        journal: written by nobody else.
        monotonic_s: seconds, never set back.
        call_later: calls back after so many seconds.
    """

    def __init__(
        self,
        watched: Watched,
        tasks: Tasks,
        records: Records,
        journal: Journal,
        *,
        monotonic_s: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._watched = watched
        self._tasks = tasks
        self._records = records
        self._journal = journal
        self._monotonic_s = monotonic_s
        self._call_later = call_later
        self._pace = Pace(MEMORY_GAP_S)
        self._residents: set[str] = set()
        self._moving: set[str] = set()
        self._timer: Timer | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the journal is being written."""
        return self._unsubscribe is not None

    def open(self) -> None:
        """Write down what there is, and follow it from now on."""
        for class_name in followed_classes():
            self._journal.load(class_name, self._records.refs(class_name))
        self._residents = {uuid for uuid, vm in self._watched.vms().items() if vm.is_resident}
        self._unsubscribe = self._watched.subscribe(self._follow)
        self._tasks.on_change(self._follow_task)

    def close(self) -> None:
        """Follow the service no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._timer is not None:
            self._timer.cancel()

    def _follow_task(self, ref: str) -> None:
        if ref in self._tasks:
            self._journal.put(_TASK, ref)
        else:
            self._journal.remove(_TASK, ref)

    def _follow(self, touched: frozenset[Key]) -> None:
        residents, moved = set(self._residents), bool(self._moving)
        for class_name, uuid in sorted(touched):
            match class_name:
                case "VM":
                    self._follow_vm(uuid)
                case "VM_metrics":
                    self._measure_vm(uuid)
                case "host_metrics":
                    self._measure(_HOST_METRICS, fields.metrics_ref(_HOST_METRICS, uuid))
                case _:
                    self._journal.put(class_name, opaque_ref(class_name, uuid))
        (host,) = self._records.refs("host")
        if self._residents != residents and ("host", self._watched.host().uuid) not in touched:
            self._journal.put("host", host)  # it lists them
        if moved and not self._moving:
            (metrics,) = self._records.refs(_HOST_METRICS)
            self._settle((_HOST_METRICS, metrics))
        self._set_timer()

    def _follow_vm(self, uuid: str) -> None:
        vm = self._watched.vms().get(uuid)
        if vm is None:
            self._lose_vm(uuid)
            return
        self._journal.put(_VM, opaque_ref(_VM, uuid))
        metrics, guest_metrics = (fields.metrics_ref(name, uuid) for name in (_VM_METRICS, _GUEST_METRICS))
        if not self._journal.knows(_VM_METRICS, metrics):
            self._journal.put(_VM_METRICS, metrics)
        if not fields.has_guest_metrics(vm):
            self._journal.remove(_GUEST_METRICS, guest_metrics)
        elif not self._journal.knows(_GUEST_METRICS, guest_metrics):
            self._journal.put(_GUEST_METRICS, guest_metrics)
        (self._residents.add if vm.is_resident else self._residents.discard)(uuid)
        if uuid in self._moving and _is_at_rest(vm):
            self._moving.discard(uuid)
            self._settle((_VM_METRICS, metrics))

    def _lose_vm(self, uuid: str) -> None:
        metrics = fields.metrics_ref(_VM_METRICS, uuid)
        self._pace.forget((_VM_METRICS, metrics))
        self._residents.discard(uuid)
        self._moving.discard(uuid)
        self._journal.remove(_GUEST_METRICS, fields.metrics_ref(_GUEST_METRICS, uuid))
        self._journal.remove(_VM_METRICS, metrics)
        self._journal.remove(_VM, opaque_ref(_VM, uuid))

    def _measure_vm(self, uuid: str) -> None:
        vm = self._watched.vms().get(uuid)
        if vm is None:
            return
        metrics = fields.metrics_ref(_VM_METRICS, uuid)
        self._measure(_VM_METRICS, metrics)
        if not _is_at_rest(vm):
            self._moving.add(uuid)
        elif uuid in self._moving or not vm.is_resident:
            self._moving.discard(uuid)
            self._settle((_VM_METRICS, metrics))

    def _measure(self, class_name: str, ref: str) -> None:
        """Note that memory figures changed, now or when it is time."""
        if self._pace.admit((class_name, ref), self._monotonic_s()):
            self._journal.put(class_name, ref)

    def _settle(self, key: Key) -> None:
        """Note figures that will not change again soon, if they were held back."""
        if self._pace.release(key, self._monotonic_s()):
            self._journal.put(*key)

    def _set_timer(self) -> None:
        """Be called when the first thing that is held back may pass."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._pace.next_due_s
        if due_s is not None:
            self._timer = self._call_later(max(0.0, due_s - self._monotonic_s()), self._on_timer)

    def _on_timer(self) -> None:
        for key in self._pace.take_due(self._monotonic_s()):
            self._journal.put(*key)
        self._set_timer()


def _is_at_rest(vm: Vm) -> bool:
    return not vm.is_resident or abs(vm.memory_actual - vm.memory_target) <= AT_REST
