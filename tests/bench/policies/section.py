"""Section ``policies``: who should have how much, judged by workloads, peers and seeds nobody tuned on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.figures import Figure
from tests.bench.policies.cases import CASES, make_case
from tests.bench.policies.columns import COLUMNS
from tests.bench.policies.kills import figures_of_kills
from tests.bench.policies.promises import figures_of_promises
from tests.bench.policies.runs import cores, run_all
from tests.bench.policies.seeds import HELD_OUT
from tests.bench.policies.verdicts import losses_of, marks_of, safety_of, stalls_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def figures() -> Iterator[Figure]:
    """Run everything on all held-out seeds, which takes about seven minutes of one core, and less of more."""
    cases = list(CASES)
    results = run_all(cases, COLUMNS, HELD_OUT, processes=cores())
    yield from marks_of(results, cases)
    yield from safety_of(results)
    yield from figures_of_kills(make_case("burst", HELD_OUT[0]))
    yield from figures_of_promises(HELD_OUT)
    yield from stalls_of(results, cases)
    for loss in losses_of(results, cases):
        yield Figure(
            f"lost: {loss.case}, {loss.figure}", "", (loss.ours,), None, ((loss.peer, f"{loss.theirs:.3g}"),)
        )
