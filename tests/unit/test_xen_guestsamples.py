"""Guests' reports as they arrive in the looks of the live driver, with their age, cadence and traps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from xcpmem.engine.sample import Sample
from xcpmem.errors import DriverDisconnected
from xcpmem.scenario import load_scenario
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.guestsamples import (
    FREE_S,
    LINES_PERIOD_S,
    OWN_PERIOD_S,
    QUBES_PERIOD_S,
    RUST_PERIOD_S,
    SLOW_PERIOD_S,
)
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.wire import MessageType
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from xcpmem.engine.model import DomainState
    from xcpmem.xen.driver import Look

HELD = mib_to_kib(3072)
"""What each guest of the scenario holds."""


class Clock:
    """A clock that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Listener:
    """A driver beside the guests whose words it hears, and the time by which it dates them."""

    def __init__(self, host: SimulatedHost, xenstore: Xenstore, driver: LiveDriver, clock: Clock) -> None:
        self.host = host
        self.xenstore = xenstore
        self.driver = driver
        self.clock = clock

    async def look(self) -> Look:
        """See what has been said; a change in xenstore is awaited first."""
        assert await self.driver.wait(5)
        return await self.driver.observe()

    async def domain(self) -> DomainState:
        """Domain 1 as of the next change."""
        return (await self.look()).host.domains[0]

    async def sample(self) -> Sample:
        """The newest sample of domain 1."""
        sample = (await self.domain()).sample
        assert sample is not None
        return sample

    async def say(self, path: Callable[[int], str], text: str) -> DomainState:
        """Let the guest of domain 1 write, and look."""
        self.host.store.write(path(1), text)
        return await self.domain()

    async def hear(self, path: Callable[[int], str], text: str) -> Sample:
        """Let the guest of domain 1 write, and take the sample."""
        sample = (await self.say(path, text)).sample
        assert sample is not None
        return sample


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    host, clock = SimulatedHost(load_scenario("quiet")), Clock()
    await host.start(str(tmp_path / "x"))
    xenstore = Xenstore(str(tmp_path / "x"))
    driver = LiveDriver(xenstore, host.hypervisor, slush_kib=0, guest_gap_s=0.0, clock=clock)
    await driver.start()
    await driver.observe()
    while await driver.wait(0.1):
        await driver.observe()
    yield Listener(host, xenstore, driver, clock)
    await driver.close()
    await host.close()


def own(available_kib: int, swapped_kib: int = 0, stall_us: int = 0, flags: int = 0) -> str:
    return f"1 {available_kib} {swapped_kib} {stall_us} 0 {flags}"


async def test_a_silent_guest_has_no_sample(listener: Listener) -> None:
    look = await listener.driver.observe()
    assert [domain.sample for domain in look.host.domains] == [None] * 4
    assert look.descriptions[1].guest_free_kib is None


async def test_own_report_becomes_a_sample(listener: Listener) -> None:
    sample = await listener.hear(paths.xcpmem_report, own(HELD // 4, 4096, 70_000))
    assert sample == Sample(
        seen_s=1000.0,
        period_s=OWN_PERIOD_S,
        used_kib=HELD - HELD // 4,
        swapped_kib=4096,
        stall_us=70_000,
        refault_kib=0,
        source="data/xcpmem/1",
    )
    assert sample.seen_s == 1000.0
    assert (await listener.driver.observe()).descriptions[1].guest_free_kib == HELD // 4


async def test_used_is_counted_against_what_was_held_when_the_report_arrived(listener: Listener) -> None:
    assert (await listener.hear(paths.xcpmem_report, own(mib_to_kib(1024)))).used_kib == mib_to_kib(2048)
    listener.host.catch_up().guest(1).actual_kib -= mib_to_kib(512)
    domain = (await listener.driver.observe()).host.domains[0]
    assert domain.actual_kib == mib_to_kib(2560)
    assert domain.sample is not None
    assert domain.sample.used_kib == mib_to_kib(2048)


async def test_free_memory_is_not_shown_when_it_is_more_than_the_guest_holds_by_now(
    listener: Listener,
) -> None:
    await listener.hear(paths.xcpmem_report, own(HELD - 4))
    listener.host.catch_up().guest(1).actual_kib -= mib_to_kib(512)
    assert (await listener.driver.observe()).descriptions[1].guest_free_kib is None


async def test_a_heartbeat_renews_a_sample_and_leaves_it_equal(listener: Listener) -> None:
    before = await listener.say(paths.xcpmem_report, own(HELD // 4))
    listener.clock.now_s += 9.0
    after = await listener.say(paths.xcpmem_report, own(HELD // 4))
    assert after.sample is not None
    assert after.sample.seen_s == 1009.0
    assert after == before


async def test_a_sample_grows_stale_when_the_agent_falls_silent(listener: Listener) -> None:
    await listener.hear(paths.xcpmem_report, own(HELD // 4))
    listener.clock.now_s += 3 * OWN_PERIOD_S + 0.1
    look = await listener.driver.observe()
    sample = look.host.domains[0].sample
    assert sample is not None
    assert not sample.is_fresh(listener.clock.now_s)
    assert look.descriptions[1].guest_free_kib is None


async def test_the_sample_goes_with_the_agents_key(listener: Listener) -> None:
    await listener.hear(paths.xcpmem_report, own(HELD // 4))
    listener.host.store.remove("/local/domain/1/data/xcpmem")
    assert (await listener.domain()).sample is None


async def test_the_next_guest_of_a_number_begins_without_a_sample(listener: Listener) -> None:
    await listener.hear(paths.xcpmem_report, own(HELD // 4))
    guest = listener.host.catch_up().guest(1)
    listener.host.remove_guest(1)
    await listener.look()
    listener.host.add_guest(guest.spec, HELD)
    assert (await listener.domain()).sample is None


async def test_the_best_agent_that_still_speaks_is_believed(listener: Listener) -> None:
    await listener.hear(paths.memory_meminfo, str(mib_to_kib(100)))
    await listener.hear(paths.meminfo_free, str(mib_to_kib(1000)))
    assert (await listener.hear(paths.xcpmem_report, own(HELD // 2))).source == "data/xcpmem/1"
    listener.clock.now_s += 40.0
    assert (await listener.hear(paths.data_updated, "now")).source == "data/meminfo_free"
    listener.clock.now_s += 1000.0
    look = await listener.driver.observe()
    sample = look.host.domains[0].sample
    assert sample is not None
    assert (sample.source, sample.used_kib) == ("memory/meminfo", mib_to_kib(100))


async def test_cadence_of_xenservers_agents_is_told_by_the_keys_they_write(listener: Listener) -> None:
    assert (await listener.hear(paths.meminfo_free, "100000")).period_s == RUST_PERIOD_S
    await listener.say(paths.data_updated, "Tue Nov 24")
    assert (await listener.hear(paths.meminfo_free, "100001")).period_s == SLOW_PERIOD_S


async def test_an_agent_that_only_writes_what_changed_is_renewed_by_its_other_key(listener: Listener) -> None:
    await listener.hear(paths.meminfo_free, "100000")
    listener.clock.now_s += 60.0
    listener.host.catch_up().guest(1).actual_kib -= mib_to_kib(512)
    sample = await listener.hear(paths.data_updated, "1")
    assert sample.seen_s == 1060.0
    assert sample.used_kib == HELD - 100_000


async def test_qubes_agent_says_what_is_used_and_does_not_grow_old_by_the_minute(listener: Listener) -> None:
    await listener.hear(paths.memory_meminfo, "500000")
    sample = await listener.hear(paths.memory_swapinfo, "100000")
    assert (sample.used_kib, sample.swapped_kib, sample.period_s) == (400_000, 100_000, QUBES_PERIOD_S)


async def test_xenballoond_writes_a_whole_meminfo_under_the_same_key(listener: Listener) -> None:
    sample = await listener.hear(paths.memory_meminfo, "MemFree:  1000 kB\nCached:   3000 kB\n")
    assert (sample.used_kib, sample.period_s) == (HELD - 4000, LINES_PERIOD_S)


async def test_an_empty_key_is_silence(listener: Listener) -> None:
    domain = await listener.say(paths.memory_meminfo, "")
    assert domain.sample is None
    assert set((await listener.driver.observe()).dropped_reports.values()) == {0}


async def test_scarcity_without_a_word_of_stalls_may_hide_a_need(listener: Listener) -> None:
    assert (await listener.hear(paths.meminfo_free, str(HELD // 25))).is_censored
    assert not (await listener.hear(paths.meminfo_free, str(HELD // 15))).is_censored
    assert not (await listener.hear(paths.xcpmem_report, own(HELD // 25))).is_censored
    assert (await listener.hear(paths.xcpmem_report, own(HELD // 25, flags=2))).is_censored


async def test_an_old_agent_that_does_not_count_the_cache_is_censored_only_after_ten_minutes(
    listener: Listener,
) -> None:
    store = listener.host.store
    store.write(paths.pv_addons_major_version(1), "7")
    store.write(paths.pv_addons_minor_version(1), "10")
    store.write(paths.data_updated(1), "1")
    await listener.look()
    assert not (await listener.hear(paths.meminfo_free, str(HELD // 50))).is_censored
    listener.clock.now_s += FREE_S
    assert not (await listener.hear(paths.meminfo_free, str(HELD // 50))).is_censored
    listener.clock.now_s += 120.0
    assert (await listener.hear(paths.meminfo_free, str(HELD // 50))).is_censored
    assert not (await listener.hear(paths.meminfo_free, str(HELD // 20))).is_censored
    assert not (await listener.hear(paths.meminfo_free, str(HELD // 50))).is_censored


async def test_windows_driver_says_whether_its_balloon_moves(listener: Listener) -> None:
    assert (await listener.say(paths.balloon_active, "1")).balloon_active is True
    assert (await listener.say(paths.balloon_active, "0")).balloon_active is False
    assert (await listener.say(paths.balloon_active, "maybe")).balloon_active is None


@pytest.mark.parametrize(
    ("path", "text", "flaw"),
    [
        (paths.xcpmem_report, "1 2 3", "malformed"),
        (paths.xcpmem_report, own(HELD + 1), "absurd"),
        (paths.meminfo_free, "-5", "malformed"),
        (paths.meminfo_free, "much", "malformed"),
        (paths.meminfo_free, str(HELD + 1), "absurd"),
        (paths.memory_meminfo, "\\xff\\xfe", "malformed"),
        (paths.memory_meminfo, str(HELD + 1), "absurd"),
    ],
)
async def test_hostile_and_absurd_reports_are_dropped_counted_and_logged_once(
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
    path: Callable[[int], str],
    text: str,
    flaw: str,
) -> None:
    caplog.set_level(logging.WARNING)
    assert (await listener.say(path, text)).sample is None
    assert (await listener.say(path, text)).sample is None
    dropped = (await listener.driver.observe()).dropped_reports
    assert dropped == {"malformed": 0, "absurd": 0} | {flaw: 2}
    assert caplog.text.count("domain 1: ") == 1


async def test_what_was_said_of_another_size_before_anybody_listened_is_no_lie(listener: Listener) -> None:
    guest = listener.host.catch_up().guest(1)
    listener.host.remove_guest(1)
    await listener.look()
    listener.host.store.write(paths.meminfo_free(1), str(HELD + 1))
    listener.host.add_guest(guest.spec, HELD)
    assert (await listener.domain()).sample is None
    assert set((await listener.driver.observe()).dropped_reports.values()) == {0}


async def test_the_last_good_word_stays_and_grows_old_when_nonsense_follows(listener: Listener) -> None:
    await listener.hear(paths.xcpmem_report, own(HELD // 4))
    listener.clock.now_s += 5.0
    sample = await listener.hear(paths.xcpmem_report, "nonsense")
    assert (sample.used_kib, sample.seen_s) == (HELD - HELD // 4, 1000.0)


async def test_a_lost_connection_makes_nobodys_old_words_new(listener: Listener) -> None:
    await listener.hear(paths.xcpmem_report, own(HELD // 4))
    listener.clock.now_s += 20.0
    await listener.host.store_server.disconnect()
    async with asyncio.timeout(10):
        while listener.xenstore.reconnects == 0 or not listener.xenstore.connected:
            await listener.driver.wait(5)
            with contextlib.suppress(DriverDisconnected):
                await listener.driver.observe()
    sample = (await listener.driver.observe()).host.domains[0].sample
    assert sample is not None
    assert sample.seen_s == 1000.0
    assert await listener.hear(paths.xcpmem_report, own(HELD // 2)) != sample


async def test_a_guest_whose_words_cannot_be_read_is_silent_and_the_others_are_heard(
    listener: Listener,
) -> None:
    store, unreadable = listener.host.store, paths.xcpmem_report(2).encode()
    listener.host.store_server.fault = lambda request: (
        Fault(Misbehaviour.REFUSE, "EACCES")
        if request.type == MessageType.READ and request.payload.startswith(unreadable)
        else None
    )
    for domid in (1, 2):
        store.write(paths.xcpmem_report(domid), own(HELD // 4))
    first, second = (await listener.look()).host.domains[:2]
    assert first.sample is not None
    assert second.sample is None
    listener.host.store_server.fault = None
    assert (await listener.driver.observe()).host.domains[1].sample is not None
