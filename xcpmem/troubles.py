"""What the ring remembers of things that went wrong, so that it neither gives up nor tries without end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.errors import DriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.model import HostState, Reservation

LEFT_ALONE_S: Final = (0.5, 1.5)
"""First and longest time for which a domain is left alone after touching it failed; doubles in between."""


RETRY_S: Final = (0.1, 1.0)
"""First and longest wait after a look or a plan that failed; doubles in between."""


def unforeseen(error: Exception) -> DriverError:
    """Make of an exception that nobody foresaw an error that callers and reports can be told."""
    return DriverError(f"unforeseen {type(error).__name__}: {error}")


class Pause(NamedTuple):
    """What the ring waits for where nothing happens.

    Args:
        most_s: so long, seconds.
        enough_kib: or until so much memory is free; None: however much is.
    """

    most_s: float
    enough_kib: int | None = None


class Retries:
    """How long to wait after each of several failures in a row; seconds."""

    def __init__(self) -> None:
        self._pause_s = RETRY_S[0]

    def pause_s(self) -> float:
        """Say how long to wait after this failure, which the next one will double."""
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, RETRY_S[1])
        return pause_s

    def forget(self) -> None:
        """Begin anew: it worked."""
        self._pause_s = RETRY_S[0]


@dataclass(frozen=True, slots=True)
class _Pause:
    until_s: float
    length_s: float


class Troubles:
    """Domains that could not be touched; times are monotonic seconds."""

    def __init__(self) -> None:
        self._pauses: dict[int, _Pause] = {}

    def note(self, domid: int, now_s: float) -> bool:
        """Leave a domain alone for a while, longer each time in a row; tell if this is not the first time."""
        before = self._pauses.get(domid)
        first_s, longest_s = LEFT_ALONE_S
        length_s = min(before.length_s * 2, longest_s) if before else first_s
        self._pauses[domid] = _Pause(now_s + length_s, length_s)
        return before is not None

    def left_alone(self, host: HostState, now_s: float) -> frozenset[int]:
        """Say which of the domains that are there are not to be touched now.

        One that had its pause is tried again; one that is gone is forgotten.
        """
        if not self._pauses:
            return frozenset()
        domids = {domain.domid for domain in host.domains}
        self._pauses = {
            domid: pause
            for domid, pause in self._pauses.items()
            if domid in domids and now_s < pause.until_s + pause.length_s
        }
        return frozenset(domid for domid, pause in self._pauses.items() if now_s < pause.until_s)

    def pauses_s(self, now_s: float) -> list[float]:
        """Say after how many seconds domains are worth another try."""
        return [pause.until_s - now_s for pause in self._pauses.values() if pause.until_s > now_s]


class Orphans:
    """Reservations whose owner is gone.

    Those that name a VM are not among them: whoever starts VMs brings them to their end.

    Args:
        is_owner: whether an owner still lives.
        patience_s: how long a reservation may stand without one, seconds.
    """

    def __init__(self, is_owner: Callable[[str], bool], patience_s: float) -> None:
        self.is_owner = is_owner
        self._patience_s = patience_s
        self._since_s: dict[str, float] = {}

    def find(self, host: HostState, now_s: float) -> list[Reservation]:
        """List those whose time is over, and those whose domain is gone or dying: it takes no page more."""
        domids = {domain.domid for domain in host.domains if not domain.is_dying}
        self._since_s = {
            r.reservation_id: self._since_s.get(r.reservation_id, now_s)
            for r in host.reservations
            if r.domid is None and not r.vm_uuid and not self.is_owner(r.owner)
        }
        return [
            r
            for r in host.reservations
            if (r.domid is not None and r.domid not in domids and not r.vm_uuid)
            or now_s - self._since_s.get(r.reservation_id, now_s) >= self._patience_s
        ]
