"""xapi's accounting as its description writes it, in exact fractions, beside the engine's on any VM."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, trunc

from hypothesis import given
from hypothesis import strategies as st

from xcpmem.engine.accounting import (
    NEW_FORMULA,
    OLD_FORMULA,
    AccountingFormula,
    VmShape,
    compute_free_memory,
    footprint_mib,
    maximise_memory,
    memory_overhead,
    required_to_start,
)
from xcpmem.engine.limits import MemoryLimits

KIB, MIB, TIB = 1024, 2**20, 2**40
FORMULAS = {NEW_FORMULA: 38, OLD_FORMULA: 0}

near_mib = st.builds(lambda mib, off: max(0, mib * MIB + off), st.integers(0, 2**22), st.integers(-2, 2))
sizes = st.one_of(near_mib, st.integers(0, 16 * TIB))
shapes = st.builds(
    VmShape,
    st.sampled_from(["hvm", "pvh", "pv", "pv_in_pvh"]),
    sizes,
    st.integers(1, 1024),
    st.one_of(st.sampled_from([1.0, 1.1, 1.25, 1.5, 4.0]), st.floats(1.0, 64.0)),
)
formulas = st.sampled_from(list(FORMULAS))


def written_overhead_mib(shape: VmShape, formula: AccountingFormula, multiplier: float) -> int:
    m = ceil(Fraction(shape.static_max, MIB))
    shadow = max(1, trunc(ceil(Fraction(256 * shape.vcpus + 2 * m, 256)) * multiplier))
    own = {"hvm": 1, "pvh": 1, "pv": 0, "pv_in_pvh": 1}[shape.domain_type] + 1
    shim = 23 + floor(Fraction(m, 90)) if shape.domain_type == "pv_in_pvh" else 0
    return own + shadow + ceil(Fraction(FORMULAS[formula] * shape.vcpus, 256)) + shim


def written_footprint_mib(shape: VmShape, guest: int, formula: AccountingFormula) -> int:
    multiplier = 1.0 if shape.domain_type == "pv" else shape.shadow_multiplier
    return ceil(Fraction(ceil(Fraction(guest, KIB)), KIB)) + written_overhead_mib(shape, formula, multiplier)


@given(shapes, formulas)
def test_overhead_is_what_the_formula_says(shape: VmShape, formula: AccountingFormula) -> None:
    written = written_overhead_mib(shape, formula, shape.shadow_multiplier)
    assert memory_overhead(shape, formula) == written * MIB


@given(shapes, sizes, formulas)
def test_footprint_and_the_memory_test_are_what_the_formulas_say(
    shape: VmShape, guest: int, formula: AccountingFormula
) -> None:
    assert footprint_mib(shape, guest, formula) == written_footprint_mib(shape, guest, formula)
    tested = shape.static_max if shape.domain_type == "pv_in_pvh" else guest
    assert required_to_start(shape, guest, formula) == written_footprint_mib(shape, tested, formula) * MIB


@given(shapes, sizes, formulas, st.booleans())
def test_maximum_fits_in_whole_mib_and_one_more_does_not(
    shape: VmShape, total: int, formula: AccountingFormula, approximate: bool
) -> None:
    vcpus = 64 if approximate else shape.vcpus

    def fits(static_max: int) -> bool:
        sized = VmShape(shape.domain_type, static_max, vcpus, shape.shadow_multiplier)
        return written_footprint_mib(sized, static_max, formula) * MIB <= total

    largest = maximise_memory(shape, total, formula, approximate=approximate)
    assert largest % MIB == 0
    assert fits(largest) or largest == 0
    assert not fits(largest + 1)


@given(sizes, sizes, st.lists(st.tuples(sizes, sizes), max_size=8))
def test_free_memory_is_the_rest_and_never_negative(
    total: int, overhead: int, residents: list[tuple[int, int]]
) -> None:
    rest = total - overhead - sum(map(sum, residents))
    assert compute_free_memory(total, overhead, residents) == max(0, rest)


@given(st.tuples(*[st.integers(-3, 9)] * 5))
def test_limits_are_judged_as_the_rules_are_written(tuple_: tuple[int, int, int, int, int]) -> None:
    sm, dm, target, d_max, s_max = tuple_
    limits = MemoryLimits(sm, dm, target, d_max, s_max)
    assert limits.is_valid is (sm <= dm <= d_max <= s_max)
    assert limits.is_pinned is (dm == d_max)
    assert limits.is_pinned_at_static_max is (sm <= dm == d_max == s_max)
