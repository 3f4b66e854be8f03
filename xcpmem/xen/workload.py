"""What the programs of a simulated guest need, and what it costs them to have less: the guest model.

A guest has three kinds of pages that matter: *hot* anonymous memory that is touched all the time, a *hot
cache* of file pages that are read again and again, and *cold* anonymous memory that was touched once.
What is left of its memory holds file pages that nobody misses. When memory is short, pages go in the
order in which an ideal LRU drops them: the unmissed file pages first, cold memory to swap, then the hot
cache, and hot memory last. What is lacking of the hot kinds slows the programs down, in a straight line up
to `Slowness.anon_factor` and `Slowness.cache_factor` times for all of it; the share of time that is lost,
1 - 1 / (1 + slow-down), is what a Linux kernel counts as memory pressure ("some").

The factors are the peers' study's (9.6). They put the known knees where they were seen: a kernel build that
runs in 340 MB of its 803 MB for 4.8 % more time and falls off a cliff at 300 MB (senpai's README), and a
virtual machine that gains more than 30 % when an idle neighbour's memory is taxed (Waldspurger's fig. 7).

The model has no memory of its own: what is on swap follows from what is wanted and what is held. Pages
come back as soon as there is room, as fast as the balloon lets them. Pure arithmetic on whole KiB, whole
microseconds and millionths, so that a second in one step or in a thousand ends in the same place as long
as size and need stand still.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Sequence

MILLION: Final = 10**6

FAULT_US: Final = 100
"""Reading one page back takes so long: a solid-state disk, as seen by a guest."""

PAGE_KIB: Final = 4


@dataclass(frozen=True, slots=True)
class Slowness:
    """How much lacking memory slows a guest down.

    Args:
        anon_factor: so many times longer, on top, when all hot memory is out.
        cache_factor: likewise when all hot cache is out.
        waste_ppm: millionths of the guest's memory that an LRU which is not ideal keeps filled with pages
            that nobody needs; 0 to 999,999.
    """

    anon_factor: int = 40
    cache_factor: int = 8
    waste_ppm: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.waste_ppm < MILLION:
            raise InvalidValue("waste_ppm", self.waste_ppm)
        if self.anon_factor < 0 or self.cache_factor < 0:
            raise InvalidValue("anon_factor", min(self.anon_factor, self.cache_factor))


class Need(NamedTuple):
    """What a guest's programs and its kernel want at one moment, KiB, each at least 0."""

    hot_kib: int
    cache_kib: int = 0
    cold_kib: int = 0

    @property
    def anon_kib(self) -> int:
        """What an agent can see of it: all but the cache, which looks available."""
        return self.hot_kib + self.cold_kib

    @property
    def whole_kib(self) -> int:
        """What it needs to run at full speed and swap nothing."""
        return self.hot_kib + self.cache_kib + self.cold_kib


class Comfort(NamedTuple):
    """How a guest is doing with the memory that it holds.

    Args:
        swapped_kib: on swap.
        lost_ppm: millionths of its time that are lost to memory.
    """

    swapped_kib: int
    lost_ppm: int


def comfort_of(need: Need, size_kib: int, slowness: Slowness) -> Comfort:
    """Tell how a guest is doing.

    Args:
        need: what it wants.
        size_kib: what it holds.
        slowness: how it takes a lack.
    """
    lacking_kib = need.whole_kib - size_kib
    if slowness.waste_ppm:
        lacking_kib += size_kib * slowness.waste_ppm // MILLION
    if lacking_kib <= 0:
        return Comfort(0, 0)
    cold_out_kib = min(lacking_kib, need.cold_kib)
    lacking_kib -= cold_out_kib
    cache_out_kib = min(lacking_kib, need.cache_kib)
    hot_out_kib = min(lacking_kib - cache_out_kib, need.hot_kib)
    slower_ppm = 0
    if cache_out_kib:
        slower_ppm += slowness.cache_factor * MILLION * cache_out_kib // need.cache_kib
    if hot_out_kib:
        slower_ppm += slowness.anon_factor * MILLION * hot_out_kib // need.hot_kib
    return Comfort(cold_out_kib + hot_out_kib, slower_ppm * MILLION // (MILLION + slower_ppm))


def refault_kib(stall_us: int) -> int:
    """Tell how much a guest read back while it waited for so many microseconds, KiB."""
    return stall_us // FAULT_US * PAGE_KIB


class Appetite:
    """A guest's need over time, and the time that it has lost.

    Args:
        times_us: when the need changes, rising, microseconds of virtual time; there is none before the
            first.
        needs: from each of these times on.
        slowness: how the guest takes a lack.
        now_us: it is born then.
    """

    def __init__(
        self,
        times_us: Sequence[int],
        needs: Sequence[Need],
        slowness: Slowness = Slowness(),
        *,
        now_us: int = 0,
    ) -> None:
        self._times_us = times_us
        self._needs = needs
        self._slowness = slowness
        self._counted_us = now_us
        self._lost = 0

    @property
    def stall_us(self) -> int:
        """The time lost up to the last `count`, microseconds."""
        return self._lost // MILLION

    def need(self, now_us: int) -> Need:
        """Tell what is wanted at a virtual time, microseconds."""
        number = bisect_right(self._times_us, now_us) - 1
        return self._needs[number] if number >= 0 else Need(0)

    def next_change_us(self, now_us: int) -> int | None:
        """Tell when the need changes next after a virtual time, or None if it never does."""
        number = bisect_right(self._times_us, now_us)
        return self._times_us[number] if number < len(self._times_us) else None

    def comfort(self, now_us: int, size_kib: int) -> Comfort:
        """Tell how the guest is doing at a virtual time with so much memory."""
        return comfort_of(self.need(now_us), size_kib, self._slowness)

    def count(self, now_us: int, size_kib: int) -> int:
        """Let time pass with so much memory.

        Args:
            now_us: until this virtual time, microseconds.
            size_kib: what the guest held since the last call.

        Returns:
            All time lost so far, microseconds.
        """
        begin_us = self._counted_us
        while self._times_us and begin_us < now_us:
            change_us = self.next_change_us(begin_us)
            end_us = now_us if change_us is None else min(now_us, change_us)
            self._lost += self.comfort(begin_us, size_kib).lost_ppm * (end_us - begin_us)
            begin_us = end_us
        self._counted_us = max(begin_us, now_us)
        return self.stall_us
