"""Our policies as they are in the registry, with the engine's memory of regrets, as controllers of the rig.

A policy is asked when somebody said something new, when the budget or the guests changed, and when it asked
to be asked again, as the planner does. A division that breaks a bound raises: no run goes on with one.
Sizes KiB, times seconds.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from xcpmem.engine.containment import find_fault
from xcpmem.engine.model import DomainState, DynamicRange
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import Claim, Snapshot
from xcpmem.engine.regret import Watch, watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.policies.rig import Seat
    from xcpmem.engine.policy import State

WEIGHT_UNIT: Final = 1000
"""What a weight of 1 in a case is in the range of ``other_config:xcpmem-weight``."""


class Ours:
    """One of our policies.

    Args:
        policy: its name.
        parameters: those that are not to have their default.
    """

    def __init__(self, policy: str, **parameters: object) -> None:
        self.name = policy
        self._policy = find_policy(policy, parameters)
        self._state: State = {}
        self._watches: dict[int, Watch | None] = {}
        self._seen: tuple[Any, ...] = ()
        self._next_s = 0.0

    def admits(self, size_kib: int, seats: Sequence[Seat], free_kib: int) -> bool:
        """Take every start: the engine lets it wait, or refuses what is impossible."""
        return True

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Ask the policy if it could say anything new."""
        seen = (budget_kib, *((seat.number, id(seat.sample)) for seat in seats))
        if seen == self._seen and now_s < self._next_s:
            return None
        self._seen = seen
        claims = [self._claim(seat, now_s) for seat in seats]
        snapshot = Snapshot(now_s, budget_kib, claims)
        division, self._state = self._policy.plan(snapshot, self._state)
        fault = find_fault(division, snapshot)
        if fault:
            raise AssertionError(f"{self.name} at {now_s} s: {fault}")
        wait_s = division.look_again_s
        self._next_s = inf if wait_s is None else now_s + wait_s
        return {seat.number: goal for seat, goal in zip(seats, division.goals_kib, strict=True)}

    def _claim(self, seat: Seat, now_s: float) -> Claim:
        sample = seat.sample
        uuid = str(seat.number)
        domain = DomainState(
            domid=seat.number + 1,
            uuid=uuid,
            dynamic_range=DynamicRange(seat.min_kib, seat.max_kib),
            target_kib=seat.goal_kib,
            actual_kib=seat.size_kib,
            maxmem_kib=seat.goal_kib,
            sample=sample,
        )
        watched = watch(self._watches.get(seat.number), domain, now_s)
        self._watches[seat.number] = watched
        return Claim(
            min_kib=seat.min_kib,
            max_kib=seat.max_kib,
            low_kib=seat.min_kib,
            high_kib=seat.max_kib,
            domid=domain.domid,
            uuid=uuid,
            target_kib=seat.goal_kib,
            actual_kib=seat.size_kib,
            weight=seat.guest.weight * WEIGHT_UNIT,
            sample=sample if sample is not None and sample.is_fresh(now_s) else None,
            regret_kib=0 if watched is None else watched.regret_at(now_s),
        )
