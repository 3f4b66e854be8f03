"""Whatever anybody asks for, no VM ever has limits out of order, and a refused call changes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import a_domain, a_host, uuid_of
from tests.replay import ReplayRing, describe
from xcpmem.engine.accounting import (
    NEW_FORMULA,
    OLD_FORMULA,
    AccountingFormula,
    VmShape,
    footprint_mib,
    maximise_memory,
)
from xcpmem.engine.limits import MemoryLimits, reset_to_safe_defaults, transform
from xcpmem.errors import ConstraintOrder, XcpmemError
from xcpmem.service import Service
from xcpmem.store import Store
from xcpmem.units import mib_to_bytes, mib_to_kib
from xcpmem.vm import Vm

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

GIB: Final = mib_to_kib(1024)
GIB_BYTES: Final = mib_to_bytes(1024)
INT64: Final = 2**63 - 1

round_sizes = st.integers(0, 64).map(lambda n: n * GIB_BYTES // 8)
sizes = st.one_of(
    round_sizes,
    round_sizes.map(lambda size: size + 1),
    st.sampled_from([-1, INT64, -INT64]),
    st.integers(-INT64, INT64),
)
any_limits = st.builds(MemoryLimits, sizes, sizes, sizes, sizes, sizes)
shapes = st.builds(
    VmShape,
    st.sampled_from(["hvm", "pv", "pvh", "pv_in_pvh"]),
    st.integers(0, 1 << 42),
    st.integers(1, 256),
    st.floats(1.0, 16.0),
)

RUNNING, HALTED, NESTED = uuid_of(1), "halted", "nested"
SEEDS: Final = [
    Vm(
        uuid=uuid,
        name_label=uuid,
        memory_static_min=0,
        memory_static_max=4 * GIB_BYTES,
        memory_dynamic_min=GIB_BYTES,
        memory_dynamic_max=4 * GIB_BYTES,
        memory_target=GIB_BYTES,
        platform=platform,
    )
    for uuid, platform in ((HALTED, {}), (NESTED, {"nested-virt": "true"}))
]

Call = tuple[str, str, tuple[float, ...]]
setters: Final[dict[str, Callable[..., Coroutine[None, None, None]]]] = {
    "limits": lambda s, u, a, b, c, d: s.set_memory_limits(
        u, static_min=a, static_max=d, dynamic_min=b, dynamic_max=c
    ),
    "memory": lambda s, u, a, *_: s.set_memory(u, a),
    "static_range": lambda s, u, a, b, *_: s.set_memory_static_range(u, a, b),
    "static_min": lambda s, u, a, *_: s.set_memory_static_min(u, a),
    "static_max": lambda s, u, a, *_: s.set_memory_static_max(u, a),
    "dynamic_range": lambda s, u, a, b, *_: s.set_memory_dynamic_range(u, a, b),
    "dynamic_min": lambda s, u, a, *_: s.set_memory_dynamic_min(u, a),
    "dynamic_max": lambda s, u, a, *_: s.set_memory_dynamic_max(u, a),
    "shadow": lambda s, u, a, *_: s.set_HVM_shadow_multiplier(u, float(a)),
    "shadow_live": lambda s, u, a, *_: s.set_shadow_multiplier_live(u, float(a)),
    "vcpus": lambda s, u, a, *_: s.set_VCPUs_max(u, a % 200 if a % 3 else a),
}
calls = st.tuples(
    st.sampled_from(sorted(setters)),
    st.sampled_from([RUNNING, HALTED, NESTED, "zero"]),
    st.tuples(sizes, sizes, sizes, sizes).map(lambda four: tuple(sorted(four))),
)


@given(any_limits)
def test_transform_gives_valid_limits_or_none(limits: MemoryLimits) -> None:
    bent = transform(limits)
    if bent is None:
        assert limits.static_max < limits.static_min or limits.dynamic_max < limits.dynamic_min
    else:
        assert bent.is_valid
        assert bent.dynamic_min <= bent.target <= bent.dynamic_max
        assert transform(bent) == bent
        assert (bent.static_min, bent.static_max) == (limits.static_min, limits.static_max)


@given(any_limits)
def test_safe_defaults_are_valid_and_pinned_at_static_max(limits: MemoryLimits) -> None:
    safe = reset_to_safe_defaults(limits)
    assert safe.is_pinned_at_static_max
    assert safe.static_max == limits.static_max


@given(shapes, st.integers(0, 1 << 44), st.booleans(), st.sampled_from([NEW_FORMULA, OLD_FORMULA]))
def test_maximise_memory_is_the_largest_that_fits(
    shape: VmShape, total: int, approximate: bool, formula: AccountingFormula
) -> None:
    largest = maximise_memory(shape, total, formula, approximate=approximate)
    vcpus = 64 if approximate else shape.vcpus

    def fits(size: int) -> bool:
        sized = replace(shape, static_max=size, vcpus=vcpus)
        return mib_to_bytes(footprint_mib(sized, size, formula)) <= total

    assert largest % mib_to_bytes(1) == 0
    assert largest == 0 or fits(largest)
    assert not fits(largest + mib_to_bytes(1))


async def apply_all(state_dir: Path, plan: list[Call]) -> None:
    ring = ReplayRing()
    service = Service(Store(state_dir), ring, clock=ring.clock)
    await service.start()
    await service.seed(SEEDS)
    domain = a_domain(GIB, 3 * GIB)
    host = a_host(domain, free_kib=8 * GIB, slush_kib=mib_to_kib(72))
    host = replace(host, total_kib=host.total_kib + GIB)
    descriptions = {1: describe(domain, static_max_kib=4 * GIB, domain_type="hvm")}
    ring.feed(host, descriptions=descriptions)
    await service.seed([])
    (zero,) = (vm.uuid for vm in service.vms().values() if vm.is_control_domain)
    for setter, name, arguments in plan:
        uuid = zero if name == "zero" else name
        before, free, wishes = dict(service.vms()), service.compute_free_memory(), dict(ring.wishes)
        try:
            await setters[setter](service, uuid, *arguments)
        except XcpmemError:
            assert dict(service.vms()) == before
            assert ring.wishes == wishes
        else:
            after = dict(service.vms())
            assert {changed for changed in after if after[changed] != before[changed]} == {uuid}
            if uuid == RUNNING:
                assert service.compute_free_memory() >= 0
                assert after[uuid].memory_dynamic_min - before[uuid].memory_dynamic_min <= free
        for vm in service.vms().values():
            assert vm.limits.is_valid
            if vm.is_control_domain:
                assert vm.limits.is_pinned_at_static_max
    shown = {uuid: replace(vm.with_live(None, 0), memory_target=0) for uuid, vm in service.vms().items()}
    await service.close()
    store = Store(state_dir)
    stored = (await store.load()).vms
    await store.close()
    assert {uuid: replace(vm, memory_target=0) for uuid, vm in stored.items()} == shown


@settings(max_examples=60, deadline=None)
@given(st.lists(calls, max_size=25))
def test_no_sequence_of_calls_leaves_limits_out_of_order_or_half_a_change(plan: list[Call]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(apply_all(Path(folder), plan))


@given(any_limits)
def test_vm_can_only_be_born_in_order(limits: MemoryLimits) -> None:
    try:
        vm = SEEDS[0].with_limits(limits)
    except ConstraintOrder:
        assert not limits.is_valid
    else:
        assert vm.limits == limits
        assert limits.is_valid
