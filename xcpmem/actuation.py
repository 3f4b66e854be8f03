"""Carrying out plans: the ring's hands.

What a plan says is done in its order, and no further than to the first action that fails; the next look sees
what is left to do.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import RecordReservation, SetMaxmem, SetTarget
from xcpmem.engine.steps import portions
from xcpmem.errors import DomainVanished, DriverError, OperationNotAllowed, XcpmemError
from xcpmem.report import Failure, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from xcpmem.engine.model import Action, HostState, Reservation
    from xcpmem.inbox import Command
    from xcpmem.troubles import Troubles
    from xcpmem.xen.driver import HostDriver

TOGETHER_MOST: Final = 64
"""Actions that are under way at the same time."""

OBSERVING: Final = "xcpmem only observes this host (--observe)"
"""Why nothing that would change the host is done."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Deeds:
    """What one turn did, failed to do or would have done, while it runs, and how commands came out."""

    failures: list[Failure] = field(default_factory=list)
    done: list[Action] = field(default_factory=list)
    intended: list[Action] = field(default_factory=list)
    outcomes: list[tuple[Command, tuple[Action, ...] | XcpmemError]] = field(default_factory=list)


class Actuator:
    """Applies the actions of plans.

    Args:
        driver: the host.
        troubles: where domains are noted that could not be touched.
        clock: monotonic seconds.
        on_recorded: told of each reservation once it stands.
        observes: only note what would be done.
    """

    def __init__(
        self,
        driver: HostDriver,
        troubles: Troubles,
        clock: Callable[[], float],
        on_recorded: Callable[[Reservation], None],
        *,
        observes: bool = False,
    ) -> None:
        self._driver = driver
        self._troubles = troubles
        self._clock = clock
        self._on_recorded = on_recorded
        self.observes = observes

    async def carry_out(self, actions: Sequence[Action], deeds: Deeds) -> bool:
        """Apply actions in order, and note in ``deeds`` what became of them.

        Returns:
            Whether all were applied; after one that was not, later ones were not tried.
        """
        if self.observes:
            deeds.intended += actions
            return True
        for group in _together(actions):
            if not await self._touch(group, deeds):
                return False
        return True

    async def obey(self, commands: Iterable[Command], host: HostState, deeds: Deeds) -> bool:
        """Carry out what callers commanded, and note what is to be answered; tell if the host was touched."""
        touched = False
        for command in commands:
            try:
                if self.observes:
                    raise OperationNotAllowed(OBSERVING)
                actions = command.make(host)
                for action in actions:
                    touched = True
                    await self._driver.apply(action)
                    deeds.done.append(action)
            except XcpmemError as error:
                deeds.outcomes.append((command, error))
            else:
                deeds.outcomes.append((command, actions))
        return touched

    async def _touch(self, actions: Sequence[Action], deeds: Deeds) -> bool:
        errors = await self._attempt_together(actions)
        for action, error in zip(actions, errors, strict=True):
            if error is None:
                deeds.done.append(action)
                if isinstance(action, RecordReservation):
                    self._on_recorded(action.reservation)
            elif isinstance(error, DomainVanished):
                _log.debug("could not %s: %s", put(action), error)
            else:
                deeds.failures.append(Failure.of(action, error))
                if (domid := getattr(action, "domid", None)) is not None:
                    self._troubles.note(domid, self._clock())
        return not any(errors)

    async def _attempt_together(self, actions: Sequence[Action]) -> list[DriverError | None]:
        """Tell targets at one go; each by itself where that fails, which shows whose fault it is."""
        targets = [action for action in actions if isinstance(action, SetTarget)]
        if len(targets) == len(actions) > 1:
            try:
                await self._driver.tell(targets)
            except DriverError as error:
                _log.debug("telling domains their targets one by one: %s", error)
            else:
                return [None] * len(actions)
        async with asyncio.TaskGroup() as tasks:
            attempts = [tasks.create_task(self._attempt(action)) for action in actions]
        return [attempt.result() for attempt in attempts]

    async def _attempt(self, action: Action) -> DriverError | None:
        try:
            await self._driver.apply(action)
        except DriverError as error:
            return error
        return None


def _together(actions: Sequence[Action]) -> Iterator[Sequence[Action]]:
    """Split a plan into groups of actions that need not wait for each other, in the order of the plan.

    Targets of several domains can be told at the same time, and so can what Xen lets them hold; all else is
    done one by one.
    """
    for kind, group in groupby(actions, key=type):
        yield from portions(list(group), TOGETHER_MOST if kind in {SetTarget, SetMaxmem} else 1)
