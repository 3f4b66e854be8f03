"""A host whose every part can be made to fail, with a whole daemon's ring and line upon it.

The daemon's parts are the real ones; between them and the simulated host stand the fault proxies. A
bookkeeper of its own counts at every change of the host what is promised, and never lets go of the worst.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.faultproxy import LineProxy, StoreProxy
from xcpmem.controller import Controller
from xcpmem.errors import XcpmemError
from xcpmem.scenario import Scenario
from xcpmem.service import Service
from xcpmem.specs import BalloonSpec, GuestSpec, HostSpec
from xcpmem.store import Store
from xcpmem.units import kib_to_bytes, mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simhypervisor import RemoteHypervisor
from xcpmem.xen.simulated import HYPERVISOR_SUFFIX, MAXMEM_SLACK_KIB, SimulatedHost
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from xcpmem.report import CycleReport
    from xcpmem.xen.simguest import SimGuest

GIB: Final = mib_to_kib(1024)
SLUSH_KIB: Final = mib_to_kib(72)
KEPT_KIB: Final = mib_to_kib(256)
WANTED_KIB: Final = GIB
OWNER: Final = "somebody"

PATIENCE_S: Final = 30.0
"""What is not there by then does not come; generous, for machines that are busy."""

CALL_DEADLINE_S: Final = 0.4
"""Deadline of a call to xenstore or the hypervisor: short, so that silence is noticed soon."""

SCENARIO: Final = Scenario(
    name="faulty",
    tick_s=0.01,
    host=HostSpec(free_kib=SLUSH_KIB, slush_kib=SLUSH_KIB),
    guests=tuple(
        GuestSpec(
            domid=domid,
            dynamic_min_kib=GIB,
            dynamic_max_kib=3 * GIB,
            static_max_kib=4 * GIB,
            balloon=BalloonSpec(rate_kib_s=32 * GIB, inaccuracy_kib=0),
        )
        for domid in (1, 2, 3, 4)
    ),
)


class End(NamedTuple):
    """Where a guest is, KiB."""

    range_kib: tuple[str | None, str | None]
    target_kib: int
    actual_kib: int
    maxmem_kib: int


class FaultyHost:
    """The host, the proxies, and the daemon's parts.

    Args:
        folder: for sockets and state; a short path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = SimulatedHost(SCENARIO)
        self.store_proxy = StoreProxy(str(folder / "h"))
        self.line_proxy = LineProxy(str(folder / "h") + HYPERVISOR_SUFFIX)
        self.wall_ahead_s = 0.0
        self.clock_ahead_s = 0.0
        self.worst_kib = 0
        """The most that was promised beyond what there is, at any moment."""
        self.state = Store(folder / "state")
        self._pool_kib = self.host.catch_up().physical_free_kib + sum(
            guest.actual_kib for guest in self.guests
        )

    @property
    def guests(self) -> tuple[SimGuest, ...]:
        return tuple(self.host.catch_up().guests.values())

    def clock(self) -> float:
        """The daemon's monotonic clock."""
        return time.monotonic() + self.clock_ahead_s

    async def start(self) -> None:
        await self.host.start(str(self.folder / "h"))
        await self.store_proxy.start(str(self.folder / "s"))
        await self.line_proxy.start(str(self.folder / "l"))
        self.host.store.subscribe(lambda _: self._audit())
        self.xenstore = Xenstore(self.store_proxy.path, call_deadline_s=CALL_DEADLINE_S)
        self.driver = LiveDriver(
            self.xenstore,
            RemoteHypervisor(self.line_proxy.path, call_deadline_s=CALL_DEADLINE_S),
            slush_kib=SLUSH_KIB,
            clock=self.clock,
        )
        await self.driver.start()
        self.controller = Controller(
            self.driver, clock=self.clock, wall=lambda: time.time() + self.wall_ahead_s
        )
        self.service = Service(self.state, self.controller, toolstack=self.host.toolstack, clock=self.clock)
        await self.service.start()
        self.ring = asyncio.create_task(self.controller.run())
        assert await self.controller.next_report(0, PATIENCE_S) is not None

    async def close(self) -> None:
        await self.service.lifecycle.close()
        await self.controller.close()
        await self.ring
        await self.service.close()
        await self.driver.close()
        await self.store_proxy.close()
        await self.line_proxy.close()
        await self.host.close()

    def uuid(self, domid: int) -> str:
        return self.host.catch_up().guest(domid).uuid

    async def wish_range(self, domid: int, min_kib: int, max_kib: int) -> None:
        """Set a VM's dynamic range as a client does; durable when this returns."""
        await self.service.set_memory_dynamic_range(
            self.uuid(domid), kib_to_bytes(min_kib), kib_to_bytes(max_kib)
        )

    async def reserve(self, size_kib: int) -> str:
        """Reserve memory as a client does; it is free when this returns."""
        reservation_id, granted_kib = await self.service.reservations.reserve(OWNER, size_kib, size_kib)
        assert granted_kib == size_kib
        return reservation_id

    async def until(self, holds: Callable[[CycleReport], bool], since: int | None = None) -> CycleReport:
        """Wait for a turn of which something holds.

        Args:
            holds: what.
            since: turns up to this number do not count; default: those until now.
        """
        seen = self.turns if since is None else since
        deadline_s = time.monotonic() + PATIENCE_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            report = await self.controller.next_report(seen, left_s)
            if report is not None and holds(report):
                return report
            if report is not None:
                seen = report.number
        raise AssertionError(f"it did not come to pass: {self.controller.report}")

    @property
    def turns(self) -> int:
        assert self.controller.report is not None
        return self.controller.report.number

    async def rest(self) -> None:
        """Wait until the host is stable."""
        assert await self.controller.settle(PATIENCE_S), self.controller.report

    def ends(self) -> dict[int, End]:
        """Where everybody is, as the host itself knows."""
        return {
            guest.spec.domid: End(
                (
                    self.host.store.read(paths.dynamic_min(guest.spec.domid)),
                    self.host.store.read(paths.dynamic_max(guest.spec.domid)),
                ),
                guest.target_kib,
                guest.actual_kib,
                guest.maxmem_kib,
            )
            for guest in self.guests
        }

    def reservations_kib(self) -> dict[str, int]:
        """All reservations that stand in xenstore, KiB by id."""
        store = self.host.store
        return {
            name: int(store.read(paths.reservation(owner, name)) or -1)
            for owner in store.list(paths.reservations())
            for name in store.list(paths.reservations_of(owner))
        }

    def rewrite_keys(self) -> None:
        """Write all keys of all domains again, as their toolstack would after xenstored lost them."""
        for guest in self.guests:
            self.host.store.introduced.discard(guest.spec.domid)
            self.host._create(guest)

    def _audit(self) -> None:
        held_kib = sum(
            max(guest.actual_kib, guest.maxmem_kib - MAXMEM_SLACK_KIB, guest.target_kib)
            for guest in self.host._physics.guests.values()
        )
        reserved_kib = sum(size_kib for size_kib in self.reservations_kib().values() if size_kib > 0)
        self.worst_kib = max(self.worst_kib, held_kib + reserved_kib - self._pool_kib)


@asynccontextmanager
async def faulty_host(folder: Path) -> AsyncIterator[FaultyHost]:
    """A host at rest, with a daemon upon it."""
    world = FaultyHost(folder)
    await world.start()
    try:
        await world.rest()
        yield world
    finally:
        await world.close()


class Client:
    """One who wants something and asks again when he was told that it did not work.

    Args:
        world: the host.
    """

    def __init__(self, world: FaultyHost) -> None:
        self._world = world
        self.refusals: list[XcpmemError] = []

    async def wish(self) -> str:
        """Ask for a narrower range of VM 1 and for memory; return the reservation's id."""
        await self._insist_on_range()
        while True:
            try:
                return await self._world.reserve(WANTED_KIB)
            except XcpmemError as error:
                self.refusals.append(error)
            await self._world.controller.next_report(self._world.turns, PATIENCE_S)

    async def _insist_on_range(self) -> None:
        while True:
            try:
                return await self._world.wish_range(1, GIB, GIB + GIB // 2)
            except XcpmemError as error:
                self.refusals.append(error)
            await self._world.controller.next_report(self._world.turns, PATIENCE_S)
