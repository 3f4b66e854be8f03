"""The VMs as everyone reads them, and the one place where stored facts change.

Changes queue up and one task makes them, so no update can be lost and every decision sees all earlier ones;
what waits together is written together, with one sync of the disk. A change is durable before it is seen,
seen before anyone acts on it, and its caller may go away at any time without undoing it. What the ring sees
of domains is laid over the stored rows without waiting. What goes wrong in a way that nobody foresaw, in the
store or in a subscriber, is logged and ends neither the task nor the changes of others.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from xcpmem.errors import ConnectionLost, HostError
from xcpmem.refs import CURRENT_TASK, NULL_REF, opaque_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.store import Store
    from xcpmem.vm import Live, Vm

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

BACKLOG: Final = 1024
"""As many changes may wait; more are refused, so that memory stays bounded."""

BATCH: Final = 256
"""As many changes are written with one sync at most."""

Touched = frozenset[tuple[str, str]]
"""XenAPI class and uuid of each object that changed."""


class Entry:
    """What one change sees and writes: everything as it stands, with its own writes on top.

    Args:
        vms: below.
        values: below.
    """

    def __init__(self, vms: Mapping[str, Vm], values: Mapping[str, str]) -> None:
        self.written_vms: dict[str, Vm] = {}
        self.dropped_vms: set[str] = set()
        self.written_values: dict[str, str] = {}
        self._vms = vms
        self._values = values

    @property
    def vms(self) -> Mapping[str, Vm]:
        """All VMs by uuid, live fields included."""
        if not self.written_vms and not self.dropped_vms:
            return self._vms
        whole = {**self._vms, **self.written_vms}
        return {uuid: vm for uuid, vm in whole.items() if uuid not in self.dropped_vms}

    @property
    def values(self) -> Mapping[str, str]:
        """All named values."""
        return {**self._values, **self.written_values} if self.written_values else self._values

    @property
    def is_blank(self) -> bool:
        """Whether nothing was written."""
        return not (self.written_vms or self.dropped_vms or self.written_values)

    def put_vm(self, vm: Vm) -> None:
        """Write a VM; its live fields do not count."""
        self.written_vms[vm.uuid] = vm
        self.dropped_vms.discard(vm.uuid)

    def drop_vm(self, uuid: str) -> None:
        """Forget a VM."""
        self.written_vms.pop(uuid, None)
        self.dropped_vms.add(uuid)

    def put_value(self, name: str, text: str) -> None:
        """Write a named value."""
        self.written_values[name] = text

    def take(self, other: Entry) -> None:
        """Add the writes of another entry that was made on top of this one."""
        self.written_vms = {
            uuid: vm
            for uuid, vm in (self.written_vms | other.written_vms).items()
            if uuid not in other.dropped_vms
        }
        self.dropped_vms = (self.dropped_vms - other.written_vms.keys()) | other.dropped_vms
        self.written_values |= other.written_values


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """An operation on a VM."""

    task: str
    name: str
    is_veiled: bool


@dataclass(frozen=True, slots=True)
class _Change:
    decide: Callable[[Entry], Any]
    then: Callable[[], None]
    answer: asyncio.Future[Any]

    def conclude(self, result: object) -> None:
        """Act on it, once it is durable and visible, and answer."""
        try:
            self.then()
        except Exception as error:  # noqa: BLE001 handed to the caller
            self.fail(error)
        else:
            if not self.answer.done():
                self.answer.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Ledger:
    """Rows, live fields and the task that writes.

    Args:
        store: not loaded yet.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored: set[str] = set()
        self._rows: dict[str, Vm] = {}
        self._live: dict[str, Live] = {}
        self._under_way: dict[str, _UnderWay] = {}
        self._vms: dict[str, Vm] = {}
        self._values: dict[str, str] = {}
        self._version = 0
        self._touched: set[tuple[str, str]] = set()
        self._subscribers: list[Callable[[Touched], None]] = []
        self._queue: asyncio.Queue[_Change | None] = asyncio.Queue(BACKLOG)
        self._clerk: asyncio.Task[None] | None = None

    @property
    def vms(self) -> Mapping[str, Vm]:
        """All VMs by uuid; a view that follows every change."""
        return MappingProxyType(self._vms)

    @property
    def values(self) -> Mapping[str, str]:
        """All named values; a view that follows every change."""
        return MappingProxyType(self._values)

    @property
    def version(self) -> int:
        """The number of the latest change of what is shown; while it stands, all VMs are as they were."""
        return self._version

    @property
    def next_version(self) -> int:
        """A number larger than any before it."""
        self._version += 1
        return self._version

    async def start(self) -> None:
        """Load what was stored and begin to take changes.

        Raises:
            ConfigError: the state directory cannot be used.
        """
        state = await self._store.load()
        self._values.update(state.values)
        self._stored.update(state.vms)
        for vm in state.vms.values():
            self._rows[vm.uuid] = vm
            self._lay(vm.uuid)
        self._clerk = asyncio.create_task(self._serve(), name="ledger")

    async def close(self) -> None:
        """Make the changes that wait, refuse later ones, and close the store."""
        if self._clerk is not None:
            clerk, self._clerk = self._clerk, None
            await self._queue.put(None)
            await clerk
        await self._store.close()

    @property
    def is_alive(self) -> bool:
        """Whether changes are being made; false before `start` and after `close`."""
        return self._clerk is not None and not self._clerk.done()

    def is_stored(self, uuid: str) -> bool:
        """Whether the VM would be known after a restart."""
        return uuid in self._stored

    def post(
        self, decide: Callable[[Entry], _T], then: Callable[[], None] = lambda: None
    ) -> asyncio.Future[_T]:
        """Queue a change.

        Args:
            decide: is called when all earlier changes are decided; writes to the entry, or raises to
                refuse. It must not wait.
            then: is called once the change is durable and visible.

        Returns:
            What ``decide`` returned or raised, or HostError when the disk refused; nothing was changed then.

        Raises:
            ConnectionLost: the daemon ends.
            HostError: too many changes wait.
        """
        if not self.is_alive:
            raise ConnectionLost
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Change(decide, then, answer))
        except asyncio.QueueFull:
            raise HostError(f"{BACKLOG} changes are waiting to be stored already") from None
        return answer

    def introduce(self, vm: Vm) -> None:
        """Show a VM that was found on the host and is not stored yet; a second call replaces it."""
        self._rows[vm.uuid] = vm
        self._lay(vm.uuid, "VM", "VM_metrics")

    def withdraw(self, uuid: str) -> None:
        """Stop showing a VM that is not stored."""
        if uuid not in self._stored:
            self._rows.pop(uuid, None)
            self._live.pop(uuid, None)
            if self._vms.pop(uuid, None) is not None:
                self._version += 1
                self._touched |= {("VM", uuid), ("VM_metrics", uuid)}

    def overlay(self, uuid: str, live: Live | None) -> None:
        """Lay over a VM what was last seen of its domain; None when it has none."""
        before = self._live.get(uuid)
        if live == before:
            return
        if live is None:
            del self._live[uuid]
        else:
            self._live[uuid] = live
        if uuid not in self._rows:
            return
        if live is None or before is None:
            self._lay(uuid, "VM", "VM_metrics")
            return
        self._lay(uuid)
        if before.memory_actual != live.memory_actual:
            self.touch("VM_metrics", uuid)
        if before._replace(memory_actual=live.memory_actual) != live:
            self.touch("VM", uuid)

    def live(self, uuid: str) -> Live | None:
        """Give what was last laid over a VM."""
        return self._live.get(uuid)

    def begin(self, uuid: str, operation: str, *, is_veiled: bool = False) -> None:
        """Note that an operation on a VM is under way, until `end`; there must be none yet.

        It goes by the task on whose behalf it is begun, or by a reference of its own if there is none.

        Args:
            uuid: of the VM, which need not be known yet.
            operation: XenAPI's name of it.
            is_veiled: whether what is seen of the VM's domain is to be overlooked for now; see `unveil`.
        """
        task = CURRENT_TASK.get()
        if task == NULL_REF:
            task = opaque_ref("task", str(uuid4()))
        self._under_way[uuid] = _UnderWay(task, operation, is_veiled)
        self._relay(uuid)

    def unveil(self, uuid: str) -> None:
        """Let it be seen again what became of the VM's domain; its operation is still under way."""
        self._under_way[uuid] = replace(self._under_way[uuid], is_veiled=False)

    def end(self, uuid: str) -> None:
        """Note that the operation on a VM is over."""
        del self._under_way[uuid]
        self._relay(uuid)

    @property
    def veiled(self) -> set[str]:
        """Uuids of the VMs of whose domains what is seen is to be overlooked for now."""
        return {uuid for uuid, under_way in self._under_way.items() if under_way.is_veiled}

    def touch(self, class_name: str, uuid: str) -> None:
        """Note that an object changed which is not kept here."""
        self._touched.add((class_name, uuid))

    def subscribe(self, callback: Callable[[Touched], None]) -> Callable[[], None]:
        """Call back, in the loop, with the objects that changed.

        Returns:
            A function that ends this.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def publish(self) -> None:
        """Tell subscribers what changed since the last time, if anything did."""
        if self._touched:
            touched = frozenset(self._touched)
            self._touched.clear()
            for callback in list(self._subscribers):
                try:
                    callback(touched)
                except Exception:  # noqa: BLE001 one subscriber's bug is not the others'
                    _log.exception("a subscriber failed to take up what changed")

    async def _serve(self) -> None:
        ending = False
        while not ending:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            ending = None in batch
            changes = [change for change in batch if change is not None]
            try:
                while changes:
                    changes = await self._make(changes)
            except Exception:  # noqa: BLE001 those that come later must be made
                _log.exception("%d changes could not be made", len(changes))
                for change in changes:
                    change.fail(HostError("the change could not be made, see the daemon's log"))

    async def _make(self, batch: list[_Change]) -> list[_Change]:
        """Decide one by one, store together, then show and act one by one.

        Returns:
            Those that were decided beside what the disk refused then, and are to be decided anew without it.
        """
        whole = Entry(self._vms, self._values)
        writing: list[_Change] = []
        endings: list[Callable[[], None]] = []
        for change in batch:
            entry = Entry(whole.vms, whole.values)
            try:
                result = change.decide(entry)
            except Exception as error:  # noqa: BLE001 handed to the caller
                endings.append(partial(change.fail, error))
            else:
                whole.take(entry)
                endings.append(partial(change.conclude, result))
                if not entry.is_blank:
                    writing.append(change)
        if writing:
            try:
                await self._store.save(whole.written_vms.values(), whole.written_values, whole.dropped_vms)
            except HostError as error:
                for change in writing:
                    change.fail(error)
                return [change for change in batch if change not in writing]
        self._show(whole)
        for end in endings:
            end()
        self.publish()
        return []

    def _show(self, entry: Entry) -> None:
        for name, text in entry.written_values.items():
            self._values[name] = text
        for uuid, vm in entry.written_vms.items():
            self._stored.add(uuid)
            self._rows[uuid] = vm
            self._lay(uuid, "VM")
        for uuid in entry.dropped_vms:
            self._stored.discard(uuid)
            self.withdraw(uuid)

    def _relay(self, uuid: str) -> None:
        """Show a VM anew, if it is known, and tell subscribers."""
        if uuid in self._rows:
            self._lay(uuid, "VM")
        self.publish()

    def _lay(self, uuid: str, *classes: str) -> None:
        """Show a row with its live fields laid over it, as a new version."""
        under_way = self._under_way.get(uuid)
        operations = {under_way.task: under_way.name} if under_way else {}
        self._vms[uuid] = self._rows[uuid].with_live(self._live.get(uuid), self.next_version, operations)
        for class_name in classes:
            self.touch(class_name, uuid)
