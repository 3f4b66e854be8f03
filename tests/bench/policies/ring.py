"""The same workloads by the real planner, on the package's simulated host: what ``xcpmem simulate`` runs.

The rig is fast because it plans no order of actions. This shows that nothing is gained by that: the same case
under the same policy loses about as much time, no invariant is broken, and nothing is over-committed. Cases
with starts, with guests that shrink at another speed than they grow, or with agents that a scenario file has
no word for are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.policies.ours import WEIGHT_UNIT
from tests.bench.policies.rig import weighted_share
from xcpmem.scenario import Scenario
from xcpmem.simulation import Simulation
from xcpmem.specs import AgentKind, AgentSpec, BalloonSpec, GuestSpec, HostSpec, LoadPoint

if TYPE_CHECKING:
    from tests.bench.policies.cases import Case, CaseGuest

RING_CASES: Final = ("hoard", "cache", "phase", "steady", "burst", "stuck", "overload", "big")
SLUSH_KIB: Final = 73728


class RingRun(NamedTuple):
    """What became of a case.

    Args:
        stall_pct: mean over guests and time.
        overcommit_kib: the worst moment.
        broken: invariants that were broken, a sentence each.
    """

    stall_pct: float
    overcommit_kib: int
    broken: list[str]


def run_in_ring(case: Case, policy: str) -> RingRun:
    """Run a case by the real planner; all of it is measured, from the start."""
    simulation = Simulation(scenario_of(case, policy))
    answer = simulation.run()
    stall_pct = 100 * answer["totals"]["stall_s"] / (len(case.guests) * case.duration_s)
    return RingRun(stall_pct, answer["totals"]["overcommit_kib"], simulation.broken)


def scenario_of(case: Case, policy: str) -> Scenario:
    """Write a case as a scenario."""
    shares_kib = weighted_share(case.budget_kib, list(case.guests))
    held_kib = sum(shares_kib)
    return Scenario(
        name=case.name,
        policy=policy,
        deadline_s=case.duration_s,
        tick_s=0.02,
        host=HostSpec(free_kib=SLUSH_KIB + case.budget_kib - held_kib, slush_kib=SLUSH_KIB),
        guests=tuple(
            _guest_spec(number, guest, size_kib)
            for number, (guest, size_kib) in enumerate(zip(case.guests, shares_kib, strict=True), start=1)
        ),
    )


def _guest_spec(domid: int, guest: CaseGuest, size_kib: int) -> GuestSpec:
    return GuestSpec(
        domid=domid,
        dynamic_min_kib=guest.dynamic_min_kib,
        dynamic_max_kib=guest.dynamic_max_kib,
        target_kib=size_kib,
        weight=guest.weight * WEIGHT_UNIT,
        balloon=BalloonSpec(rate_kib_s=float(guest.grows_kib_s), stuck=guest.grows_kib_s == 0),
        load=tuple(LoadPoint(turn.at_s, *turn.need) for turn in guest.turns),
        agent=AgentSpec(kind=AgentKind.EVENTS),
    )
