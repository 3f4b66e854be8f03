"""What a guest said about its own memory, as the driver heard it.

A guest may say anything; what arrives here was parsed and bounded by the driver. Policies read it, and a
guest without a fresh sample gets what it would get from a policy that knows of none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from xcpmem.errors import InvalidValue

FRESH_PERIODS: Final = 3
"""A sample that is older than so many of its periods is stale (reference: peers' study, 9.5)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One report of a guest; sizes KiB, times seconds.

    Args:
        seen_s: when it arrived, on the monotonic clock of the looks; two that differ in this alone are equal.
        period_s: how often its source reports at the latest.
        used_kib: what the guest held when it arrived, less what it called available: kernel, programs and
            what cannot be dropped. Counted against the size of that moment, so that a guest which has grown
            since does not seem to need more.
        swapped_kib: what it has on swap, which it would use if it had more memory.
        stall_us: how long some of its tasks have waited for memory since it booted, microseconds; None: not
            said.
        refault_kib: what it had to read again after it was dropped, since it booted; None: not said.
        is_censored: whether ``used_kib`` may hide a need: hardly anything is available and nothing is said
            of stalls.
        is_estimated: whether ``stall_us`` was guessed from page faults.
        source: which key it came from, a word for people.
    """

    seen_s: float = field(compare=False)
    period_s: float
    used_kib: int
    swapped_kib: int = 0
    stall_us: int | None = None
    refault_kib: int | None = None
    is_censored: bool = False
    is_estimated: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        sizes = {"used_kib": self.used_kib, "swapped_kib": self.swapped_kib, "stall_us": self.stall_us or 0}
        sizes["refault_kib"] = self.refault_kib or 0
        for name, size in sizes.items():
            if size < 0:
                raise InvalidValue(name, size)
        if self.period_s <= 0:
            raise InvalidValue("period_s", self.period_s)

    @property
    def stale_s(self) -> float:
        """After this time, monotonic seconds, it says nothing about the guest any more."""
        return self.seen_s + FRESH_PERIODS * self.period_s

    def is_fresh(self, now_s: float) -> bool:
        """Tell whether it still says something about the guest at ``now_s``, monotonic seconds."""
        return now_s <= self.stale_s
