"""Section ``planning``: CPU time that the engine spends on one range request, by the number of guests."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Curve, Figure, Goal, ratios
from tests.bench.rig import SIZES
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.model import Granted, MemoryRequest, Wishes
from xcpmem.engine.planner import plan
from xcpmem.engine.policies import find_policy
from xcpmem.scenario import load_scenario
from xcpmem.specs import MICROSECONDS_PER_SECOND, microseconds
from xcpmem.units import mib_to_kib
from xcpmem.xen.simhost import SimHost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.rig import Rig

GOALS_MS: Final = {1000: 10.0, 5000: 50.0}
MEASURED: Final = tuple(sorted({*SIZES, *GOALS_MS}))

SQUEEZED_MS: Final = {1000: 16.0, 5000: 465.0}
"""Its whole run, compiled OCaml, as recorded on another machine."""

STRAIGHT: Final = 1.3
"""How much a curve may bend: five times the guests, at most 5 x this the time."""

_Times = tuple[float, float]


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure all sizes, round by round, and give the figures."""
    times: dict[int, list[_Times]] = {size: [] for size in MEASURED}
    for _ in range(rig.rounds):
        for size in MEASURED:
            times[size].append(_serve_one_request(size))
    arrivals, wholes = (
        {size: tuple(pair[which] for pair in times[size]) for size in MEASURED} for which in (0, 1)
    )
    for size, goal_ms in GOALS_MS.items():
        peers = (("squeezed, its whole run", f"{SQUEEZED_MS[size]:.0f} ms"),)
        yield Figure(f"plan with a request, {size} guests", "ms", arrivals[size], Goal(most=goal_ms), peers)
        yield Figure(f"all plans until it is granted, {size} guests", "ms", wholes[size], None, peers)
    for small, large in ((1000, 5000), (1000, 10000)):
        goal = Goal(most=STRAIGHT * large / small)
        bends = ratios(arrivals[large], arrivals[small])
        yield Figure(f"plan with a request, {large} beside {small} guests", "", bends, goal)
    yield Curve(
        "planning for a range request",
        "ms of CPU",
        "guests",
        {
            "arrival": arrivals,
            "until granted": wholes,
            "squeezed, whole run": {size: (value,) for size, value in SQUEEZED_MS.items()},
        },
        "Bounded by one pass over all guests for each look: accounting, beliefs, division, and the reasons.",
    )


def _serve_one_request(guests: int) -> _Times:
    """Let a fleet serve one range request.

    Returns:
        CPU time of the plan in the turn in which the request arrives, and of all plans until it is
        granted, milliseconds.
    """
    host = SimHost(load_scenario(f"fleet:{guests}"))
    policy = find_policy("proportional")
    size_kib = guests * mib_to_kib(64)
    request = MemoryRequest("bench", "bench", size_kib // 2, size_kib, order=1, deadline_s=1e6)
    at_rest = plan(host.observe().host, Wishes(), Beliefs(), 0.0, policy)
    beliefs, spent_s = at_rest.beliefs, []
    gc.collect()
    while True:
        seen, now_s = host.observe().host, host.now_us / MICROSECONDS_PER_SECOND
        started_s = time.process_time()
        thought = plan(seen, Wishes(requests=(request,)), beliefs, now_s, policy)
        spent_s.append(time.process_time() - started_s)
        beliefs = thought.beliefs
        for action in thought.actions:
            host.apply(action)
        if thought.verdicts:
            (verdict,) = thought.verdicts
            assert isinstance(verdict, Granted), verdict
            return spent_s[0] * 1000, sum(spent_s) * 1000
        host.advance_to(host.now_us + microseconds(thought.look_again_s or 1.0))
