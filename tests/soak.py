"""Long lives: weeks of churn on virtual time, and a real daemon under load whose footprint must stay flat.

python -m tests.soak churn --days 30
python -m tests.soak load --minutes 20
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from uuid import NAMESPACE_OID, uuid5

from tests.apistack import GIB, GIB_KIB, Stack, running_stack
from tests.e2e.clients import Failure, XenApi, logged_in
from tests.e2e.programs import Daemon, Workshop
from xcpmem import controller
from xcpmem.errors import HostError
from xcpmem.specs import DOMID_END, MICROSECONDS_PER_SECOND, BalloonSpec, GuestSpec
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

VMS: Final = 20
DAY_S: Final = 86400.0
EVENT_GAP_S: Final = 600.0
"""Something happens this often, on average."""
LOOK_S: Final = 120.0
HELD_MOST: Final = 6
WARM_PART: Final = 0.2
"""Growth counts from here on: caches and pools have filled by then."""

CLIENTS: Final = 6
SAMPLE_S: Final = 5.0
GROWTH_MOST_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Footprint:
    """What a process holds; ``tasks`` are asyncio's, or of another process its threads."""

    resident_bytes: int
    files: int
    tasks: int

    @classmethod
    def of(cls, pid: int | str, tasks: int) -> Footprint:
        """Look at a process; proc(5)."""
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")), tasks)  # noqa: PTH208


@dataclass
class Churn:
    """VMs that come and go, clients that reserve, change their minds and leave; all on virtual time.

    Args:
        stack: the whole line over a simulated host.
        rng: decides.
    """

    stack: Stack
    rng: random.Random
    events: int = 0
    refusals: int = 0
    granted: int = 0
    running: dict[str, int] = field(default_factory=dict)
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    """By session: reservations, KiB by id."""
    next_domid: int = 1

    @property
    def now_s(self) -> float:
        return self.stack.host.now_us / MICROSECONDS_PER_SECOND

    async def run(self, days: float, events: int, look: Callable[[], None]) -> None:
        """Live for so many days and events at least; ``look`` is called after each event.

        How much happens in a day depends on the machine: virtual time goes on while a disk writes.
        """
        acts = (self._start, self._start, self._stop, self._narrow, self._hold, self._leave, self._balloon)
        while self.now_s < days * DAY_S or self.events < events:
            due_s = self.now_s + self.rng.expovariate(1 / EVENT_GAP_S)
            while self.now_s < due_s:
                report = self.stack.controller.report
                await self.stack.controller.next_report(report.number if report else 0, 60.0)
            try:
                await self.rng.choice(acts)()
            except HostError:
                self.refusals += 1
            self.events += 1
            self.check()
            look()

    def check(self) -> None:
        """Nobody is over-promised; what was granted stands, to the KiB, and nothing else."""
        host = self.stack.host
        assert host.ledger.overcommit_kib == 0
        standing = {name: each.size_kib for name, each in host.reservations.items()}
        granted = {name: size_kib for held in self.held.values() for name, size_kib in held.items()}
        assert standing == granted

    async def _start(self) -> None:
        """A toolstack reserves for a VM and builds it."""
        halted = [name for name in _names() if name not in self.running]
        if not halted:
            return
        name = self.rng.choice(halted)
        session = await self.stack.login()
        try:
            low_kib = self.rng.randint(64, 256) * mib_to_kib(1)
            high_kib = low_kib + self.rng.randint(0, 1024) * mib_to_kib(1)
            answer = await self.stack.call(
                "Memory.reserve_memory_range", session, str(low_kib), str(high_kib)
            )
            assert isinstance(answer, list | tuple)
            reservation_id, size_kib = str(answer[0]), int(answer[1])
            spec = GuestSpec(
                domid=self._domid(),
                uuid=str(uuid5(NAMESPACE_OID, name)),
                name_label=name,
                dynamic_min_kib=low_kib,
                dynamic_max_kib=high_kib,
                static_max_kib=4 * GIB_KIB,
                balloon=self._manner(),
            )
            self.stack.host.add_guest(spec, size_kib, reservation_id=reservation_id)
            self.running[name] = spec.domid
            self.granted += 1
        finally:
            await self.stack.call("session.logout", session)

    async def _stop(self) -> None:
        if self.running:
            name = self.rng.choice(sorted(self.running))
            self.stack.host.remove_guest(self.running.pop(name))

    async def _narrow(self) -> None:
        """An administrator changes a range."""
        if not self.running:
            return
        name = self.rng.choice(sorted(self.running))
        session = await self.stack.login()
        try:
            refs = await self.stack.call("VM.get_by_name_label", session, name)
            low = self.rng.randint(1, 4) * GIB // 16
            if isinstance(refs, list | tuple) and refs:
                high = low + self.rng.randint(0, 4) * GIB // 8
                await self.stack.call("VM.set_memory_dynamic_range", session, refs[0], str(low), str(high))
        finally:
            await self.stack.call("session.logout", session)

    async def _hold(self) -> None:
        """A client reserves and keeps it."""
        if len(self.held) >= HELD_MOST:
            return
        session = await self.stack.login()
        self.held[session] = {}
        size_kib = self.rng.randint(1, 512) * mib_to_kib(1) + self.rng.randint(0, 1023)
        name = await self.stack.call("Memory.reserve_memory", session, str(size_kib))
        self.held[session][str(name)] = size_kib
        self.granted += 1

    async def _leave(self) -> None:
        """A client logs out; what it held is given back."""
        if self.held:
            session = self.rng.choice(sorted(self.held))
            await self.stack.call("session.logout", session)
            del self.held[session]

    async def _balloon(self) -> None:
        """A guest's driver changes its manner."""
        if self.running:
            manner = self._manner()
            changes = {"rate_kib_s": manner.rate_kib_s, "stuck": manner.stuck, "delay_s": manner.delay_s}
            self.stack.host.set_balloon(self.rng.choice(sorted(self.running.values())), changes)

    def _manner(self) -> BalloonSpec:
        return BalloonSpec(
            rate_kib_s=float(mib_to_kib(self.rng.choice((64, 256, 1024)))),
            delay_s=self.rng.choice((0.0, 0.0, 2.0)),
            stuck=self.rng.random() < 0.1,
        )

    def _domid(self) -> int:
        taken = self.stack.host.guests
        while self.next_domid in taken or self.next_domid >= DOMID_END:
            self.next_domid = self.next_domid % (DOMID_END - 1) + 1
        domid, self.next_domid = self.next_domid, self.next_domid + 1
        return domid


def _names() -> Iterator[str]:
    return (f"vm-{number:02}" for number in range(VMS))


@dataclass(frozen=True)
class ChurnTally:
    """What weeks of churn came to."""

    days: float
    events: int
    granted: int
    refusals: int
    turns: int
    warm: Footprint
    end: Footprint


@asynccontextmanager
async def without_gaps() -> AsyncIterator[None]:
    """Let the ring turn without the pause of real time that spares a real host."""
    gap_s = controller.TURN_GAP_S
    setattr(controller, "TURN_GAP_S", 0.0)  # noqa: B010 -- final for everybody else
    try:
        yield
    finally:
        setattr(controller, "TURN_GAP_S", gap_s)  # noqa: B010


async def churn(folder: Path, days: float, *, events: int = 1, seed: int = 1) -> ChurnTally:
    """Let VMs, reservations and clients come and go for so many days of virtual time."""
    rng = random.Random(seed)  # noqa: S311 -- no secret
    warm: list[Footprint] = []
    async with without_gaps(), running_stack(folder, (), safety_look_s=LOOK_S) as stack:
        life = Churn(stack, rng)

        def look() -> None:
            if not warm and life.now_s > WARM_PART * days * DAY_S:
                gc.collect()
                warm.append(Footprint.of("self", len(asyncio.all_tasks())))

        await life.run(days, events, look)
        for session in sorted(life.held):
            await stack.call("session.logout", session)
        life.held.clear()
        life.check()
        gc.collect()
        end = Footprint.of("self", len(asyncio.all_tasks()))
        assert stack.controller.report is not None
        turns = stack.controller.report.number
        assert stack.dispatcher.unexpected_errors == 0
    return ChurnTally(days, life.events, life.granted, life.refusals, turns, warm[0], end)


@dataclass(frozen=True)
class LoadTally:
    """What a daemon under load came to; footprints are medians over a quarter of the time each."""

    calls: int
    refusals: int
    early: Footprint
    late: Footprint


def load(folder: Path, seconds: float) -> LoadTally:
    """Put a real daemon under load from several clients and look at its footprint all along."""
    with ExitStack() as stack:
        daemon = Workshop(folder, stack).daemon(scenario="fleet:50")
        over, counts = threading.Event(), [[0, 0] for _ in range(CLIENTS)]
        samples: list[Footprint] = []
        with ThreadPoolExecutor(CLIENTS) as clients:
            try:
                begun = [
                    clients.submit(_press, daemon, over, number, counts[number]) for number in range(CLIENTS)
                ]
                end_s = time.monotonic() + seconds
                while (left_s := end_s - time.monotonic()) > 0 and not any(each.done() for each in begun):
                    over.wait(min(SAMPLE_S, left_s))
                    samples.append(Footprint.of(daemon.process.pid, _count_threads(daemon)))
            finally:
                over.set()
            for each in begun:
                each.result()
        assert daemon.end() == 0
    quarter = max(1, len(samples) // 4)
    calls, refusals = (sum(each[index] for each in counts) for index in (0, 1))
    return LoadTally(calls, refusals, _median(samples[quarter : 2 * quarter]), _median(samples[-quarter:]))


def _median(samples: Sequence[Footprint]) -> Footprint:
    return Footprint(
        *(
            int(statistics.median(getattr(sample, name) for sample in samples))
            for name in ("resident_bytes", "files", "tasks")
        )
    )


def _count_threads(daemon: Daemon) -> int:
    """Count the daemon's threads: its asyncio tasks cannot be seen from outside, `churn` counts those."""
    return len(os.listdir(f"/proc/{daemon.process.pid}/task"))  # noqa: PTH208 -- names are enough


def _press(daemon: Daemon, over: threading.Event, number: int, counts: list[int]) -> None:
    """One client: log in, look, change, reserve, give back, log out, over and over."""
    rng = random.Random(number)  # noqa: S311 -- no secret
    while not over.is_set():
        with logged_in(daemon) as api:
            for _ in range(20):
                counts[1] += not _act(api, rng)
                counts[0] += 1
            daemon.fetch("/metrics")
            api.call("session.logout")


def _act(api: XenApi, rng: random.Random) -> bool:
    """Do one thing; False if the host had not the memory."""
    try:
        match rng.randrange(5):
            case 0:
                api.call("VM.get_all_records")
            case 1:
                ref = api.ref(f"guest-{rng.randint(1, 50)}")
                low = rng.randint(64, 128) << 20
                api.call("VM.set_memory_dynamic_range", ref, low, low + (rng.randint(0, 128) << 20))
            case 2:
                name = api.call("Memory.reserve_memory", rng.randint(1, 64) << 10)
                api.call("Memory.delete_reservation", name)
            case 3:
                api.call("event.from", ["vm"], "", 0.05)
            case 4:
                api.call("task.get_all_records")
    except Failure as failure:
        if failure.details[0] not in {"HOST_NOT_ENOUGH_FREE_MEMORY", "VMS_FAILED_TO_COOPERATE"}:
            raise
        return False
    return True


def main() -> int:
    """Run one of them and print the figures; 0 if what must stay flat did."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=main.__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("churn").add_argument("--days", type=float, default=30.0)
    kinds.add_parser("load").add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    began_s = time.monotonic()
    with TemporaryDirectory(prefix="xs-") as name:
        if options.kind == "churn":
            lived = asyncio.run(churn(Path(name), options.days))
            before, after = lived.warm, lived.end
            said = (
                f"{lived.days:g} days, {lived.events} events, {lived.granted} grants, "
                f"{lived.refusals} refusals, {lived.turns} turns"
            )
        else:
            pressed = load(Path(name), options.minutes * 60)
            before, after = pressed.early, pressed.late
            said = f"{options.minutes:g} min, {pressed.calls} calls, {pressed.refusals} without memory"
    growth_bytes = after.resident_bytes - before.resident_bytes
    sys.stdout.write(
        f"{said} in {time.monotonic() - began_s:.0f} s: memory {before.resident_bytes >> 10} to "
        f"{after.resident_bytes >> 10} KiB, files {before.files} to {after.files}, "
        f"tasks {before.tasks} to {after.tasks}\n"
    )
    return 0 if growth_bytes <= GROWTH_MOST_BYTES and after.files <= before.files + 2 else 1


if __name__ == "__main__":
    sys.exit(main())
