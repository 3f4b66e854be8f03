"""The ring: look, think, touch, publish. One task, and the only writer to the host.

Callers leave wishes and are answered by a later turn. Every turn looks at the whole host and plans for all
wishes together, so nothing that is lost (an event, a reply, the daemon itself) needs repair: the next look
sees what is missing. It turns when something changed, when somebody wishes, when the plan said so, and else
once in a while for safety.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from xcpmem import commands
from xcpmem.actuation import OBSERVING, Actuator, Deeds
from xcpmem.breather import Breather
from xcpmem.engine.model import DeleteReservation, RecordReservation, Refused, Reservation
from xcpmem.errors import ConnectionLost, DriverError, OperationNotAllowed
from xcpmem.inbox import COMMAND_S, Inbox
from xcpmem.report import Bulletin, CycleReport
from xcpmem.stopwatch import Stopwatch
from xcpmem.thinking import Mind
from xcpmem.troubles import RETRY_S, Orphans, Pause, Retries, Troubles, unforeseen
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.commands import Making
    from xcpmem.engine.model import Action, DynamicRange, HostState, Wishes
    from xcpmem.engine.planner import Plan, PlannerSettings
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.report import Subscriber
    from xcpmem.shadows import Shadows
    from xcpmem.xen.driver import HostDriver, Look

_log = logging.getLogger(__name__)

OBSERVED_GAP_S: Final = 1.0
"""Between two looks at least where another balancer is at work: it need not be followed closer."""

TURN_GAP_S: Final = 0.005
"""Between two turns at least: wishes that arrive together are solved together."""


class Controller:
    """Owns the host driver and the loop around it.

    Args:
        driver: the host.
        policy: who should have how much, to begin with.
        shadows: runs the policies that are not in force; None: nobody does.
        settings: knobs of the planner.
        safety_look_s: the longest time without a look, seconds.
        orphan_s: how long a reservation may stand whose owner is gone, seconds.
        observes: look and think, but touch nothing and promise nothing.
        is_owner: whether an owner still lives; default: everyone does.
        clock: monotonic seconds.
        wall: Unix time, for people only.
    """

    def __init__(
        self,
        driver: HostDriver,
        *,
        policy: ChosenPolicy | None = None,
        shadows: Shadows | None = None,
        settings: PlannerSettings | None = None,
        safety_look_s: float = 30.0,
        orphan_s: float = 600.0,
        observes: bool = False,
        is_owner: Callable[[str], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._driver = driver
        self._mind = Mind(policy, settings, shadows)
        self._safety_look_s = safety_look_s
        self._orphans = Orphans(is_owner, orphan_s)
        self._troubles = Troubles()
        self._clock = clock
        self._wall = wall
        self._inbox = Inbox(self.wake)
        self._actuator = Actuator(driver, self._troubles, clock, self._inbox.answer, observes=observes)
        self._deeds = Deeds()
        self._bulletin = Bulletin()
        self._retries = Retries()
        self._nudge = asyncio.Event()
        self._closing = False
        self.turned_s = clock()
        """When the last turn ended, on the monotonic clock: a ring that hangs falls behind."""

    @property
    def report(self) -> CycleReport | None:
        """The latest turn, None before the first."""
        return self._bulletin.latest

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """Those that stand, by the latest report and what was done since: whoever was granted one sees it."""
        if self.report is None:
            return ()
        actions = (*self.report.actions, *self._deeds.done)
        return reduce(commands.host_after, actions, self.report.look.host).reservations

    def know_owners(self, is_owner: Callable[[str], bool]) -> None:
        """Ask from now on ``is_owner`` whether a reservation's owner still lives."""
        self._orphans.is_owner = is_owner

    def wake(self) -> None:
        """Let the ring turn soon."""
        self._nudge.set()

    def set_range(self, uuid: str, dynamic_range: DynamicRange) -> None:
        """Wish a VM's dynamic range (KiB) from now on, whether it runs or not."""
        self._inbox.set_range(uuid, dynamic_range)

    def forget_range(self, uuid: str) -> None:
        """Obey again what xenstore says of a VM's range."""
        self._inbox.forget_range(uuid)

    def choose_policy(self, policy: ChosenPolicy) -> None:
        """Divide memory by another policy from the next turn on."""
        self._mind.choose(policy)
        self.wake()

    def set_weight(self, uuid: str, weight: int) -> None:
        """Let a VM count so much under policies that weigh."""
        self._inbox.set_weight(uuid, weight)

    async def reserve(
        self,
        *,
        owner: str,
        min_kib: int,
        max_kib: int,
        timeout_s: float = 60.0,
        vm_uuid: str = "",
        reservation_id: str = "",
    ) -> Reservation:
        """Set memory aside, squeezing domains for it where needed.

        Args:
            owner: whose it is; one xenstore node name.
            min_kib: the least that is of use.
            max_kib: the most that is wanted.
            timeout_s: how long to wait for guests, seconds.
            vm_uuid: the VM that is to be started with it, if any.
            reservation_id: what it is to be called, a uuid; asking twice for the same is as asking once.
                Empty: a new one.

        Returns:
            The reservation; its memory is really free and it stands in xenstore.

        Raises:
            NotEnoughMemory: it cannot be had; bytes.
            DomainsUncooperative: it could be had if these domids did as they were asked.
            InvalidValue: min_kib below 0 or above max_kib, or too many requests wait.
            OperationNotAllowed: the daemon only observes.
            DriverError: the time was over and the host refused, or did not answer.
            ConnectionLost: the daemon ended first.
        """
        if self._actuator.observes:
            raise OperationNotAllowed(OBSERVING)
        for reservation in self.reservations:
            if reservation.reservation_id == reservation_id:
                return reservation
        deadline_s = self._clock() + timeout_s
        return await self._inbox.reserve(
            owner, min_kib, max_kib, deadline_s, timeout_s, vm_uuid=vm_uuid, reservation_id=reservation_id
        )

    async def transfer(self, reservation_id: str, domid: int) -> None:
        """Give a reservation to a domain under construction; maxmem is really set when this returns.

        Raises:
            UnknownReservation: there is none of that id, or another domain that is still there has got it.
            InvalidValue: there is no such domain.
            DriverError: the host refused, or did not answer for `COMMAND_S`; then nothing is done later.
        """
        await self._command(commands.transfer(reservation_id, domid))

    async def confirm(self, reservation_id: str, domid: int) -> None:
        """Note in a reservation that the domain which it was for is complete.

        Raises:
            UnknownReservation: there is none of that id.
            InvalidValue: there is no such domain.
            DriverError: the host refused, or did not answer for `COMMAND_S`; then nothing is done later.
        """
        await self._command(commands.confirm(reservation_id, domid))

    async def keep(self, *, owner: str, vm_uuid: str, overhead_kib: int) -> Reservation:
        """Set aside what a VM holds, so that it is still there when its domain has gone.

        Args:
            owner: whose it is; one xenstore node name.
            vm_uuid: the VM that is to be built again.
            overhead_kib: what it costs beside its pages.

        Raises:
            InvalidValue: the VM has no domain.
            DriverError: the host refused, or did not answer for `COMMAND_S`; then nothing is done later.
        """
        done = await self._command(commands.keep(str(uuid4()), owner, vm_uuid, overhead_kib))
        return next(action.reservation for action in done if isinstance(action, RecordReservation))

    async def delete(self, reservation_id: str) -> None:
        """Give a reservation back; an unknown one is no error.

        Raises:
            DriverError: the host refused, or did not answer for `COMMAND_S`; then nothing is done later.
        """
        await self._command(commands.delete(reservation_id))

    async def release(self, owner: str, *, transferred_too: bool = False) -> None:
        """Give back all of an owner's reservations that were not transferred, or really all.

        Raises:
            DriverError: the host refused, or did not answer for `COMMAND_S`; then nothing is done later.
        """
        self._inbox.fail(ConnectionLost, lambda request: request.owner == owner)
        await self._command(commands.release(owner, transferred_too=transferred_too))

    def reservation_of_domain(self, domid: int) -> str | None:
        """Tell which reservation was transferred to a domain, as of the latest look."""
        return next((each.reservation_id for each in self.reservations if each.domid == domid), None)

    async def settle(self, timeout_s: float) -> bool:
        """Wait until a look that began after this call, and knows what came before it, finds the host stable.

        Returns:
            Whether it is; False when the time is over or the daemon ends.
        """
        deadline_s = self._clock() + timeout_s
        with suppress(DriverError):  # then looks fail as well, and nothing is stable
            await self._driver.catch_up()
        self.wake()
        asked_s = self._clock()
        seen = self.report.number if self.report else 0
        while not self._closing and (left_s := deadline_s - self._clock()) > 0:
            report = await self.next_report(seen, left_s)
            if report is None:
                return False
            if report.stable and report.monotonic_s >= asked_s:
                return True
            if report.monotonic_s < asked_s:
                self.wake()
            seen = report.number
        return False

    async def next_report(self, after: int, timeout_s: float) -> CycleReport | None:
        """Wait for a turn later than number ``after``; None when the time is over."""
        return await self._bulletin.next(after, timeout_s)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back, in the loop, after each turn; a subscriber may take the report in steps.

        Returns:
            A function that ends this.
        """
        return self._bulletin.subscribe(callback)

    async def run(self) -> None:
        """Turn until `close`; errors of the host are reported and tried again, never raised."""
        try:
            while not self._closing:
                self._nudge.clear()
                try:
                    pause = await self._turn()
                except Exception as error:  # noqa: BLE001 -- the ring must survive
                    _log.exception("a turn of the ring failed; trying again in %.1f s", RETRY_S[1])
                    self._inbox.expire(unforeseen(error), self._clock())
                    pause = Pause(RETRY_S[1])
                self.turned_s = self._clock()
                await asyncio.sleep(TURN_GAP_S)
                await self._wait(pause)
        finally:
            self._inbox.close()

    async def close(self) -> None:
        """Let `run` end after the present turn; whoever waits gets ConnectionLost."""
        self._closing = True
        self.wake()
        self._inbox.close()

    async def _wait(self, pause: Pause) -> None:
        if self._nudge.is_set():
            return
        changed = asyncio.ensure_future(self._driver.wait(*pause))
        nudged = asyncio.ensure_future(self._nudge.wait())
        try:
            await asyncio.wait({changed, nudged}, timeout=pause.most_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            nudged.cancel()
            await asyncio.gather(changed, nudged, return_exceptions=True)

    async def _turn(self) -> Pause:
        """Go round once; return what to wait for before the next."""
        turn = self._deeds = Deeds()
        try:
            return await self._go_round(turn)
        finally:
            # Not before all is published: whoever commanded something then finds it in the report.
            for command, outcome in turn.outcomes:
                command.answer(outcome)

    async def _go_round(self, turn: Deeds) -> Pause:
        started_s, breather, stopwatch = self._clock(), Breather(), Stopwatch()
        try:
            look = await self._driver.observe()
            await self._obey(look.host, turn)
            if turn.touched:
                look = await self._driver.observe()
        except DriverError as error:
            return self._endure(error, started_s)
        stopwatch.end("look_s")
        await breather.pause()
        now_s = self._clock()
        wishes = self._inbox.wishes(self._troubles.left_alone(look.host, now_s))
        thought = await self._mind.think(look.host, wishes, now_s, breather.pause)
        stopwatch.end("think_s")
        complete = await self._actuator.carry_out(thought.actions, turn)
        stopwatch.end("touch_s")
        for verdict in thought.verdicts:
            if isinstance(verdict, Refused):
                self._inbox.answer(verdict.request_id, verdict.error)
        if not complete:  # then what was granted may not stand
            self._inbox.expire(DriverError(turn.hindrance), now_s)
        self._mind.wonder(look.host, wishes, now_s)
        is_whole = complete and not wishes.left_alone
        await breather.pause()
        report = self._report_of(look, wishes, thought, turn, started_s, complete=is_whole)
        for _ in self._bulletin.spread(report):
            await breather.pause()
        stopwatch.end("publish_s")
        _log.debug("turned", extra={"turn": report.number, **stopwatch.stages_s})
        if not complete:
            return Pause(self._retries.pause_s())
        self._retries.forget()
        pauses_s = [each for each in (self._safety_look_s, thought.look_again_s) if each is not None]
        pause_s = min(pauses_s + self._troubles.pauses_s(now_s))
        least_s = OBSERVED_GAP_S if self._actuator.observes else 0.0
        return Pause(max(pause_s, least_s), thought.enough_kib)

    async def _obey(self, host: HostState, turn: Deeds) -> None:
        """Carry out what callers commanded and what orphans need."""
        host = await self._actuator.obey(self._inbox.take_commands(), host, turn)
        if self._inbox.has_commands:
            self.wake()
        for reservation in self._orphans.find(host, self._clock()):
            _log.warning(
                "freed reservation %s of %s: its owner or domain is no more",
                reservation.reservation_id,
                format_kib(reservation.size_kib),
            )
            await self._actuator.carry_out([DeleteReservation(reservation)], turn)

    async def _command(self, make: Making) -> tuple[Action, ...]:
        return await self._inbox.command(make, self._clock() + COMMAND_S)

    def _endure(self, error: DriverError, started_s: float) -> Pause:
        """Publish a look that failed, end waits that are over, and say when to try again."""
        pause_s = self._retries.pause_s()
        level = logging.DEBUG if self.report else logging.WARNING  # the narration tells of it once
        _log.log(level, "cannot see the host: %s; looking again in %.1f s", error, pause_s)
        self._inbox.expire(error, started_s)
        if self.report is not None:
            self._bulletin.publish(self.report.unseen(error, self._clock() - started_s))
        return Pause(pause_s)

    def _report_of(
        self, look: Look, wishes: Wishes, thought: Plan, turn: Deeds, started_s: float, *, complete: bool
    ) -> CycleReport:
        return CycleReport(
            number=self.report.number + 1 if self.report else 1,
            time_s=self._wall(),
            monotonic_s=started_s,
            look=look,
            reasons=thought.reasons,
            beliefs=thought.beliefs.by_domid,
            actions=tuple(turn.done),
            intended=tuple(turn.intended),
            failures=tuple(turn.failures),
            pending=self._inbox.requests,
            stable=thought.stable and complete and not self._inbox.requests,
            duration_s=self._clock() - started_s,
            stance=self._mind.stance,
            wishes=wishes,
            verdicts=thought.verdicts,
            shadows=self._mind.shadow_plans,
            observes=self._actuator.observes,
        )
