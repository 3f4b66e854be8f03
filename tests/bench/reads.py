"""Section ``reads``: keys of xenstore asked for together, beside pyxs that asks for one after the other.

The xenstored is the simulated host's, in a process of its own: the time is the exchange's, and as much of it
is its own for both.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import pyxs

from tests.bench.figures import Curve, Figure, ratios
from tests.bench.rig import FLEETS, beside
from tests.e2e.programs import workshop
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import CONFIGURATION_KEYS
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.bench.rig import Rig

FLEET: Final = 1000
OURS: Final = "xcpmem"
THEIRS: Final = "pyxs, one by one"


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure all sizes."""
    lines: dict[str, dict[int, tuple[float, ...]]] = {OURS: {}, THEIRS: {}}
    for size in FLEETS:
        keys = [f"{paths.domain(domid)}/{key}" for domid in range(1, size + 1) for key in CONFIGURATION_KEYS]
        with workshop() as shop:
            host = shop.simhost(f"fleet:{size}")
            runs: dict[str, Callable[[], float]] = {
                OURS: partial(_ours_ms, host, keys),
                THEIRS: partial(_theirs_ms, host, keys),
            }
            times = rig.in_turns(runs)
        for name, line in lines.items():
            line[size] = times[name]
    times = {name: line[FLEET] for name, line in lines.items()}
    what = f"{len(CONFIGURATION_KEYS)} keys of each of {FLEET} domains, read together"
    yield Figure(what, "ms", times[OURS], None, beside(times, "ms", THEIRS))
    yield Figure(f"{what}: {THEIRS}, beside it", "", ratios(times[THEIRS], times[OURS]))
    yield Curve(
        "keys of all domains",
        "ms",
        "domains",
        lines,
        "Bounded by the simulated xenstored, which answers one request after the other.",
    )


def _ours_ms(path: Path, keys: Sequence[str]) -> float:
    return asyncio.run(_together_ms(path, keys))


async def _together_ms(path: Path, keys: Sequence[str]) -> float:
    xenstore = Xenstore(str(path))
    await xenstore.connect()
    started_s = time.perf_counter()
    await xenstore.read_many(keys)
    spent_s = time.perf_counter() - started_s
    await xenstore.close()
    return spent_s * 1000


def _theirs_ms(path: Path, keys: Sequence[str]) -> float:
    with pyxs.Client(unix_socket_path=str(path)) as client:
        started_s = time.perf_counter()
        for key in keys:
            client.read(key.encode(), b"")
        return (time.perf_counter() - started_s) * 1000
