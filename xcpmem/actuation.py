"""Carrying out plans and commands: the ring's hands.

What a plan says is done in its order, and no further than to the first action that fails, but for those of
other domains that need not wait for it; the next look sees what is left to do. Whatever goes wrong with a
domain is noted, so that the plans to come leave it alone for a while and are carried out for all others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final

from xcpmem.commands import host_after
from xcpmem.engine.model import (
    RecordReservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
)
from xcpmem.engine.steps import portions
from xcpmem.errors import ConnectionLost, DomainVanished, DriverError, OperationNotAllowed, XcpmemError
from xcpmem.report import Failure
from xcpmem.troubles import unforeseen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from xcpmem.engine.model import Action, HostState, Reservation
    from xcpmem.inbox import Command
    from xcpmem.troubles import Troubles
    from xcpmem.xen.driver import HostDriver

TOGETHER_MOST: Final = 64
"""Actions that are under way at the same time."""

SURPRISES_MOST: Final = 100
"""So many kinds of exceptions that nobody foresaw are known, and not logged with a traceback again."""

_NOTES: Final = (SetDynamicMin, SetDynamicMax, SetMemoryOffset, SetUncooperative)
"""What moves no memory: where it cannot be noted for one domain, that holds up no other one's notes."""

OBSERVING: Final = "xcpmem only observes this host (--observe)"
"""Why nothing that would change the host is done."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Deeds:
    """What one turn did, failed to do or would have done, while it runs, and how commands came out.

    Args:
        failures: what the host did not do.
        done: actions, in order.
        intended: actions that would have been done if the daemon did not merely observe.
        outcomes: of commands, to be answered at the end of the turn.
        touched: whether anything was tried, so that the host may not be as it was seen.
        hindrance: why the latest plan could not be carried out to its end, a sentence; empty: nothing did.
    """

    failures: list[Failure] = field(default_factory=list)
    done: list[Action] = field(default_factory=list)
    intended: list[Action] = field(default_factory=list)
    outcomes: list[tuple[Command, tuple[Action, ...] | XcpmemError]] = field(default_factory=list)
    touched: bool = False
    hindrance: str = ""


class Actuator:
    """Applies the actions of plans.

    Args:
        driver: the host.
        troubles: where domains are noted that could not be touched.
        clock: monotonic seconds.
        on_recorded: told of each reservation, by its id, once it stands.
        observes: only note what would be done.
    """

    def __init__(
        self,
        driver: HostDriver,
        troubles: Troubles,
        clock: Callable[[], float],
        on_recorded: Callable[[str, Reservation], None],
        *,
        observes: bool = False,
    ) -> None:
        self._driver = driver
        self._troubles = troubles
        self._clock = clock
        self._on_recorded = on_recorded
        self._surprises: deque[tuple[object, ...]] = deque(maxlen=SURPRISES_MOST)
        self.observes = observes

    async def carry_out(self, actions: Sequence[Action], deeds: Deeds) -> bool:
        """Apply actions in order, and note in ``deeds`` what became of them.

        Returns:
            Whether all were applied; after one that was not, later ones were not tried.
        """
        deeds.hindrance = ""
        if self.observes:
            deeds.intended += actions
            return True
        for group in _together(actions):
            await self._touch(group, deeds)
            if deeds.hindrance:
                return False
        return True

    async def obey(self, commands: Iterable[Command], host: HostState, deeds: Deeds) -> HostState:
        """Carry out what callers commanded, and note what is to be answered, whatever happens.

        Each command is made of the host as the ones before it left it. Where the host did not do what a
        command says, nobody knows what came of it: those after it are not taken, and wait for another look.

        Returns:
            The host with what came of them.
        """
        for command in commands:
            outcome: tuple[Action, ...] | XcpmemError = ConnectionLost()
            try:
                actions = command.make(host)
                self._check(actions)
                for action in actions:
                    deeds.touched = True
                    await self._driver.apply(action)
                    deeds.done.append(action)
                    host = host_after(host, action)
                outcome = actions
            except XcpmemError as error:
                outcome = error
            except Exception as error:  # noqa: BLE001 -- the caller must hear something, and the ring survive
                _log.exception("a command ended in an exception that nobody foresaw")
                outcome = unforeseen(error)
            finally:
                deeds.outcomes.append((command, outcome))
            if isinstance(outcome, DriverError):
                break
        return host

    def _check(self, actions: Sequence[Action]) -> None:
        """Refuse what would change a host that is only observed; what changes nothing is no harm."""
        if self.observes and actions:
            raise OperationNotAllowed(OBSERVING)

    async def _touch(self, actions: Sequence[Action], deeds: Deeds) -> None:
        deeds.touched = True
        for action, error in await self._attempt_all(actions):
            if error is None:
                deeds.done.append(action)
                if isinstance(action, RecordReservation):
                    self._on_recorded(action.reservation.reservation_id, action.reservation)
                continue
            failure = Failure.of(action, error)
            deeds.hindrance = deeds.hindrance or str(failure)
            # A domain may end between look and touch; one that is seen again, and cannot be touched, did not.
            if self._note(action) or not isinstance(error, DomainVanished):
                deeds.failures.append(failure)
            else:
                _log.debug("%s", failure)

    def _note(self, action: Action) -> bool:
        """Note that an action's domain, if it has one, could not be touched; tell if that is not new."""
        domid = getattr(action, "domid", None)
        return domid is not None and self._troubles.note(domid, self._clock())

    async def _attempt_all(self, actions: Sequence[Action]) -> list[tuple[Action, DriverError | None]]:
        """Carry out actions that need not wait for each other; tell what came of each that was tried."""
        if isinstance(actions[0], _NOTES):
            return await self._attempt_notes(actions)
        targets = [action for action in actions if isinstance(action, SetTarget)]
        if len(targets) == len(actions) > 1:
            # At one go; each by itself where that fails, which shows whose fault it is.
            error = await self._guard(self._driver.tell(targets), SetTarget, None)
            if error is None:
                return [(action, None) for action in actions]
            _log.debug("telling domains their targets one by one: %s", error)
        async with asyncio.TaskGroup() as tasks:
            attempts = [tasks.create_task(self._attempt(action)) for action in actions]
        return [(action, attempt.result()) for action, attempt in zip(actions, attempts, strict=True)]

    async def _attempt_notes(self, actions: Sequence[Action]) -> list[tuple[Action, DriverError | None]]:
        """Carry out actions one by one, of each domain no further than to the first that fails."""
        attempts: list[tuple[Action, DriverError | None]] = []
        failed: set[int | None] = set()
        for action in actions:
            domid = getattr(action, "domid", None)
            if domid not in failed:
                error = await self._attempt(action)
                attempts.append((action, error))
                if error is not None:
                    failed.add(domid)
        return attempts

    async def _attempt(self, action: Action) -> DriverError | None:
        return await self._guard(self._driver.apply(action), type(action), getattr(action, "domid", None))

    async def _guard(self, doing: Awaitable[None], *what: object) -> DriverError | None:
        """Tell what went wrong; what nobody foresaw concerns the one domain, too, and is logged once."""
        try:
            await doing
        except DriverError as error:
            return error
        except Exception as error:  # noqa: BLE001 -- one domain must not keep the ring from all others
            kind = (*what, type(error))
            if kind not in self._surprises:
                self._surprises.append(kind)
                _log.exception("an action ended in an exception that nobody foresaw")
            return unforeseen(error)
        return None


def _together(actions: Sequence[Action]) -> Iterator[Sequence[Action]]:
    """Split a plan into groups of actions that need not wait for each other, in the order of the plan.

    Targets of several domains can be told at the same time, and so can what Xen lets them hold, but nobody is
    let hold more before all are capped from whom it comes; what is only noted for a domain need not wait for
    another one. All else is done one by one.
    """
    for (kind, _), group in groupby(actions, key=_kind_of):
        yield from portions(list(group), TOGETHER_MOST if kind in (SetTarget, SetMaxmem, _NOTES) else 1)


def _kind_of(action: Action) -> tuple[object, bool]:
    """Give the kind of an action, and whether others of that kind may count on what it frees."""
    kind = _NOTES if isinstance(action, _NOTES) else type(action)
    return kind, isinstance(action, SetMaxmem) and action.frees
