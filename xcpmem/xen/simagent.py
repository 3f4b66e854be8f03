"""The agent of a simulated guest: what it says of its memory, and when.

One of kind ``meminfo`` says every ``period_s`` seconds what is available, and nothing else, as the stock
agents do. One of kind ``events`` is xcpmem's own: it also knows of swap, stalls and refaults, looks as
often as `LOOK_S` while something happens, and speaks when what is used moved by more than 16 MiB and 1 % of
the guest, or when 10 ms more were lost, but at most once in `GAP_S` and at least once in `HEARTBEAT_S`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.engine.sample import Sample
from xcpmem.specs import MICROSECONDS_PER_SECOND, AgentKind, microseconds
from xcpmem.units import mib_to_kib
from xcpmem.xen.workload import Comfort, refault_kib

if TYPE_CHECKING:
    from xcpmem.specs import AgentSpec

LOOK_S: Final = 0.1
GAP_S: Final = 1.0
HEARTBEAT_S: Final = 10.0

CHANGE_KIB: Final = mib_to_kib(16)
CHANGE_SHARE: Final = 100
"""... or the guest's size over this, whichever is more."""

STALL_US: Final = 10_000

CENSORED_SHARE: Final = 20
"""With less than its size over this available, and nothing said of stalls, a guest may need more."""


class SimAgent:
    """What runs in a guest and reports.

    Args:
        spec: of what kind it is.
        now_us: it starts then, virtual microseconds.
    """

    def __init__(self, spec: AgentSpec, now_us: int) -> None:
        self._kind = spec.kind
        self._period_s = spec.period_s if spec.kind is AgentKind.MEMINFO else HEARTBEAT_S
        self._period_us = max(1, microseconds(self._period_s))
        self._said_us: int | None = None
        self._need_kib = 0
        self._avail_kib = 0
        self._stall_us = 0
        self._look_us = now_us
        self.sample: Sample | None = None

    @property
    def looks_next_us(self) -> int | None:
        """When it looks at its guest the next time, virtual microseconds; None: never."""
        return None if self._kind is AgentKind.NONE else self._look_us

    @property
    def avail_kib(self) -> int:
        """What it last called available, KiB; 0 before it said anything."""
        return self._avail_kib

    def wake(self, now_us: int) -> None:
        """Let it look soon, because something began at this virtual time, microseconds."""
        if self._kind is AgentKind.EVENTS:
            self._look_us = min(self._look_us, self._soon_us(now_us))

    def look(
        self, now_us: int, *, size_kib: int, anon_kib: int, comfort: Comfort, stall_us: int, rest_us: int
    ) -> bool:
        """Look at the guest, and speak if there is something to say.

        Args:
            now_us: virtual time, at which it wanted to look.
            size_kib: what the guest holds.
            anon_kib: what its programs want apart from caches.
            comfort: how it is doing.
            stall_us: the time it has lost since it started, microseconds.
            rest_us: nothing changes before this virtual time; now: something is going on.

        Returns:
            Whether it spoke; `sample` is what it said.
        """
        used_kib = min(anon_kib - comfort.swapped_kib, size_kib)
        unsaid = self._has_news(size_kib, used_kib + comfort.swapped_kib, stall_us)
        speaks = self._may_speak(now_us, unsaid=unsaid)
        if speaks:
            self._speak(now_us, size_kib, used_kib, comfort.swapped_kib, stall_us)
        self._look_us = (now_us if self._said_us is None else self._said_us) + self._period_us
        if self._kind is AgentKind.EVENTS:
            restless = (unsaid and not speaks) or comfort.lost_ppm > 0
            soon_us = self._soon_us(now_us)
            self._look_us = min(self._look_us, soon_us if restless else max(soon_us, rest_us))
        return speaks

    def _soon_us(self, now_us: int) -> int:
        soon_us = now_us + microseconds(LOOK_S)
        return soon_us if self._said_us is None else max(soon_us, self._said_us + microseconds(GAP_S))

    def _may_speak(self, now_us: int, *, unsaid: bool) -> bool:
        if self._said_us is None or now_us - self._said_us >= self._period_us:
            return True
        is_open = self._kind is AgentKind.EVENTS and now_us - self._said_us >= microseconds(GAP_S)
        return is_open and unsaid

    def _has_news(self, size_kib: int, need_kib: int, stall_us: int) -> bool:
        changed_kib = abs(need_kib - self._need_kib)
        return changed_kib > max(CHANGE_KIB, size_kib // CHANGE_SHARE) or stall_us - self._stall_us > STALL_US

    def _speak(self, now_us: int, size_kib: int, used_kib: int, swapped_kib: int, stall_us: int) -> None:
        self._said_us = now_us
        self._need_kib, self._stall_us = used_kib + swapped_kib, stall_us
        self._avail_kib = size_kib - used_kib
        knows_all = self._kind is AgentKind.EVENTS
        self.sample = Sample(
            seen_s=now_us / MICROSECONDS_PER_SECOND,
            period_s=self._period_s,
            used_kib=used_kib,
            swapped_kib=swapped_kib if knows_all else 0,
            stall_us=stall_us if knows_all else None,
            refault_kib=refault_kib(stall_us) if knows_all else None,
            is_censored=not knows_all and (size_kib - used_kib) * CENSORED_SHARE < size_kib,
            source=str(self._kind),
        )
