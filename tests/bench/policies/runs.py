"""All runs of a comparison: who is compared, and the figures by workload and column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice, product
from multiprocessing import get_context
from os import sched_getaffinity
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.policies.bounds import FairOracle, Oracle, StaticSplit
from tests.bench.policies.cases import make_case
from tests.bench.policies.peers import Esx, Mom, Proxmox, Qmemman, Squeezed
from tests.bench.policies.record import Record, figures_of
from tests.bench.policies.rig import Circumstances, Rig
from tests.bench.policies.strangers import STRANGERS, make_stranger

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


def _alone(make: Callable[[], Controller], _case: Case, _seed: int) -> Controller:
    """Make one that asks for nothing."""
    return make()


def _esx(_case: Case, seed: int) -> Controller:
    return Esx(seed)


def _static_split(case: Case, _seed: int) -> Controller:
    return StaticSplit(most_starts_kib(case))


PEERS: Final[Mapping[str, Column]] = {
    "squeezed": Column(partial(_alone, Squeezed)),
    "qmemman": Column(partial(_alone, Qmemman)),
    "Proxmox": Column(partial(_alone, Proxmox)),
    "ESX": Column(_esx),
    "MOM": Column(partial(_alone, Mom)),
}
"""Re-implementations of published rules."""

BOUNDS: Final[Mapping[str, Column]] = {
    "static split": Column(_static_split),
    "fair oracle": Column(partial(_alone, FairOracle)),
    "oracle": Column(partial(_alone, Oracle)),
}
"""What costs nothing, and what nobody can do."""


class Job(NamedTuple):
    """One run of a workload from a seed under a column, in other circumstances than its own if given."""

    case: str
    seed: int
    column: Column
    circumstances: Circumstances | None = None

    def run(self) -> dict[str, float]:
        """Run it and give its figures."""
        make = make_stranger if self.case in STRANGERS else make_case
        return run_once(make(self.case, self.seed), self.column, self.seed, self.circumstances)


def run_once(
    case: Case, column: Column, seed: int, circumstances: Circumstances | None = None
) -> dict[str, float]:
    """Run one case under one column and give its figures.

    The column's agents are those of the run as well, unless its circumstances have others than usual. A start
    that was refused is looked up with the oracle: if it grants that one, it was refused falsely.
    """
    settings = column.agents
    if circumstances is not None:
        has_usual_agents = circumstances.agents is Circumstances().agents
        settings = replace(circumstances, agents=settings.agents) if has_usual_agents else circumstances
    record = _recorded(case, column, seed, settings)
    figures = figures_of(record, case)
    if record.waits_s:
        could = _recorded(case, BOUNDS["oracle"], seed, settings).refused if record.refused else frozenset()
        figures["false_refusals"] = float(len(record.refused - could))
    return figures


def run_all(
    names: Iterable[str],
    columns: Mapping[str, Column],
    seeds: Sequence[int],
    circumstances: Circumstances | None = None,
    *,
    processes: int = 1,
) -> Results:
    """Run workloads under columns, in so many processes at a time; the results do not depend on how many."""
    cells = list(product(names, columns))
    jobs = [Job(name, seed, columns[title], circumstances) for name, title in cells for seed in seeds]
    if processes == 1:
        runs = iter([job.run() for job in jobs])
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            runs = iter(list(pool.map(Job.run, jobs, chunksize=len(seeds))))
    results: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in cells:
        found: dict[str, list[float]] = defaultdict(list)
        for figures in islice(runs, len(seeds)):
            for figure, value in figures.items():
                found[figure].append(value)
        results[cell] = dict(found)
    return results


def cores() -> int:
    """Tell how many processes can run at the same time."""
    return len(sched_getaffinity(0))


def _recorded(case: Case, column: Column, seed: int, circumstances: Circumstances) -> Record:
    record = Record(from_s=case.from_s, settles_s=case.settles_s)
    Rig(case, column.make(case, seed), circumstances, record, seed).run()
    return record
