"""The free pages of a simulated machine, clean and not yet clean."""

from __future__ import annotations

from xcpmem.specs import MICROSECONDS_PER_SECOND
from xcpmem.xen.simguest import CREDIT_PER_KIB


class FreePages:
    """What no domain holds; pages that a domain freed may have to be scrubbed before they can be used.

    Args:
        free_kib: usable at once, KiB.
        scrub_kib_s: how fast freed pages are cleaned, KiB a second; 0: at once.
    """

    def __init__(self, free_kib: int, scrub_kib_s: float) -> None:
        self.free_kib = free_kib
        self.scrub_kib = 0
        self._rate_millionths = round(scrub_kib_s * MICROSECONDS_PER_SECOND)
        self._credit = 0

    @property
    def physical_kib(self) -> int:
        """All of it, scrubbed or not, KiB."""
        return self.free_kib + self.scrub_kib

    def take(self, size_kib: int) -> None:
        """Give so much away, clean pages first; there must be so much."""
        clean_kib = min(size_kib, self.free_kib)
        self.free_kib -= clean_kib
        self.scrub_kib -= size_kib - clean_kib

    def release(self, size_kib: int) -> None:
        """Take pages back from a guest; negative: give it some that are clean."""
        if size_kib > 0 and self._rate_millionths:
            self.scrub_kib += size_kib
        else:
            self.free_kib += size_kib

    def scrub(self, elapsed_us: int) -> bool:
        """Clean pages for so many microseconds, and tell whether any came of it."""
        if not self.scrub_kib:
            return False
        self._credit += elapsed_us * self._rate_millionths
        clean_kib, self._credit = divmod(self._credit, CREDIT_PER_KIB)
        clean_kib = min(clean_kib, self.scrub_kib)
        self.scrub_kib -= clean_kib
        self.free_kib += clean_kib
        if not self.scrub_kib:
            self._credit = 0
        return clean_kib > 0
