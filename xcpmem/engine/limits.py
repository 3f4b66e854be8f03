"""The order law of a VM's memory limits: static-min <= dynamic-min <= dynamic-max <= static-max.

The service asks `check_limits` before it stores anything. All sizes are bytes, as on XenAPI, and may be
any integer: xapi knows no lower bound, no sign check and no rounding here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xcpmem.errors import ConstraintMaxPin, ConstraintOrder


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """The five sizes that xapi keeps of a VM, bytes, in the order of its own tests.

    They need not be in order: a caller may ask for anything, `check_limits` says whether it can be.

    Args:
        static_min: the least it can be booted with.
        dynamic_min: the least the balancer may leave it.
        target: what it was last told; no rule looks at it.
        dynamic_max: the most the balancer may give it.
        static_max: the most it can ever have, fixed at boot.
    """

    static_min: int
    dynamic_min: int
    target: int
    dynamic_max: int
    static_max: int

    @property
    def is_valid(self) -> bool:
        """Whether static-min <= dynamic-min <= dynamic-max <= static-max."""
        return self.static_min <= self.dynamic_min <= self.dynamic_max <= self.static_max

    @property
    def is_pinned(self) -> bool:
        """Whether the balancer has nothing to decide: dynamic-min = dynamic-max."""
        return self.dynamic_min == self.dynamic_max

    @property
    def is_pinned_at_static_max(self) -> bool:
        """Whether the limits are valid and dynamic-min = dynamic-max = static-max.

        xapi's documentation wants static-min to be equal too, its code does not.
        """
        return self.is_valid and self.is_pinned and self.dynamic_max == self.static_max


def transform(limits: MemoryLimits) -> MemoryLimits | None:
    """Bend limits into order, as xapi does when a VM starts.

    Args:
        limits: as stored, bytes.

    Returns:
        The dynamic range clamped into the static range and the target into the dynamic range; None when
        a range is upside down (static-max < static-min or dynamic-max < dynamic-min).
    """
    if limits.static_max < limits.static_min or limits.dynamic_max < limits.dynamic_min:
        return None
    dynamic_min = _clamp(limits.dynamic_min, limits.static_min, limits.static_max)
    dynamic_max = _clamp(limits.dynamic_max, limits.static_min, limits.static_max)
    target = _clamp(limits.target, dynamic_min, dynamic_max)
    return replace(limits, dynamic_min=dynamic_min, target=target, dynamic_max=dynamic_max)


def reset_to_safe_defaults(limits: MemoryLimits) -> MemoryLimits:
    """Give limits that are always valid: everything at static-max, as xapi does for a VM it cannot trust.

    Args:
        limits: as stored, bytes.

    Returns:
        Limits pinned at static-max, with static-min lowered to it if need be.
    """
    top = limits.static_max
    return MemoryLimits(
        static_min=min(limits.static_min, top),
        dynamic_min=top,
        target=top,
        dynamic_max=top,
        static_max=top,
    )


def check_limits(limits: MemoryLimits, *, pinned_because: str | None) -> None:
    """Refuse limits that a VM must not have.

    Args:
        limits: what it is to have, bytes.
        pinned_because: why the VM must be pinned at static-max, in xapi's words (``DMC disabled``,
            ``control domain``, ``nested virt``); None for ordinary VMs.

    Raises:
        ConstraintOrder: the limits are out of order.
        ConstraintMaxPin: the VM must be pinned at static-max and would not be; also reported for limits
            that are out of order, as xapi does.
    """
    if pinned_because is not None:
        if not limits.is_pinned_at_static_max:
            raise ConstraintMaxPin(pinned_because)
    elif not limits.is_valid:
        raise ConstraintOrder


def _clamp(size: int, low: int, high: int) -> int:
    return max(low, min(size, high))
