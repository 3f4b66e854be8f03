"""Section ``planning``: CPU time that the engine spends on one range request, by the number of guests."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Figure, Goal
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

GOALS_MS: Final = {1000: 10.0, 5000: 50.0}
SIZES: Final = (100, *GOALS_MS, 10000)

SQUEEZED_MS: Final = {1000: "16 ms", 5000: "465 ms"}
"""Its whole run, compiled OCaml."""

STRAIGHT: Final = 1.3
"""How much a curve may bend: five times the guests, at most 5 x this the time."""

_Times = tuple[float, float]


def figures(rounds: int) -> Iterator[Figure]:
    """Measure all sizes, round by round, and give the figures."""
    times: dict[int, list[_Times]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            times[size].append(_serve_one_request(size))
    for size in SIZES:
        arrival, whole = ([pair[which] for pair in times[size]] for which in (0, 1))
        peers = (("squeezed, its whole run", SQUEEZED_MS[size]),) if size in SQUEEZED_MS else ()
        goal = Goal(most=GOALS_MS[size]) if size in GOALS_MS else None
        yield Figure(f"plan with a request, {size} guests", "ms", tuple(arrival), goal, peers)
        yield Figure(f"all plans until it is granted, {size} guests", "ms", tuple(whole), None, peers)
    for small, large in ((1000, 5000), (1000, 10000)):
        ratios = tuple(b[0] / a[0] for a, b in zip(times[small], times[large], strict=True))
        goal = Goal(most=STRAIGHT * large / small)
        yield Figure(f"plan with a request, {large} beside {small} guests", "", ratios, goal)


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
