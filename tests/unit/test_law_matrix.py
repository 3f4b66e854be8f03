"""What each setter makes of a VM of 1, 2, 4, 4 GiB in each power state: the matrix of xapi's behaviour."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from xcpmem.engine.limits import MemoryLimits
from xcpmem.errors import XcpmemError
from xcpmem.law import AWAITING_MEMORY_LIVE, CHANGING_MEMORY_LIVE, VmLaw, check_operation
from xcpmem.units import mib_to_bytes
from xcpmem.vm import Live, Vm

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = mib_to_bytes(1024)
LAW = VmLaw()
STORED = LAW.with_overhead(
    Vm(
        uuid="0c0ffee0-0000-4000-8000-000000000001",
        name_label="web1",
        memory_static_min=1 * GIB,
        memory_dynamic_min=2 * GIB,
        memory_target=2 * GIB,
        memory_dynamic_max=4 * GIB,
        memory_static_max=4 * GIB,
        domain_type="hvm",
    )
)
STATES = ("Halted", "Running", "Paused", "Suspended")
PLENTY = 64 * GIB

Setter = tuple[str, "Callable[[Vm, int], Vm]"]
Gib = tuple[float, float, float, float, float]


def limits(sm: float, s_max: float, dm: float, d_max: float) -> MemoryLimits:
    """In the order of set_memory_limits, GiB."""
    return MemoryLimits(int(sm * GIB), int(dm * GIB), int(dm * GIB), int(d_max * GIB), int(s_max * GIB))


def dynamic(minimum: float, maximum: float) -> Callable[[Vm, int], Vm]:
    return lambda vm, free: LAW.set_memory_dynamic_range(vm, int(minimum * GIB), int(maximum * GIB), free)


def static(minimum: float, maximum: float) -> Callable[[Vm, int], Vm]:
    return lambda vm, _: LAW.set_memory_static_range(vm, int(minimum * GIB), int(maximum * GIB))


def live(vm: Vm, _: int) -> Vm:
    check_operation(vm, CHANGING_MEMORY_LIVE)
    return vm


def awaited(vm: Vm, _: int) -> Vm:
    check_operation(vm, AWAITING_MEMORY_LIVE)
    return vm


SETTERS: dict[str, Callable[[Vm, int], Vm]] = {
    "set_memory_limits(1G,8G,2G,6G)": lambda vm, _: LAW.set_memory_limits(vm, limits(1, 8, 2, 6)),
    "set_memory_limits(1G,4G,5G,6G)": lambda vm, _: LAW.set_memory_limits(vm, limits(1, 4, 5, 6)),
    "set_memory(2G)": lambda vm, _: LAW.set_memory(vm, 2 * GIB),
    "set_memory(512M)": lambda vm, _: LAW.set_memory(vm, GIB // 2),
    "set_memory_static_max(3G)": static(1, 3),
    "set_memory_static_range(1G,16G)": static(1, 16),
    "set_memory_dynamic_range(1G,3G)": dynamic(1, 3),
    "set_memory_dynamic_min(5G)": dynamic(5, 4),
    "set_memory_dynamic_max(5G)": dynamic(2, 5),
    "set_memory_target_live": live,
    "wait_memory_target_live": awaited,
}
ORDER = ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
HALTED_ONLY = "halted"
BOTH = "halted, running"

# For each setter: what becomes of a halted VM (static_min, dynamic_min, target, dynamic_max, static_max, GiB;
# or the error); of a running VM (None: another power state is expected); the power states that it expects.
MATRIX: list[tuple[str, Gib | list[str], Gib | list[str] | None, str]] = [
    ("set_memory_limits(1G,8G,2G,6G)", (1, 2, 2, 6, 8), None, HALTED_ONLY),
    ("set_memory_limits(1G,4G,5G,6G)", ORDER, None, HALTED_ONLY),
    ("set_memory(2G)", (1, 2, 2, 2, 2), None, HALTED_ONLY),
    ("set_memory(512M)", ORDER, None, HALTED_ONLY),
    ("set_memory_static_max(3G)", ORDER, None, HALTED_ONLY),
    ("set_memory_static_range(1G,16G)", (1, 2, 2, 4, 16), None, HALTED_ONLY),
    ("set_memory_dynamic_range(1G,3G)", (1, 1, 1, 3, 4), (1, 1, 1, 3, 4), BOTH),
    ("set_memory_dynamic_min(5G)", ORDER, ORDER, BOTH),
    ("set_memory_dynamic_max(5G)", ORDER, ORDER, BOTH),
]


def in_state(power_state: str) -> Vm:
    if power_state in {"Halted", "Suspended"}:
        return replace(STORED, power_state=power_state)
    seen = Live(domid=3, power_state=power_state, memory_target=2 * GIB, memory_actual=2 * GIB)
    return STORED.with_live(seen, version=1)


def outcome(name: str, power_state: str, free: int = PLENTY) -> list[str] | Gib:
    """Give the limits in GiB, or the error."""
    try:
        after = SETTERS[name](in_state(power_state), free)
    except XcpmemError as error:
        return [error.code, *error.params]
    found = after.limits
    sizes = (found.static_min, found.dynamic_min, found.target, found.dynamic_max, found.static_max)
    sm, dm, target, d_max, s_max = (size / GIB for size in sizes)
    return (sm, dm, target, d_max, s_max)


@pytest.mark.parametrize("power_state", STATES)
@pytest.mark.parametrize(("name", "halted", "running", "expected"), MATRIX, ids=[row[0] for row in MATRIX])
def test_setter_does_what_xapi_does(
    name: str, halted: Gib | list[str], running: Gib | list[str] | None, expected: str, power_state: str
) -> None:
    refused = ["VM_BAD_POWER_STATE", STORED.ref, expected, power_state.lower()]
    known = {"Halted": halted, "Running": refused if running is None else running}
    assert outcome(name, power_state) == known.get(power_state, refused)


@pytest.mark.parametrize("name", ["set_memory_target_live", "wait_memory_target_live"])
@pytest.mark.parametrize("power_state", STATES)
def test_live_call_wants_a_running_vm_and_changes_nothing(name: str, power_state: str) -> None:
    refused = ["VM_BAD_POWER_STATE", STORED.ref, "running", power_state.lower()]
    assert outcome(name, power_state) == ((1, 2, 2, 4, 4) if power_state == "Running" else refused)


def test_dynamic_min_that_the_host_lacks_is_told_in_kib_before_the_order() -> None:
    assert outcome("set_memory_dynamic_min(5G)", "Running", free=2 * GIB) == [
        *("HOST_NOT_ENOUGH_FREE_MEMORY", "3145728", "2097152"),
    ]
    assert outcome("set_memory_dynamic_min(5G)", "Running", free=3 * GIB) == ORDER
    assert outcome("set_memory_dynamic_min(5G)", "Halted", free=0) == ORDER


def test_overhead_follows_the_static_maximum_of_limits_and_static_range_alone() -> None:
    for name in ("set_memory_limits(1G,8G,2G,6G)", "set_memory(2G)", "set_memory_static_range(1G,16G)"):
        after = SETTERS[name](STORED, PLENTY)
        assert after.memory_overhead == LAW.with_overhead(after).memory_overhead != STORED.memory_overhead
    assert (
        SETTERS["set_memory_dynamic_range(1G,3G)"](STORED, PLENTY).memory_overhead == STORED.memory_overhead
    )
