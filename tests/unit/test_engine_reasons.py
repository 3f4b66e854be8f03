from __future__ import annotations

import pytest

from tests.builders import CAUTION, a_domain
from xcpmem.engine.belief import Belief
from xcpmem.engine.model import BalloonState, Lifecycle
from xcpmem.engine.reasons import Motive, reason_to_move, reason_to_stay

GUEST = a_domain(1000, 3000, 2000)
BELIEF = Belief(GUEST.uuid, GUEST.dynamic_range, mark_kib=2000)


@pytest.mark.parametrize(
    ("belief", "target_kib", "wanted_kib", "motive", "state"),
    [
        (BELIEF, 2000, 2000, Motive.SHARE, BalloonState.AT_TARGET),
        (BELIEF, 2500, 2500, Motive.SHARE, BalloonState.MOVING),
        (BELIEF, 2000, 2500, Motive.WAITS, BalloonState.MOVING),
        (BELIEF, 3000, 3000, Motive.ALL, BalloonState.MOVING),
        (BELIEF, 1000, 1000, Motive.MINIMUM, BalloonState.MOVING),
        (
            BELIEF._replace(direction=1, waited_s=9.0, ceiling_kib=2000),
            2010,
            2010,
            Motive.CEILING,
            BalloonState.AT_LIMIT,
        ),
        (BELIEF._replace(ceiling_kib=2000), 2000, 2000, Motive.CEILING, BalloonState.AT_LIMIT),
        (
            BELIEF._replace(direction=-1, waited_s=9.0, floor_kib=2000),
            1500,
            2000,
            Motive.FLOOR,
            BalloonState.STUCK,
        ),
        (
            BELIEF._replace(direction=-1, waited_s=9.0, floor_kib=2000, moved=True),
            1500,
            2000,
            Motive.FLOOR,
            BalloonState.AT_LIMIT,
        ),
        (BELIEF._replace(direction=-1, ceiling_kib=2000), 1500, 1500, Motive.SHARE, BalloonState.MOVING),
    ],
)
def test_movable_domain_has_the_reason_that_decided(
    belief: Belief, target_kib: int, wanted_kib: int, motive: Motive, state: BalloonState
) -> None:
    reason = reason_to_move(
        GUEST, belief, CAUTION, target_kib=target_kib, wanted_kib=wanted_kib, goal_kib=1234
    )
    assert (reason.motive, reason.state) == (motive, state)
    assert (reason.goal_kib, reason.target_kib, reason.actual_kib) == (1234, target_kib, 2000)


def test_pinned_domain_has_its_pin_for_a_reason() -> None:
    pinned = a_domain(2000, 2000, 2000)
    reason = reason_to_move(pinned, BELIEF, CAUTION, target_kib=2000, wanted_kib=2000, goal_kib=2000)
    assert reason.motive is Motive.PINNED


def test_domain_that_is_left_alone_is_where_it_is() -> None:
    paused = a_domain(1000, 3000, 2000, target_kib=2500, lifecycle=Lifecycle.PAUSED)
    reason = reason_to_stay(paused, BELIEF, CAUTION)
    assert (reason.motive, reason.state) == (Motive.LEFT_ALONE, BalloonState.AT_TARGET)
    assert (reason.goal_kib, reason.target_kib, reason.actual_kib) == (2500, 2500, 2000)


def test_domain_without_a_driver_says_so() -> None:
    deaf = a_domain(1000, 3000, 2000, can_balloon=False)
    reason = reason_to_stay(deaf, BELIEF, CAUTION)
    assert (reason.motive, reason.state) == (Motive.NO_DRIVER, BalloonState.NO_BALLOON)
