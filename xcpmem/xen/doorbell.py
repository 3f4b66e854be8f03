"""Wakes the ring when something changed at the host, and keeps guests from ringing without end.

What dom0 writes rings at once, but for the targets that we write ourselves. What a guest can write rings at
most once a second for each guest, and for all guests together a few times a second: a guest that writes
without end costs one look a second, a thousand guests that report at their own times cost as much as one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from xcpmem.xen import paths
from xcpmem.xen.domainkeys import CONFIGURATION_KEYS, is_at_or_above
from xcpmem.xen.guestsamples import REPORT_KEYS
from xcpmem.xen.mailbox import ChangedPaths, Events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GUEST_GAP_S: Final = 1.0
"""Between two rings for what one guest wrote, at least; xcpmem's own agent keeps it too."""
GAP_S: Final = 0.25
"""Between two rings for what guests wrote, at least."""

_READ_KEYS: Final = CONFIGURATION_KEYS | REPORT_KEYS
_GUEST_DIRECTORIES: Final = ("data", "control")
"""The directories themselves do not ring: each watch fires for its own once at first, then hardly ever."""
_GUEST_KEYS: Final = frozenset({paths.MEMORY_MEMINFO, paths.MEMORY_SWAPINFO})


class Doorbell:
    """Holds the changed paths until the ring takes them.

    Args:
        take_events: empties what xenstore has gathered.
        guest_gap_s: see `GUEST_GAP_S`.
        gap_s: see `GAP_S`.
        clock: monotonic seconds; default: the loop's.
    """

    def __init__(
        self,
        take_events: Callable[[], Events],
        *,
        guest_gap_s: float = GUEST_GAP_S,
        gap_s: float = GAP_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._take_events = take_events
        self._guest_gap_s = guest_gap_s
        self._gap_s = gap_s
        self._clock = clock
        self._changed = ChangedPaths()
        self._rung = asyncio.Event()
        self._held: dict[int, set[str]] = {}
        self._due_s: dict[int, float] = {}
        self._all_due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._own: set[str] = set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it rings, at most ``timeout_s`` seconds; tell whether it did."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    def ring(self) -> None:
        """Ring for what happened elsewhere."""
        self._rung.set()

    def take(self) -> Events:
        """Return what it rang for, and be still."""
        self._rung.clear()
        return self._changed.take()

    def expect(self, written: Iterable[str]) -> None:
        """Know that the next event of each of these paths comes of a write of ours, and need not ring."""
        self._own.update(written)

    def forget(self, unwritten: Iterable[str]) -> None:
        """Know that these paths were not written after all."""
        self._own.difference_update(unwritten)

    def hear(self) -> None:
        """Take note that xenstore has gathered something; in the loop."""
        events = self._take_events()
        loud = set()
        for path in filter(matters, events.paths):
            key = paths.domain_key(path)
            if path in self._own:
                self._own.discard(path)
                self._changed.add(path)
            elif key is None:
                loud.add(path)
            elif key[1] in _GUEST_DIRECTORIES:
                self._changed.add(path)
            elif _is_guests(key[1]):
                self._held.setdefault(key[0], set()).add(path)
            else:
                loud.add(path)
        if events.resync:
            self._own.clear()
        if loud or events.resync:
            self._changed.merge(Events(frozenset(loud), events.resync))
            self._rung.set()
        self._let_through()

    def close(self) -> None:
        """Ring no more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_through(self) -> None:
        """Ring for what was held long enough, and come back for the rest."""
        if not self._held:
            return
        loop = asyncio.get_running_loop()
        now_s = self._clock() if self._clock is not None else loop.time()
        due_s = {domid: max(self._due_s.get(domid, 0.0), self._all_due_s) for domid in self._held}
        ready = [domid for domid, at_s in due_s.items() if at_s <= now_s]
        if ready:
            self._due_s = {domid: at_s for domid, at_s in self._due_s.items() if at_s > now_s}
            self._all_due_s = now_s + self._gap_s
            for domid in ready:
                self._changed.merge(Events(frozenset(self._held.pop(domid))))
                self._due_s[domid] = now_s + self._guest_gap_s
            self._rung.set()
        self.close()
        if self._held:
            next_s = min(max(self._due_s.get(domid, 0.0), self._all_due_s) for domid in self._held)
            self._timer = loop.call_later(max(0.0, next_s - now_s), self._let_through)


def matters(path: str) -> bool:
    """Tell whether anything is read that a change of a path may have changed."""
    key = paths.domain_key(path)
    return key is None or key[1] in _GUEST_DIRECTORIES or any(is_at_or_above(key[1], k) for k in _READ_KEYS)


def _is_guests(key: str) -> bool:
    """Tell whether a guest can write a key of its own domain."""
    return key in _GUEST_KEYS or key.partition("/")[0] in _GUEST_DIRECTORIES
