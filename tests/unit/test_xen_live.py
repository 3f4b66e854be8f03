"""The live driver over the store's double: what it makes of keys that anybody may have written."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from xcpmem.engine.model import (
    DeleteReservation,
    DynamicRange,
    Lifecycle,
    RecordReservation,
    Reservation,
    SetTarget,
)
from xcpmem.errors import DomainVanished, DriverDisconnected, DriverTimeout, StoreError
from xcpmem.scenario import load_scenario
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import ECHO_S, READ_ALL_S
from xcpmem.xen.doorbell import GUEST_GAP_S
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.storesession import BATCH_REQUESTS_MAX
from xcpmem.xen.wire import MessageType
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.engine.model import DomainState
    from xcpmem.xen.driver import Look

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


@pytest.mark.parametrize("size", [10, 60])
async def test_first_look_asks_xenstored_as_often_however_many_domains_there_are(
    tmp_path: Path, size: int
) -> None:
    host = SimulatedHost(load_scenario(f"fleet:{size}"))
    await host.start(str(tmp_path / "x"))
    exchanges: list[float] = []
    store = Xenstore(str(tmp_path / "x"))
    store.observe_exchanges(exchanges.append)
    driver = LiveDriver(store, host.hypervisor, slush_kib=0)
    await driver.start()
    exchanges.clear()
    assert len((await driver.observe()).host.domains) == size
    requests = store.requests
    assert len(exchanges) <= 6 + requests / BATCH_REQUESTS_MAX
    await driver.close()
    await host.close()


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


async def test_domain_that_was_complete_is_being_destroyed_once_it_is_halted_and_without_a_directory(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    host.set_lifecycle(1, Lifecycle.PAUSED)
    assert not (await driver.observe()).host.domains[0].is_ending
    host.store.remove(paths.domain(1))
    for lifecycle, is_ending in (
        (Lifecycle.PAUSED, True),
        (Lifecycle.SUSPENDED, True),
        (Lifecycle.RUNNING, False),
        (Lifecycle.PAUSED, False),
        (Lifecycle.DYING, False),
    ):
        host.set_lifecycle(1, lifecycle)
        await quiet(driver)
        domain = (await driver.observe()).host.domains[0]
        assert (domain.is_ending, domain.held_kib) == (is_ending, 3 * GIB)


async def test_domain_without_a_directory_that_nobody_saw_complete_is_being_built(
    host: SimulatedHost, tmp_path: Path
) -> None:
    host.set_lifecycle(1, Lifecycle.PAUSED)
    host.store.remove(paths.domain(1))
    driver = LiveDriver(Xenstore(str(tmp_path / "x")), host.hypervisor, slush_kib=0)
    await driver.start()
    for _ in range(2):
        domain = (await driver.observe()).host.domains[0]
        assert (domain.is_ending, domain.lifecycle) == (False, Lifecycle.BUILDING)
    await driver.close()


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


async def resynced(host: SimulatedHost, driver: LiveDriver) -> Look:
    """The look after the connection to xenstored was lost and has come back."""
    await host.store_server.disconnect()
    async with asyncio.timeout(10):
        while True:
            await driver.wait(5)
            try:
                return await driver.observe()
            except DriverDisconnected:
                continue


async def test_look_without_a_connection_is_none(host: SimulatedHost, driver: LiveDriver) -> None:
    await host.store_server.close()
    with pytest.raises(DriverDisconnected):
        await driver.apply(SetTarget(1, GIB))
    with pytest.raises(DriverDisconnected, match="not connected"):
        await driver.observe()


async def test_reservation_that_xenstored_lost_is_written_again(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    kept, given_back = Reservation("kept", "me", 4096, vm_uuid="v"), Reservation("given-back", "me", 4096)
    for reservation in (kept, given_back):
        await driver.apply(RecordReservation(reservation))
    await driver.apply(DeleteReservation(given_back))
    host.store.remove(paths.OWN)
    assert (await resynced(host, driver)).host.reservations == (kept,)
    assert host.store.read(paths.reservation("me", "kept")) == "4096"


async def test_domain_that_cannot_be_read_is_as_it_was_last_read_and_the_others_are_seen(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    unreadable = paths.dynamic_max(2).encode()
    host.store_server.fault = lambda request: (
        Fault(Misbehaviour.REFUSE, "EACCES")
        if request.type == MessageType.READ and request.payload.startswith(unreadable)
        else None
    )
    for domid in (1, 2):
        host.store.write(paths.dynamic_max(domid), str(2 * GIB))
    await driver.wait(5)
    first, second = (await driver.observe()).host.domains[:2]
    assert (first.dynamic_range.max_kib, second.dynamic_range.max_kib) == (2 * GIB, 3 * GIB)
    host.store_server.fault = None
    assert (await driver.observe()).host.domains[1].dynamic_range.max_kib == 2 * GIB


async def test_host_none_of_whose_domains_can_be_read_is_not_seen(
    host: SimulatedHost, driver: LiveDriver, clock: Clock
) -> None:
    host.store_server.fault = lambda request: (
        Fault(Misbehaviour.REFUSE, "EIO") if request.type == MessageType.READ else None
    )
    clock.now_s += READ_ALL_S
    with pytest.raises(StoreError, match="EIO"):
        await driver.observe()


async def lose_events(host: SimulatedHost, driver: LiveDriver) -> None:
    """Somebody narrows domain 1, and no watch tells."""
    await quiet(driver)
    host.store_server.fault = lambda message: (
        Fault(Misbehaviour.SILENCE) if message.type == MessageType.WATCH_EVENT else None
    )
    host.store.write(paths.dynamic_max(1), str(2 * GIB))
    assert (await driver.observe()).host.domains[0].dynamic_range.max_kib == 3 * GIB


async def test_lost_event_is_made_up_for_once_a_write_of_ours_has_no_echo(
    host: SimulatedHost, driver: LiveDriver, clock: Clock
) -> None:
    await lose_events(host, driver)
    await driver.apply(SetTarget(2, 2 * GIB))
    assert not await driver.wait(5)
    clock.now_s += ECHO_S
    assert (await driver.observe()).host.domains[0].dynamic_range.max_kib == 2 * GIB


async def test_targets_are_told_to_all_domains_or_to_none(host: SimulatedHost, driver: LiveDriver) -> None:
    before = (await driver.observe()).host.domains
    gone = SetTarget(99, GIB)
    with pytest.raises(DomainVanished, match="1 or 99"):
        await driver.tell([SetTarget(1, GIB), gone])
    await quiet(driver)
    assert (await driver.observe()).host.domains[0].target_kib == before[0].target_kib
    host.store.write(paths.target(1), str(2 * GIB))
    assert await driver.wait(5)
    assert (await driver.observe()).host.domains[0].target_kib == 2 * GIB


async def test_target_that_another_wrote_after_ours_is_a_reason_to_look(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    await driver.tell([SetTarget(1, GIB)])
    await driver.catch_up()
    assert not await driver.wait(0)
    host.store.write(paths.target(1), str(2 * GIB))
    assert await driver.wait(5)
    assert (await driver.observe()).host.domains[0].target_kib == 2 * GIB


async def test_wait_ends_as_soon_as_enough_is_free(driver: LiveDriver) -> None:
    await quiet(driver)
    free_kib = (await driver.observe()).host.free_kib
    assert await driver.wait(60, free_kib)
    await driver.observe()
    assert not await driver.wait(0.05, free_kib + 1)
    await driver.tell([SetTarget(1, GIB)])
    async with asyncio.timeout(30):
        assert await driver.wait(60, free_kib + 1)
    assert (await driver.observe()).host.free_kib > free_kib


async def test_free_memory_that_cannot_be_watched_leaves_the_wait_to_its_time_and_the_log(
    host: SimulatedHost, driver: LiveDriver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "xcpmem.xen.live")
    await quiet(driver)
    host.hypervisor.fault = lambda call, _: DriverTimeout("too late") if call == "free_kib" else None
    assert not await driver.wait(0.05, 4)
    assert "free memory cannot be watched, so the next look comes in its time: too late" in caplog.text
    host.hypervisor.fault = None
    assert await driver.wait(5, 4)


async def test_lost_event_is_made_up_for_by_time_alone(
    host: SimulatedHost, driver: LiveDriver, clock: Clock
) -> None:
    await lose_events(host, driver)
    clock.now_s += READ_ALL_S
    assert (await driver.observe()).host.domains[0].dynamic_range.max_kib == 2 * GIB


async def test_a_guest_that_writes_without_end_is_a_reason_to_look_once_a_second(
    host: SimulatedHost, driver: LiveDriver
) -> None:
    await quiet(driver)
    loop = asyncio.get_running_loop()
    began_s, rings = loop.time(), 0
    for number in range(1000):
        host.store.write(paths.xcpmem_report(1), f"{number} 0 0 0 0 0")
        if await driver.wait(0.001):
            rings += 1
            await driver.observe()
    assert 1 <= rings <= 1 + (loop.time() - began_s) / GUEST_GAP_S
