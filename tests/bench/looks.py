"""Section ``looks``: CPU time of one look of the live driver, by number of domains.

The store is our double in the same process, but looks at domains of which nothing was written ask it nothing.
Xen's own part is left out: the binding's double gives rows that are there already.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tests.bench.figures import Curve, Figure, Goal
from tests.bench.rig import FLEETS
from xcpmem.scenario import load_scenario
from xcpmem.xen.hypervisor import XcHypervisor
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.bench.rig import Rig

GOAL_MS: Final = Goal(most=3.0)
SIZE: Final = 1000
MOVED_PART: Final = 10
"""One domain in so many has moved since the last look, where any has."""
LOOKS: Final = 20
"""Of each round; the first one warms up."""
QUIET_S: Final = 0.5
PAGE_KIB: Final = 4

REST, MOVED = "nothing changed", f"one domain in {MOVED_PART} moved"


class Binding:
    """What ``xen.lowlevel.xc`` gives, without Xen.

    Args:
        uuids: of the domains, by domid.
        size_kib: what each holds.
    """

    def __init__(self, uuids: dict[int, str], size_kib: int) -> None:
        self.rows: list[dict[str, Any]] = [
            {
                "domid": domid,
                "handle": list(UUID(uuid).bytes),
                "mem_kb": size_kib,
                "maxmem_kb": size_kib + 1024,
                "online_vcpus": 2,
                "hvm": 1,
                "paused": 0,
                "shutdown": 0,
                "dying": 0,
            }
            for domid, uuid in uuids.items()
        ]

    def domain_getinfo(self, _first: int, _most: int) -> list[dict[str, Any]]:
        """List the domains, in new rows as the real one does."""
        return [dict(row) for row in self.rows]

    def physinfo(self) -> dict[str, int]:
        """Tell the machine's memory."""
        return {"total_memory": 1 << 30, "free_memory": 1 << 20, "scrub_memory": 0}

    def move(self, domains: int) -> None:
        """Let the first domains give a page."""
        for row in self.rows[:domains]:
            row["mem_kb"] -= PAGE_KIB


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure all sizes, round by round."""
    lines: dict[str, dict[int, tuple[float, ...]]] = {REST: {}, MOVED: {}}
    for size in FLEETS:
        for name, values in asyncio.run(_looks_ms(size, rig.rounds)).items():
            lines[name][size] = values
    yield Figure(f"one look at {SIZE} domains, {REST}", "ms", lines[REST][SIZE], GOAL_MS)
    yield Figure(f"one look at {SIZE} domains, {MOVED}", "ms", lines[MOVED][SIZE])
    yield Curve(
        "one look",
        "ms of CPU",
        "domains",
        lines,
        "Bounded by comparing each row of Xen's list, and each domain's words, with the last look's.",
    )


async def _looks_ms(domains: int, rounds: int) -> dict[str, tuple[float, ...]]:
    """Measure looks, in turns at rest and while some move; the mean of each round, milliseconds."""
    times: dict[str, list[float]] = {REST: [], MOVED: []}
    async with _driver(domains) as (driver, binding):
        for _ in range(rounds):
            for name, moving in ((REST, 0), (MOVED, domains // MOVED_PART)):
                await driver.observe()
                spent_s = 0.0
                for _ in range(LOOKS):
                    binding.move(moving)
                    started_s = time.process_time()
                    await driver.observe()
                    spent_s += time.process_time() - started_s
                times[name].append(spent_s * 1000 / LOOKS)
    return {name: tuple(values) for name, values in times.items()}


@asynccontextmanager
async def _driver(domains: int) -> AsyncIterator[tuple[LiveDriver, Binding]]:
    """Have a driver at rest, as in a daemon that serves."""
    with TemporaryDirectory(prefix="xe-") as folder:
        path = str(Path(folder) / "x")
        host = SimulatedHost(load_scenario(f"fleet:{domains}"))
        await host.start(path)
        guests = host.catch_up().guests
        uuids = {domid: guest.uuid for domid, guest in guests.items()}
        binding = Binding(uuids, next(iter(guests.values())).actual_kib)
        driver = LiveDriver(Xenstore(path), XcHypervisor(binding), slush_kib=0)
        await driver.start()
        await driver.observe()
        while await driver.wait(QUIET_S):
            await driver.observe()
        gc.collect()
        gc.freeze()  # as the daemon does once it serves
        yield driver, binding
        gc.unfreeze()
        await driver.close()
        await host.close()
