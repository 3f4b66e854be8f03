"""What one turn of the ring saw, decided and did: the only thing that readers read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from xcpmem.engine.forecast import Stance
from xcpmem.engine.model import (
    DeleteReservation,
    RecordReservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
    TransferReservation,
    Wishes,
)
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from xcpmem.engine.belief import Belief
    from xcpmem.engine.model import Action, DomainState, MemoryRequest, Verdict
    from xcpmem.engine.reasons import Reason
    from xcpmem.engine.shadow import ShadowPlan
    from xcpmem.errors import DriverError
    from xcpmem.xen.driver import Look


_LOOK: Final = "Look"


def put(action: Action) -> str:
    """Put an action into words: what follows "to" or "could not"."""
    match action:
        case SetTarget(domid, target_kib):
            text = f"set the target of domain {domid} to {format_kib(target_kib)}"
        case SetMaxmem(domid, maxmem_kib):
            text = f"set the maxmem of domain {domid} to {format_kib(maxmem_kib)}"
        case SetDynamicMin(domid, min_kib):
            text = f"set the dynamic-min of domain {domid} to {format_kib(min_kib)}"
        case SetDynamicMax(domid, max_kib):
            text = f"set the dynamic-max of domain {domid} to {format_kib(max_kib)}"
        case SetUncooperative(domid, uncooperative):
            text = f"{'raise' if uncooperative else 'lower'} the flag of domain {domid} for other programs"
        case SetMemoryOffset(domid, offset_kib):
            text = f"note the memory offset of domain {domid}, {format_kib(offset_kib)}"
        case RecordReservation(reservation):
            text = f"set aside {format_kib(reservation.size_kib)}"
        case TransferReservation(reservation, domid):
            text = f"give the {format_kib(reservation.size_kib)} that were set aside to domain {domid}"
        case DeleteReservation(reservation):
            text = f"free the {format_kib(reservation.size_kib)} that were set aside"
    return text


@dataclass(frozen=True, slots=True)
class Failure:
    """Something the host did not do; without the exception, whose frames a report must not keep alive.

    Args:
        kind: the class name of the action, or ``Look``.
        reason: the class name of the error.
        text: a sentence for people.
    """

    kind: str
    reason: str
    text: str

    @classmethod
    def of(cls, action: Action | None, error: DriverError) -> Self:
        """Describe why an action failed, or the look itself (None)."""
        if action is None:
            return cls(_LOOK, type(error).__name__, f"cannot see the host: {error}")
        return cls(type(action).__name__, type(error).__name__, f"could not {put(action)}: {error}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class CycleReport:
    """The latest turn; immutable, so it can be read from anywhere without a lock.

    Args:
        number: turns since the daemon started, from 1.
        time_s: Unix time of the look, seconds.
        monotonic_s: the same on the monotonic clock.
        look: what was seen, before the actions.
        reasons: by domid.
        beliefs: by domid; what is believed of each guest from watching it.
        actions: what was done, in order.
        intended: what would have been done, if the daemon did not merely observe.
        failures: one per action or look that failed, else empty.
        pending: requests that still wait.
        stable: nothing moves and nothing waits.
        duration_s: how long the turn took.
        stance: what the ring thinks with, after this turn.
        wishes: what it thought of.
        verdicts: on requests, as they were planned.
        shadows: what the policies that are not in force would do, by name, as of this or a recent look.
        observes: the daemon looks and thinks, but touches nothing.
    """

    number: int
    time_s: float
    monotonic_s: float
    look: Look
    reasons: Mapping[int, Reason] = field(default_factory=dict)
    beliefs: Mapping[int, Belief] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    intended: tuple[Action, ...] = ()
    failures: tuple[Failure, ...] = ()
    pending: tuple[MemoryRequest, ...] = ()
    stable: bool = False
    duration_s: float = 0.0
    stance: Stance = field(default_factory=Stance)
    wishes: Wishes = field(default_factory=Wishes)
    verdicts: tuple[Verdict, ...] = ()
    shadows: Mapping[str, ShadowPlan] = field(default_factory=dict)
    observes: bool = False

    @property
    def saw_host(self) -> bool:
        """Whether this turn's look worked; else ``look`` is an older one."""
        return all(failure.kind != _LOOK for failure in self.failures)

    def unseen(self, error: DriverError, duration_s: float) -> CycleReport:
        """Give the report of the next turn, whose look failed."""
        return replace(
            self,
            number=self.number + 1,
            actions=(),
            verdicts=(),
            failures=(Failure.of(None, error),),
            stable=False,
            duration_s=duration_s,
        )

    def domain_by_uuid(self, uuid: str) -> DomainState | None:
        """Find the domain of a VM, or None when it is not running."""
        return next((domain for domain in self.look.host.domains if domain.uuid == uuid), None)


Subscriber: TypeAlias = "Callable[[CycleReport], Iterable[None] | None]"
"""Who is told of reports; what it returns, if anything, is gone through step by step."""


class Bulletin:
    """Where reports hang out: the latest one, and those who wait for the next."""

    def __init__(self) -> None:
        self.latest: CycleReport | None = None
        self._subscribers: list[Subscriber] = []
        self._readers: set[asyncio.Future[CycleReport]] = set()

    def publish(self, report: CycleReport) -> None:
        """Make a report the latest and tell everyone."""
        for _ in self.spread(report):
            pass

    def spread(self, report: CycleReport) -> Iterator[None]:
        """Publish in the subscribers' steps, so that others can have their turn in between.

        The report is the latest as soon as the first subscriber knows all of it; so records are never older
        than it. Who waits for a report is told last, when all subscribers know it.
        """
        for callback in list(self._subscribers):
            yield from callback(report) or ()
            self.latest = report
            yield
        self.latest = report
        for reader in self._readers:
            if not reader.done():
                reader.set_result(report)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back, in the loop, with each report; a subscriber may take it in steps.

        Returns:
            A function that ends this.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def next(self, after: int, timeout_s: float) -> CycleReport | None:
        """Wait for a report with a number above ``after``; None when ``timeout_s`` seconds are over."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while self.latest is None or self.latest.number <= after:
            reader: asyncio.Future[CycleReport] = loop.create_future()
            self._readers.add(reader)
            try:
                async with asyncio.timeout_at(deadline_s):
                    await reader
            except TimeoutError:
                return None
            finally:
                self._readers.discard(reader)
        return self.latest
