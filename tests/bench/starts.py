"""Section ``starts``: how soon the daemon is ready, and what the client costs from start to exit.

The daemon simulates its host itself, or finds one that runs in a process of its own, as a real one does.
Beside the daemon a bare aiohttp is started, beside the client a Python that does nothing and one that imports
the standard library's XML-RPC client.
"""

from __future__ import annotations

import resource
import time
from functools import partial
from itertools import count, repeat
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Curve, Figure, Goal
from tests.bench.peers import start_peer
from tests.bench.rig import FLEETS, beside
from tests.e2e.programs import CLIENT, workshop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.rig import Rig
    from tests.e2e.programs import Workshop

FLEET: Final = 1000
COMMANDS: Final = 10
OURS: Final = "xcpmem"
READY: Final = "first start"
AGAIN: Final = "start with what was stored"
ATTACHED: Final = "start at a host that runs"
BARE: Final = "aiohttp"
PYTHON: Final = "Python alone"
XMLRPC: Final = "import xmlrpc.client"


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Start everything again and again."""
    yield from _clients(rig)
    lines: dict[str, dict[int, tuple[float, ...]]] = {READY: {}, AGAIN: {}, ATTACHED: {}, BARE: {}}
    for size in FLEETS:
        with workshop() as shop:
            states = (f"state-{number}" for number in count())
            attached = ("--host", str(shop.simhost(f"fleet:{size}")))
            times = rig.in_turns(
                {
                    READY: partial(_start_s, shop, size, states),
                    AGAIN: partial(_start_s, shop, size, repeat("state-0")),
                    ATTACHED: partial(_start_s, shop, size, repeat("attached"), *attached),
                    BARE: partial(_start_peer_s, shop),
                }
            )
        for name, line in lines.items():
            line[size] = times[name]
    times = {name: line[FLEET] for name, line in lines.items()}
    what = f"daemon, {FLEET} VMs"
    yield Figure(f"{what}: {READY} to ready", "s", times[READY], Goal(most=1.5), beside(times, "s", BARE))
    yield Figure(f"{what}: {AGAIN} to ready", "s", times[AGAIN], Goal(most=1.5))
    yield Figure(f"{what}: {ATTACHED} to ready", "s", times[ATTACHED], Goal(most=1.5))
    yield Curve(
        "daemon, start to ready",
        "s",
        "VMs",
        lines,
        "Bounded below by Python's imports, above by the first look, which reads each domain's keys.",
    )


def _start_s(shop: Workshop, size: int, states: Iterator[str], *options: str) -> float:
    """Start a daemon on the next state dir, and end it."""
    state = next(states)
    started_s = time.perf_counter()
    daemon = shop.daemon(*options, scenario=f"fleet:{size}", state=state)
    took_s = time.perf_counter() - started_s
    daemon.end()
    return took_s


def _start_peer_s(shop: Workshop) -> float:
    started_s = time.perf_counter()
    start_peer(shop, "static", b"x")
    return time.perf_counter() - started_s


def _clients(rig: Rig) -> Iterator[Figure]:
    with workshop() as shop, rig.daemon(shop, "starts") as daemon:
        socket = str(daemon.socket)
        times = rig.in_turns(
            {
                OURS: lambda: _cpu_time_ms(shop, *CLIENT, "vm-list", "--minimal", XCPMEM_SOCKET=socket),
                PYTHON: lambda: _cpu_time_ms(shop, "-c", "pass"),
                XMLRPC: lambda: _cpu_time_ms(shop, "-c", XMLRPC),
            }
        )
    what = "xcpmem vm-list --minimal: CPU from start to exit"
    yield Figure(what, "ms", times[OURS], Goal(most=120), beside(times, "ms", PYTHON, XMLRPC))


def _cpu_time_ms(shop: Workshop, *words: str, **environment: str) -> float:
    """CPU time of a command, user's and system's, on average."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(COMMANDS):
        ended = shop.run(*words, **environment)
        assert ended.status == 0, ended.err
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000 / COMMANDS
