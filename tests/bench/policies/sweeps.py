"""The model's constants, one at a time: where does the ranking change?"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.policies.columns import COLUMNS
from tests.bench.policies.intervals import interval
from tests.bench.policies.marks import PRESSURE
from tests.bench.policies.rig import Circumstances
from tests.bench.policies.runs import PEERS, Results, run_all
from tests.bench.policies.verdicts import SLACK
from xcpmem.specs import AgentKind
from xcpmem.xen.workload import Slowness

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SWEPT_COLUMNS: Final = ("qmemman", "ESX", PRESSURE)
"""Ours, and the peers that are best anywhere in the table of stalls."""

USUAL: Final = Circumstances()

SWEEPS: Final[Mapping[str, Circumstances]] = {
    "as usual": USUAL,
    "slow-down 20 and 4": replace(USUAL, slowness=Slowness(20, 4)),
    "slow-down 80 and 16": replace(USUAL, slowness=Slowness(80, 16)),
    "slow-down 40 and 2": replace(USUAL, slowness=Slowness(40, 2)),
    "balloons at 15 MiB/s": replace(USUAL, rate=0.075),
    "balloons at 50 MiB/s": replace(USUAL, rate=0.25),
    "balloons at 500 MiB/s": replace(USUAL, rate=2.5),
    "reports every 5 s, no stalls": replace(USUAL, agents=AgentKind.MEMINFO, period_s=5.0),
    "reports every 30 s, no stalls": replace(USUAL, agents=AgentKind.MEMINFO, period_s=30.0),
    "reports every 120 s, no stalls": replace(USUAL, agents=AgentKind.MEMINFO, period_s=120.0),
    "LRU wastes 5 %": replace(USUAL, slowness=Slowness(waste_ppm=50_000)),
    "LRU wastes 15 %": replace(USUAL, slowness=Slowness(waste_ppm=150_000)),
    "reports err by 5 %": replace(USUAL, noise=0.05),
    "a third of reports is lost": replace(USUAL, loss=1 / 3),
}


class Swept(NamedTuple):
    """One case under one variation: mean stall in percent by column, the best first."""

    sweep: str
    case: str
    stalls: Mapping[str, float]


def sweep(
    seeds: Sequence[int],
    cases: Sequence[str],
    sweeps: Mapping[str, Circumstances] = SWEEPS,
    *,
    processes: int = 1,
) -> Iterator[Swept]:
    """Run all variations; peers keep their own inputs and cadences, ours listen to the agents of each.

    What agents say is nothing to the peers: they are not run again where nothing else is changed.
    """
    peers = {name: COLUMNS[name] for name in SWEPT_COLUMNS if name in PEERS}
    ours = {name: COLUMNS[name] for name in SWEPT_COLUMNS if name not in PEERS}
    found: dict[tuple[Slowness, float], Results] = {}
    for name, circumstances in sweeps.items():
        heard_by_peers = (circumstances.slowness, circumstances.rate)
        if heard_by_peers not in found:
            found[heard_by_peers] = run_all(cases, peers, seeds, circumstances, processes=processes)
        results = {**found[heard_by_peers], **run_all(cases, ours, seeds, circumstances, processes=processes)}
        for case in cases:
            stalls = {column: interval(results[case, column]["stall_pct"]).mean for column in SWEPT_COLUMNS}
            yield Swept(name, case, dict(sorted(stalls.items(), key=lambda item: item[1])))


def rows_of_sweeps(found: Iterable[Swept], cases: Sequence[str]) -> Iterator[str]:
    """Write a table in Markdown, a line as soon as its cells are there.

    Each cell has `pressure` and the best peer, which is named where it is better.
    """
    yield f"| changed | {' | '.join(cases)} |"
    yield "|---" * (len(cases) + 1) + "|"
    for name, cells in groupby(found, key=lambda each: each.sweep):
        yield f"| {name} | {' | '.join(map(_cell, cells))} |"


def _cell(swept: Swept) -> str:
    peer = next(column for column in swept.stalls if column != PRESSURE)
    text = f"{swept.stalls[PRESSURE]:.2f} / {swept.stalls[peer]:.2f}"
    return f"{text} **{peer}**" if swept.stalls[PRESSURE] > swept.stalls[peer] + SLACK else text
