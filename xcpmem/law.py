"""What XenAPI's setters make of a VM, or why they refuse: xapi's rules, values in, values out.

The service calls a rule with the VM as it is at that moment and stores what comes back. The order in which
xapi checks is part of its behaviour: blocked operations, power state, other operations under way, templates,
snapshots, nested virtualisation, control domains, and only then the call's own rules. Sizes are bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xcpmem.engine.accounting import (
    DOMAIN_TYPES,
    NEW_FORMULA,
    AccountingFormula,
    VmShape,
    memory_overhead,
)
from xcpmem.engine.limits import MemoryLimits, check_limits
from xcpmem.errors import (
    BadPowerState,
    InternalError,
    InvalidValue,
    NotEnoughMemory,
    OnlyTemplates,
    OperationBlocked,
    OperationNotAllowed,
    OtherOperationInProgress,
    VmIsSnapshot,
    VmIsTemplate,
    VmUsesNestedVirt,
)
from xcpmem.units import bytes_to_kib_floor, mib_to_bytes
from xcpmem.vm import INT64_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.vm import Vm

DEFAULT_TEMPLATE: Final = "default_template"
"""The key of other_config that marks a template which came with the product (xapi's Xapi_globs)."""

_NOT_ON_CONTROL_DOMAINS: Final = "This operation is not allowed on a control domain"
_VCPUS_FIELD: Final = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"
_NO_VCPUS_AT_STARTUP_ON_DOM0: Final = "set_VCPUs_at_startup is not allowed on dom0"
_BOOT_POLICY: Final = "HVM_boot_policy"
BIOS_ORDER: Final = "BIOS order"
"""XenAPI's HVM_boot_policy of what boots by a BIOS; empty for all else."""
_NO_VCPUS_MAX_ON_DOM0: Final = 'Failure("set_VCPUs_max is not allowed on dom0")'


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of change, as xapi names it in ``VM.blocked_operations`` and ``VM.current_operations``.

    Args:
        name: xapi's name.
        states: power states in which it is allowed, lower case, in the order in which xapi lists them.
        control_states: the same for control domains; empty: never allowed on them.
        printed: how errors print the name, where xapi's table lacks it.
        balloons: whether VMs with nested virtualisation refuse it.
        on_templates: whether it makes sense for what never runs.
        on_snapshots: the same for what only remembers.
        snapshot_states: power states in which it is allowed on snapshots; empty: the same as on others.
        rebuilds: whether the VM's domain comes, is kept on disk or is replaced by it, so that a look in
            between means nothing.
    """

    name: str
    states: tuple[str, ...]
    control_states: tuple[str, ...] = ()
    printed: str = ""
    balloons: bool = False
    on_templates: bool = True
    on_snapshots: bool = False
    snapshot_states: tuple[str, ...] = ()
    rebuilds: bool = False

    def states_for(self, vm: Vm) -> tuple[str, ...]:
        """Give the power states in which it is allowed on a VM, in xapi's order."""
        if vm.is_a_snapshot and self.snapshot_states:
            return self.snapshot_states
        return (vm.is_control_domain and self.control_states) or self.states


CHANGING_MEMORY_LIMITS: Final = Operation(
    "changing_memory_limits", ("halted",), ("halted", "running"), printed="(unknown operation)"
)
CHANGING_STATIC_RANGE: Final = Operation("changing_static_range", ("halted",), ("halted", "running"))
CHANGING_DYNAMIC_RANGE: Final = Operation(
    "changing_dynamic_range", ("halted", "running"), ("halted", "running"), balloons=True
)
CHANGING_MEMORY_LIVE: Final = Operation("changing_memory_live", ("running",), ("running",))
AWAITING_MEMORY_LIVE: Final = Operation("awaiting_memory_live", ("running",), ("running",))
CHANGING_SHADOW_MEMORY: Final = Operation("changing_shadow_memory", ("halted",))
CHANGING_SHADOW_MEMORY_LIVE: Final = Operation("changing_shadow_memory_live", ("running",))
CHANGING_VCPUS: Final = Operation("changing_VCPUs", ("halted",), ("halted", "running"))
START: Final = Operation("start", ("halted",), ("halted",), on_templates=False, rebuilds=True)
START_ON: Final = Operation("start_on", ("halted",), ("halted",), on_templates=False, rebuilds=True)
PAUSE: Final = Operation("pause", ("running",), on_templates=False)
UNPAUSE: Final = Operation("unpause", ("paused",), on_templates=False)
CLEAN_SHUTDOWN: Final = Operation("clean_shutdown", ("running",), on_templates=False)
HARD_SHUTDOWN: Final = Operation(
    "hard_shutdown", ("paused", "suspended", "running"), on_templates=False, on_snapshots=True
)
SHUTDOWN: Final = Operation("shutdown", ("paused", "suspended", "running"), on_templates=False)
CLEAN_REBOOT: Final = Operation("clean_reboot", ("running",), on_templates=False, rebuilds=True)
HARD_REBOOT: Final = Operation("hard_reboot", ("paused", "running"), on_templates=False, rebuilds=True)
SUSPEND: Final = Operation("suspend", ("running",), on_templates=False, rebuilds=True)
RESUME: Final = Operation("resume", ("suspended",), on_templates=False, rebuilds=True)
RESUME_ON: Final = Operation("resume_on", ("suspended",), on_templates=False, rebuilds=True)
POOL_MIGRATE: Final = Operation("pool_migrate", ("running",), on_templates=False)
CLONE: Final = Operation("clone", ("halted",), on_snapshots=True, snapshot_states=("halted", "suspended"))
COPY: Final = Operation("copy", ("halted",), on_snapshots=True, snapshot_states=("halted", "suspended"))
DESTROY: Final = Operation(
    "destroy", ("halted", "suspended"), ("halted", "suspended"), on_snapshots=True, on_templates=True
)
PROVISION: Final = Operation("provision", ("halted",))
MAKE_INTO_TEMPLATE: Final = Operation("make_into_template", ("halted",), on_templates=False)

OPERATIONS: Final[Mapping[str, Operation]] = {
    operation.name: operation for operation in tuple(globals().values()) if isinstance(operation, Operation)
}
"""All of them by name."""


def domain_type_for(boot_policy: str) -> str:
    """Derive what a VM is built as from how it boots, as xapi does where nobody says it."""
    return "hvm" if boot_policy else "pv"


def check_operation(vm: Vm, operation: Operation) -> None:
    """Refuse an operation that the VM's state, kind or administrator forbids.

    Raises:
        OperationBlocked: an administrator did.
        BadPowerState: it is not possible now.
        OtherOperationInProgress: something else is being done to the VM; whoever can waits for its end.
        VmIsTemplate: it is never possible on templates, or on those that came with the product.
        VmIsSnapshot: it is never possible on snapshots.
        VmUsesNestedVirt: the VM cannot balloon.
        OnlyTemplates: it makes sense for templates alone.
        OperationNotAllowed: it is never possible on control domains.
    """
    if operation.name in vm.blocked_operations:
        raise OperationBlocked(vm.ref, vm.blocked_operations[operation.name])
    states = operation.states_for(vm)
    if vm.power_state.lower() not in states:
        raise BadPowerState(vm.ref, ", ".join(states), vm.power_state.lower())
    for task, name in vm.current_operations.items():
        raise OtherOperationInProgress("VM", vm.ref, name, task)
    is_default = operation is DESTROY and vm.other_config.get(DEFAULT_TEMPLATE) == "true"
    if vm.is_a_template and not vm.is_a_snapshot and (is_default or not operation.on_templates):
        raise VmIsTemplate(vm.ref, operation.printed or operation.name)
    if vm.is_a_snapshot and not operation.on_snapshots:
        raise VmIsSnapshot(vm.ref, operation.printed or operation.name)
    if operation is PROVISION and not vm.is_a_template:
        raise OnlyTemplates
    if operation.balloons and vm.uses_nested_virt:
        raise VmUsesNestedVirt(vm.ref)
    if vm.is_control_domain and not operation.control_states:
        raise OperationNotAllowed(_NOT_ON_CONTROL_DOMAINS)


@dataclass(frozen=True, slots=True)
class VmLaw:
    """The rules of one pool.

    Every rule gives the VM as it is to be stored and raises, besides what it names, what
    `check_operation` raises.

    Args:
        formula: which release of xapi overheads are counted like.
        restrict_dmc: the pool has no licence for dynamic memory, so every VM must be pinned.
    """

    formula: AccountingFormula = NEW_FORMULA
    restrict_dmc: bool = False

    def with_overhead(self, vm: Vm) -> Vm:
        """Give a VM its memory overhead, counted anew."""
        return replace(vm, memory_overhead=memory_overhead(vm.shape, self.formula))

    def start(self, vm: Vm, *, force: bool) -> Vm:
        """Rule ``VM.start`` and whatever else boots a VM: its overhead is counted anew.

        The operation itself is checked by whoever begins it.

        Args:
            vm: as it is.
            force: boot it even if it had to be pinned.

        Raises:
            ConstraintMaxPin: it has nested virtualisation and is not pinned.
        """
        if vm.uses_nested_virt and not force:
            check_limits(vm.limits, pinned_because="nested virt")
        return self.with_overhead(vm)

    def set_memory_limits(self, vm: Vm, limits: MemoryLimits) -> Vm:
        """Rule ``VM.set_memory_limits``: five sizes at once; a running control domain needs a reboot.

        Raises:
            ConstraintOrder: they are out of order.
            ConstraintMaxPin: the VM must be pinned.
        """
        check_operation(vm, CHANGING_MEMORY_LIMITS)
        self._check_limits(vm, limits)
        changed = self.with_overhead(vm.with_limits(limits))
        if vm.is_control_domain and vm.power_state == "Running":
            changed = replace(changed, requires_reboot=True)
        return changed

    def set_memory(self, vm: Vm, value: int) -> Vm:
        """Rule ``VM.set_memory``: a fixed size, static-min stays.

        Raises:
            ConstraintOrder: it is below static-min.
            ConstraintMaxPin: the same where the VM must be pinned.
        """
        return self.set_memory_limits(vm, MemoryLimits(vm.memory_static_min, value, value, value, value))

    def set_memory_static_range(self, vm: Vm, static_min: int, static_max: int) -> Vm:
        """Rule ``VM.set_memory_static_range``: dynamic limits stay, even if that makes it impossible.

        Raises:
            ConstraintOrder: the dynamic range would not lie within.
            ConstraintMaxPin: the VM must be pinned.
        """
        check_operation(vm, CHANGING_STATIC_RANGE)
        limits = replace(vm.limits, static_min=static_min, static_max=static_max)
        self._check_limits(vm, limits)
        return self.with_overhead(vm.with_limits(limits))

    def set_memory_dynamic_range(self, vm: Vm, dynamic_min: int, dynamic_max: int, free: int) -> Vm:
        """Rule ``VM.set_memory_dynamic_range``: the overhead stays.

        Args:
            vm: as it is.
            dynamic_min: bytes.
            dynamic_max: bytes.
            free: what the host has left at maximum compression, bytes; only a running VM needs it.

        Raises:
            NotEnoughMemory: dynamic-min would rise by more than that; in KiB, as only here in xapi.
            ConstraintOrder: the range does not lie within the static range.
            ConstraintMaxPin: the VM must be pinned.
        """
        check_operation(vm, CHANGING_DYNAMIC_RANGE)
        rise = dynamic_min - vm.memory_dynamic_min
        if vm.power_state == "Running" and free - rise < 0:
            raise NotEnoughMemory(bytes_to_kib_floor(rise), bytes_to_kib_floor(free), "KiB")
        limits = replace(vm.limits, dynamic_min=dynamic_min, target=dynamic_min, dynamic_max=dynamic_max)
        self._check_limits(vm, limits)
        return vm.with_limits(limits)

    def set_shadow_multiplier(self, vm: Vm, multiplier: float) -> Vm:
        """Rule ``VM.set_HVM_shadow_multiplier`` of a halted VM.

        Raises:
            InvalidValue: it is below 1, or no number that an overhead could be counted with.
        """
        check_operation(vm, CHANGING_SHADOW_MEMORY)
        self._check_multiplier(vm, multiplier)
        return self.with_overhead(replace(vm, HVM_shadow_multiplier=multiplier))

    def set_shadow_multiplier_live(self, vm: Vm, multiplier: float, spare: int) -> Vm:
        """Rule ``VM.set_shadow_multiplier_live``: shadow comes in whole MiB, and the multiplier shows that.

        Args:
            vm: as it is; nothing happens to a ``pv`` one.
            multiplier: 1.0 or more.
            spare: what is free on the host and promised to nobody, bytes.

        Raises:
            InvalidValue: as for a halted VM.
            NotEnoughMemory: more shadow is needed than the host has; bytes.
        """
        check_operation(vm, CHANGING_SHADOW_MEMORY_LIVE)
        self._check_multiplier(vm, multiplier)
        if vm.as_built.domain_type == "pv":
            return vm
        wanted_mib = replace(vm.shape, shadow_multiplier=multiplier).shadow_mib
        needed = mib_to_bytes(wanted_mib - vm.shape.shadow_mib)
        if needed > max(0, spare):
            raise NotEnoughMemory(needed, max(0, spare))
        plain_mib = replace(vm.shape, shadow_multiplier=1.0).shadow_mib
        return self.with_overhead(replace(vm, HVM_shadow_multiplier=wanted_mib / plain_mib))

    def set_vcpus_max(self, vm: Vm, vcpus: int) -> Vm:
        """Rule ``VM.set_VCPUs_max``.

        Raises:
            InternalError: the VM is domain 0; xapi says it so.
            InvalidValue: below 1 or VCPUs_at_startup, or more than an overhead could be counted with.
        """
        check_operation(vm, CHANGING_VCPUS)
        if vm.is_control_domain:
            raise InternalError(_NO_VCPUS_MAX_ON_DOM0)
        shape = replace(vm.shape, vcpus=vcpus)
        if vcpus < max(1, vm.VCPUs_at_startup) or memory_overhead(shape, self.formula) > INT64_MAX:
            raise InvalidValue(_VCPUS_FIELD, vcpus)
        return self.with_overhead(replace(vm, VCPUs_max=vcpus))

    def set_vcpus_at_startup(self, vm: Vm, vcpus: int) -> Vm:
        """Rule ``VM.set_VCPUs_at_startup``: in any power state, for the next start.

        Raises:
            OperationNotAllowed: the VM is domain 0.
            InvalidValue: below 1 or above VCPUs_max.
        """
        if vm.is_control_domain:
            raise OperationNotAllowed(_NO_VCPUS_AT_STARTUP_ON_DOM0)
        if not 1 <= vcpus <= vm.VCPUs_max:
            raise InvalidValue(_VCPUS_FIELD, vcpus)
        return replace(vm, VCPUs_at_startup=vcpus)

    def set_domain_type(self, vm: Vm, domain_type: str) -> Vm:
        """Rule ``VM.set_domain_type``: in any power state; a running VM is so from its next start on.

        Raises:
            InvalidValue: it is ``unspecified``.
        """
        if domain_type not in DOMAIN_TYPES:
            raise InvalidValue("domain_type", domain_type)
        policy = {_BOOT_POLICY: BIOS_ORDER if domain_type == "hvm" else ""}
        changed = replace(vm, domain_type=domain_type, annotations={**vm.annotations, **policy})
        return changed if vm.is_resident else self.with_overhead(changed)

    def set_hvm_boot_policy(self, vm: Vm, policy: str) -> Vm:
        """Rule ``VM.set_HVM_boot_policy``: as `set_domain_type`, said in the way of older releases."""
        changed = self.set_domain_type(vm, domain_type_for(policy))
        return replace(changed, annotations={**vm.annotations, _BOOT_POLICY: policy})

    def _check_limits(self, vm: Vm, limits: MemoryLimits) -> None:
        pinned_because = None
        if self.restrict_dmc:
            pinned_because = "DMC disabled"
        elif vm.is_control_domain:
            pinned_because = "control domain"
        elif vm.uses_nested_virt:
            pinned_because = "nested virt"
        check_limits(limits, pinned_because=pinned_because)

    def _check_multiplier(self, vm: Vm, multiplier: float) -> None:
        if not 1.0 <= multiplier < math.inf or not self._can_count(vm.shape, multiplier):
            raise InvalidValue("multiplier", format_ocaml_float(multiplier))

    def _can_count(self, shape: VmShape, multiplier: float) -> bool:
        plain = replace(shape, shadow_multiplier=1.0)
        return mib_to_bytes(plain.shadow_mib) * multiplier < INT64_MAX / 2


def format_ocaml_float(number: float) -> str:
    """Write a float as OCaml's string_of_float does: 12 digits, and a point if it would look like an int."""
    text = f"{number:.12g}"
    return f"{text}." if text.lstrip("-").isdigit() else text
