"""The messages that start and stop VMs, suspend them and bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.records import Records
    from xcpmem.api.tasks import Tasks
    from xcpmem.service import Service


class LifecycleMethods:
    """Their handlers.

    Args:
        service: carries them out.
        records: know the references.
        tasks: can be cancelled while a guest is waited for.
    """

    def __init__(self, service: Service, records: Records, tasks: Tasks) -> None:
        self._service = service
        self._records = records
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        lifecycle = self._service.lifecycle
        return {
            "VM.start": self._start,
            "VM.start_on": self._start_on,
            "VM.pause": self._on_vm(lifecycle.pause),
            "VM.unpause": self._on_vm(lifecycle.unpause),
            "VM.clean_shutdown": self._asking(lifecycle.clean_shutdown),
            "VM.hard_shutdown": self._on_vm(lifecycle.hard_shutdown),
            "VM.shutdown": self._asking(lifecycle.shutdown),
            "VM.clean_reboot": self._asking(lifecycle.clean_reboot),
            "VM.hard_reboot": self._on_vm(lifecycle.hard_reboot),
            "VM.suspend": self._on_vm(lifecycle.suspension.suspend),
            "VM.resume": self._resume,
            "VM.resume_on": self._resume_on,
            "VM.pool_migrate": self._pool_migrate,
        }

    def _on_vm(self, act: Callable[..., Awaitable[None]]) -> Handler:
        async def handle(_: Caller, ref: str, *args: object) -> None:
            await act(self._records.vm_uuid(ref), *args)

        return handle

    def _asking(self, act: Callable[[str], Awaitable[None]]) -> Handler:
        """Make the handler of what asks a guest for something, and waits for it."""

        async def handle(caller: Caller, ref: str) -> None:
            uuid = self._records.vm_uuid(ref)
            self._tasks.allow_cancel(caller.task, lambda: self._service.lifecycle.give_up(uuid, caller.task))
            await act(uuid)

        return handle

    async def _start(self, _: Caller, ref: str, start_paused: bool, force: bool) -> None:
        await self._service.lifecycle.start(
            self._records.vm_uuid(ref), start_paused=start_paused, force=force
        )

    async def _start_on(self, _: Caller, ref: str, host_ref: str, start_paused: bool, force: bool) -> None:
        uuid = self._records.vm_uuid(ref)
        self._records.record("host", host_ref)
        await self._service.lifecycle.start_on(uuid, start_paused=start_paused, force=force)

    async def _resume(self, _: Caller, ref: str, start_paused: bool, _force: bool) -> None:
        uuid = self._records.vm_uuid(ref)
        await self._service.lifecycle.suspension.resume(uuid, start_paused=start_paused)

    async def _resume_on(self, _: Caller, ref: str, host_ref: str, start_paused: bool, _force: bool) -> None:
        uuid = self._records.vm_uuid(ref)
        self._records.record("host", host_ref)
        await self._service.lifecycle.suspension.resume_on(uuid, start_paused=start_paused)

    async def _pool_migrate(self, _: Caller, ref: str, host_ref: str, _options: dict[str, str]) -> None:
        uuid = self._records.vm_uuid(ref)
        self._records.record("host", host_ref)
        await self._service.lifecycle.suspension.pool_migrate(uuid)
