"""Memory accounting as xapi does it: what a VM costs beside its own memory, and what a host has left.

Pure bookkeeping: it never looks at what Xen really has free. Sizes are bytes unless a name says
otherwise. The formulas are xapi's: xenopsd's memory.ml for the overhead of a VM, xapi's memory_check.ml for
a host's free memory and the test before a start, VM.maximise_memory for the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.errors import InvalidValue, NotEnoughMemory
from xcpmem.units import (
    PAGES_PER_MIB,
    bytes_to_mib_ceil,
    bytes_to_mib_floor,
    kib_to_bytes,
    mib_to_bytes,
    mib_to_kib,
    pages_to_mib_ceil,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

APPROXIMATE_VCPUS: Final = 64
"""``VM.maximise_memory(approximate=true)`` counts with so many, whatever the VM has."""

_SHADOW_PAGES_PER_MIB: Final = 2  # one page for the p2m, one for shadow
_SHADOW_PAGES_PER_VCPU: Final = PAGES_PER_MIB
_EXTERNAL_MIB: Final = 1
_INTERNAL_MIB: Final = {"hvm": 1, "pvh": 1, "pv_in_pvh": 1, "pv": 0}
DOMAIN_TYPES: Final = tuple(_INTERNAL_MIB)
"""The kinds of domains that there is a formula for; xapi's ``unspecified`` has none."""

_SHIM_MIB: Final = 23
_SHIM_DIVISOR: Final = 90  # the shim takes one MiB more per 90 MiB of its guest


@dataclass(frozen=True, slots=True)
class AccountingFormula:
    """Which release of xapi to count like.

    Args:
        vcpu_pages: Xen's own pages per virtual CPU, 0 in older releases.
        reserve_kib: what the host keeps free for Xen and its toolstack, KiB.
    """

    vcpu_pages: int
    reserve_kib: int


NEW_FORMULA: Final = AccountingFormula(vcpu_pages=38, reserve_kib=mib_to_kib(64 + 8))
"""xapi 26.3 and later (CA-423172, CA-423173)."""

OLD_FORMULA: Final = AccountingFormula(vcpu_pages=0, reserve_kib=mib_to_kib(1 + 8))
"""xapi before 26.3, XCP-ng 8.x among it."""


@dataclass(frozen=True, slots=True)
class VmShape:
    """What the overhead of a VM depends on.

    Args:
        domain_type: ``hvm``, ``pvh``, ``pv_in_pvh`` or ``pv``.
        static_max: bytes, 0 or more (less counts as 0).
        vcpus: ``VCPUs_max``, not what it starts with.
        shadow_multiplier: ``HVM_shadow_multiplier``, 1.0 or more.
    """

    domain_type: str
    static_max: int
    vcpus: int
    shadow_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.domain_type not in _INTERNAL_MIB:
            raise InvalidValue("domain_type", self.domain_type)

    @property
    def static_max_mib(self) -> int:
        """static-max in MiB, rounded up."""
        return max(0, bytes_to_mib_ceil(self.static_max))

    @property
    def shadow_mib(self) -> int:
        """What Xen needs to translate the VM's addresses, MiB, at least 1."""
        pages = _SHADOW_PAGES_PER_VCPU * self.vcpus + _SHADOW_PAGES_PER_MIB * self.static_max_mib
        return max(1, int(pages_to_mib_ceil(pages) * self.shadow_multiplier))


def overhead_mib(shape: VmShape, formula: AccountingFormula) -> int:
    """Count what a VM costs the host beside its own memory.

    Args:
        shape: of the VM.
        formula: which xapi to count like.

    Returns:
        MiB.
    """
    shim_mib = 0
    if shape.domain_type == "pv_in_pvh":
        shim_mib = _SHIM_MIB + shape.static_max_mib // _SHIM_DIVISOR
    return (
        _INTERNAL_MIB[shape.domain_type]
        + _EXTERNAL_MIB
        + shape.shadow_mib
        + pages_to_mib_ceil(formula.vcpu_pages * shape.vcpus)
        + shim_mib
    )


def memory_overhead(shape: VmShape, formula: AccountingFormula) -> int:
    """Count ``VM.memory_overhead``.

    Returns:
        Bytes, a whole number of MiB.
    """
    return mib_to_bytes(overhead_mib(shape, formula))


def footprint_mib(shape: VmShape, guest_size: int, formula: AccountingFormula) -> int:
    """Count all that a VM of a given size takes from the host.

    Args:
        shape: of the VM; for a ``pv`` one xapi takes the shadow multiplier as 1 here (and only here).
        guest_size: what the guest itself is to hold, bytes.
        formula: which xapi to count like.

    Returns:
        MiB.
    """
    if shape.domain_type == "pv":
        shape = VmShape(shape.domain_type, shape.static_max, shape.vcpus)
    return bytes_to_mib_ceil(guest_size) + overhead_mib(shape, formula)


def host_memory_overhead(memory_total: int, boot_free: int, reserve_kib: int) -> int:
    """Count ``host.memory_overhead``: what no VM, domain 0 included, can ever have.

    Args:
        memory_total: physical memory, bytes.
        boot_free: what was free before the first guest, domain 0's memory included, bytes.
        reserve_kib: what the host keeps free for Xen and its toolstack, KiB.

    Returns:
        Bytes.
    """
    return memory_total - boot_free + kib_to_bytes(reserve_kib)


def compute_free_memory(memory_total: int, host_overhead: int, residents: Iterable[tuple[int, int]]) -> int:
    """Count what a host has left if everyone shrinks to dynamic-min ("maximum compression").

    Args:
        memory_total: physical memory, bytes.
        host_overhead: ``host.memory_overhead``, bytes.
        residents: (dynamic-min, overhead), bytes, of each VM that is resident or scheduled here, domain 0
            included; one that is both counts twice, as in xapi.

    Returns:
        Bytes, never negative.
    """
    taken = sum(dynamic_min + overhead for dynamic_min, overhead in residents)
    return max(0, memory_total - host_overhead - taken)


def required_to_start(shape: VmShape, dynamic_min: int, formula: AccountingFormula) -> int:
    """Count what a host must have left for a VM to start there.

    Args:
        shape: of the VM.
        dynamic_min: bytes; ``pv_in_pvh`` VMs start with static-max instead.
        formula: which xapi to count like.

    Returns:
        Bytes.
    """
    guest_size = shape.static_max if shape.domain_type == "pv_in_pvh" else dynamic_min
    return mib_to_bytes(footprint_mib(shape, guest_size, formula))


def check_fits(required: int, available: int) -> None:
    """Test whether a host has room for a VM, as before start_on, resume_on and pool_migrate.

    Args:
        required: by `required_to_start`, bytes.
        available: by `compute_free_memory` without the VM itself, bytes.

    Raises:
        NotEnoughMemory: it has not; both sizes in bytes.
    """
    if available < required:
        raise NotEnoughMemory(required, available)


def maximise_memory(shape: VmShape, total: int, formula: AccountingFormula, *, approximate: bool) -> int:
    """Find the largest static-max with which a VM fits into a given amount of memory.

    Args:
        shape: of the VM; its own static-max does not matter.
        total: what it may take altogether, bytes.
        formula: which xapi to count like.
        approximate: count with 64 virtual CPUs, so that the answer holds when some are added.

    Returns:
        Bytes, a whole number of MiB; 0 when not even an empty VM fits.
    """
    vcpus = APPROXIMATE_VCPUS if approximate else shape.vcpus

    def fits(static_max_mib: int) -> bool:
        static_max = mib_to_bytes(static_max_mib)
        sized = VmShape(shape.domain_type, static_max, vcpus, shape.shadow_multiplier)
        return mib_to_bytes(footprint_mib(sized, static_max, formula)) <= total

    # The footprint only grows with the size and in steps of a MiB, so bisection over MiB is exact.
    low_mib, high_mib = 0, max(0, bytes_to_mib_floor(total))
    while low_mib < high_mib:
        middle_mib = (low_mib + high_mib + 1) // 2
        if fits(middle_mib):
            low_mib = middle_mib
        else:
            high_mib = middle_mib - 1
    return mib_to_bytes(low_mib)
