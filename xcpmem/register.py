"""Which VMs there are: records that are made, copied, turned into templates and back, and destroyed.

Records only: a VM has no disks here, so a clone and a copy are the same. Nothing is stored before it is
valid, where xapi leaves that to the VM's first start.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from xcpmem.errors import OperationNotAllowed
from xcpmem.law import (
    CLONE,
    COPY,
    DEFAULT_TEMPLATE,
    DESTROY,
    MAKE_INTO_TEMPLATE,
    OPERATIONS,
    PROVISION,
    check_operation,
)

if TYPE_CHECKING:
    from xcpmem.images import Images
    from xcpmem.law import Operation, VmLaw
    from xcpmem.ledger import Entry, Ledger
    from xcpmem.operations import Operations
    from xcpmem.vm import Vm

# Keys of other_config that xapi's Xapi_globs names: the seed of a VM's MAC addresses, the mark of its own
# templates, and the template that a VM was made of.
_MAC_SEED: Final = "mac_seed"
_INTERNAL: Final = "xensource_internal"
_BASE_TEMPLATE: Final = "base_template_name"
_GENERATION_ID: Final = "generation_id"
_NO_GENERATION: Final = frozenset({"", "0:0"})


MOST_VMS: Final = 10_000
"""More than any one host can run (Xen numbers at most 32752 domains, few hosts hold 1000)."""


class VmRegister:
    """The use cases.

    Args:
        ledger: of the VMs.
        operations: one thing at a time on each VM.
        law: what xapi allows.
        images: of suspended ones.
        most_vms: with so many records, clients may create no further ones.
    """

    def __init__(
        self,
        ledger: Ledger,
        operations: Operations,
        law: VmLaw,
        images: Images,
        most_vms: int = MOST_VMS,
    ) -> None:
        self._ledger = ledger
        self._images = images
        self._operations = operations
        self._law = law
        self._most_vms = most_vms

    async def create(self, vm: Vm) -> str:
        """Serve ``VM.create``.

        Args:
            vm: halted, with a uuid of its own.

        Returns:
            The uuid.

        Raises:
            OperationNotAllowed: there are as many as there may be.
            HostError: the disk refused.
        """
        seed = {_MAC_SEED: str(uuid4())}
        made = self._law.with_overhead(replace(vm, other_config={**seed, **vm.other_config}))

        def write(entry: Entry) -> None:
            self._check_room(entry)
            entry.put_vm(made)

        await self._ledger.post(write)
        return made.uuid

    async def clone(self, uuid: str, new_name: str) -> str:
        """Serve ``VM.clone``: the new VM's uuid. Raises UuidInvalid, and as `create`, `check_operation`."""
        return await self._clone(uuid, new_name, CLONE)

    async def copy(self, uuid: str, new_name: str) -> str:
        """Serve ``VM.copy``, as `clone`."""
        return await self._clone(uuid, new_name, COPY)

    async def destroy(self, uuid: str) -> None:
        """Serve ``VM.destroy``: the record goes, and the image if it is suspended.

        Raises UuidInvalid, HostError, further as `check_operation`.
        """

        def drop(vm: Vm, entry: Entry) -> None:
            check_operation(vm, DESTROY)
            entry.drop_vm(uuid)

        await self._operations.decide(uuid, drop)
        await self._images.drop(uuid)

    async def provision(self, uuid: str) -> None:
        """Serve ``VM.provision``: a template becomes a VM; it has no disks to be made.

        Raises UuidInvalid, HostError, further as `check_operation`.
        """

        def make(vm: Vm, _: Entry) -> Vm:
            check_operation(vm, PROVISION)
            return replace(vm, is_a_template=False)

        await self._operations.change(uuid, make)

    async def set_is_a_template(self, uuid: str, value: bool) -> None:
        """Serve ``VM.set_is_a_template``; only a halted VM can become one.

        Raises UuidInvalid, HostError, further as `check_operation`.
        """

        def make(vm: Vm, _: Entry) -> Vm:
            if value and not vm.is_a_template:
                check_operation(vm, MAKE_INTO_TEMPLATE)
            return replace(vm, is_a_template=value)

        await self._operations.change(uuid, make)

    async def set_VCPUs_at_startup(self, uuid: str, value: int) -> None:  # noqa: N802 XenAPI's own name
        """Serve ``VM.set_VCPUs_at_startup``; see `VmLaw.set_vcpus_at_startup`."""
        await self._operations.change(uuid, lambda vm, _: self._law.set_vcpus_at_startup(vm, value))

    async def set_domain_type(self, uuid: str, value: str) -> None:
        """Serve ``VM.set_domain_type``; see `VmLaw.set_domain_type`."""
        await self._operations.change(uuid, lambda vm, _: self._law.set_domain_type(vm, value))

    async def set_HVM_boot_policy(self, uuid: str, value: str) -> None:  # noqa: N802 XenAPI's own name
        """Serve ``VM.set_HVM_boot_policy``; see `VmLaw.set_hvm_boot_policy`."""
        await self._operations.change(uuid, lambda vm, _: self._law.set_hvm_boot_policy(vm, value))

    async def assert_operation_valid(self, uuid: str, name: str) -> None:
        """Serve ``VM.assert_operation_valid``: refuse an operation that would be refused now.

        Args:
            uuid: of the VM.
            name: XenAPI's name of the operation.

        Raises:
            UuidInvalid: there is no such VM.
            HostError: the host was not seen yet; further as `check_operation`.
            OperationNotAllowed: nothing here does such a thing.
        """
        await self._operations.wait_for_first_look()
        vm = self._operations.find(uuid)
        if name not in OPERATIONS:
            raise OperationNotAllowed(f"{name} is not served")
        check_operation(vm, OPERATIONS[name])

    async def update_allowed_operations(self, uuid: str) -> None:
        """Serve ``VM.update_allowed_operations``: they are always up to date, but listeners are told.

        Raises UuidInvalid and HostError.
        """
        await self._operations.change(uuid, lambda vm, _: vm)

    async def _clone(self, uuid: str, new_name: str, operation: Operation) -> str:
        def write(vm: Vm, entry: Entry) -> str:
            check_operation(vm, operation)
            self._check_room(entry)
            made = _copy_of(vm, new_name)
            entry.put_vm(made)
            return made.uuid

        return await self._operations.decide(uuid, write)

    def _check_room(self, entry: Entry) -> None:
        if len(entry.vms) >= self._most_vms:
            raise OperationNotAllowed(
                f"there are {len(entry.vms)} VM records; most_vms lets clients create them up to "
                f"{self._most_vms}: destroy some, or raise it"
            )


def _copy_of(vm: Vm, new_name: str) -> Vm:
    """Make the record of a clone by xapi's rules: what must be unique is new, and nothing is forbidden."""
    notes = {key: text for key, text in vm.other_config.items() if key not in {DEFAULT_TEMPLATE, _INTERNAL}}
    if vm.is_a_template:
        notes.setdefault(_BASE_TEMPLATE, vm.name_label)
    notes[_MAC_SEED] = str(uuid4())
    annotations = dict(vm.annotations)
    if annotations.get(_GENERATION_ID, "") not in _NO_GENERATION:
        annotations[_GENERATION_ID] = f"{random.getrandbits(63)}:{random.getrandbits(63)}"
    copied = replace(
        vm,
        uuid=str(uuid4()),
        name_label=new_name,
        is_a_snapshot=False,
        is_control_domain=False,
        requires_reboot=False,
        memory_suspended=-1,
        other_config=notes,
        blocked_operations={},
        annotations=annotations,
    )
    return copied.with_live(None, version=0)
