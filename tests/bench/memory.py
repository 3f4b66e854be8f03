"""Section ``memory``: what a daemon of 1,000 VMs holds after an hour of churn on virtual time.

A process of its own lives through it: every virtual minute some VMs change their ranges and names, clients
fetch all records on both wires, wait for events and scrape. The simulated host is part of what it holds.
Beside it stands what Python holds that has imported the daemon and does nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.apistack import running_stack
from tests.bench.figures import Figure, Goal, in_unit
from xcpmem.api import codec, jsonrpc
from xcpmem.api.values import Record
from xcpmem.metrics import Metrics, Sources
from xcpmem.specs import MICROSECONDS_PER_SECOND, BalloonSpec, GuestSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.apistack import Stack
    from tests.bench.rig import Rig

VMS: Final = 1000
CHANGES: Final = 10
MINUTES: Final = 60
MINUTE_S: Final = 60.0
WARM_MINUTES: Final = 12
"""Growth counts from here on: caches and pools have filled by then."""
SMALL_KIB: Final = 3 << 10
LONGEST_S: Final = 600.0
MIB: Final = 1 << 20
IMPORTS: Final = "import xcpmem.assembly; from tests.bench.memory import resident_mib; print(resident_mib())"


def figures(_: Rig) -> Iterator[Figure]:
    """Live through an hour, once."""
    (imports_mib,) = _run("-c", IMPORTS)
    warm_mib, last_mib = _run("-m", "tests.bench.memory")
    what = f"memory, {VMS} VMs, after an hour of virtual churn"
    peers = (("imports alone", in_unit(imports_mib, "MiB")),)
    yield Figure(f"{what}: RSS", "MiB", (last_mib,), Goal(most=150), peers)
    yield Figure(f"{what}: growth after minute {WARM_MINUTES}", "MiB", (last_mib - warm_mib,), Goal(most=8))


def _run(*words: str) -> list[float]:
    """Run a Python; the numbers that it prints."""
    done = subprocess.run(
        (sys.executable, *words), stdout=subprocess.PIPE, text=True, timeout=LONGEST_S, check=True
    )
    return [float(line) for line in done.stdout.split()]


async def live() -> None:
    """Live for an hour; print what is held when it is warm, and at the end, MiB."""
    rng = random.Random(1)  # noqa: S311 - a benchmark's choices
    guests = [_small(number) for number in range(1, VMS + 1)]
    metrics = Metrics(Sources(driver="simulated"))
    with TemporaryDirectory() as folder:
        async with running_stack(Path(folder), guests) as stack:
            stack.controller.subscribe(metrics.observe_cycle)
            session, token = await stack.login(), ""
            refs = [vm.ref for vm in stack.service.vms().values() if vm.is_resident and vm.domid]
            for minute in range(1, MINUTES + 1):
                for ref in rng.sample(refs, CHANGES):
                    least = rng.randrange(SMALL_KIB, 2 * SMALL_KIB) << 10
                    await stack.call("VM.set_memory_dynamic_min", session, ref, str(least))
                    await stack.call("VM.set_name_label", session, ref, f"guest {rng.random()}")
                token = await _read_all(stack, session, token)
                metrics.render()
                await _wait_until(stack, minute * MINUTE_S)
                if minute in {WARM_MINUTES, MINUTES}:
                    sys.stdout.write(f"{resident_mib()}\n")
    metrics.close()


async def _read_all(stack: Stack, session: str, token: str) -> str:
    """Do what clients do: fetch all records on both wires, and what happened since; the new token."""
    records = await stack.call("VM.get_all_records", session)
    batch = await stack.call("event.from", session, ["*"], token, 0.0)
    for answer in (records, batch):
        codec.encode_success(answer)
        jsonrpc.encode_value(answer)
    assert isinstance(batch, Record)
    return str(batch["token"])


async def _wait_until(stack: Stack, due_s: float) -> None:
    while stack.host.now_us < due_s * MICROSECONDS_PER_SECOND:
        report = stack.controller.report
        await stack.controller.next_report(report.number if report else 0, MINUTE_S)


def _small(number: int) -> GuestSpec:
    return GuestSpec(
        domid=number,
        name_label=f"guest-{number}",
        dynamic_min_kib=SMALL_KIB,
        dynamic_max_kib=2 * SMALL_KIB,
        static_max_kib=2 * SMALL_KIB,
        target_kib=2 * SMALL_KIB,
        balloon=BalloonSpec(rate_kib_s=SMALL_KIB),
    )


def resident_mib() -> float:
    """Tell what this process holds; proc(5), statm: the second number, in pages."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


if __name__ == "__main__":
    asyncio.run(live())
