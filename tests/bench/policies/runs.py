"""All runs of a comparison: who is compared, and the figures by workload and column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.policies.bounds import FairOracle, Oracle, StaticSplit
from tests.bench.policies.cases import make_case
from tests.bench.policies.peers import Esx, Mom, Proxmox, Qmemman, Squeezed
from tests.bench.policies.record import Record, figures_of
from tests.bench.policies.rig import Circumstances, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.bench.policies.cases import Case
    from tests.bench.policies.rig import Controller


Results = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]
"""By workload and column: figures by name, each a value for each seed."""


class Column(NamedTuple):
    """One who is compared.

    Args:
        make: a controller for a case and a seed.
        agents: the agents it listens to, where a run says no other.
    """

    make: Callable[[Case, int], Controller]
    agents: Circumstances = Circumstances()


def most_starts_kib(case: Case) -> int:
    """Tell how much the guests that start later hold at most at one time, as started, KiB."""
    starts = [guest for guest in case.guests if guest.start_kib]
    return max(
        (
            sum(
                other.start_kib
                for other in starts
                if other.starts_s <= guest.starts_s and (not other.ends_s or other.ends_s > guest.starts_s)
            )
            for guest in starts
        ),
        default=0,
    )


PEERS: Final[Mapping[str, Column]] = {
    "squeezed": Column(lambda _, __: Squeezed()),
    "qmemman": Column(lambda _, __: Qmemman()),
    "Proxmox": Column(lambda _, __: Proxmox()),
    "ESX": Column(lambda _, seed: Esx(seed)),
    "MOM": Column(lambda _, __: Mom()),
}
"""Re-implementations of published rules."""

BOUNDS: Final[Mapping[str, Column]] = {
    "static split": Column(lambda case, _: StaticSplit(most_starts_kib(case))),
    "fair oracle": Column(lambda _, __: FairOracle()),
    "oracle": Column(lambda _, __: Oracle()),
}
"""What costs nothing, and what nobody can do."""


def run_once(
    case: Case, column: Column, seed: int, circumstances: Circumstances | None = None
) -> dict[str, float]:
    """Run one case under one column and give its figures.

    The column's agents are those of the run as well, unless its circumstances have others than usual.
    """
    record = Record(from_s=case.from_s)
    settings = column.agents
    if circumstances is not None:
        has_usual_agents = circumstances.agents is Circumstances().agents
        settings = replace(circumstances, agents=settings.agents) if has_usual_agents else circumstances
    Rig(case, column.make(case, seed), settings, record, seed).run()
    return figures_of(record, case)


def run_all(
    names: Iterable[str],
    columns: Mapping[str, Column],
    seeds: Iterable[int],
    circumstances: Circumstances | None = None,
) -> Results:
    """Run workloads under columns."""
    results: dict[tuple[str, str], dict[str, list[float]]] = {}
    for name in names:
        cases = [(seed, make_case(name, seed)) for seed in seeds]
        for title, column in columns.items():
            found: dict[str, list[float]] = defaultdict(list)
            for seed, case in cases:
                for figure, value in run_once(case, column, seed, circumstances).items():
                    found[figure].append(value)
            results[name, title] = dict(found)
    return results
