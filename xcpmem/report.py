"""What one turn of the ring saw, decided and did: the only thing that readers read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.engine.model import Action, DomainState, MemoryRequest, Reason
    from xcpmem.xen.driver import Look


@dataclass(frozen=True, slots=True)
class CycleReport:
    """The latest turn; immutable, so it can be read from anywhere without a lock.

    Args:
        number: turns since the daemon started, from 1.
        time_s: Unix time of the look, seconds.
        monotonic_s: the same on the monotonic clock.
        look: what was seen, before the actions.
        reasons: by domid.
        actions: what was done, in order.
        failures: text per action or look that failed, else empty.
        pending: requests that still wait.
        stable: nothing moves and nothing waits.
        duration_s: how long the turn took.
    """

    number: int
    time_s: float
    monotonic_s: float
    look: Look
    reasons: Mapping[int, Reason] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    failures: tuple[str, ...] = ()
    pending: tuple[MemoryRequest, ...] = ()
    stable: bool = False
    duration_s: float = 0.0

    def domain_by_uuid(self, uuid: str) -> DomainState | None:
        """Find the domain of a VM, or None when it is not running."""
        return next((domain for domain in self.look.host.domains if domain.uuid == uuid), None)
