"""A host that lives in real time and outlives the daemons on it, to start and stop VMs on."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.builders import uuid_of
from xcpmem.controller import Controller
from xcpmem.engine.belief import Caution
from xcpmem.engine.planner import PlannerSettings
from xcpmem.host import HostIdentity
from xcpmem.scenario import Scenario
from xcpmem.service import Service, ServiceSettings
from xcpmem.specs import BalloonSpec, GuestSpec, HostSpec
from xcpmem.store import Store
from xcpmem.units import mib_to_bytes, mib_to_kib
from xcpmem.vm import DomainZero, Vm
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from xcpmem.engine.model import Reservation
    from xcpmem.xen.simguest import SimGuest

MIB: Final = mib_to_bytes(1)
MIB_KIB: Final = mib_to_kib(1)
SLUSH_KIB: Final = 72 * MIB_KIB
SWIFT: Final = BalloonSpec(rate_kib_s=65536 * MIB_KIB)
DEAF: Final = BalloonSpec(stuck=True)
TEST_S: Final = 30.0

WEB: Final = Vm(
    uuid="0c0ffee0-0000-4000-8000-000000000001",
    name_label="web",
    memory_static_min=0,
    memory_static_max=1024 * MIB,
    memory_dynamic_min=256 * MIB,
    memory_dynamic_max=768 * MIB,
    memory_target=256 * MIB,
    domain_type="pvh",
)
"""A halted VM whose overhead is 12 MiB."""

OVERHEAD_MIB: Final = 12


def guest(domid: int, balloon: BalloonSpec = SWIFT) -> GuestSpec:
    """A guest of 256 to 768 MiB that holds 768."""
    return GuestSpec(
        domid=domid,
        uuid=uuid_of(domid),
        name_label=f"guest-{domid}",
        dynamic_min_kib=256 * MIB_KIB,
        dynamic_max_kib=768 * MIB_KIB,
        static_max_kib=1024 * MIB_KIB,
        balloon=balloon,
    )


class SteppedController(Controller):
    """A ring on whose commands a test can lie in wait."""

    gate: Callable[[str], Awaitable[None]] | None = None

    async def reserve(self, **request: Any) -> Reservation:
        reservation = await super().reserve(**request)
        await self._pass("reserved")
        return reservation

    async def keep(self, **request: Any) -> Reservation:
        reservation = await super().keep(**request)
        await self._pass("kept")
        return reservation

    async def confirm(self, reservation_id: str, domid: int) -> None:
        await self._pass("confirm")
        await super().confirm(reservation_id, domid)
        await self._pass("confirmed")

    async def delete(self, reservation_id: str) -> None:
        await self._pass("delete")
        await super().delete(reservation_id)

    async def _pass(self, step: str) -> None:
        if self.gate is not None:
            await self.gate(step)


class Ambush:
    """Lies in wait for one step and holds up whoever comes by.

    Args:
        step: which.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, step: str, _: str = "") -> None:
        if step == self._step:
            self.reached.set()
            await self.released.wait()


@dataclass
class Daemon:
    """The line and the ring of one daemon on the host."""

    host: SimulatedHost
    ring: SteppedController
    service: Service
    turning: asyncio.Task[None]

    async def stand_still(self) -> None:
        """Let the ring end: from now on the host is asked only what calls ask it."""
        await self.ring.close()
        await self.turning

    def vm(self, uuid: str = WEB.uuid) -> Vm:
        return self.service.vm(uuid)

    def lie_in_wait(self, step: str) -> Ambush:
        """Hold up the next start or stop at a step."""
        ambush = Ambush(step)
        self.ring.gate = ambush
        self.host.toolstack.gate = ambush
        return ambush

    def domain(self, uuid: str = WEB.uuid) -> SimGuest | None:
        """The domain of a VM as the host has it."""
        return next((each for each in self.host.catch_up().guests.values() if each.uuid == uuid), None)

    async def reservations(self) -> tuple[Reservation, ...]:
        """What stands in xenstore."""
        seen = self.ring.report.number if self.ring.report else 0
        self.ring.wake()
        report = await self.ring.next_report(seen, TEST_S)
        assert report is not None
        return report.look.host.reservations


@asynccontextmanager
async def simulated(folder: Path, *guests: GuestSpec, spare_mib: int = 0) -> AsyncIterator[SimulatedHost]:
    """A host that outlives its daemons."""
    free_kib = SLUSH_KIB + spare_mib * MIB_KIB
    total_kib = free_kib + 512 * MIB_KIB + sum(each.actual_kib for each in guests)
    scenario = Scenario(
        tick_s=0.001,
        host=HostSpec(total_kib=total_kib, free_kib=free_kib, slush_kib=SLUSH_KIB),
        guests=guests,
    )
    host = SimulatedHost(scenario)
    await host.start(str(folder / "xs"))
    try:
        yield host
    finally:
        host.toolstack.gate = None
        await host.close()


@asynccontextmanager
async def attached(
    host: SimulatedHost, folder: Path, *, reservation_s: float = 60.0, patience_s: float = 5.0
) -> AsyncIterator[Daemon]:
    """A daemon on the host; it leaves what it was doing as it is when it goes, as if it were killed."""
    driver = LiveDriver(Xenstore(str(folder / "xs")), host.hypervisor, slush_kib=SLUSH_KIB)
    await driver.start()
    ring = SteppedController(driver, settings=PlannerSettings(caution=Caution(patience_s=patience_s)))
    identity = HostIdentity(boot_id="a boot", domain_zero=DomainZero(512 * MIB_KIB))
    settings = ServiceSettings(host=identity, reservation_s=reservation_s)
    service = Service(
        Store(folder / "state"),
        ring,
        settings,
        toolstack=host.toolstack,
        images=folder / "images",
        clock=time.monotonic,
    )
    await service.start()
    await service.seed([WEB])
    task = asyncio.create_task(ring.run())
    try:
        async with asyncio.timeout(TEST_S):
            await ring.next_report(0, TEST_S)
            await service.seed([])  # once this is stored, so are the VMs that were adopted before it
            yield Daemon(host, ring, service, task)
    finally:
        await service.lifecycle.close()
        await ring.close()
        await task
        await service.close()
        await driver.close()
        host.toolstack.gate = None
