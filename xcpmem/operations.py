"""Who may do what to which VM, and when: one thing at a time, as in xapi.

A change of a record is done at once, a start or a shutdown takes its time; both come through here. Whoever
wants something of a VM to which something is being done waits for its end, and then finds the VM as it is.
Nothing is judged before the first look at the host, for until then nobody knows which VMs run.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from xcpmem.errors import HostError, OtherOperationInProgress, TaskCancelled, UuidInvalid
from xcpmem.law import check_operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from xcpmem.law import Operation
    from xcpmem.ledger import Entry, Ledger
    from xcpmem.vm import Vm

_T = TypeVar("_T")

BUSY_WAIT_S: Final = 7200.0
"""Waiting for another operation on the VM ends after so long (xapi's message_forwarding)."""


class Operations:
    """The gate to the VMs.

    Args:
        ledger: of the VMs.
        first_look_s: how long a caller may wait for the first look at the host, seconds.
    """

    def __init__(self, ledger: Ledger, *, first_look_s: float) -> None:
        self._ledger = ledger
        self._first_look_s = first_look_s
        self._first_look = asyncio.Event()
        self._ends: dict[str, asyncio.Event] = {}
        self._unwanted: set[str] = set()

    def open(self) -> None:
        """Let callers in: the host was looked at."""
        self._first_look.set()

    async def wait_for_first_look(self) -> None:
        """Return when the host was looked at. Raises HostError when that takes too long."""
        try:
            async with asyncio.timeout(self._first_look_s):
                await self._first_look.wait()
        except TimeoutError:
            raise HostError("the host could not be seen yet") from None

    def find(self, uuid: str) -> Vm:
        """Find a VM.

        Raises:
            UuidInvalid: there is none of that uuid.
        """
        return _find(self._ledger.vms, uuid)

    async def change(
        self, uuid: str, rule: Callable[[Vm, Entry], Vm], then: Callable[[], None] = lambda: None
    ) -> None:
        """Apply a rule to a VM as it then is.

        Args:
            uuid: of the VM.
            rule: gives the VM as it is to be stored, or raises; it must not wait.
            then: is called when the change is durable and visible.

        Raises:
            UuidInvalid: there is no such VM.
            HostError: the host was not seen yet, or the disk refused.
        """
        await self.decide(uuid, lambda vm, entry: entry.put_vm(rule(vm, entry)), then)

    async def decide(
        self, uuid: str, act: Callable[[Vm, Entry], _T], then: Callable[[], None] = lambda: None
    ) -> _T:
        """Write something because of a VM as it then is, or refuse.

        Args:
            uuid: of the VM.
            act: writes to the entry, or raises; it must not wait.
            then: is called when what it wrote is durable and visible.

        Returns:
            What ``act`` returned.

        Raises:
            UuidInvalid: there is no such VM.
            HostError: the host was not seen yet, or the disk refused.
        """
        await self.wait_for_first_look()
        return await self._when_free(
            uuid, lambda: self._ledger.post(lambda entry: act(_find(entry.vms, uuid), entry), then)
        )

    async def check(self, uuid: str, operation: Operation) -> Vm:
        """Give a VM on which an operation is possible; further errors as `check_operation`.

        Raises:
            UuidInvalid: there is no such VM.
            HostError: the host was not seen yet.
        """
        await self.wait_for_first_look()

        async def check() -> Vm:
            vm = self.find(uuid)
            check_operation(vm, operation)
            return vm

        return await self._when_free(uuid, check)

    async def begin(self, uuid: str, operation: Operation) -> Vm:
        """Begin an operation that takes its time; nothing else is done to the VM until `end`.

        The VM is judged twice: as it is shown, and, once all later changes find it under the operation, as it
        is behind those that were decided before and are still being stored.

        Returns:
            The VM as it was then.

        Raises:
            UuidInvalid: there is no such VM.
            HostError: the host was not seen yet; further errors as `check_operation`.
        """
        await self.check(uuid, operation)
        self._begin(uuid, operation)

        def judge(entry: Entry) -> Vm:
            vm = replace(_find(entry.vms, uuid), current_operations={})
            check_operation(vm, operation)
            return vm

        try:
            return await self._ledger.post(judge)
        except BaseException:
            self.end(uuid)
            raise

    def claim(self, uuid: str, operation: Operation) -> bool:
        """Begin what a dead daemon left undone; tell whether nothing else is being done to the VM."""
        if uuid in self._ends:
            return False
        self._begin(uuid, operation)
        return True

    def unveil(self, uuid: str) -> None:
        """Let it be seen again what became of the VM's domain."""
        self._ledger.unveil(uuid)

    def end(self, uuid: str) -> None:
        """End the operation, and let in who waits."""
        self._unwanted.discard(uuid)
        self._ledger.end(uuid)
        self._ends.pop(uuid).set()

    def cancel(self, uuid: str, operations: Collection[Operation]) -> None:
        """Ask that the operation on a VM be given up if it is one of these; see `check_wanted`."""
        vm = self._ledger.vms.get(uuid)
        if vm is not None and any(each.name in vm.current_operations.values() for each in operations):
            self._unwanted.add(uuid)

    def check_wanted(self, uuid: str) -> None:
        """Go on with an operation only if nobody asked that it be given up.

        Raises:
            TaskCancelled: somebody did.
        """
        if uuid in self._unwanted:
            raise TaskCancelled(next(iter(self.find(uuid).current_operations)))

    def _begin(self, uuid: str, operation: Operation) -> None:
        self._ends[uuid] = asyncio.Event()
        self._ledger.begin(uuid, operation.name, is_veiled=operation.rebuilds)

    async def _when_free(self, uuid: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try again each time that another operation on the VM has ended."""
        deadline_s = asyncio.get_running_loop().time() + BUSY_WAIT_S
        while True:
            try:
                return await attempt()
            except OtherOperationInProgress:
                if not await self._is_freed(uuid, deadline_s):
                    raise

    async def _is_freed(self, uuid: str, deadline_s: float) -> bool:
        """Wait until the operation on a VM has ended; False when the time is over."""
        end = self._ends.get(uuid)
        if end is None:
            return True
        try:
            async with asyncio.timeout_at(deadline_s):
                await end.wait()
        except TimeoutError:
            return False
        return True


def _find(vms: Mapping[str, Vm], uuid: str) -> Vm:
    vm = vms.get(uuid)
    if vm is None:
        raise UuidInvalid("VM", uuid)
    return vm
