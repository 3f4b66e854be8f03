"""One simulated guest: its memory, its balloon driver's character, its hunger and what it says of it.

Pure arithmetic on whole KiB and whole microseconds, so that a second passed in one step or in a thousand
ends in the same place; only the time lost while a balloon moves is counted in the steps in which it moves,
each with what the guest held at its start. `simhost` holds the guests and owns the free memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import BalloonState, DomainState, DynamicRange, Lifecycle
from xcpmem.specs import MICROSECONDS_PER_SECOND, microseconds
from xcpmem.xen.driver import DomainDescription
from xcpmem.xen.simagent import SimAgent
from xcpmem.xen.workload import Appetite, Need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.specs import GuestSpec

CREDIT_PER_KIB: Final = MICROSECONDS_PER_SECOND**2
"""Movement is counted in microseconds times millionths of a KiB a second: nothing is lost to rounding."""

NEVER_US: Final = 2**63
"""Later than anything that happens."""


class SimGuest:
    """A guest on the virtual clock.

    Args:
        spec: what it is.
        uuid: of its VM.
        size_kib: what it holds at first; None: what its spec says.
        now_us: virtual time, microseconds.
    """

    def __init__(self, spec: GuestSpec, uuid: str, now_us: int, size_kib: int | None = None) -> None:
        self.spec = spec
        self.uuid = uuid
        self.balloon = spec.balloon
        self.actual_kib = spec.actual_kib if size_kib is None else size_kib
        self.target_kib = spec.target_kib if size_kib is None else size_kib
        self.maxmem_kib = self.target_kib
        self.dynamic_min_kib = spec.dynamic_min_kib
        self.dynamic_max_kib = spec.dynamic_max_kib
        self.lifecycle = Lifecycle.RUNNING
        self.uncooperative = False
        self.initial_reservation_kib = 0
        self.reservation_id: str | None = None
        self._asked_us: int | None = None
        self._credit = 0
        self.appetite = Appetite(
            [microseconds(point.at_s) for point in spec.load],
            [Need(point.wanted_kib, point.cache_kib, point.cold_kib) for point in spec.load],
            now_us=now_us,
        )
        self.agent = SimAgent(spec.agent, now_us)
        self._state: DomainState | None = None

    @property
    def held_kib(self) -> int:
        """What it holds or may take: the greater of actual and maxmem, KiB; Xen gives a dying one no more."""
        if self.lifecycle is Lifecycle.DYING:
            return self.actual_kib
        return max(self.actual_kib, self.maxmem_kib)

    @property
    def gap_kib(self) -> int:
        """How far its target is above what it holds (negative: below), KiB."""
        return self.target_kib - self.actual_kib

    @property
    def goal_kib(self) -> int:
        """Where its balloon driver would take it, given time and free memory, KiB."""
        if not self._is_able() or abs(self.gap_kib) <= self.balloon.inaccuracy_kib:
            return self.actual_kib
        if self.gap_kib > 0:
            goal_kib = min(self.target_kib - self.balloon.inaccuracy_kib, self.maxmem_kib)
            if self.balloon.ceiling_kib:
                goal_kib = min(goal_kib, self.balloon.ceiling_kib)
            return max(goal_kib, self.actual_kib)
        return min(
            max(self.target_kib + self.balloon.inaccuracy_kib, self.balloon.floor_kib), self.actual_kib
        )

    def note_change(self, now_us: int) -> None:
        """Take note that anything about it changed at this virtual time, microseconds."""
        self._state = None
        is_there = abs(self.gap_kib) <= self.balloon.inaccuracy_kib
        if is_there or (self._is_able() and self.goal_kib == self.actual_kib):
            self._asked_us = None
            self._credit = 0
        elif self._asked_us is None:
            self._asked_us = now_us

    def change_balloon(self, changes: Mapping[str, object]) -> None:
        """Change its character; ``changes`` are checked keys of `BalloonSpec`."""
        self.balloon = replace(self.balloon, **changes)  # type: ignore[arg-type]  # checked by the reader

    def move(self, start_us: int, end_us: int, available_kib: int) -> int:
        """Let its balloon driver work.

        Args:
            start_us: from this virtual time, microseconds.
            end_us: until this one.
            available_kib: it cannot take more than this.

        Returns:
            KiB taken, negative if given back; the caller follows up with `note_change`.
        """
        goal_kib = self.goal_kib
        if goal_kib == self.actual_kib or self._asked_us is None:
            return 0
        begin_us = max(start_us, self._asked_us + microseconds(self.balloon.delay_s))
        if begin_us >= end_us:
            return 0
        rate_millionths = round(self.balloon.rate_kib_s * MICROSECONDS_PER_SECOND)
        self._credit += (self._awake_us(end_us) - self._awake_us(begin_us)) * rate_millionths
        step_kib, self._credit = divmod(self._credit, CREDIT_PER_KIB)
        if goal_kib > self.actual_kib:
            moved_kib = min(step_kib, goal_kib - self.actual_kib, available_kib)
        else:
            moved_kib = -min(step_kib, self.actual_kib - goal_kib)
        if moved_kib:
            self.count_stall(end_us)
            self.actual_kib += moved_kib
        return moved_kib

    def wanted_kib(self, now_us: int) -> int:
        """Tell its working set at a virtual time, KiB."""
        return self.appetite.need(now_us).whole_kib

    def count_stall(self, now_us: int) -> int:
        """Count the time that it lost for want of memory.

        Args:
            now_us: until this virtual time, microseconds; it held as much as now since the last call.

        Returns:
            All of it so far, microseconds.
        """
        return self.appetite.count(now_us, self.actual_kib)

    def let_agent_look(self, now_us: int) -> bool:
        """Let its agent look at it.

        Returns:
            Whether the agent said something: `state` has it.
        """
        is_moving = self._is_able() and self.goal_kib != self.actual_kib
        change_us = self.appetite.next_change_us(now_us)
        speaks = self.agent.look(
            now_us,
            size_kib=self.actual_kib,
            anon_kib=self.appetite.need(now_us).anon_kib,
            comfort=self.appetite.comfort(now_us, self.actual_kib),
            stall_us=self.count_stall(now_us),
            rest_us=now_us if is_moving else NEVER_US if change_us is None else change_us,
        )
        if speaks:
            self._state = None
        return speaks

    def state(self) -> DomainState:
        """Describe it for the engine; the same object until something changes."""
        if self._state is None:
            self._state = DomainState(
                domid=self.spec.domid,
                uuid=self.uuid,
                dynamic_range=self._dynamic_range(),
                target_kib=self.target_kib,
                actual_kib=self.actual_kib,
                maxmem_kib=self.maxmem_kib,
                can_balloon=self.balloon.feature,
                lifecycle=self.lifecycle,
                initial_reservation_kib=self.initial_reservation_kib,
                uncooperative=self.uncooperative,
                sample=self.agent.sample,
            )
        return self._state

    def describe(self) -> DomainDescription:
        """Say what it is, beside its memory."""
        return DomainDescription(
            domid=self.spec.domid,
            uuid=self.uuid,
            name_label=self.spec.name_label,
            static_max_kib=self.spec.static_max_kib,
            vcpus=self.spec.vcpus,
            domain_type=self.spec.domain_type,
            balloon_evidence="simulated guest with a balloon driver"
            if self.balloon.feature
            else "simulated guest without a balloon driver",
        )

    def balloon_state(self) -> BalloonState:
        """Say how it really stands to its target, whatever a daemon believes."""
        if not self.balloon.feature:
            return BalloonState.NO_BALLOON
        if abs(self.gap_kib) <= self.balloon.inaccuracy_kib:
            return BalloonState.AT_TARGET
        if not self._is_able():
            return BalloonState.STUCK
        return BalloonState.AT_LIMIT if self.goal_kib == self.actual_kib else BalloonState.MOVING

    def _dynamic_range(self) -> DynamicRange:
        if self.dynamic_min_kib > self.dynamic_max_kib:
            return DynamicRange(self.target_kib, self.target_kib)
        return DynamicRange(self.dynamic_min_kib, self.dynamic_max_kib)

    def _is_able(self) -> bool:
        balloon = self.balloon
        return (
            balloon.feature
            and not balloon.stuck
            and balloon.rate_kib_s > 0
            and self.lifecycle is Lifecycle.RUNNING
        )

    def _awake_us(self, until_us: int) -> int:
        """Count the microseconds up to a time that lie in even intervals of its period."""
        period_us = microseconds(self.balloon.period_s)
        if period_us == 0:
            return until_us
        pairs, rest_us = divmod(until_us, 2 * period_us)
        return pairs * period_us + min(rest_us, period_us)
