"""Why each domain has the target it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.engine.belief import balloon_state
from xcpmem.engine.model import BalloonState, Motive, Reason

if TYPE_CHECKING:
    from xcpmem.engine.belief import Belief, Caution
    from xcpmem.engine.model import DomainState


def reason_to_move(
    domain: DomainState,
    belief: Belief,
    caution: Caution,
    *,
    target_kib: int,
    wanted_kib: int,
    goal_kib: int,
) -> Reason:
    """Say why a domain that can be moved is asked for what it is asked for.

    Args:
        domain: as seen.
        belief: what is believed of its guest.
        caution: the thresholds.
        target_kib: what it is told after this turn.
        wanted_kib: what it will be told once memory is free.
        goal_kib: what the policy gives it.
    """
    dynamic = domain.dynamic_range
    state = balloon_state(belief, domain, caution)
    if state is BalloonState.AT_TARGET or state is BalloonState.MOVING:
        on_the_way = abs(wanted_kib - domain.actual_kib) > caution.inaccuracy_kib
        state = BalloonState.MOVING if on_the_way else BalloonState.AT_TARGET
    if belief.direction >= 0 and belief.meets_ceiling(domain.actual_kib, caution):
        motive = Motive.CEILING
    elif belief.direction < 0 and belief.gave_up(caution):
        motive = Motive.FLOOR
    elif dynamic.min_kib == dynamic.max_kib:
        motive = Motive.PINNED
    elif wanted_kib > target_kib:
        motive = Motive.WAITS
    elif wanted_kib >= dynamic.max_kib:
        motive = Motive.ALL
    else:
        motive = Motive.MINIMUM if wanted_kib <= dynamic.min_kib else Motive.SHARE
    return Reason(state, motive, goal_kib, target_kib, domain.actual_kib, dynamic)


def reason_to_stay(domain: DomainState, belief: Belief, caution: Caution) -> Reason:
    """Say why a domain is not asked for anything: it has no driver, or it is left alone for now."""
    return Reason(
        balloon_state(belief, domain, caution),
        Motive.LEFT_ALONE if domain.can_balloon else Motive.NO_DRIVER,
        domain.target_kib,
        domain.target_kib,
        domain.actual_kib,
        domain.dynamic_range,
    )
