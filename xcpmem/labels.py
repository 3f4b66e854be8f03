"""What people write on a VM: its name, and the notes that clients and toolstacks keep in other_config."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xcpmem.errors import MapDuplicateKey, UuidInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.ledger import Entry, Ledger
    from xcpmem.vm import Vm


class VmLabels:
    """Changes them; in any power state, and whatever else is being done to the VM.

    Every call raises UuidInvalid when there is no such VM, and HostError when the disk refused.

    Args:
        ledger: of the VMs.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def set_name_label(self, uuid: str, value: str) -> None:
        """Serve ``VM.set_name_label``."""
        await self._change(uuid, lambda vm: replace(vm, name_label=value))

    async def set_other_config(self, uuid: str, value: Mapping[str, str]) -> None:
        """Serve ``VM.set_other_config``."""
        await self._change(uuid, lambda vm: replace(vm, other_config=dict(value)))

    async def add_to_other_config(self, uuid: str, key: str, value: str) -> None:
        """Serve ``VM.add_to_other_config``.

        Raises:
            MapDuplicateKey: it is there already.
        """

        def add(vm: Vm) -> Vm:
            if key in vm.other_config:
                raise MapDuplicateKey("VM", "other_config", vm.ref, key)
            return replace(vm, other_config={**vm.other_config, key: value})

        await self._change(uuid, add)

    async def remove_from_other_config(self, uuid: str, key: str) -> None:
        """Serve ``VM.remove_from_other_config``; a missing key is no error."""

        def remove(vm: Vm) -> Vm:
            return replace(
                vm, other_config={name: text for name, text in vm.other_config.items() if name != key}
            )

        await self._change(uuid, remove)

    async def _change(self, uuid: str, rule: Callable[[Vm], Vm]) -> None:
        def decide(entry: Entry) -> None:
            vm = entry.vms.get(uuid)
            if vm is None:
                raise UuidInvalid("VM", uuid)
            entry.put_vm(rule(vm))

        await self._ledger.post(decide)
