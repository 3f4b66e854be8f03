"""The values that the line hands around: a VM and a host as XenAPI's readers see them.

Fields carry XenAPI's names and units: sizes are bytes. A `Vm` is what the administrator owns (stored) with
what the ring last saw of its domain (live) laid over it; it is replaced, never changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xcpmem.engine.accounting import DOMAIN_TYPES, VmShape
from xcpmem.engine.limits import MemoryLimits, check_limits
from xcpmem.engine.model import DynamicRange
from xcpmem.errors import InvalidValue
from xcpmem.refs import opaque_ref
from xcpmem.units import bytes_to_kib_floor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

POWER_STATES: Final = ("Halted", "Paused", "Running", "Suspended")
"""XenAPI's enumeration vm_power_state."""

INT64_MAX: Final = 2**63 - 1
"""XenAPI's int; larger figures can be neither answered nor stored."""

_LIVE_FIELDS: Final = frozenset(
    {
        *("memory_actual", "power_state", "domid", "start_time_s", "uncooperative", "version"),
        *("current_operations", "built"),
    }
)

_STARTS: Final = frozenset({"start", "start_on", "resume", "resume_on"})
"""XenAPI's operations that bring a VM to a host."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a domain was built as; the VM's record may say something else by now, for its next start.

    Args:
        domain_type: one of XenAPI's.
        vcpus: 1 or more.
        nested_virt: whether VMs may run in it, which forbids ballooning.
    """

    domain_type: str
    vcpus: int
    nested_virt: bool


class Live(NamedTuple):
    """What one look saw of a VM's domain.

    Args:
        domid: Xen's number, 0 or more.
        power_state: ``Running``, ``Paused`` or ``Suspended``.
        memory_target: what the domain was last told, bytes.
        memory_actual: what it holds, bytes.
        start_time_s: Unix time at which this domain was first seen, seconds.
        uncooperative: whether it is flagged for other programs.
        built: what it was built as; None where the record says it.
    """

    domid: int
    power_state: str
    memory_target: int
    memory_actual: int
    start_time_s: float = 0.0
    uncooperative: bool = False
    built: Built | None = None


@dataclass(frozen=True, kw_only=True)
class Vm:
    """A VM; sizes bytes, named as in XenAPI.

    Its limits are in order from birth, so nothing that breaks the order law can ever be stored.

    Args:
        uuid: canonical text.
        name_label: for people, any text.
        name_description: for people, any text.
        memory_static_min: 0 by habit; xapi checks no sign.
        memory_static_max: fixed while the VM runs.
        memory_dynamic_min: the least the balancer may leave it.
        memory_dynamic_max: the most the balancer may give it.
        memory_target: what it was last told; dynamic-min after a change while halted.
        memory_overhead: what it costs beside its own memory, as of the last change.
        memory_actual: what it holds; 0: not known, or not running.
        HVM_shadow_multiplier: 1.0 or more.
        VCPUs_max: 1 or more; counts for the overhead.
        VCPUs_at_startup: 1 to VCPUs_max.
        domain_type: ``hvm``, ``pv``, ``pvh`` or ``pv_in_pvh``.
        power_state: one of `POWER_STATES`.
        domid: Xen's number; -1: not running.
        is_control_domain: whether it is domain 0 (or another domain that serves the host).
        is_a_template: whether VMs are made of it.
        is_a_snapshot: whether it is the memory of an earlier state; nothing of it can be set.
        other_config: any keys.
        platform: ``nested-virt`` forbids ballooning.
        blocked_operations: operation to the reason that callers are told.
        annotations: XenAPI's fields that mean nothing here, as clients gave them: texts, numbers, flags,
            tuples and maps of texts, by the field's name.
        requires_reboot: a change waits for the host's next boot.
        memory_suspended: what its domain held when it was suspended; -1: there is no image of it.
        start_time_s: Unix time at which its present domain was first seen; 0: none.
        uncooperative: its domain does not follow its target.
        current_operations: what is being done to it: the operation by its task.
        built: what its present domain was built as; None where that is what the record says.
        version: rises with every change of the object.

    Raises:
        ConstraintOrder: the limits are out of order.
        InvalidValue: names a field that is out of its range, and its value.
    """

    uuid: str
    name_label: str
    memory_static_min: int
    memory_static_max: int
    memory_dynamic_min: int
    memory_dynamic_max: int
    memory_target: int
    name_description: str = ""
    memory_overhead: int = 0
    memory_actual: int = 0
    HVM_shadow_multiplier: float = 1.0
    VCPUs_max: int = 1
    VCPUs_at_startup: int = 1
    domain_type: str = "pv"
    power_state: str = "Halted"
    domid: int = -1
    is_control_domain: bool = False
    is_a_template: bool = False
    is_a_snapshot: bool = False
    other_config: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] = field(default_factory=dict)
    blocked_operations: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    requires_reboot: bool = False
    memory_suspended: int = -1
    start_time_s: float = 0.0
    uncooperative: bool = False
    current_operations: Mapping[str, str] = field(default_factory=dict)
    built: Built | None = None
    version: int = 0

    def __post_init__(self) -> None:
        check_limits(self.limits, pinned_because=None)
        if self.power_state not in POWER_STATES:
            raise InvalidValue("power_state", self.power_state)
        if not 1 <= self.VCPUs_at_startup <= self.VCPUs_max:
            raise InvalidValue("VCPUs_at_startup", self.VCPUs_at_startup)
        if self.domain_type not in DOMAIN_TYPES:
            raise InvalidValue("domain_type", self.domain_type)
        if not 1.0 <= self.HVM_shadow_multiplier < math.inf:
            raise InvalidValue("HVM_shadow_multiplier", self.HVM_shadow_multiplier)
        for name in ("memory_static_min", "memory_static_max", "memory_overhead", "VCPUs_max"):
            if not -INT64_MAX <= getattr(self, name) <= INT64_MAX:
                raise InvalidValue(name, getattr(self, name))

    @property
    def ref(self) -> str:
        """The VM's XenAPI reference."""
        return opaque_ref("VM", self.uuid)

    @property
    def limits(self) -> MemoryLimits:
        """The five sizes of the order law, bytes."""
        return MemoryLimits(
            static_min=self.memory_static_min,
            dynamic_min=self.memory_dynamic_min,
            target=self.memory_target,
            dynamic_max=self.memory_dynamic_max,
            static_max=self.memory_static_max,
        )

    @property
    def dynamic_range(self) -> DynamicRange:
        """What xenstore is to say: KiB, rounded down as xapi does; negative limits count as 0."""
        return DynamicRange(
            max(0, bytes_to_kib_floor(self.memory_dynamic_min)),
            max(0, bytes_to_kib_floor(self.memory_dynamic_max)),
        )

    @property
    def shape(self) -> VmShape:
        """What the memory overhead is counted from."""
        return VmShape(self.domain_type, self.memory_static_max, self.VCPUs_max, self.HVM_shadow_multiplier)

    @property
    def uses_nested_virt(self) -> bool:
        """Whether VMs may run in it, by its domain if there is one, or else by its record."""
        if self.built is not None:
            return self.built.nested_virt
        return self.platform.get("nested-virt") in {"true", "1"}

    @property
    def as_built(self) -> Built:
        """What its domain is, or the next one will be."""
        return self.built or Built(self.domain_type, self.VCPUs_at_startup, self.uses_nested_virt)

    @property
    def is_resident(self) -> bool:
        """Whether a domain of it exists on this host."""
        return self.domid >= 0

    @property
    def is_scheduled(self) -> bool:
        """Whether it is being started: its memory counts as taken before a domain of it exists."""
        return not self.is_resident and not _STARTS.isdisjoint(self.current_operations.values())

    def with_limits(self, limits: MemoryLimits) -> Vm:
        """Give a copy with other limits, bytes. Raises ConstraintOrder."""
        return replace(
            self,
            memory_static_min=limits.static_min,
            memory_static_max=limits.static_max,
            memory_dynamic_min=limits.dynamic_min,
            memory_dynamic_max=limits.dynamic_max,
            memory_target=limits.target,
        )

    def with_live(
        self, live: Live | None, version: int, current_operations: Mapping[str, str] = MappingProxyType({})
    ) -> Vm:
        """Lay over it what was last seen.

        Args:
            live: of its domain, or None when it has none.
            version: of the result.
            current_operations: what is being done to it.
        """
        if live is not None:
            seen: Iterable[tuple[str, Any]] = zip(Live._fields, live, strict=True)
        else:
            power_state = "Suspended" if self.memory_suspended >= 0 else "Halted"
            seen = {**_NO_DOMAIN, "power_state": power_state}.items()
        return _laid_over(self, seen, current_operations=current_operations, version=version)


_NO_DOMAIN: Final[Mapping[str, Any]] = {
    "domid": -1,
    "memory_actual": 0,
    "start_time_s": 0.0,
    "uncooperative": False,
    "built": None,
}


def _laid_over(vm: Vm, seen: Iterable[tuple[str, Any]], **more: object) -> Vm:
    """Copy a VM with what was seen, which no rule of its limits looks at: what is valid stays valid."""
    copy = object.__new__(Vm)
    vars(copy).update(vars(vm))
    vars(copy).update(seen, **more)
    return copy


STORED_FIELDS: Final = tuple(f for f in fields(Vm) if f.name not in _LIVE_FIELDS)
"""The fields of a `Vm` that outlive the daemon; Xen knows the others."""


def thaw(loaded: dict[str, Any]) -> dict[str, Any]:
    """Give what JSON made of annotations its types again: a set is a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in loaded.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The host as XenAPI's readers see it; sizes bytes.

    Args:
        uuid: canonical text, kept for ever.
        name_label: for people.
        hostname: as the network knows it.
        address: where clients reach it.
        cpu_count: physical CPUs; 0: not known.
        memory_total: all physical memory; 0 before the first look.
        memory_free: free at once, by Xen's count.
        memory_overhead: what no VM, domain 0 included, can ever have.
        boot_free_mem: what was free before the first guest, domain 0's memory included.
        reserve_kib: what is kept free for Xen and its toolstack, KiB.
        annotations: what clients wrote on it, by XenAPI's field.
        version: rises with every change of the object.
    """

    uuid: str
    name_label: str
    hostname: str
    address: str
    cpu_count: int = 0
    memory_total: int = 0
    memory_free: int = 0
    memory_overhead: int = 0
    boot_free_mem: int = 0
    reserve_kib: int = 0
    annotations: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True)
class DomainZero:
    """What the composition root knows of domain 0.

    Args:
        memory_kib: what it holds, KiB; 0 or more.
        vcpus: 1 or more.
        name_label: for people; empty: as xapi names it.
        uuid: for its record the first time; empty: one is made.
    """

    memory_kib: int
    vcpus: int = 1
    name_label: str = ""
    uuid: str = ""

    def __post_init__(self) -> None:
        if self.memory_kib < 0:
            raise InvalidValue("memory_kib", self.memory_kib)
        if self.vcpus < 1:
            raise InvalidValue("vcpus", self.vcpus)
