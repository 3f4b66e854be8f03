"""The live driver over the store's double: what it makes of keys that anybody may have written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xcpmem.engine.model import DynamicRange
from xcpmem.errors import DriverTimeout
from xcpmem.scenario import load_scenario
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.engine.model import DomainState

GIB = mib_to_kib(1024)


class Clock:
    """A clock that a test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    host = SimulatedHost(load_scenario("quiet"))
    await host.start(str(tmp_path / "x"))
    yield host
    await host.close()


@pytest.fixture
async def driver(host: SimulatedHost, tmp_path: Path, clock: Clock) -> AsyncIterator[LiveDriver]:
    driver = LiveDriver(Xenstore(str(tmp_path / "x")), host.hypervisor, slush_kib=0, clock=clock)
    await driver.start()
    await driver.observe()
    yield driver
    await driver.close()


async def seen(driver: LiveDriver) -> DomainState:
    """Domain 1 after the next change in xenstore."""
    assert await driver.wait(5)
    return (await driver.observe()).host.domains[0]


async def quiet(driver: LiveDriver) -> None:
    """Take the events that registering a watch brings."""
    while await driver.wait(0.2):
        await driver.observe()


@pytest.mark.parametrize(
    "text", ["", "-1", "0x10", "1e9", "12 ", "9" * 30, "a" * 2000, "١٢٣"], ids=lambda text: text[:8]
)
async def test_domain_is_pinned_where_it_is_when_its_range_is_no_number(
    host: SimulatedHost, driver: LiveDriver, text: str
) -> None:
    await quiet(driver)
    host.store.write(paths.dynamic_min(1), text.encode())
    domain = await seen(driver)
    assert (domain.has_range, domain.dynamic_range) == (False, DynamicRange(3 * GIB, 3 * GIB))


async def test_domain_is_pinned_when_its_range_is_upside_down(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    host.store.write(paths.dynamic_min(1), str(4 * GIB))
    assert (await seen(driver)).dynamic_range == DynamicRange(3 * GIB, 3 * GIB)


async def test_domain_cannot_balloon_when_its_guest_says_zero(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    host.store.write(paths.feature_balloon(1), "0")
    assert not (await seen(driver)).can_balloon


async def test_plain_linux_guest_is_believed_under_libxl_and_not_yet_under_xenopsd(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    host.store.remove(paths.feature_balloon(1))
    assert not (await seen(driver)).can_balloon
    host.store.remove(paths.domain_type(1))
    assert (await seen(driver)).can_balloon


async def test_change_is_not_lost_when_the_look_that_heard_of_it_fails(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    host.store.write(paths.dynamic_max(1), str(2 * GIB))
    assert await driver.wait(5)
    host.hypervisor.fault = lambda call, _: DriverTimeout(call)
    with pytest.raises(DriverTimeout):
        await driver.observe()
    host.hypervisor.fault = None
    assert (await driver.observe()).host.domains[0].dynamic_range.max_kib == 2 * GIB
