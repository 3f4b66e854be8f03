"""The order law, against the vectors of xapi's own tests (MiB: static-min, dynamic-min, target,
dynamic-max, static-max)."""

from __future__ import annotations

import pytest

from xcpmem.engine.limits import MemoryLimits, check_limits, reset_to_safe_defaults, transform
from xcpmem.errors import ConstraintMaxPin, ConstraintOrder
from xcpmem.units import mib_to_bytes

Tuple = tuple[int, int, int, int, int]

PINNED: list[Tuple] = [
    (0, 0, 0, 0, 5),
    (0, 1, 1, 1, 5),
    (0, 2, 2, 2, 5),
    (0, 3, 3, 3, 5),
    (0, 4, 4, 4, 5),
    (0, 5, 5, 5, 5),
]
NOT_PINNED: list[Tuple] = [
    (0, 0, 0, 1, 5),
    (0, 1, 1, 2, 5),
    (0, 2, 2, 3, 5),
    (0, 2, 3, 3, 5),
    (0, 3, 4, 4, 5),
    (0, 4, 5, 5, 5),
]
VALID: list[Tuple] = [
    (0, 1, 2, 3, 4),
    (1, 2, 3, 4, 5),
    (1, 1, 2, 3, 4),
    (1, 2, 3, 4, 4),
    (2, 2, 2, 3, 4),
    (1, 2, 3, 3, 3),
    (3, 3, 3, 3, 4),
    (1, 2, 2, 2, 2),
    (4, 4, 4, 4, 4),
    (1, 1, 1, 1, 1),
]
NOT_VALID: list[Tuple] = [
    (2, 1, 2, 3, 4),
    (4, 1, 2, 3, 4),
    (5, 1, 2, 3, 4),
    (0, 4, 2, 3, 4),
    (0, 5, 2, 3, 4),
    (0, 1, 2, 5, 4),
]
PINNED_AT_STATIC_MAX: list[Tuple] = [(0, 0, 0, 0, 0), (0, 1, 1, 1, 1), (0, 2, 2, 2, 2), (1, 2, 2, 2, 2)]
RESET: list[tuple[Tuple, Tuple]] = [
    ((256, 512, 1024, 2048, 4096), (256, 4096, 4096, 4096, 4096)),
    ((4096, 2048, 1024, 512, 256), (256, 256, 256, 256, 256)),
    ((1024, 1024, 1024, 1024, 1024), (1024, 1024, 1024, 1024, 1024)),
]


def limits_of(sizes_mib: Tuple) -> MemoryLimits:
    return MemoryLimits(*(mib_to_bytes(size) for size in sizes_mib))


@pytest.mark.parametrize("sizes", PINNED)
def test_limits_are_pinned_when_dynamic_min_is_dynamic_max(sizes: Tuple) -> None:
    assert limits_of(sizes).is_pinned


@pytest.mark.parametrize("sizes", NOT_PINNED)
def test_limits_are_not_pinned_when_the_dynamic_range_has_width(sizes: Tuple) -> None:
    assert not limits_of(sizes).is_pinned


@pytest.mark.parametrize("sizes", VALID)
def test_limits_are_valid_when_they_are_in_order(sizes: Tuple) -> None:
    assert limits_of(sizes).is_valid


@pytest.mark.parametrize("sizes", NOT_VALID)
def test_limits_are_not_valid_when_they_are_out_of_order(sizes: Tuple) -> None:
    assert not limits_of(sizes).is_valid


@pytest.mark.parametrize("sizes", PINNED_AT_STATIC_MAX)
def test_limits_are_pinned_at_static_max_when_static_min_is_not_above(sizes: Tuple) -> None:
    assert limits_of(sizes).is_pinned_at_static_max


@pytest.mark.parametrize("sizes", NOT_VALID + NOT_PINNED)
def test_limits_are_not_pinned_at_static_max_when_not_valid_or_not_pinned(sizes: Tuple) -> None:
    assert not limits_of(sizes).is_pinned_at_static_max


@pytest.mark.parametrize(("sizes", "reset"), RESET)
def test_reset_to_safe_defaults_puts_everything_at_static_max(sizes: Tuple, reset: Tuple) -> None:
    assert reset_to_safe_defaults(limits_of(sizes)) == limits_of(reset)


@pytest.mark.parametrize(
    ("sizes", "bent"),
    [
        ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
        ((2, 1, 1, 3, 4), (2, 2, 2, 3, 4)),
        ((0, 1, 9, 5, 4), (0, 1, 4, 4, 4)),
        ((5, 1, 1, 2, 6), (5, 5, 5, 5, 6)),
        ((0, 7, 7, 8, 4), (0, 4, 4, 4, 4)),
    ],
)
def test_transform_clamps_dynamic_into_static_and_target_into_dynamic(sizes: Tuple, bent: Tuple) -> None:
    assert transform(limits_of(sizes)) == limits_of(bent)


@pytest.mark.parametrize("sizes", [(5, 1, 2, 3, 4), (0, 3, 2, 1, 4)])
def test_transform_gives_up_when_a_range_is_upside_down(sizes: Tuple) -> None:
    assert transform(limits_of(sizes)) is None


@pytest.mark.parametrize("sizes", NOT_VALID)
def test_check_limits_reports_order_for_an_ordinary_vm(sizes: Tuple) -> None:
    with pytest.raises(ConstraintOrder) as caught:
        check_limits(limits_of(sizes), pinned_because=None)
    assert caught.value.params == ()


@pytest.mark.parametrize("sizes", NOT_VALID + NOT_PINNED + [(0, 1, 1, 1, 5)])
def test_check_limits_reports_maxpin_when_the_vm_must_be_pinned(sizes: Tuple) -> None:
    with pytest.raises(ConstraintMaxPin) as caught:
        check_limits(limits_of(sizes), pinned_because="control domain")
    assert caught.value.params == ("control domain",)


@pytest.mark.parametrize("sizes", VALID + PINNED + NOT_PINNED)
def test_check_limits_lets_valid_limits_pass(sizes: Tuple) -> None:
    check_limits(limits_of(sizes), pinned_because=None)


@pytest.mark.parametrize("sizes", PINNED_AT_STATIC_MAX)
def test_check_limits_lets_limits_pinned_at_static_max_pass_whatever_the_reason(sizes: Tuple) -> None:
    check_limits(limits_of(sizes), pinned_because="nested virt")


def test_limits_may_be_negative_and_need_no_rounding() -> None:
    check_limits(MemoryLimits(-7, -3, 0, 1, 4097), pinned_because=None)
