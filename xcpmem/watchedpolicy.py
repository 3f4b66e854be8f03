"""A policy with a watch on it: an answer that came too late counts as none.

The engine has no clock, so it cannot see that a policy is slow; whoever runs it wraps it in this. It cannot
be cut short, for it runs in the ring's own thread, but it can be kept from being asked again and again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from xcpmem.engine.policy import ChosenPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.parameters import Parameters
    from xcpmem.engine.policy import Division, Policy, Snapshot, State

SLOW_S: Final = 0.2
"""An answer that took more computing time than this is too late (the peers' study, 9.8)."""

SLOW_CLAIM_S: Final = 0.0001
"""... but a host of many domains gets so much for each."""

WAITED: Final = 10
"""By the clock on the wall an answer may take so many times as long: a busy machine is not the policy's
fault, but a policy that waits for something is."""


@dataclass(frozen=True, slots=True)
class WatchedPolicy:
    """Another policy, timed.

    Args:
        watched: the one that thinks.
        computing: seconds that this thread has computed.
        clock: monotonic seconds.
    """

    watched: Policy
    computing: Callable[[], float] = field(default=time.thread_time, compare=False)
    clock: Callable[[], float] = field(default=time.monotonic, compare=False)

    @property
    def name(self) -> str:
        """The other's name."""
        return self.watched.name

    @property
    def about(self) -> str:
        """The other's line for lists."""
        return self.watched.about

    @property
    def parameters(self) -> type[Parameters]:
        """The other's parameters."""
        return self.watched.parameters

    def plan(self, snapshot: Snapshot, state: State, parameters: Any) -> tuple[Division, State]:
        """Let the other think.

        Raises:
            TimeoutError: it took too long.
        """
        started_s, began_s = self.computing(), self.clock()
        answer = self.watched.plan(snapshot, state, parameters)
        computed_s, took_s = self.computing() - started_s, self.clock() - began_s
        most_s = max(SLOW_S, SLOW_CLAIM_S * len(snapshot.claims))
        if computed_s > most_s or took_s > WAITED * most_s:
            raise TimeoutError(
                f"thought for {computed_s:.3f} s and took {took_s:.3f} s, at most {most_s:g} s"
            )
        return answer


def under_watch(chosen: ChosenPolicy) -> ChosenPolicy:
    """Put a watch on a policy, if there is none yet."""
    if isinstance(chosen.policy, WatchedPolicy):
        return chosen
    return ChosenPolicy(WatchedPolicy(chosen.policy), chosen.parameters)
