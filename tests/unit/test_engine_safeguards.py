"""Why two of the planner's knobs are on: squeezed's scenarios f and g, with the knob off and on.

Sizes are KiB and small, guests move 0.1 s at a time, and there is no slush fund, as in squeezed's own suite.
"""

from __future__ import annotations

import pytest

from tests.builders import a_request
from tests.plainhost import Guest, Manner, PlainHost, Ring
from xcpmem.engine.model import Granted, Refused
from xcpmem.engine.planner import PlannerSettings

REQUEST = a_request(1000, deadline_s=60.0)


def stuck_beside_willing(settings: PlannerSettings) -> Ring:
    """Domain 0 never moves; domain 1 is to grow at first, and has to give when domain 0 does not."""
    stuck = Guest(0, low_kib=5000, high_kib=7000, actual_kib=7000, manner=Manner(rate_kib_s=0))
    willing = Guest(1, low_kib=5000, high_kib=11000, actual_kib=6000, manner=Manner(rate_kib_s=100))
    return asked(PlainHost([stuck, willing], free_kib=0), settings)


def inexact_with_a_floor(settings: PlannerSettings) -> Ring:
    """Both stop 4 KiB short of their targets, and domain 0 does not go below 1250."""
    low = Manner(rate_kib_s=100, short_kib=4, floor_kib=1250)
    fitful = Manner(rate_kib_s=500, short_kib=4, pause_s=0.25)
    return asked(
        PlainHost(
            [
                Guest(0, low_kib=1000, high_kib=2000, actual_kib=1500, manner=low),
                Guest(1, low_kib=2500, high_kib=4500, actual_kib=3500, manner=fitful),
            ],
            free_kib=0,
        ),
        settings,
    )


def asked(host: PlainHost, settings: PlannerSettings) -> Ring:
    ring = Ring(host, settings)
    ring.ask(REQUEST)
    return ring


def test_growing_before_memory_is_free_promises_what_is_not_there() -> None:
    ring = stuck_beside_willing(PlannerSettings(free_before_growing=False))
    with pytest.raises(AssertionError, match="promises what is not there"):
        ring.run(60, least_tick_s=0.1)


def test_freeing_before_growing_keeps_every_promise() -> None:
    ring = stuck_beside_willing(PlannerSettings())
    ring.run(60, least_tick_s=0.1)
    assert ring.answers == {"r1": Granted("r1", 1000)}
    assert ring.host.starved == []
    assert ring.host.free_kib >= 1000


def test_planning_for_exact_guests_fails_a_request_when_they_are_not() -> None:
    ring = inexact_with_a_floor(PlannerSettings(compensate_inaccuracy=False))
    ring.run(60, least_tick_s=0.1)
    assert isinstance(ring.answers["r1"], Refused)


def test_planning_for_inexact_guests_meets_the_request() -> None:
    ring = inexact_with_a_floor(PlannerSettings())
    ring.run(60, least_tick_s=0.1)
    assert ring.answers == {"r1": Granted("r1", 1000)}
    assert ring.host.free_kib >= 1000
