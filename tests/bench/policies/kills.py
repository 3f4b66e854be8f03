"""Reservations made while memory moves and the daemon dies: none may be lost, nothing over-promised.

The real planner runs a case on the simulated host; every few seconds memory is reserved, the daemon dies as
by kill -9 a little later, each time at another distance, and what was acknowledged is claimed from the next.
``python -m tests.kills`` does the same to whole programs, between any two of their actions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.figures import Figure, Goal
from tests.bench.policies.ring import SLUSH_KIB, scenario_of
from xcpmem.engine.policies import POLICIES
from xcpmem.script import DeleteReservation, KillDaemon, ReserveMemory, ScriptCall, TransferReservation
from xcpmem.simulation import Simulation
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.policies.cases import Case

KILLS: Final = 30
EVERY_S: Final = 12.0
LATER_S: Final = 0.13
DOWN_S: Final = 1.0
CLAIMED_S: Final = 8.0
SIZE_KIB: Final = mib_to_kib(1024)


class KillsRun(NamedTuple):
    """What became of reservations.

    Args:
        acknowledged: so many were granted before the daemon died.
        lost: so many of them could not be claimed afterwards.
        cut_off: so many were not answered, since the daemon died first.
        overcommit_kib: the worst moment.
        below_slush_kib: how far Xen's free memory was below the slush at the worst moment.
        broken: invariants that were broken, a sentence each.
    """

    acknowledged: int
    lost: int
    cut_off: int
    overcommit_kib: int
    below_slush_kib: int
    broken: list[str]


def run_with_kills(case: Case, policy: str) -> KillsRun:
    """Run the first minutes of a case with a kill after each reservation."""
    calls = []
    for number in range(KILLS):
        at_s, name = EVERY_S * (number + 1), f"r{number}"
        calls += [
            ScriptCall(at_s, ReserveMemory(size_kib=SIZE_KIB, as_name=name)),
            ScriptCall(round(at_s + LATER_S * number, 2), KillDaemon(down_s=DOWN_S)),
            ScriptCall(at_s + CLAIMED_S, TransferReservation(reservation=name, domid=1)),
            ScriptCall(at_s + CLAIMED_S + 1, DeleteReservation(domid=1)),
        ]
    scenario = scenario_of(replace(case, duration_s=EVERY_S * (KILLS + 2)), policy)
    simulation = Simulation(replace(scenario, script=tuple(sorted(calls, key=lambda call: call.at_s))))
    answer = simulation.run()
    asked = [call for call in answer["calls"] if call["call"] == "reserve_memory"]
    claimed = [call for call in answer["calls"] if call["call"] == "transfer_reservation_to_domain"]
    return KillsRun(
        acknowledged=sum(call["ok"] for call in asked),
        lost=sum(a["ok"] and not b["ok"] for a, b in zip(asked, claimed, strict=True)),
        cut_off=sum(not call["ok"] for call in asked),
        overcommit_kib=answer["totals"]["overcommit_kib"],
        below_slush_kib=max(0, SLUSH_KIB - answer["totals"]["min_free_kib"]),
        broken=simulation.broken,
    )


def figures_of_kills(case: Case) -> Iterator[Figure]:
    """Run a case under each of our policies, and say what was lost."""
    runs = {policy: run_with_kills(case, policy) for policy in POLICIES}
    beside = tuple(
        (policy, f"{run.acknowledged} kept, {run.cut_off} cut off") for policy, run in runs.items()
    )
    for words, unit, worst in (
        ("acknowledged reservations lost over kill -9", "", sum(run.lost for run in runs.values())),
        ("kill -9: overcommit", "KiB", max(run.overcommit_kib for run in runs.values())),
        ("kill -9: free memory below the slush", "KiB", max(run.below_slush_kib for run in runs.values())),
        ("kill -9: broken invariants", "", sum(len(run.broken) for run in runs.values())),
    ):
        yield Figure(f"all of ours: {words}", unit, (float(worst),), Goal(most=0), beside)
