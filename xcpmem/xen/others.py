"""How much memory belongs to nobody that is balanced: domain 0, Xen's own heaps, page tables.

It is what the total leaves after free memory and the domains' pages. Those two are read one after the other,
so while guests move the difference is wrong by what moved in between, and a plan made from it would chase a
phantom. The figure is therefore taken when nothing moved between two looks; a change that lasts is believed
anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xcpmem.units import mib_to_kib

LASTING: Final = ((mib_to_kib(64), 1.0), (mib_to_kib(1), 10.0))
"""A deviation of more than so many KiB is believed after so many seconds: the first is more than is ever
torn by one look, the second is for hosts on which somebody always moves."""


@dataclass(slots=True)
class Others:
    """Follows the figure from look to look; sizes KiB, times monotonic seconds."""

    _believed_kib: int | None = None
    _previous: tuple[int, int] | None = None
    _deviates_s: tuple[float | None, ...] = (None,) * len(LASTING)

    def learn(self, total_kib: int, free_kib: int, held_kib: int, now_s: float) -> int:
        """Take in one look.

        Args:
            total_kib: physical memory.
            free_kib: free or being scrubbed.
            held_kib: pages of the domains that are balanced.
            now_s: monotonic seconds.

        Returns:
            What belongs to others, KiB.
        """
        seen_kib = total_kib - free_kib - held_kib
        at_rest = self._previous == (free_kib, held_kib)
        self._previous = (free_kib, held_kib)
        believed_kib = self._believed_kib
        if believed_kib is None or at_rest:
            return self._believe(seen_kib)
        self._deviates_s = tuple(
            (since_s if since_s is not None else now_s) if abs(seen_kib - believed_kib) > size_kib else None
            for since_s, (size_kib, _) in zip(self._deviates_s, LASTING, strict=True)
        )
        for since_s, (_, lasting_s) in zip(self._deviates_s, LASTING, strict=True):
            if since_s is not None and now_s - since_s >= lasting_s:
                return self._believe(seen_kib)
        return believed_kib

    def _believe(self, seen_kib: int) -> int:
        self._believed_kib = seen_kib
        self._deviates_s = (None,) * len(LASTING)
        return seen_kib
