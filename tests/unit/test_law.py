"""What xapi allows, forbids and computes for each setter, by its documented behaviour matrix."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from xcpmem.engine.limits import MemoryLimits
from xcpmem.errors import (
    BadPowerState,
    ConstraintMaxPin,
    ConstraintOrder,
    InternalError,
    InvalidValue,
    NotEnoughMemory,
    OperationBlocked,
    OperationNotAllowed,
    OtherOperationInProgress,
    VmIsSnapshot,
    VmIsTemplate,
    VmUsesNestedVirt,
    XcpmemError,
)
from xcpmem.law import (
    CLEAN_REBOOT,
    CLEAN_SHUTDOWN,
    HARD_REBOOT,
    HARD_SHUTDOWN,
    PAUSE,
    SHUTDOWN,
    START,
    START_ON,
    UNPAUSE,
    Operation,
    VmLaw,
    check_operation,
)
from xcpmem.vm import POWER_STATES, Live, Vm

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30
MIB = 2**20
LAW = VmLaw()
PLENTY = 100 * GIB

VM = LAW.with_overhead(
    Vm(
        uuid="0c0ffee0-0000-4000-8000-000000000001",
        name_label="web1",
        memory_static_min=GIB,
        memory_static_max=4 * GIB,
        memory_dynamic_min=2 * GIB,
        memory_dynamic_max=4 * GIB,
        memory_target=4 * GIB,
        domain_type="hvm",
    )
)
CONTROL_DOMAIN = replace(
    VM.with_limits(MemoryLimits(0, 2 * GIB, 2 * GIB, 2 * GIB, 2 * GIB)),
    is_control_domain=True,
    domain_type="pv",
)

Rule = tuple[str, "Callable[[Vm], Vm]"]

LIMITS: Rule = (
    "changing_memory_limits",
    lambda vm: LAW.set_memory_limits(vm, MemoryLimits(GIB, 2 * GIB, 2 * GIB, 6 * GIB, 8 * GIB)),
)
MEMORY: Rule = ("changing_memory_limits", lambda vm: LAW.set_memory(vm, 2 * GIB))
STATIC: Rule = ("changing_static_range", lambda vm: LAW.set_memory_static_range(vm, GIB, 16 * GIB))
DYNAMIC: Rule = (
    "changing_dynamic_range",
    lambda vm: LAW.set_memory_dynamic_range(vm, GIB, 3 * GIB, PLENTY),
)
SHADOW: Rule = ("changing_shadow_memory", lambda vm: LAW.set_shadow_multiplier(vm, 2.0))
SHADOW_LIVE: Rule = (
    "changing_shadow_memory_live",
    lambda vm: LAW.set_shadow_multiplier_live(vm, 2.0, PLENTY),
)
VCPUS: Rule = ("changing_VCPUs", lambda vm: LAW.set_vcpus_max(vm, 4))
RULES = [LIMITS, MEMORY, STATIC, DYNAMIC, SHADOW, SHADOW_LIVE, VCPUS]


def in_state(vm: Vm, power_state: str) -> Vm:
    if power_state == "Halted":
        return vm
    if power_state == "Suspended":
        return replace(vm, power_state=power_state)
    live = Live(domid=3, power_state=power_state, memory_target=4 * GIB, memory_actual=4 * GIB)
    return vm.with_live(live, version=1)


@pytest.mark.parametrize(
    ("rule", "power_state", "expected"),
    [
        *(
            (rule, state, "halted")
            for rule in (LIMITS, MEMORY, STATIC, SHADOW, VCPUS)
            for state in ("Running", "Paused", "Suspended")
        ),
        (DYNAMIC, "Paused", "halted, running"),
        (DYNAMIC, "Suspended", "halted, running"),
        *((SHADOW_LIVE, state, "running") for state in ("Halted", "Paused", "Suspended")),
    ],
)
def test_setter_names_the_power_states_it_wants_when_the_vm_is_in_another(
    rule: Rule, power_state: str, expected: str
) -> None:
    with pytest.raises(BadPowerState) as caught:
        rule[1](in_state(VM, power_state))
    assert caught.value.params == (VM.ref, expected, power_state.lower())


@pytest.mark.parametrize("rule", [LIMITS, MEMORY, STATIC])
def test_limits_of_a_control_domain_may_be_set_when_it_runs_but_not_when_paused(rule: Rule) -> None:
    with pytest.raises(BadPowerState) as caught:
        rule[1](in_state(CONTROL_DOMAIN, "Paused"))
    assert caught.value.params == (VM.ref, "halted, running", "paused")


@pytest.mark.parametrize("rule", RULES)
def test_setter_is_refused_with_the_reason_of_whoever_blocked_it_before_all_else(rule: Rule) -> None:
    snapshot = replace(VM, is_a_snapshot=True, blocked_operations={rule[0]: "because"})
    with pytest.raises(OperationBlocked) as caught:
        rule[1](in_state(snapshot, "Paused"))
    assert caught.value.params == (VM.ref, "because")


@pytest.mark.parametrize("rule", [LIMITS, MEMORY, STATIC, DYNAMIC, SHADOW, VCPUS])
def test_setter_is_refused_on_snapshots_under_the_name_that_xapi_prints(rule: Rule) -> None:
    with pytest.raises(VmIsSnapshot) as caught:
        rule[1](replace(VM, is_a_snapshot=True))
    printed = "(unknown operation)" if rule[0] == "changing_memory_limits" else rule[0]
    assert caught.value.params == (VM.ref, printed)


@pytest.mark.parametrize("rule", [LIMITS, MEMORY, STATIC, DYNAMIC, SHADOW, VCPUS])
def test_setter_is_allowed_on_templates(rule: Rule) -> None:
    roomy = VM.with_limits(MemoryLimits(GIB, 2 * GIB, 2 * GIB, 2 * GIB, 4 * GIB))
    assert rule[1](replace(roomy, is_a_template=True)).is_a_template


def test_refusals_come_in_the_order_of_xapi() -> None:
    worst = replace(
        in_state(CONTROL_DOMAIN, "Running"),
        blocked_operations={"pause": "because"},
        current_operations={"OpaqueRef:task": "clean_shutdown"},
        is_a_template=True,
        is_a_snapshot=True,
    )
    steps: list[tuple[type[XcpmemError], tuple[str, ...], Vm]] = [
        (OperationBlocked, (VM.ref, "because"), worst),
        (
            BadPowerState,
            (VM.ref, "running", "paused"),
            replace(worst, power_state="Paused", blocked_operations={}),
        ),
        (
            OtherOperationInProgress,
            ("VM", VM.ref, "clean_shutdown", "OpaqueRef:task"),
            replace(worst, blocked_operations={}),
        ),
        (
            VmIsTemplate,
            (VM.ref, "pause"),
            replace(worst, blocked_operations={}, current_operations={}, is_a_snapshot=False),
        ),
        (VmIsSnapshot, (VM.ref, "pause"), replace(worst, blocked_operations={}, current_operations={})),
        (
            OperationNotAllowed,
            ("This operation is not allowed on a control domain",),
            replace(
                worst, blocked_operations={}, current_operations={}, is_a_template=False, is_a_snapshot=False
            ),
        ),
    ]
    for error, params, vm in steps:
        with pytest.raises(error) as caught:
            check_operation(vm, PAUSE)
        assert caught.value.params == params


@pytest.mark.parametrize(
    ("operation", "states"),
    [
        (START, {"Halted"}),
        (START_ON, {"Halted"}),
        (PAUSE, {"Running"}),
        (UNPAUSE, {"Paused"}),
        (CLEAN_SHUTDOWN, {"Running"}),
        (HARD_SHUTDOWN, {"Paused", "Suspended", "Running"}),
        (SHUTDOWN, {"Paused", "Suspended", "Running"}),
        (CLEAN_REBOOT, {"Running"}),
        (HARD_REBOOT, {"Paused", "Running"}),
    ],
)
def test_operation_is_possible_in_the_power_states_of_xapi(operation: Operation, states: set[str]) -> None:
    possible = set()
    for state in POWER_STATES:
        with suppress(BadPowerState):
            check_operation(in_state(VM, state), operation)
            possible.add(state)
    assert possible == states


def test_start_counts_the_overhead_anew_and_wants_nested_virtualisation_pinned() -> None:
    stale = replace(VM, memory_overhead=1)
    assert LAW.start(stale, force=False).memory_overhead == VM.memory_overhead
    nested = replace(VM, platform={"nested-virt": "1"})
    with pytest.raises(ConstraintMaxPin) as caught:
        LAW.start(nested, force=False)
    assert caught.value.params == ("nested virt",)
    assert LAW.start(nested, force=True) == nested
    pinned = nested.with_limits(MemoryLimits(GIB, 4 * GIB, 4 * GIB, 4 * GIB, 4 * GIB))
    assert LAW.start(pinned, force=False) == pinned


def test_set_memory_limits_sets_the_target_to_dynamic_min_and_counts_the_overhead_anew() -> None:
    changed = LIMITS[1](VM)
    assert changed.limits == MemoryLimits(GIB, 2 * GIB, 2 * GIB, 6 * GIB, 8 * GIB)
    assert changed.memory_overhead > VM.memory_overhead
    assert not changed.requires_reboot


def test_set_memory_limits_keeps_odd_and_negative_bytes_as_given() -> None:
    limits = MemoryLimits(-3, -1, -1, 1, 4097)
    assert LAW.set_memory_limits(VM, limits).limits == limits


@pytest.mark.parametrize(
    "sizes",
    [(GIB, 5 * GIB, 6 * GIB, 4 * GIB), (GIB, 2 * GIB, GIB, 4 * GIB), (3 * GIB, 2 * GIB, 4 * GIB, 4 * GIB)],
)
def test_set_memory_limits_refuses_limits_out_of_order(sizes: tuple[int, int, int, int]) -> None:
    static_min, dynamic_min, dynamic_max, static_max = sizes
    limits = MemoryLimits(static_min, dynamic_min, dynamic_min, dynamic_max, static_max)
    with pytest.raises(ConstraintOrder):
        LAW.set_memory_limits(VM, limits)
    with pytest.raises(BadPowerState):
        LAW.set_memory_limits(in_state(VM, "Running"), limits)


def test_set_memory_gives_a_fixed_size_and_keeps_static_min() -> None:
    assert MEMORY[1](VM).limits == MemoryLimits(GIB, 2 * GIB, 2 * GIB, 2 * GIB, 2 * GIB)


def test_set_memory_refuses_less_than_static_min() -> None:
    with pytest.raises(ConstraintOrder):
        LAW.set_memory(VM, 512 * MIB)


def test_set_memory_static_range_keeps_dynamic_limits_and_target() -> None:
    changed = STATIC[1](VM)
    assert changed.limits == replace(VM.limits, static_min=GIB, static_max=16 * GIB)
    assert changed.memory_overhead > VM.memory_overhead


@pytest.mark.parametrize(("static_min", "static_max"), [(GIB, 3 * GIB), (3 * GIB, 4 * GIB)])
def test_set_memory_static_range_clamps_nothing(static_min: int, static_max: int) -> None:
    with pytest.raises(ConstraintOrder):
        LAW.set_memory_static_range(VM, static_min, static_max)


@pytest.mark.parametrize("power_state", ["Halted", "Running"])
def test_set_memory_dynamic_range_sets_the_target_to_min_and_keeps_the_rest(power_state: str) -> None:
    changed = DYNAMIC[1](in_state(VM, power_state))
    assert changed.limits == MemoryLimits(GIB, GIB, GIB, 3 * GIB, 4 * GIB)
    assert changed.memory_overhead == VM.memory_overhead


def test_dynamic_min_of_a_running_vm_must_fit_the_host_before_it_must_be_in_order() -> None:
    running = in_state(VM, "Running")
    with pytest.raises(NotEnoughMemory) as caught:
        LAW.set_memory_dynamic_range(running, 5 * GIB, 4 * GIB, 3 * GIB - 1)
    assert caught.value.params == (str(3 * GIB // 1024), str((3 * GIB - 1) // 1024))
    with pytest.raises(ConstraintOrder):
        LAW.set_memory_dynamic_range(running, 5 * GIB, 4 * GIB, 3 * GIB)


def test_dynamic_min_of_a_running_vm_may_be_lowered_when_the_host_has_nothing_left() -> None:
    assert LAW.set_memory_dynamic_range(in_state(VM, "Running"), GIB, GIB, 0).memory_dynamic_min == GIB


def test_dynamic_min_of_a_halted_vm_needs_no_room_on_the_host() -> None:
    assert LAW.set_memory_dynamic_range(VM, 4 * GIB, 4 * GIB, 0).memory_dynamic_min == 4 * GIB


@pytest.mark.parametrize("power_state", ["Halted", "Running"])
def test_dynamic_max_above_static_max_is_out_of_order(power_state: str) -> None:
    with pytest.raises(ConstraintOrder):
        LAW.set_memory_dynamic_range(in_state(VM, power_state), 2 * GIB, 5 * GIB, PLENTY)


@pytest.mark.parametrize("flag", ["true", "1"])
def test_vm_with_nested_virt_refuses_a_dynamic_range_and_other_limits_but_pinned_ones(flag: str) -> None:
    vm = replace(VM, platform={"nested-virt": flag})
    with pytest.raises(VmUsesNestedVirt) as refused:
        DYNAMIC[1](vm)
    assert refused.value.params == (VM.ref,)
    with pytest.raises(ConstraintMaxPin) as caught:
        LIMITS[1](vm)
    assert caught.value.params == ("nested virt",)
    assert MEMORY[1](vm).memory_dynamic_max == 2 * GIB


def test_vm_without_nested_virt_balloons() -> None:
    assert DYNAMIC[1](replace(VM, platform={"nested-virt": "false"})).memory_dynamic_min == GIB


def test_pool_without_a_licence_for_dynamic_memory_pins_every_vm() -> None:
    law = VmLaw(restrict_dmc=True)
    with pytest.raises(ConstraintMaxPin) as caught:
        law.set_memory_dynamic_range(CONTROL_DOMAIN, GIB, 2 * GIB, PLENTY)
    assert caught.value.params == ("DMC disabled",)


def test_running_control_domain_takes_pinned_limits_and_waits_for_a_reboot() -> None:
    changed = LAW.set_memory(in_state(CONTROL_DOMAIN, "Running"), 3 * GIB)
    assert (changed.memory_static_max, changed.requires_reboot) == (3 * GIB, True)


def test_control_domain_must_be_pinned_even_where_limits_are_out_of_order() -> None:
    for limits in (
        MemoryLimits(0, GIB, GIB, 2 * GIB, 2 * GIB),
        MemoryLimits(3 * GIB, 2 * GIB, 2 * GIB, 2 * GIB, 2 * GIB),
    ):
        with pytest.raises(ConstraintMaxPin) as caught:
            LAW.set_memory_limits(in_state(CONTROL_DOMAIN, "Running"), limits)
        assert caught.value.params == ("control domain",)


@pytest.mark.parametrize(("rule", "power_state"), [(SHADOW, "Halted"), (SHADOW_LIVE, "Running")])
def test_shadow_of_a_control_domain_is_never_set(rule: Rule, power_state: str) -> None:
    with pytest.raises(OperationNotAllowed) as caught:
        rule[1](in_state(CONTROL_DOMAIN, power_state))
    assert caught.value.params == ("This operation is not allowed on a control domain",)


def test_shadow_multiplier_changes_the_overhead() -> None:
    changed = SHADOW[1](VM)
    assert changed.HVM_shadow_multiplier == 2.0
    assert changed.memory_overhead == VM.memory_overhead + VM.shape.shadow_mib * MIB


@pytest.mark.parametrize(
    ("multiplier", "text"),
    [(0.5, "0.5"), (0.0, "0."), (-2.0, "-2."), (math.nan, "nan"), (math.inf, "inf"), (1e300, "1e+300")],
)
def test_shadow_multiplier_below_1_or_beyond_counting_is_refused_as_ocaml_writes_it(
    multiplier: float, text: str
) -> None:
    rules: list[Callable[[], Vm]] = [
        lambda: LAW.set_shadow_multiplier(VM, multiplier),
        lambda: LAW.set_shadow_multiplier_live(in_state(VM, "Running"), multiplier, PLENTY),
    ]
    for rule in rules:
        with pytest.raises(InvalidValue) as caught:
            rule()
        assert caught.value.params == ("multiplier", text)


def test_live_shadow_multiplier_shows_the_whole_mib_that_were_had() -> None:
    small = replace(VM.with_limits(MemoryLimits(0, GIB, GIB, GIB, GIB)), VCPUs_max=2)
    changed = LAW.set_shadow_multiplier_live(in_state(small, "Running"), 1.25, PLENTY)
    assert changed.HVM_shadow_multiplier == 1.2
    assert changed.memory_overhead == 15 * MIB


def test_live_shadow_multiplier_needs_memory_in_bytes() -> None:
    running = in_state(VM, "Running")
    needed = VM.shape.shadow_mib * MIB
    assert LAW.set_shadow_multiplier_live(running, 2.0, needed).HVM_shadow_multiplier == 2.0
    with pytest.raises(NotEnoughMemory) as caught:
        LAW.set_shadow_multiplier_live(running, 2.0, needed - 1)
    assert caught.value.params == (str(needed), str(needed - 1))


def test_live_shadow_multiplier_of_a_host_in_debt_names_nothing_as_free() -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        LAW.set_shadow_multiplier_live(in_state(VM, "Running"), 2.0, -5)
    assert caught.value.available == 0
    lower = in_state(replace(VM, HVM_shadow_multiplier=2.0), "Running")
    assert LAW.set_shadow_multiplier_live(lower, 1.0, -5).HVM_shadow_multiplier == 1.0


def test_live_shadow_multiplier_of_pv_changes_nothing() -> None:
    running = in_state(replace(VM, domain_type="pv"), "Running")
    assert LAW.set_shadow_multiplier_live(running, 2.0, 0) == running


def test_vcpus_max_changes_the_overhead() -> None:
    changed = VCPUS[1](VM)
    assert (changed.VCPUs_max, changed.memory_overhead) == (4, VM.memory_overhead + 3 * MIB)


@pytest.mark.parametrize("vcpus", [-1, 0, 1, 2**62])
def test_vcpus_max_out_of_range_is_refused_in_the_words_of_xapi(vcpus: int) -> None:
    vm = replace(VM, VCPUs_max=2, VCPUs_at_startup=2)
    with pytest.raises(InvalidValue) as caught:
        LAW.set_vcpus_max(vm, vcpus)
    field = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"
    assert caught.value.params == (field, str(vcpus))


def test_vcpus_max_of_domain_zero_is_refused_as_xapi_refuses_it() -> None:
    with pytest.raises(InternalError) as caught:
        LAW.set_vcpus_max(in_state(CONTROL_DOMAIN, "Running"), 4)
    assert (caught.value.code, caught.value.params) == (
        "INTERNAL_ERROR",
        ('Failure("set_VCPUs_max is not allowed on dom0")',),
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"domain_type": "unspecified"}, "domain_type"),
        ({"power_state": "halted"}, "power_state"),
        ({"VCPUs_at_startup": 2}, "VCPUs_at_startup"),
        ({"HVM_shadow_multiplier": 0.9}, "HVM_shadow_multiplier"),
        ({"memory_static_max": 2**63}, "memory_static_max"),
    ],
)
def test_vm_is_valid_from_birth(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        replace(VM, **changes)  # type: ignore[arg-type]
    assert caught.value.params[0] == field


def test_vm_out_of_order_cannot_exist() -> None:
    with pytest.raises(XcpmemError) as caught:
        replace(VM, memory_dynamic_max=5 * GIB)
    assert caught.value.code == "MEMORY_CONSTRAINT_VIOLATION_ORDER"


def test_dynamic_range_for_xenstore_is_rounded_down_and_never_negative() -> None:
    vm = replace(VM, memory_static_min=-5, memory_dynamic_min=-5, memory_dynamic_max=2047)
    assert (vm.dynamic_range.min_kib, vm.dynamic_range.max_kib) == (0, 1)
