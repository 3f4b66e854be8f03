"""xapi's memory accounting, against worked figures of its formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xcpmem.engine.accounting import (
    NEW_FORMULA,
    OLD_FORMULA,
    VmShape,
    check_fits,
    compute_free_memory,
    footprint_mib,
    host_memory_overhead,
    maximise_memory,
    memory_overhead,
    required_to_start,
)
from xcpmem.errors import InvalidValue, NotEnoughMemory

GIB = 2**30
MIB = 2**20

OVERHEADS = [
    (VmShape("hvm", 8589934592, 2), 66, 72351744, 71303168),
    (VmShape("hvm", 4294967296, 1), 33, 37748736, 36700160),
    (VmShape("hvm", 2147483648, 2, 4.0), 72, 78643200, 77594624),
    (VmShape("hvm", 536870912, 8), 12, 16777216, 14680064),
    (VmShape("hvm", 8589934593, 2), 67, 73400320, 72351744),
    (VmShape("pv", 4294967296, 2), 34, 37748736, 36700160),
    (VmShape("pv", 268435456, 1), 3, 5242880, 4194304),
    (VmShape("pv_in_pvh", 1073741824, 1), 9, 48234496, 47185920),
]


@pytest.mark.parametrize(("shape", "shadow_mib", "new", "old"), OVERHEADS)
def test_memory_overhead_agrees_with_xapi(shape: VmShape, shadow_mib: int, new: int, old: int) -> None:
    assert shape.shadow_mib == shadow_mib
    assert memory_overhead(shape, NEW_FORMULA) == new
    assert memory_overhead(shape, OLD_FORMULA) == old


def test_memory_overhead_of_pvh_is_that_of_hvm() -> None:
    shape = VmShape("hvm", 3 * GIB, 3, 1.5)
    assert memory_overhead(shape, NEW_FORMULA) == memory_overhead(
        replace(shape, domain_type="pvh"), NEW_FORMULA
    )


def test_shadow_is_truncated_after_the_multiplier() -> None:
    shape = VmShape("hvm", 1024 * MIB, 2, 1.25)
    assert replace(shape, shadow_multiplier=1.0).shadow_mib == 10
    assert shape.shadow_mib == 12


def test_shadow_is_at_least_a_mib() -> None:
    assert VmShape("hvm", 0, 0).shadow_mib == 1


def test_shape_refuses_a_domain_type_that_has_no_formula() -> None:
    with pytest.raises(InvalidValue) as caught:
        VmShape("unspecified", GIB, 1)
    assert caught.value.params == ("domain_type", "unspecified")


def test_footprint_of_pv_ignores_the_shadow_multiplier_that_its_overhead_counts() -> None:
    plain, doubled = VmShape("pv", 4 * GIB, 2), VmShape("pv", 4 * GIB, 2, 2.0)
    assert footprint_mib(doubled, 2 * GIB, NEW_FORMULA) == footprint_mib(plain, 2 * GIB, NEW_FORMULA)
    assert memory_overhead(doubled, NEW_FORMULA) > memory_overhead(plain, NEW_FORMULA)


def test_footprint_of_hvm_counts_the_shadow_multiplier() -> None:
    shape = VmShape("hvm", 4 * GIB, 2, 2.0)
    assert footprint_mib(shape, 2 * GIB, NEW_FORMULA) == 2048 + 1 + 1 + 68 + 1


def test_footprint_rounds_a_single_byte_up_to_a_mib() -> None:
    shape = VmShape("hvm", GIB, 1)
    assert footprint_mib(shape, GIB + 1, NEW_FORMULA) == footprint_mib(shape, GIB, NEW_FORMULA) + 1


def test_host_overhead_is_what_boot_took_and_the_reserve() -> None:
    total = 16 * GIB
    assert host_memory_overhead(total, total - 320 * MIB, NEW_FORMULA.reserve_kib) == 411041792


def test_reserve_follows_the_release() -> None:
    assert (NEW_FORMULA.reserve_kib, OLD_FORMULA.reserve_kib) == (73728, 9216)


def test_free_memory_follows_the_worked_example_of_a_host() -> None:
    residents = [
        (2147483648, memory_overhead(VmShape("pv", 2 * GIB, 4), NEW_FORMULA)),
        (4294967296, memory_overhead(VmShape("hvm", 8 * GIB, 2), NEW_FORMULA)),
        (2147483648, memory_overhead(VmShape("hvm", 2 * GIB, 1), NEW_FORMULA)),
        (8589934592, memory_overhead(VmShape("hvm", 8 * GIB, 4), NEW_FORMULA)),
    ]
    assert [overhead for _, overhead in residents] == [23068672, 72351744, 20971520, 74448896]
    free = [compute_free_memory(16 * GIB, 411041792, residents[:count]) for count in (1, 2, 3, 4)]
    assert free == [14598275072, 10230956032, 8062500864, 0]


def test_memory_test_asks_for_dynamic_min_and_for_static_max_of_pv_in_pvh() -> None:
    hvm, shim = VmShape("hvm", 8 * GIB, 2), VmShape("pv_in_pvh", GIB, 1)
    assert required_to_start(hvm, 2 * GIB, NEW_FORMULA) == (2048 + 69) * MIB
    assert required_to_start(shim, 512 * MIB, NEW_FORMULA) == (1024 + 46) * MIB


def test_memory_test_passes_when_it_just_fits_and_names_both_sizes_when_not() -> None:
    check_fits(100, 100)
    with pytest.raises(NotEnoughMemory) as caught:
        check_fits(101, 100)
    assert caught.value.params == ("101", "100")


@pytest.mark.parametrize(
    ("shape", "total", "largest"),
    [
        (VmShape("hvm", 0, 2), 4294967296, 4256169984),
        (VmShape("pv", 0, 1), 1073741824, 1062207488),
        (VmShape("hvm", 0, 1), 3145728, 0),
        (VmShape("hvm", 0, 1), 0, 0),
        (VmShape("hvm", 0, 1), -1, 0),
    ],
)
def test_maximise_memory_agrees_with_xapi(shape: VmShape, total: int, largest: int) -> None:
    assert maximise_memory(shape, total, NEW_FORMULA, approximate=False) == largest


@pytest.mark.parametrize("domain_type", ["hvm", "pv", "pvh", "pv_in_pvh"])
def test_maximise_memory_fits_and_one_mib_more_does_not(domain_type: str) -> None:
    total = 5 * GIB + 12345
    shape = VmShape(domain_type, 0, 3, 1.3)
    largest = maximise_memory(shape, total, NEW_FORMULA, approximate=False)
    for size, fits in ((largest, True), (largest + MIB, False)):
        sized = replace(shape, static_max=size)
        assert (footprint_mib(sized, size, NEW_FORMULA) * MIB <= total) is fits


def test_maximise_memory_counts_with_64_vcpus_when_approximate() -> None:
    total = 4 * GIB
    exact = maximise_memory(VmShape("hvm", 0, 64), total, NEW_FORMULA, approximate=False)
    assert maximise_memory(VmShape("hvm", 0, 2), total, NEW_FORMULA, approximate=True) == exact
