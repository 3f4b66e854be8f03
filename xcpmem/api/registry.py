"""The messages that make, copy and destroy VM records, and those that ask where a VM could run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xcpmem.api.newvm import make_vm
from xcpmem.refs import opaque_ref

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.api.dispatch import Caller, Handler
    from xcpmem.api.records import Records
    from xcpmem.service import Service


class RegistryMethods:
    """Their handlers.

    Args:
        service: carries them out.
        records: know the references.
    """

    def __init__(self, service: Service, records: Records) -> None:
        self._register = service.register
        self._placement = service.placement
        self._records = records

    def handlers(self) -> dict[str, Handler]:
        """Give the handlers by ``Class.message``."""
        register = self._register
        return {
            "VM.create": self._create,
            "VM.destroy": self._on_vm(register.destroy),
            "VM.clone": self._clone,
            "VM.copy": self._copy,
            "VM.provision": self._on_vm(register.provision),
            "VM.set_is_a_template": self._on_vm(register.set_is_a_template),
            "VM.set_VCPUs_at_startup": self._on_vm(register.set_VCPUs_at_startup),
            "VM.set_domain_type": self._on_vm(register.set_domain_type),
            "VM.set_HVM_boot_policy": self._on_vm(register.set_HVM_boot_policy),
            "VM.assert_operation_valid": self._on_vm(register.assert_operation_valid),
            "VM.update_allowed_operations": self._on_vm(register.update_allowed_operations),
            "VM.assert_can_boot_here": self._assert_can_boot_here,
            "VM.get_possible_hosts": self._get_possible_hosts,
        }

    def _on_vm(self, act: Callable[..., Awaitable[None]]) -> Handler:
        async def handle(_: Caller, ref: str, *args: object) -> None:
            await act(self._records.vm_uuid(ref), *args)

        return handle

    async def _create(self, _: Caller, given: dict[str, Any]) -> str:
        return opaque_ref("VM", await self._register.create(make_vm(given)))

    async def _clone(self, _: Caller, ref: str, new_name: str) -> str:
        return opaque_ref("VM", await self._register.clone(self._records.vm_uuid(ref), new_name))

    async def _copy(self, _: Caller, ref: str, new_name: str, _sr: str) -> str:
        return opaque_ref("VM", await self._register.copy(self._records.vm_uuid(ref), new_name))

    async def _assert_can_boot_here(self, _: Caller, ref: str, host_ref: str) -> None:
        uuid = self._records.vm_uuid(ref)
        self._records.record("host", host_ref)
        await self._placement.assert_can_boot_here(uuid)

    async def _get_possible_hosts(self, _: Caller, ref: str) -> tuple[str, ...]:
        can_boot = await self._placement.can_boot_here(self._records.vm_uuid(ref))
        return self._records.refs("host") if can_boot else ()
