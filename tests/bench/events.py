"""Section ``events``: one VM changes and all who wait in ``event.from`` are told.

The peer is an aiohttp that knows no XenAPI: whoever asks waits until somebody says so, and then gets a
constant as long as our answer. Ours lets 50 ms pass after the first change, as xapi does, so that changes
that belong together come together; the time with and without them is given.
"""

from __future__ import annotations

import asyncio
import resource
import time
import xmlrpc.client
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Curve, Figure, Goal, ratios
from tests.bench.load import DEADLINE_S, Cost, ask, cpu, make_request, read_answer, took
from tests.bench.peers import Peer, start_peer
from tests.bench.rig import beside, cpu_ms, wait_for_rest
from tests.e2e.clients import logged_in
from tests.e2e.programs import workshop
from xcpmem.api.events import BATCH_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.rig import Rig
    from tests.e2e.clients import XenApi
    from tests.e2e.programs import Daemon, Workshop

SIZES: Final = (10, 100, 1000)
FILES: Final = 4096
BATCH_MS: Final = BATCH_S * 1000
OURS: Final = "xcpmem"
BARE: Final = "aiohttp"


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure with more and more who wait."""
    lines: dict[str, dict[int, tuple[float, ...]]] = {OURS: {}, BARE: {}}
    with _many_files(), workshop() as shop, rig.daemon(shop, "events") as daemon:
        for size in SIZES:
            costs = _measure(rig, shop, daemon, size)
            times = took(costs)
            for name, line in lines.items():
                line[size] = times[name]
    spent = cpu(costs)
    awake = tuple(time_ms - BATCH_MS for time_ms in times[OURS])
    what = f"event.from, {SIZES[-1]} wait, one VM changes"
    yield Figure(f"{what}: all are told", "ms", times[OURS], None, beside(times, "ms", BARE))
    yield Figure(f"{what}: beside aiohttp", "", ratios(times[OURS], times[BARE]), Goal(most=1.5))
    yield Figure(f"{what}: beside aiohttp, without the 50 ms", "", ratios(awake, times[BARE]), Goal(most=1.5))
    yield Figure(f"{what}: CPU", "ms", spent[OURS], None, beside(spent, "ms", BARE))
    yield Figure(f"{what}: CPU beside aiohttp's", "", ratios(spent[OURS], spent[BARE]))
    yield Curve(
        "one VM changes, all who wait are told",
        "ms",
        "waiting",
        lines,
        "Bounded by the 50 ms that xapi lets pass, beyond some hundred by one response of aiohttp for each.",
    )


def _measure(rig: Rig, shop: Workshop, daemon: Daemon, size: int) -> dict[str, tuple[Cost, ...]]:
    ours = Peer(daemon.port, daemon.process.pid)
    with logged_in(daemon) as api:
        vm = api.ref("guest-1")
        inject = _request("event.inject", api.session, "VM", vm)
        before = api.call("event.inject", "VM", vm)
        content = ask(ours.port, _from(api, before))
        bare = start_peer(shop, "waiting", content)
        return rig.in_turns(
            {
                OURS: lambda: asyncio.run(_tell(ours, size, lambda: _from(api, _token(api)), inject)),
                BARE: lambda: asyncio.run(
                    _tell(bare, size, lambda: make_request("/wait", b""), make_request("/wake", b""))
                ),
            }
        )


async def _tell(server: Peer, size: int, make_wait: Callable[[], bytes], change: bytes) -> Cost:
    """Have so many wait, change something, and see what it cost until the last one knew."""
    wait = make_wait()
    herd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(size)]
    changer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            for _, writer in herd:
                writer.write(wait)
            await asyncio.to_thread(wait_for_rest, server.pid)
            started_s, started_cpu_ms = time.perf_counter(), cpu_ms(server.pid)
            changer[1].write(change)
            await asyncio.gather(*(read_answer(reader) for reader, _ in (changer, *herd)))
            return Cost((time.perf_counter() - started_s) * 1000, cpu_ms(server.pid) - started_cpu_ms)
    finally:
        for _, writer in (changer, *herd):
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in (changer, *herd)))


def _from(api: XenApi, token: str) -> bytes:
    return _request("event.from", api.session, ["VM"], token, DEADLINE_S)


def _token(api: XenApi) -> str:
    """Ask for the newest token."""
    return str(api.call("event.from", ["task"], "", 0.0)["token"])


def _request(method: str, *params: object) -> bytes:
    return make_request("/", xmlrpc.client.dumps(params, method).encode())  # type: ignore[arg-type]


@contextmanager
def _many_files() -> Iterator[None]:
    """Have enough file descriptors for the connections, here and in what is started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
