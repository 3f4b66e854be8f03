"""Whether a VM can be here: xapi's memory test, before whatever brings one to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.engine.accounting import check_fits, required_to_start
from xcpmem.errors import NoHostsAvailable, NotEnoughMemory, NotEnoughPcpus

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

    def _lacks_cpus(self, vm: Vm) -> bool:
        cpu_count = self._host.facts.cpu_count
        return 0 < cpu_count < vm.VCPUs_max
