"""Domain 0 balanced, over the store's double and a hypervisor that only counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xcpmem.engine.model import DynamicRange, SetMaxmem
from xcpmem.errors import InvalidValue
from xcpmem.scenario import load_scenario
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GIB = mib_to_kib(1024)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    host = SimulatedHost(load_scenario("quiet"))
    await host.start(str(tmp_path / "x"))
    yield host
    await host.close()


async def managed(host: SimulatedHost, tmp_path: Path, floor_kib: int | None) -> LiveDriver:
    driver = LiveDriver(
        Xenstore(str(tmp_path / "x")), host.hypervisor, slush_kib=0, domain_zero_min_kib=floor_kib
    )
    await driver.start()
    return driver


async def test_domain_zero_is_left_alone_unless_it_is_managed(host: SimulatedHost, tmp_path: Path) -> None:
    driver = await managed(host, tmp_path, None)
    look = await driver.observe()
    assert [domain.domid for domain in look.host.domains] == [1, 2, 3, 4]
    assert look.descriptions[0].static_max_kib == GIB
    assert host.store.read(paths.dynamic_min(0)) is None
    await driver.close()


async def test_domain_zero_gets_its_range_and_keeps_its_maxmem_when_it_is_managed(
    host: SimulatedHost, tmp_path: Path
) -> None:
    driver = await managed(host, tmp_path, GIB // 2)
    look = await driver.observe()
    zero = look.host.domains[0]
    assert (zero.domid, zero.dynamic_range) == (0, DynamicRange(GIB // 2, GIB))
    assert zero.maxmem_kib == zero.target_kib
    assert host.store.read(paths.feature_balloon(0)) == "1"
    await driver.apply(SetMaxmem(0, GIB // 2))
    assert (await driver.observe()).host.domains[0] == zero
    await driver.close()


async def test_domain_zero_cannot_have_a_floor_above_its_size(host: SimulatedHost, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="domain_zero_dynamic_min_kib"):
        await managed(host, tmp_path, 2 * GIB)
    assert host.store.read(paths.dynamic_min(0)) is None
