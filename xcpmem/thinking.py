"""The ring's thought: the planner with all that it carries from one turn to the next, and its shadows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xcpmem.engine.belief import Beliefs
from xcpmem.engine.forecast import Stance
from xcpmem.engine.planner import PlannerSettings, deliberate
from xcpmem.engine.policies import find_policy
from xcpmem.watchedpolicy import under_watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.engine.containment import PolicyMemory
    from xcpmem.engine.model import HostState, Wishes
    from xcpmem.engine.planner import Plan
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.engine.shadow import ShadowPlan
    from xcpmem.shadows import Shadows

_log = logging.getLogger(__name__)


class Mind:
    """What decides, and what it has come to believe.

    Args:
        policy: who should have how much, to begin with; None: XCP's rule.
        settings: knobs of the planner.
        shadows: runs the policies that are not in force; None: nobody does.
    """

    def __init__(
        self, policy: ChosenPolicy | None, settings: PlannerSettings | None, shadows: Shadows | None
    ) -> None:
        self._policy = under_watch(policy or find_policy("proportional"))
        self._settings = settings or PlannerSettings()
        self._shadows = shadows
        self._beliefs = Beliefs()

    @property
    def stance(self) -> Stance:
        """What it thinks with, after its latest thought."""
        return Stance(self._beliefs, self._policy, self._settings)

    @property
    def shadow_plans(self) -> Mapping[str, ShadowPlan]:
        """What the policies that are not in force would do, by name, as of their latest run."""
        return self._shadows.plans if self._shadows else {}

    def choose(self, policy: ChosenPolicy) -> None:
        """Divide memory by another policy from the next thought on."""
        self._policy = under_watch(policy)

    async def think(
        self, host: HostState, wishes: Wishes, now_s: float, pause: Callable[[], Awaitable[None]]
    ) -> Plan:
        """Plan one turn, with a pause between its steps, and remember what is to be remembered."""
        steps = deliberate(host, wishes, self._beliefs, now_s, self._policy, settings=self._settings)
        while (thought := next(steps)) is None:
            await pause()
        _tell(self._beliefs.policy, thought.beliefs.policy)
        self._beliefs = thought.beliefs
        return thought

    def wonder(self, host: HostState, wishes: Wishes, now_s: float) -> None:
        """Let the other policies think, once nobody waits for this turn any more."""
        if self._shadows is not None:
            self._shadows.follow(self._policy.name, host, wishes, self._beliefs, now_s)


def _tell(before: PolicyMemory, after: PolicyMemory) -> None:
    """Log that a policy began to err, was set aside, or is well again; once for each, not at each turn."""
    name = after.policy.name if after.policy else ""
    if after.is_set_aside and not before.is_set_aside:
        _log.error("policy %s is set aside, XCP's rule decides for now: %s", name, after.trouble)
    elif after.trouble and after.trouble != before.trouble:
        _log.warning("policy %s erred, its last good plan stays: %s", name, after.trouble)
    elif before.trouble and not after.trouble and before.policy == after.policy:
        _log.info("policy %s is well again", name)
