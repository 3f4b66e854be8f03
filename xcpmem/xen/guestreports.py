"""What guests write of their own memory: text from strangers, read into numbers or not at all.

Three kinds of agents write, each to keys of its own. ``data/meminfo_total`` is not among the keys that are
read: the Rust agent writes it once, Windows counts its balloon in it, and what a guest uses is better told by
what it holds less what it has available.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from xcpmem.xen import paths
from xcpmem.xen.domainkeys import read_size_kib

OWN_BYTES_MOST: Final = 127
"""A report of xcpmem's own agent is shorter than 128 bytes (api-spec/guest-report.md)."""

SWAP_MOST_KIB: Final = 10**11
"""Nobody has 100 TB on swap."""

_NUMBER: Final = "([0-9]{1,15})"
_OWN: Final = re.compile(" ".join([_NUMBER] * 5) + " ([0-7])")
_STALL_ESTIMATED, _STALL_UNKNOWN, _REFAULT_UNKNOWN = 1, 2, 4
_MEMINFO_LINE: Final = re.compile(r"([A-Za-z][A-Za-z0-9_()]*): +([0-9]{1,15}) kB")


class Source(StrEnum):
    """Who speaks, the most telling first; the value is the key."""

    OWN = paths.DATA_XCPMEM_REPORT
    AVAILABLE = paths.DATA_MEMINFO_FREE
    USED = paths.MEMORY_MEMINFO


@dataclass(frozen=True, slots=True)
class Report:
    """What a text says; sizes KiB.

    Args:
        available_kib: what the guest could give to programs without swapping; None: it says what is used.
        used_kib: what is in use, without what is on swap; None: it says what is available.
        swapped_kib: what is on swap.
        stall_us: how long tasks have waited for memory since boot, microseconds; None: not said.
        refault_kib: what was read again after it had been dropped, since boot; None: not said.
        is_estimated: whether ``stall_us`` was guessed from page faults.
        is_lines: whether the text was a whole ``/proc/meminfo``, as xenballoond writes it.
    """

    available_kib: int | None = None
    used_kib: int | None = None
    swapped_kib: int = 0
    stall_us: int | None = None
    refault_kib: int | None = None
    is_estimated: bool = False
    is_lines: bool = False

    def used_of(self, actual_kib: int) -> int | None:
        """Tell what the guest uses of what it holds.

        Args:
            actual_kib: what it held when it said so.

        Returns:
            KiB, or None when the report cannot be true.
        """
        used_kib = self.used_kib
        if used_kib is None:
            used_kib = actual_kib - (self.available_kib or 0)
        is_possible = 0 <= used_kib <= actual_kib and self.swapped_kib <= SWAP_MOST_KIB
        return used_kib if is_possible else None


def read_own(text: str) -> Report | None:
    """Read a report of xcpmem's own agent, six numbers; None if it is none (api-spec/guest-report.md)."""
    match = _OWN.fullmatch(text) if len(text) <= OWN_BYTES_MOST else None
    if match is None:
        return None
    _, available_kib, swapped_kib, stall_us, refault_kib, flags = map(int, match.groups())
    return Report(
        available_kib=available_kib,
        swapped_kib=swapped_kib,
        stall_us=None if flags & _STALL_UNKNOWN else stall_us,
        refault_kib=None if flags & _REFAULT_UNKNOWN else refault_kib,
        is_estimated=bool(flags & _STALL_ESTIMATED),
    )


def own_text(seq: int, report: Report) -> str:
    """Write a report as xcpmem's own agent does; `read_own` makes the same report of it.

    Args:
        seq: counts the agent's reports.
        report: one that says what is available.
    """
    flags = _STALL_ESTIMATED * report.is_estimated
    flags |= _STALL_UNKNOWN * (report.stall_us is None) | _REFAULT_UNKNOWN * (report.refault_kib is None)
    sizes = (report.available_kib or 0, report.swapped_kib, report.stall_us or 0, report.refault_kib or 0)
    return " ".join(map(str, (seq, *sizes, flags)))


def read_available(text: str) -> Report | None:
    """Read ``data/meminfo_free`` of XenServer's agents, a number of KiB; None if it is none."""
    size_kib = read_size_kib(text)
    return None if size_kib is None else Report(available_kib=size_kib)


def read_used(text: str, swap_text: str | None) -> Report | None:
    """Read ``memory/meminfo``: Qubes' agent writes a number, xenballoond a whole ``/proc/meminfo``.

    Args:
        text: the key's value.
        swap_text: of ``memory/swapinfo``, which Qubes' agent writes beside it; what it used on swap is part
            of its number.

    Returns:
        The report; None if it is neither.
    """
    size_kib = read_size_kib(text)
    if size_kib is None:
        return _read_lines(text)
    swapped_kib = read_size_kib(swap_text) or 0
    if swapped_kib > size_kib:
        return None
    return Report(used_kib=size_kib - swapped_kib, swapped_kib=swapped_kib)


def _read_lines(text: str) -> Report | None:
    """Read the lines that matter of a ``/proc/meminfo``; older kernels do not say what is available."""
    sizes_kib = {
        match[1]: int(match[2]) for match in map(_MEMINFO_LINE.fullmatch, text.splitlines()) if match
    }
    available_kib = sizes_kib.get("MemAvailable")
    if available_kib is None:
        if "MemFree" not in sizes_kib:
            return None
        cache_kib = sizes_kib.get("Buffers", 0) + sizes_kib.get("Cached", 0) - sizes_kib.get("Shmem", 0)
        available_kib = sizes_kib["MemFree"] + max(0, cache_kib)
    swapped_kib = sizes_kib.get("SwapTotal", 0) - sizes_kib.get("SwapFree", 0)
    return Report(available_kib=available_kib, swapped_kib=max(0, swapped_kib), is_lines=True)
