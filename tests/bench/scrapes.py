"""Section ``scrapes``: ``/metrics`` of 1,000 VMs, beside prometheus-client's own rendering of the same.

In process it is CPU time of the rendering alone; over HTTP it is the daemon's, and others call meanwhile: how
long the one that waited longest had to wait tells how long the loop was blocked.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tests.bench.figures import Curve, Figure, Goal
from tests.bench.load import read_answer
from tests.bench.rig import beside, cpu_ms, wait_for_rest
from tests.e2e.programs import workshop
from xcpmem.metrics import Metrics, Sources
from xcpmem.report import CycleReport
from xcpmem.scenario import load_scenario
from xcpmem.xen.simhost import SimHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

    from tests.bench.rig import Rig

SIZES: Final = (10, 100, 1000, 10000)
FLEET: Final = 1000
SCRAPES: Final = 10
CHANGED_PART: Final = 100
ALL: Final = "all changed"
SOME: Final = "1 % changed"
NONE: Final = "nothing changed"
THEIRS: Final = "prometheus-client"
SCRAPE: Final = b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n"
PROBE: Final = b"GET /livez HTTP/1.1\r\nHost: bench\r\n\r\n"


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure the rendering, then the daemon."""
    lines: dict[str, dict[int, tuple[float, ...]]] = {ALL: {}, SOME: {}, NONE: {}, THEIRS: {}}
    for size in SIZES:
        rendering = _Rendering(size)
        runs: dict[str, Callable[[], float]] = {
            ALL: partial(rendering.time_ms, 1),
            SOME: partial(rendering.time_ms, CHANGED_PART),
            NONE: partial(rendering.time_ms, 0),
            THEIRS: rendering.time_theirs_ms,
        }
        times = rig.in_turns(runs)
        rendering.close()
        for name, line in lines.items():
            line[size] = times[name]
    times = {name: line[FLEET] for name, line in lines.items()}
    what = f"/metrics, {FLEET} VMs: CPU of rendering"
    yield Figure(f"{what}, {ALL}", "ms", times[ALL], Goal(most=150), beside(times, "ms", THEIRS))
    yield Figure(f"{what}, {SOME}", "ms", times[SOME], Goal(most=150))
    yield Figure(f"{what}, {NONE}", "ms", times[NONE], Goal(most=5))
    yield from _of_daemon(rig)
    yield Curve(
        "/metrics, CPU of rendering",
        "ms",
        "VMs",
        lines,
        "Bounded by the lines of the domains that changed, 14 for each; all others are kept as text.",
    )


def _of_daemon(rig: Rig) -> Iterator[Figure]:
    with workshop() as shop, rig.daemon(shop, "scrapes", scenario=f"fleet:{FLEET}") as daemon:
        pid = daemon.process.pid
        wait_for_rest(pid)
        waits_ms: dict[str, list[float]] = {"scraped": [], "left alone": []}
        spent_ms = []
        for _ in range(rig.rounds):
            waits_ms["left alone"].append(asyncio.run(_longest_wait_ms(daemon.port, scrapes=0)))
            before_ms = cpu_ms(pid)
            waits_ms["scraped"].append(asyncio.run(_longest_wait_ms(daemon.port, scrapes=SCRAPES)))
            spent_ms.append((cpu_ms(pid) - before_ms) / SCRAPES)
    times = {name: tuple(each) for name, each in waits_ms.items()}
    yield Figure("/metrics over HTTP: CPU, the probes' calls included", "ms", tuple(spent_ms))
    yield Figure(
        "/metrics over HTTP: longest that another call waited",
        "ms",
        times["scraped"],
        Goal(most=20),
        beside(times, "ms", "left alone"),
    )


async def _longest_wait_ms(port: int, *, scrapes: int) -> float:
    """Scrape some times; tell how long the unluckiest of the small calls took that were made meanwhile."""
    scraper, prober = [await asyncio.open_connection("127.0.0.1", port, limit=1 << 22) for _ in range(2)]

    async def scrape() -> None:
        for _ in range(scrapes):
            scraper[1].write(SCRAPE)
            await read_answer(scraper[0])
        await asyncio.sleep(0 if scrapes else 0.2)

    scraping, waits_ms = asyncio.create_task(scrape()), []
    while not scraping.done():
        started_s = time.perf_counter()
        prober[1].write(PROBE)
        await read_answer(prober[0])
        waits_ms.append((time.perf_counter() - started_s) * 1000)
    for _, writer in (scraper, prober):
        writer.close()
        await writer.wait_closed()
    return max(waits_ms)


class _Rendering:
    """The daemon's metrics of a fleet, and the library's of the same families.

    Args:
        size: of the fleet.
    """

    def __init__(self, size: int) -> None:
        self._look = SimHost(load_scenario(f"fleet:{size}")).observe()
        self._metrics = Metrics(Sources(driver="simulated"))
        self._turn = itertools.count(1)
        self._observe()
        text = self._metrics.render()[0].decode()
        self._registry = CollectorRegistry()
        self._registry.register(_Families(list(text_string_to_metric_families(text))))

    def close(self) -> None:
        self._metrics.close()

    def time_ms(self, one_in: int) -> float:
        """CPU time of a scrape after a turn in which one domain of so many changed; 0: none."""
        self._metrics.render()
        if one_in:
            domains = [
                replace(domain, target_kib=domain.target_kib ^ 4) if number % one_in == 0 else domain
                for number, domain in enumerate(self._look.host.domains)
            ]
            self._look = replace(self._look, host=replace(self._look.host, domains=tuple(domains)))
        self._observe()
        return _cpu_time_ms(self._metrics.render)

    def time_theirs_ms(self) -> float:
        """CPU time of the library's own rendering."""
        return _cpu_time_ms(lambda: generate_latest(self._registry))

    def _observe(self) -> None:
        self._metrics.observe_cycle(CycleReport(next(self._turn), 1e9, 0.0, self._look))


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _cpu_time_ms(work: Callable[[], object]) -> float:
    gc.collect()
    started_s = time.process_time()
    work()
    return (time.process_time() - started_s) * 1000
