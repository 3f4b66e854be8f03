"""Whether a VM can be here: xapi's memory test, and the calls that would take a VM elsewhere and back.

There is one host and no storage: a VM that is to move to this host is there already, and nothing can be kept
of a VM's memory while it does not run. Such calls are checked as in xapi, and refused in its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.engine.accounting import check_fits, required_to_start
from xcpmem.errors import (
    NoHostsAvailable,
    NoSuspendSr,
    NotEnoughMemory,
    NotEnoughPcpus,
    OperationNotAllowed,
)
from xcpmem.law import POOL_MIGRATE, RESUME, RESUME_ON, SUSPEND

if TYPE_CHECKING:
    from xcpmem.host import HostRecord
    from xcpmem.law import VmLaw
    from xcpmem.ledger import Ledger
    from xcpmem.operations import Operations
    from xcpmem.vm import Vm


class VmPlacement:
    """The use cases; all raise UuidInvalid where there is no such VM, HostError before the first look.

    Args:
        ledger: of the VMs.
        operations: one thing at a time on each VM.
        law: what xapi allows.
        host: what it has left.
    """

    def __init__(self, ledger: Ledger, operations: Operations, law: VmLaw, host: HostRecord) -> None:
        self._ledger = ledger
        self._operations = operations
        self._law = law
        self._host = host

    def check_can_start(self, vm: Vm) -> None:
        """Test, as xapi does before ``VM.start_on``, whether this host can take a VM.

        Raises:
            NotEnoughPcpus: the VM has more CPUs than the host, if it is known how many that has.
            NotEnoughMemory: as `check_fits`.
        """
        if self._lacks_cpus(vm):
            raise NotEnoughPcpus(vm.VCPUs_max, self._host.facts.cpu_count)
        self.check_fits(vm)

    def check_has_host(self, vm: Vm) -> None:
        """Test, as xapi does for ``VM.start``, whether there is a host for a VM if memory can be found.

        Raises:
            NoHostsAvailable: there is none.
        """
        if self._lacks_cpus(vm):
            raise NoHostsAvailable

    def check_fits(self, vm: Vm) -> None:
        """Test, as xapi does before ``VM.start_on``, that a VM fits at maximum compression.

        Raises:
            NotEnoughMemory: it does not; bytes.
        """
        required = required_to_start(vm.shape, vm.memory_dynamic_min, self._law.formula)
        check_fits(required, self._host.compute_free_memory(self._ledger.vms, without=vm.uuid))

    async def assert_can_boot_here(self, uuid: str) -> None:
        """Serve ``VM.assert_can_boot_here``, in any power state. Raises as `check_can_start`."""
        await self._operations.wait_for_first_look()
        self.check_can_start(self._operations.find(uuid))

    async def can_boot_here(self, uuid: str) -> bool:
        """Serve ``VM.get_possible_hosts``, there being one."""
        try:
            await self.assert_can_boot_here(uuid)
        except (NotEnoughPcpus, NotEnoughMemory):
            return False
        return True

    async def pool_migrate(self, uuid: str) -> None:
        """Serve ``VM.pool_migrate`` to this host: tested as if the VM came, and then it is where it shall be.

        Raises:
            NotEnoughMemory: a second one would not fit; further errors as `check_operation`.
        """
        self.check_fits(await self._operations.check(uuid, POOL_MIGRATE))

    async def suspend(self, uuid: str) -> None:
        """Serve ``VM.suspend``, for which there is no storage.

        Raises:
            NoSuspendSr: always, if not an error of `check_operation`.
        """
        vm = await self._operations.check(uuid, SUSPEND)
        raise NoSuspendSr(vm.ref)

    async def resume(self, uuid: str) -> None:
        """Serve ``VM.resume``.

        Raises:
            OperationNotAllowed: always, if not an error of `check_operation`.
        """
        await self._operations.check(uuid, RESUME)
        raise OperationNotAllowed("the image of the suspended domain is not in xcpmem's hands")

    async def resume_on(self, uuid: str) -> None:
        """Serve ``VM.resume_on`` this host; as `resume`, after the memory test."""
        self.check_fits(await self._operations.check(uuid, RESUME_ON))
        raise OperationNotAllowed("the image of the suspended domain is not in xcpmem's hands")

    def _lacks_cpus(self, vm: Vm) -> bool:
        cpu_count = self._host.facts.cpu_count
        return 0 < cpu_count < vm.VCPUs_max
