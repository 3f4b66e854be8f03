"""A domain that comes is watched, then read once; what changes meanwhile is never lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from xcpmem.errors import DriverDisconnected
from xcpmem.scenario import load_scenario
from xcpmem.specs import GuestSpec
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths, wire
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.wire import MessageType
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from xcpmem.engine.model import DomainState
    from xcpmem.xen.wire import Message

GUESTS = 20
NEWCOMER = GuestSpec(
    domid=GUESTS + 1,
    uuid="0c0ffee0-0000-4000-8000-000000000001",
    name_label="newcomer",
    dynamic_min_kib=mib_to_kib(64),
    dynamic_max_kib=mib_to_kib(128),
    static_max_kib=mib_to_kib(256),
)
OTHER_KIB = mib_to_kib(96)


class Listened:
    """A host, a driver that has not looked yet, and what it reads."""

    def __init__(self, host: SimulatedHost, driver: LiveDriver) -> None:
        self.host = host
        self.driver = driver
        self.reads: Counter[str] = Counter()
        self.ambushes: dict[tuple[MessageType, str], Callable[[], None]] = {}
        host.store_server.fault = self._hear

    async def settle(self) -> int:
        """Look as often as there is a reason to; tell how often that was."""
        looks = 0
        await self.driver.catch_up()
        while await self.driver.wait(0.0):
            await self.driver.observe()
            await self.driver.catch_up()
            looks += 1
        return looks

    async def observe(self, domid: int) -> DomainState:
        """See one domain in the next look."""
        look = await self.driver.observe()
        return next(each for each in look.host.domains if each.domid == domid)

    def narrow(self, domid: int) -> None:
        """Lower a domain's dynamic-max."""
        self.host.store.write(paths.dynamic_max(domid), str(OTHER_KIB))

    def read_counts(self) -> set[int]:
        """How often keys were read, whichever they are."""
        return {count for path, count in self.reads.items() if path != paths.OWN}

    def _hear(self, message: Message) -> None:
        """Before a request is carried out: count it, and let happen what was to happen then."""
        path = message.payload.partition(wire.NUL)[0].decode()
        if message.type == MessageType.READ:
            self.reads[path] += 1
        if ambush := self.ambushes.pop((MessageType(message.type), path), None):
            ambush()


@pytest.fixture
async def listened(tmp_path: Path) -> AsyncIterator[Listened]:
    host = SimulatedHost(load_scenario(f"fleet:{GUESTS}"))
    await host.start(str(tmp_path / "x"))
    driver = LiveDriver(Xenstore(str(tmp_path / "x")), host.hypervisor, slush_kib=0)
    await driver.start()
    yield Listened(host, driver)
    await driver.close()
    await host.close()


async def test_first_look_reads_each_key_once_and_finds_no_reason_for_another(listened: Listened) -> None:
    await listened.driver.observe()
    assert await listened.settle() == 0
    assert listened.read_counts() == {1}


async def test_domain_that_comes_later_is_read_once_and_no_other_with_it(listened: Listened) -> None:
    await listened.driver.observe()
    await listened.settle()
    listened.reads.clear()
    listened.host.add_guest(NEWCOMER, mib_to_kib(128))
    assert await listened.settle() == 1
    assert listened.read_counts() == {1}
    own = f"{paths.domain(NEWCOMER.domid)}/"
    assert all(path == paths.OWN or path.startswith(own) for path in listened.reads)


async def test_domain_whose_number_is_anothers_again_is_read_once(listened: Listened) -> None:
    listened.host.add_guest(NEWCOMER, mib_to_kib(128))
    await listened.driver.observe()
    listened.host.remove_guest(NEWCOMER.domid)
    await listened.settle()
    listened.reads.clear()
    listened.host.add_guest(NEWCOMER, mib_to_kib(64))
    assert await listened.settle() == 1
    assert (await listened.observe(NEWCOMER.domid)).target_kib == mib_to_kib(64)
    assert listened.read_counts() == {1}


async def test_each_key_is_read_once_when_the_connection_is_back(listened: Listened) -> None:
    await listened.driver.observe()
    await listened.host.store_server.disconnect()
    listened.reads.clear()
    async with asyncio.timeout(10):
        while not listened.reads:
            await listened.driver.wait(5)
            try:
                await listened.driver.observe()
            except DriverDisconnected:
                continue
    assert await listened.settle() == 0
    assert listened.read_counts() == {1}


@pytest.mark.parametrize("watched", [paths.memory, paths.control, paths.data, paths.name, paths.domain_type])
async def test_change_between_the_watch_and_the_first_read_is_in_the_look(
    listened: Listened, watched: Callable[[int], str]
) -> None:
    listened.ambushes[MessageType.WATCH, watched(3)] = lambda: listened.narrow(3)
    assert (await listened.observe(3)).dynamic_range.max_kib == OTHER_KIB
    assert await listened.settle() == 0


async def test_change_of_the_very_path_of_a_watch_after_its_first_read_is_seen_by_the_next_look(
    listened: Listened,
) -> None:
    def rename() -> None:
        listened.host.store.write(paths.name(3), "renamed")

    listened.ambushes[MessageType.READ, paths.domain_type(3)] = rename  # the key that is read after the name
    assert (await listened.driver.observe()).descriptions[3].name_label != "renamed"
    assert await listened.driver.wait(5)
    assert (await listened.driver.observe()).descriptions[3].name_label == "renamed"


async def test_change_after_the_first_read_is_seen_by_the_next_look(listened: Listened) -> None:
    listened.ambushes[MessageType.READ, paths.feature_balloon(3)] = lambda: listened.narrow(3)
    assert (await listened.observe(3)).dynamic_range.max_kib != OTHER_KIB
    assert await listened.driver.wait(5)
    assert (await listened.observe(3)).dynamic_range.max_kib == OTHER_KIB


async def test_change_of_another_domain_while_one_comes_is_not_lost(listened: Listened) -> None:
    await listened.driver.observe()
    await listened.settle()
    listened.host.add_guest(NEWCOMER, mib_to_kib(128))
    listened.ambushes[MessageType.WATCH, paths.memory(NEWCOMER.domid)] = lambda: listened.narrow(3)
    assert (await listened.observe(3)).dynamic_range.max_kib == OTHER_KIB


async def test_version_of_an_agent_is_read_only_where_one_reports_what_is_free(listened: Listened) -> None:
    listened.host.store.write(paths.meminfo_free(3), "4096")
    await listened.driver.observe()
    versions = {domid: listened.reads[paths.pv_addons_major_version(domid)] for domid in (2, 3)}
    assert versions == {2: 0, 3: 1}
