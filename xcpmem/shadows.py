"""The policies that are not in force, run on the ring's looks: what would they do with this host?

They must cost the host next to nothing: they wait while anybody waits for memory, and together they take no
more than a twentieth of the time, however slow they are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from xcpmem.engine.containment import PolicyMemory
from xcpmem.engine.shadow import ShadowPlan, take_snapshot, what_would
from xcpmem.watchedpolicy import under_watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.engine.belief import Beliefs, Caution
    from xcpmem.engine.model import HostState, Wishes
    from xcpmem.engine.policy import ChosenPolicy

GAP_S: Final = 1.0
"""Between two runs at least."""

REST: Final = 19
"""After a run they rest for so many times as long as it took."""


class Shadows:
    """Runs all policies but the one in force.

    Args:
        policies: all of them, by name, with the parameters that they have as shadows.
        caution: the planner's.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        policies: Mapping[str, ChosenPolicy],
        caution: Caution,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caution = caution
        self._policies = {name: under_watch(policy) for name, policy in policies.items()}
        self._clock = clock
        self._next_s = clock()
        self._plans: dict[str, ShadowPlan] = {}

    @property
    def plans(self) -> Mapping[str, ShadowPlan]:
        """By name, what each would do, as of the latest run."""
        return dict(self._plans)

    def follow(self, in_force: str, host: HostState, wishes: Wishes, beliefs: Beliefs, now_s: float) -> None:
        """Run them, if it is time.

        Args:
            in_force: the policy that is not to be run.
            host: the look.
            wishes: as the ring planned with; while any request waits, nothing is run.
            beliefs: as the plan left them.
            now_s: monotonic seconds of the look.
        """
        self._plans.pop(in_force, None)
        began_s = self._clock()
        if wishes.requests or began_s < self._next_s:
            return
        snapshot = take_snapshot(host, wishes, beliefs, now_s, self._caution)
        for name, policy in self._policies.items():
            if name != in_force:
                before = self._plans.get(name)
                memory = before.memory if before else PolicyMemory()
                self._plans[name] = what_would(policy, snapshot, memory)
        ended_s = self._clock()
        self._next_s = max(began_s + GAP_S, ended_s + REST * (ended_s - began_s))
