"""The laws of the host port, on the pure simulated host and on the real driver over the doubles."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract.host_laws import LAWS, World
from xcpmem.scenario import Scenario
from xcpmem.specs import BalloonSpec, DomainType, GuestSpec, HostSpec
from xcpmem.units import mib_to_kib
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.simhypervisor import RemoteHypervisor
from xcpmem.xen.simulated import HYPERVISOR_SUFFIX, SimulatedHost
from xcpmem.xen.virtual import VirtualDriver
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from xcpmem.xen.driver import HostDriver

SCENARIO = Scenario(
    tick_s=0.01,
    host=HostSpec(total_kib=mib_to_kib(16384), free_kib=mib_to_kib(1024)),
    guests=tuple(
        GuestSpec(
            domid=domid,
            dynamic_min_kib=mib_to_kib(256),
            dynamic_max_kib=mib_to_kib(1024),
            static_max_kib=mib_to_kib(2048),
            domain_type=domain_type,
            balloon=BalloonSpec(rate_kib_s=mib_to_kib(8192)),
        )
        for domid, domain_type in ((1, DomainType.PV), (2, DomainType.PVH), (7, DomainType.HVM))
    ),
)


class SimulatedWorld:
    """The scenario above, with a way to open drivers on it."""

    domids = (1, 2, 7)
    step_kib = mib_to_kib(128)
    patience_s = 10.0
    inaccuracy_kib = 4

    def __init__(self, opener: Callable[[], Awaitable[HostDriver]]) -> None:
        self._opener = opener

    async def open(self) -> HostDriver:
        return await self._opener()


@asynccontextmanager
async def virtual(_: Path) -> AsyncIterator[World]:
    host = SimHost(SCENARIO)

    async def opener() -> HostDriver:
        return VirtualDriver(host, tick_s=SCENARIO.tick_s)

    yield SimulatedWorld(opener)


@asynccontextmanager
async def live(folder: Path, *, remote: bool = False) -> AsyncIterator[World]:
    host = SimulatedHost(SCENARIO)
    path = str(folder / "xs")
    await host.start(path)

    async def opener() -> HostDriver:
        hypervisor = RemoteHypervisor(path + HYPERVISOR_SUFFIX) if remote else host.hypervisor
        driver = LiveDriver(Xenstore(path), hypervisor, slush_kib=SCENARIO.host.slush_kib)
        await driver.start()
        return driver

    try:
        yield SimulatedWorld(opener)
    finally:
        await host.close()


@asynccontextmanager
async def attached(folder: Path) -> AsyncIterator[World]:
    async with live(folder, remote=True) as world:
        yield world


@pytest.mark.parametrize("host", [virtual, live, attached], ids=lambda host: host.__name__)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_the_law_holds(
    law: Callable[[World], Awaitable[None]],
    host: Callable[[Path], AbstractAsyncContextManager[World]],
    tmp_path: Path,
) -> None:
    async with host(tmp_path) as world:
        await law(world)
