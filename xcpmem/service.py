"""The use cases, one method per verb of XenAPI: check, remember, nudge the ring, answer.

The line and the ring touch here and nowhere else: wishes go to the controller, reports come back. A setter
returns when its change is durable and handed to the ring; it does not wait for guests. Sizes are bytes
unless a name says ``_kib``; VMs go by uuid. Roles, sessions and references are the API's business.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from xcpmem.adoption import Adoption
from xcpmem.answers import Answers
from xcpmem.engine.accounting import NEW_FORMULA, AccountingFormula, maximise_memory
from xcpmem.engine.accounting import memory_overhead as count_overhead
from xcpmem.engine.limits import MemoryLimits
from xcpmem.errors import TargetWaitTimeout
from xcpmem.foresight import Foresight
from xcpmem.host import HostIdentity, HostRecord
from xcpmem.images import Images
from xcpmem.labels import VmLabels
from xcpmem.law import AWAITING_MEMORY_LIVE, CHANGING_MEMORY_LIVE, VmLaw
from xcpmem.ledger import Entry, Ledger, Touched
from xcpmem.lifecycle import VmLifecycle
from xcpmem.operations import Operations
from xcpmem.placement import VmPlacement
from xcpmem.policybook import PolicyBook, PolicyChoices
from xcpmem.pool import PoolRecord
from xcpmem.register import MOST_VMS, VmRegister
from xcpmem.reservations import Reservations
from xcpmem.units import BYTES_PER_MIB, kib_to_bytes
from xcpmem.users import Users
from xcpmem.xen.toolstack import NO_TOOLSTACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from xcpmem.annotations import Edit
    from xcpmem.report import CycleReport
    from xcpmem.ring import Ring
    from xcpmem.store import Store
    from xcpmem.vm import HostFacts, Vm
    from xcpmem.xen.toolstack import Toolstack

TARGET_TOLERANCE: Final = BYTES_PER_MIB
"""``wait_memory_target_live`` ends when a VM is this close to its target, bytes (xapi)."""

TARGET_WAIT_S: Final = 256.0
"""... or after so long (xapi)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What the composition root decides.

    Args:
        host: who and what the host is.
        policies: what there is, and which is to be in force.
        pool_uuid: for the pool's record the first time; empty: one is made.
        formula: which release of xapi is counted like.
        restrict_dmc: the pool has no licence for dynamic memory.
        most_vms: with so many VM records, clients may create no further ones.
        first_look_s: how long a setter may wait for the first look at the host, seconds.
        reservation_s: how long a reservation may wait for guests, seconds.
        balance_s: how long ``Memory.balance_memory`` may wait, seconds.
        follows: somebody else, such as xapi, keeps the limits of the VMs that are on the host.
    """

    host: HostIdentity = field(default_factory=HostIdentity)
    policies: PolicyChoices = field(default_factory=PolicyChoices)
    pool_uuid: str = ""
    formula: AccountingFormula = NEW_FORMULA
    restrict_dmc: bool = False
    most_vms: int = MOST_VMS
    first_look_s: float = 10.0
    reservation_s: float = 60.0
    balance_s: float = 60.0
    follows: bool = False


class Service:
    """Everything that callers can ask for.

    Args:
        store: not loaded yet; it is closed with the service.
        ring: the controller; whoever runs it starts it after the service.
        settings: by the composition root.
        toolstack: starts and stops VMs.
        images: the folder for those of suspended VMs; None: nothing can be suspended.
        clock: the one by which the ring stamps its reports, monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        ring: Ring,
        settings: ServiceSettings | None = None,
        *,
        toolstack: Toolstack = NO_TOOLSTACK,
        images: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = settings or ServiceSettings()
        self._ring = ring
        self._law = VmLaw(settings.formula, settings.restrict_dmc)
        self._ledger = Ledger(store)
        self._host = HostRecord(self._ledger, self._law, settings.host)
        self._pool = PoolRecord(self._ledger, settings.pool_uuid)
        self._operations = Operations(self._ledger, first_look_s=settings.first_look_s)
        self._images = Images(self._ledger, images)
        self.placement = VmPlacement(self._ledger, self._operations, self._law, self._host)
        self._adoption = Adoption(self._ledger, self._host, self._law, ring, clock, follows=settings.follows)
        self.reservations = Reservations(
            ring,
            self._name_domain,
            timeout_s=settings.reservation_s,
            balance_s=settings.balance_s,
        )
        self.lifecycle = VmLifecycle(
            ring=ring,
            toolstack=toolstack,
            operations=self._operations,
            ledger=self._ledger,
            law=self._law,
            placement=self.placement,
            reservations=self.reservations,
            images=self._images,
            clock=clock,
        )
        self.labels = VmLabels(self._ledger)
        self.register = VmRegister(self._ledger, self._operations, self._law, self._images, settings.most_vms)
        self.foresight = Foresight(ring, self._ledger, self._law, self._host, self._name_domain)
        self.users = Users(self._ledger)
        self.answers = Answers(self._ledger)
        self.policies = PolicyBook(self._ledger, ring, settings.policies)
        self._seen_number = 0
        self._unsubscribe: Callable[[], None] | None = None

    async def start(self) -> None:
        """Load what was stored and follow the ring's reports from now on.

        Raises:
            ConfigError: the state directory cannot be used.
            HostError: the pool's and host's uuids could not be stored.
        """
        await self._ledger.start()
        await self._host.start()
        await self._pool.start()
        self._images.start()
        self.users.start()
        self.answers.start()
        self.policies.start()
        self._unsubscribe = self._ring.subscribe(self.absorb)

    async def close(self) -> None:
        """Finish changes that wait, refuse later ones, close the store; starts go on in the next daemon."""
        await self.lifecycle.close()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._ledger.close()

    @property
    def is_alive(self) -> bool:
        """Whether what callers change is being made and stored."""
        return self._ledger.is_alive

    def absorb(self, report: CycleReport) -> Iterator[None]:
        """Bring the records up to a report of the ring, in steps."""
        self.lifecycle.absorb(report)
        yield from self._adoption.absorb(report)
        self._seen_number = report.number
        self._operations.open()

    def subscribe(self, callback: Callable[[Touched], None]) -> Callable[[], None]:
        """Call back, in the loop, with (XenAPI class, uuid) of the objects that changed.

        Classes are ``VM``, ``VM_metrics`` (under the VM's uuid), ``host``, ``host_metrics`` (under the
        host's) and ``pool``.

        Returns:
            A function that ends this.
        """
        return self._ledger.subscribe(callback)

    async def seed(self, definitions: Iterable[Vm]) -> None:
        """Introduce the VMs of a scenario; what is stored of a known one wins.

        Raises:
            HostError: they could not be stored.
        """
        vms = [self._law.with_overhead(vm) for vm in definitions]

        def decide(entry: Entry) -> None:
            for vm in vms:
                if not self._ledger.is_stored(vm.uuid):
                    entry.put_vm(vm)

        await self._ledger.post(decide)

    def suspended(self) -> frozenset[str]:
        """Uuids of the VMs that are suspended, by their records."""
        return frozenset(uuid for uuid in self._images.uuids if self._images.is_suspended(uuid))

    # The VMs, the host, the pool

    def vms(self) -> Mapping[str, Vm]:
        """All VMs by uuid, domain 0 included."""
        return self._ledger.vms

    @property
    def version(self) -> int:
        """Rises with every change of a VM or the host, and with every VM that comes or goes."""
        return self._ledger.version

    def vm(self, uuid: str) -> Vm:
        """Find a VM.

        Raises:
            UuidInvalid: there is none of that uuid.
        """
        return self._operations.find(uuid)

    def host(self) -> HostFacts:
        """The host as of the latest look."""
        return self._host.facts

    @property
    def pool_uuid(self) -> str:
        """The pool's uuid, kept for ever."""
        return self._pool.uuid

    @property
    def pool_annotations(self) -> Mapping[str, Any]:
        """What clients wrote on the pool, by field; a new map after each change."""
        return self._pool.annotations

    async def edit_pool(self, field: str, edit: Edit) -> None:
        """Write a field of the pool that is the clients' own."""
        await self._pool.edit(field, edit)

    async def edit_host(self, field: str, edit: Edit) -> None:
        """Write a field of the host that is the clients' own."""
        await self._host.edit(field, edit)

    # VM.set_memory_* and their like; see `VmLaw` for what each refuses

    async def set_memory_limits(
        self, uuid: str, *, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
    ) -> None:
        """Serve ``VM.set_memory_limits``, bytes; the target becomes dynamic-min."""
        limits = MemoryLimits(static_min, dynamic_min, dynamic_min, dynamic_max, static_max)
        await self._change(uuid, lambda vm, _: self._law.set_memory_limits(vm, limits))

    async def set_memory(self, uuid: str, value: int) -> None:
        """Serve ``VM.set_memory``, bytes."""
        await self._change(uuid, lambda vm, _: self._law.set_memory(vm, value))

    async def set_memory_static_range(self, uuid: str, minimum: int, maximum: int) -> None:
        """Serve ``VM.set_memory_static_range``, bytes."""
        await self._change(uuid, lambda vm, _: self._law.set_memory_static_range(vm, minimum, maximum))

    async def set_memory_static_min(self, uuid: str, value: int) -> None:
        """Serve ``VM.set_memory_static_min``, bytes: the range call with the stored other end."""
        await self._change(
            uuid, lambda vm, _: self._law.set_memory_static_range(vm, value, vm.memory_static_max)
        )

    async def set_memory_static_max(self, uuid: str, value: int) -> None:
        """Serve ``VM.set_memory_static_max``, bytes: the range call with the stored other end."""
        await self._change(
            uuid, lambda vm, _: self._law.set_memory_static_range(vm, vm.memory_static_min, value)
        )

    async def set_memory_dynamic_range(self, uuid: str, minimum: int, maximum: int) -> None:
        """Serve ``VM.set_memory_dynamic_range``, bytes."""
        await self._change(
            uuid,
            lambda vm, free: self._law.set_memory_dynamic_range(vm, minimum, maximum, free()),
            is_range=True,
        )

    async def set_memory_dynamic_min(self, uuid: str, value: int) -> None:
        """Serve ``VM.set_memory_dynamic_min``, bytes: the range call with the stored other end."""
        await self._change(
            uuid,
            lambda vm, free: self._law.set_memory_dynamic_range(vm, value, vm.memory_dynamic_max, free()),
            is_range=True,
        )

    async def set_memory_dynamic_max(self, uuid: str, value: int) -> None:
        """Serve ``VM.set_memory_dynamic_max``, bytes: the range call with the stored other end."""
        await self._change(
            uuid,
            lambda vm, free: self._law.set_memory_dynamic_range(vm, vm.memory_dynamic_min, value, free()),
            is_range=True,
        )

    async def set_HVM_shadow_multiplier(self, uuid: str, multiplier: float) -> None:  # noqa: N802 XenAPI's own name
        """Serve ``VM.set_HVM_shadow_multiplier``."""
        await self._change(uuid, lambda vm, _: self._law.set_shadow_multiplier(vm, multiplier))

    async def set_shadow_multiplier_live(self, uuid: str, multiplier: float) -> None:
        """Serve ``VM.set_shadow_multiplier_live``: the record and the accounting change.

        The allocation itself is made by the toolstack that built the domain; the ring has no word for it.
        """
        await self._change(
            uuid, lambda vm, _: self._law.set_shadow_multiplier_live(vm, multiplier, self._spare())
        )

    async def set_VCPUs_max(self, uuid: str, value: int) -> None:  # noqa: N802 XenAPI's own name
        """Serve ``VM.set_VCPUs_max``."""
        await self._change(uuid, lambda vm, _: self._law.set_vcpus_max(vm, value))

    async def set_memory_target_live(self, uuid: str, target: int) -> None:  # noqa: ARG002 xapi ignores it too
        """Serve ``VM.set_memory_target_live``: checked, and then nothing, as in xapi.

        Raises:
            UuidInvalid: there is no such VM.
            BadPowerState: it does not run; further as `check_operation`.
        """
        await self._operations.check(uuid, CHANGING_MEMORY_LIVE)

    async def wait_memory_target_live(self, uuid: str, task: str) -> None:
        """Serve ``VM.wait_memory_target_live``: return when the VM is within 1 MiB of its target.

        Raises:
            UuidInvalid: there is no such VM.
            BadPowerState: it does not run, or stopped while we waited; further as `check_operation`.
            TargetWaitTimeout: 256 seconds were not enough; names ``task``.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + TARGET_WAIT_S
        while True:
            vm = await self._operations.check(uuid, AWAITING_MEMORY_LIVE)
            is_near = abs(vm.memory_actual - vm.memory_target) <= TARGET_TOLERANCE
            if is_near and self._adoption.is_settled(uuid):
                return
            left_s = deadline_s - loop.time()
            if left_s <= 0 or await self._ring.next_report(self._seen_number, left_s) is None:
                raise TargetWaitTimeout(task)

    # Computations

    def compute_memory_overhead(self, uuid: str) -> int:
        """Serve ``VM.compute_memory_overhead``, bytes; nothing is stored. Raises UuidInvalid."""
        return count_overhead(self.vm(uuid).shape, self._law.formula)

    def maximise_memory(self, uuid: str, total: int, approximate: bool) -> int:
        """Serve ``VM.maximise_memory``, bytes. Raises UuidInvalid."""
        return maximise_memory(self.vm(uuid).shape, total, self._law.formula, approximate=approximate)

    def compute_free_memory(self) -> int:
        """Serve ``host.compute_free_memory``, bytes: what is left at maximum compression."""
        return self._host.compute_free_memory(self._ledger.vms)

    def compute_host_memory_overhead(self) -> int:
        """Serve ``host.compute_memory_overhead``, bytes."""
        return self._host.facts.memory_overhead

    # The class Memory, beside `Reservations`

    def get_host_reserved_memory(self) -> int:
        """Serve ``Memory.get_host_reserved_memory``, KiB."""
        return self._host.facts.reserve_kib

    def get_host_initial_free_memory(self) -> int:
        """Serve ``Memory.get_host_initial_free_memory``, bytes."""
        return self._host.facts.boot_free_mem

    def get_domain_zero_policy(self) -> tuple[str, int | tuple[int, int]]:
        """Serve ``Memory.get_domain_zero_policy``: ``Fixed_size`` or ``Auto_balloon``, and bytes."""
        return self._host.domain_zero_policy

    def get_diagnostics(self) -> str:
        """Serve ``Memory.get_diagnostics``."""
        return "\n".join([self.reservations.diagnose(), *self.policies.diagnose()])

    async def _change(
        self, uuid: str, rule: Callable[[Vm, Callable[[], int]], Vm], *, is_range: bool = False
    ) -> None:
        """Apply a rule to a VM as it then is; durable when this returns, and a range passed to the ring."""
        await self._operations.change(
            uuid,
            lambda vm, entry: rule(vm, lambda: self._host.compute_free_memory(entry.vms)),
            lambda: self._adoption.hold(uuid) if is_range else None,
        )
        self._host.advise(uuid)

    def _spare(self) -> int:
        report = self._ring.report
        return kib_to_bytes(report.look.host.spare_kib) if report else 0

    def _name_domain(self, domid: int) -> str | None:
        return next((vm.ref for vm in self._ledger.vms.values() if vm.domid == domid), None)
