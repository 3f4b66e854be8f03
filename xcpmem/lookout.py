"""Waiting until a look at the host shows what somebody waits for.

Only looks count that began after the waiting did: an older one may not know yet what was just done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import NotSeen

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.model import DomainState
    from xcpmem.report import CycleReport
    from xcpmem.ring import Ring

LOOK_GAP_S: Final = 1.0
"""While somebody waits the host is looked at this often, even if it gives no sign of itself."""

LOOK_S: Final = 30.0
"""A look that takes longer is given up."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A VM's domain as it was seen.

    Args:
        domain: as the ring takes it.
        lifecycle: what it does by itself: a domain for which memory is set aside counts as being built,
            also when it has long been complete.
        is_zombie: whether it is dying and gives no page back any more: it will not be gone for long.
    """

    domain: DomainState
    lifecycle: Lifecycle
    is_zombie: bool = False

    @property
    def domid(self) -> int:
        """Xen's number."""
        return self.domain.domid

    @property
    def is_dying(self) -> bool:
        """Whether it was destroyed and only gives back its pages."""
        return self.lifecycle is Lifecycle.DYING

    @property
    def is_down(self) -> bool:
        """Whether its guest has ended, or ended with the domain."""
        return self.lifecycle in {Lifecycle.SUSPENDED, Lifecycle.DYING}


class Lookout:
    """Follows the ring's reports for those who wait.

    Args:
        ring: the controller.
        clock: the one by which it stamps its reports, monotonic seconds.
    """

    def __init__(self, ring: Ring, clock: Callable[[], float]) -> None:
        self._ring = ring
        self._clock = clock

    async def look(self, uuid: str) -> Sight | None:
        """Look at a VM's domain now; None when it has none. Raises NotSeen."""
        return await self.until(uuid, lambda _: True, LOOK_S, "the host was not seen")

    async def until(
        self, uuid: str, is_so: Callable[[Sight | None], bool], within_s: float, complaint: str
    ) -> Sight | None:
        """Wait until a VM's domain is as somebody waits for.

        Args:
            uuid: of the VM.
            is_so: tells it by the domain, None when there is none; what it raises ends the waiting.
            within_s: how long to wait, seconds.
            complaint: what to say when that was not enough.

        Returns:
            What was seen.

        Raises:
            NotSeen: the complaint, with the time.
        """
        report = await self.report_until(lambda each: is_so(sight_of(each, uuid)), within_s, complaint)
        return sight_of(report, uuid)

    async def report_until(
        self, is_so: Callable[[CycleReport], bool], within_s: float, complaint: str
    ) -> CycleReport:
        """Wait for a report that is as somebody waits for; see `until`."""
        loop, asked_s = asyncio.get_running_loop(), self._clock()
        deadline_s = loop.time() + within_s
        number = self._ring.report.number if self._ring.report else 0
        self._ring.wake()
        while (left_s := deadline_s - loop.time()) > 0:
            report = await self._ring.next_report(number, min(left_s, LOOK_GAP_S))
            if report is None:
                self._ring.wake()
                continue
            number = report.number
            if report.monotonic_s < asked_s:
                self._ring.wake()
            elif report.saw_host and is_so(report):
                return report
        raise NotSeen(f"{complaint} within {within_s:g} s")


def sight_of(report: CycleReport, uuid: str) -> Sight | None:
    """Find a VM's domain in a report: the newest that lives, or else one that is still dying."""
    domains = [domain for domain in report.look.host.domains if domain.uuid == uuid]
    if not domains:
        return None
    domain = max(domains, key=lambda each: (each.lifecycle is not Lifecycle.DYING, each.domid))
    description = report.look.descriptions.get(domain.domid)
    decay, caution = report.stance.beliefs.decays.get(domain.domid), report.stance.settings.caution
    return Sight(
        domain,
        description.lifecycle if description else domain.lifecycle,
        is_zombie=decay is not None and not decay.goes_on(report.monotonic_s, caution),
    )
