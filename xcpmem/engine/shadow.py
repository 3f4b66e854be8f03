"""What another policy would do on the same look, while it moves nothing.

`what_would` is a pure function: the daemon runs it beside the policy in force (`xcpmem.shadows`), a journal
can be replayed through it, and the memory it returns makes the next answer follow from this one as if the
policy had been in force all along, but for what guests say, which comes from the real host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xcpmem.engine.containment import PolicyMemory, divide
from xcpmem.engine.parties import budget_of, parties_of, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.engine.belief import Beliefs, Caution
    from xcpmem.engine.model import HostState, Wishes
    from xcpmem.engine.note import Note
    from xcpmem.engine.policy import ChosenPolicy, Snapshot


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """What a policy would have.

    Args:
        targets_kib: by domid, KiB.
        notes: by domid, why, as the policy says it.
        trouble: what was wrong with its answer, so that this is not its own; empty: nothing.
        memory: to be handed in the next time.
    """

    targets_kib: Mapping[int, int]
    notes: Mapping[int, str | Note] = field(default_factory=dict)
    trouble: str = ""
    memory: PolicyMemory = field(default_factory=PolicyMemory, repr=False)


def take_snapshot(
    host: HostState, wishes: Wishes, beliefs: Beliefs, now_s: float, caution: Caution
) -> Snapshot:
    """Say what any policy is told of a look; reservations that wait take no part.

    Args:
        host: the look.
        wishes: for weights and for who is left alone.
        beliefs: brought up to date with the look, as `Plan.beliefs` is.
        now_s: monotonic seconds of the look.
        caution: the planner's.
    """
    known = tuple(domain for domain in host.domains if domain.domid in beliefs.by_domid)
    parties = parties_of(known, wishes, beliefs, now_s)
    return snapshot_of(budget_of(host, parties), parties, (), now_s, caution)


def what_would(policy: ChosenPolicy, snapshot: Snapshot, memory: PolicyMemory) -> ShadowPlan:
    """Say what a policy would do on a look.

    Args:
        policy: with its parameters.
        snapshot: by `take_snapshot`.
        memory: of its last `ShadowPlan`; empty the first time.
    """
    division, memory = divide(policy, snapshot, memory)
    targets_kib = {
        claim.domid: goal
        for claim, goal in zip(snapshot.claims, division.goals_kib, strict=True)
        if claim.domid is not None
    }
    return ShadowPlan(targets_kib, division.notes, memory.trouble, memory)
