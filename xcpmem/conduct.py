"""Carrying out what is done to a VM: by itself, to its end, and seen before its caller is answered."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from xcpmem.construction import title_of
from xcpmem.errors import ConnectionLost, HostError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.law import Operation
    from xcpmem.lookout import Lookout
    from xcpmem.operations import Operations
    from xcpmem.vm import Vm

_log = logging.getLogger(__name__)


class Conductor:
    """Conducts operations that take their time, each in a task of its own.

    Args:
        operations: one thing at a time on each VM.
        lookout: sees what became of it.
    """

    def __init__(self, operations: Operations, lookout: Lookout) -> None:
        self._operations = operations
        self._lookout = lookout
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def close(self) -> None:
        """Leave what is under way to the next daemon; whoever waits for it is told."""
        self._is_closed = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def conduct(self, uuid: str, operation: Operation, work: Callable[[Vm], Awaitable[None]]) -> None:
        """Do something to a VM with nobody else at it, to the end even if the caller goes away.

        Args:
            uuid: of the VM.
            operation: what XenAPI calls it.
            work: does it to the VM as it is then.

        Raises:
            ConnectionLost: the daemon ended first; further as `Operations.begin`, and what ``work`` raises.
        """
        vm = await self._operations.begin(uuid, operation)
        if self._is_closed:
            self._operations.end(uuid)
            raise ConnectionLost
        task = asyncio.create_task(self._carry_out(vm, operation, work), name=f"{operation.name} {uuid}")
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ConnectionLost from None
            task.add_done_callback(lambda ended: _tell_nobody_waits(vm, operation, ended))
            raise

    async def _carry_out(self, vm: Vm, operation: Operation, work: Callable[[Vm], Awaitable[None]]) -> None:
        try:
            try:
                await work(vm)
            except XcpmemError as error:
                _log.debug("%s of %s failed: %s", operation.name, title_of(vm), error)
                raise
            finally:
                self._operations.unveil(vm.uuid)
                if not self._is_closed:
                    await self._show(vm)
        finally:
            self._operations.end(vm.uuid)

    async def _show(self, vm: Vm) -> None:
        """Let the records show what was done before the call is answered."""
        try:
            await self._lookout.look(vm.uuid)
        except HostError as error:
            _log.warning("%s: what became of it will show later: %s", title_of(vm), error)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to the caller; one that went away does not ask


def _tell_nobody_waits(vm: Vm, operation: Operation, task: asyncio.Task[None]) -> None:
    """Log a failure of which the caller, who went away, is not told."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("%s of %s failed after its caller left: %s", operation.name, title_of(vm), error)
