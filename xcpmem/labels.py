"""What people and clients write on a VM: its name, tags, notes, and what they forbid."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from xcpmem.errors import UuidInvalid
from xcpmem.vm import Vm

if TYPE_CHECKING:
    from xcpmem.annotations import Edit
    from xcpmem.ledger import Entry, Ledger

_OWN: Final = frozenset(field.name for field in fields(Vm))


class VmLabels:
    """Changes them; in any power state, and whatever else is being done to the VM.

    Args:
        ledger: of the VMs.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def edit(self, uuid: str, field: str, edit: Edit) -> None:
        """Write a field that clients may write freely.

        Args:
            uuid: of the VM.
            field: XenAPI's name; what a `Vm` has no place for is among its annotations.
            edit: makes the new value, or raises.

        Raises:
            UuidInvalid: there is no such VM.
            HostError: the disk refused.
        """

        def decide(entry: Entry) -> None:
            vm = entry.vms.get(uuid)
            if vm is None:
                raise UuidInvalid("VM", uuid)
            entry.put_vm(_with(vm, field, edit))

        await self._ledger.post(decide)


def _with(vm: Vm, field: str, edit: Edit) -> Vm:
    if field in _OWN:
        return replace(vm, **{field: edit(getattr(vm, field))})
    return replace(vm, annotations={**vm.annotations, field: edit(vm.annotations.get(field))})
