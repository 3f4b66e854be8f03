"""What looks and turns cost, counted and not timed: store requests, hypercalls, calls, what is made anew."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import Counter
from contextlib import asynccontextmanager
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xcpmem.controller import Controller
from xcpmem.engine.model import RecordReservation, Reservation, SetTarget
from xcpmem.scenario import load_scenario
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import CONFIGURATION_KEYS, READ_ALL_S
from xcpmem.xen.live import LiveDriver
from xcpmem.xen.simulated import SimulatedHost
from xcpmem.xen.storerequest import describe
from xcpmem.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import FrameType

    from xcpmem.xen.wire import Message

GUESTS = 20
OURS = Path(paths.__file__).parent
LOOKS = 50
"""Between two counts of memory."""


class SkippingDriver(LiveDriver):
    """A driver for which the time passes at once in which it would wait for an event that is not there."""

    now_s = 0.0

    async def wait(self, timeout_s: float, enough_kib: int | None = None) -> bool:
        await self.catch_up()
        has_rung = await super().wait(0.0)
        if not has_rung:
            self.now_s += timeout_s
        return has_rung


class Watched:
    """A driver at rest, what it asks of its host, and the time by which it looks."""

    def __init__(self, host: SimulatedHost, xenstore: Xenstore) -> None:
        self.host = host
        self.xenstore = xenstore
        self.hypercalls: list[str] = []
        self.now_s = 0.0
        self.driver = LiveDriver(xenstore, host.hypervisor, slush_kib=0, clock=lambda: self.now_s)
        host.hypervisor.fault = lambda call, _: self.hypercalls.append(call)

    async def settle(self) -> None:
        """Take the events that are still to come, and count from here."""
        await self.driver.catch_up()
        while await self.driver.wait(0.1):
            await self.driver.observe()
        await self.driver.observe()
        self.hypercalls.clear()

    def shrink(self, domids: Iterable[int]) -> None:
        """Let guests have given a page."""
        for domid in domids:
            guest = self.host.catch_up().guest(domid)
            guest.actual_kib -= 4


@asynccontextmanager
async def watching(folder: Path, guests: int) -> AsyncIterator[Watched]:
    host = SimulatedHost(load_scenario(f"fleet:{guests}"))
    await host.start(str(folder / "x"))
    watched = Watched(host, Xenstore(str(folder / "x")))
    await watched.driver.start()
    await watched.driver.observe()
    await watched.settle()
    yield watched
    await watched.driver.close()
    await host.close()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with watching(tmp_path, GUESTS) as watched:
        yield watched


async def test_idle_minute_has_two_looks_each_of_which_reads_every_key_once(tmp_path: Path) -> None:
    host = SimulatedHost(load_scenario(f"fleet:{GUESTS}"))
    await host.start(str(tmp_path / "x"))
    xenstore = Xenstore(str(tmp_path / "x"))
    driver = SkippingDriver(xenstore, host.hypervisor, slush_kib=0, clock=lambda: driver.now_s)
    await driver.start()
    controller = Controller(driver, clock=lambda: driver.now_s)
    reads: Counter[str] = Counter()
    looks: list[tuple[float, Counter[str]]] = []
    over = asyncio.Event()

    def note(message: Message) -> None:
        reads[describe(message.type, message.payload)] += 1

    def note_look(_: object) -> None:
        looks.append((driver.now_s, reads.copy()))
        reads.clear()
        if len(looks) == 3:
            over.set()

    ring = asyncio.create_task(controller.run())
    assert await controller.settle(60)
    await driver.catch_up()
    host.store_server.fault = note
    controller.subscribe(note_look)
    async with asyncio.timeout(60):
        await over.wait()
    host.store_server.fault = None
    await controller.close()
    await ring
    await driver.close()
    await host.close()
    (_, _), *later = looks
    assert [at_s for at_s, _ in later] == [30.0, 60.0]
    for _, asked in later:
        del asked[f"READ {paths.OWN}"]  # by which the wait hears of what there is to hear
        keys = (
            f"{paths.domain(domid)}/{key}" for domid in range(1, GUESTS + 1) for key in CONFIGURATION_KEYS
        )
        assert asked == Counter(f"READ {key}" for key in keys)


async def test_look_at_a_host_at_rest_asks_xen_once_and_xenstore_nothing(watched: Watched) -> None:
    requests = watched.xenstore.requests
    await watched.driver.observe()
    assert (watched.hypercalls, watched.xenstore.requests - requests) == (["survey"], 0)


async def test_look_for_safety_reads_every_key_once_and_wakes_the_loop_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, wakes = asyncio.get_running_loop(), list[object]()
    call = loop.call_soon_threadsafe

    def count(callback: Callable[..., object], *args: object) -> object:
        wakes.append(callback)
        return call(callback, *args)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    watched.now_s += READ_ALL_S
    requests = watched.xenstore.requests
    await watched.driver.observe()
    assert watched.xenstore.requests - requests == GUESTS * len(CONFIGURATION_KEYS)
    assert len(wakes) == 1


async def test_what_guests_write_that_nobody_reads_does_not_wake_the_loop(watched: Watched) -> None:
    heard: list[object] = []
    hear = watched.xenstore.on_event
    assert hear is not None

    def note() -> None:
        heard.append(watched.xenstore)
        hear()

    watched.xenstore.on_event = note
    for number in range(10):
        watched.host.store.write(f"{paths.domain(1)}/data/os_name", str(number))
    await watched.driver.catch_up()
    assert heard == []
    watched.host.store.write(paths.dynamic_max(1), "4096")
    await watched.driver.catch_up()
    assert len(heard) == 1


async def test_look_at_a_host_at_rest_makes_nothing_anew(watched: Watched) -> None:
    before, after = await watched.driver.observe(), await watched.driver.observe()
    assert after.host.domains is before.host.domains
    assert after.descriptions is before.descriptions


async def functions_called_by_a_look(watched: Watched) -> int:
    """Count the calls of our functions in the loop, but for those of the simulated host.

    Coroutines are left out: each time that one goes on after a pause counts as a call.
    """
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        file = Path(code.co_filename)
        is_ours = file.parent == OURS and not file.name.startswith("sim")
        if event == "call" and is_ours and not code.co_flags & inspect.CO_COROUTINE:
            called.append(code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    await watched.driver.observe()
    sys.setprofile(before)
    return len(called)


async def test_look_at_a_host_at_rest_calls_as_many_functions_whatever_its_size(tmp_path: Path) -> None:
    counts = []
    for guests in (10, 200):
        folder = tmp_path / str(guests)
        folder.mkdir()
        async with watching(folder, guests) as watched:
            counts.append(await functions_called_by_a_look(watched))
    small, large = counts
    assert small == large


async def test_looks_at_a_host_at_rest_keep_no_memory(watched: Watched) -> None:
    kept_blocks = []
    for _ in range(3):
        before = sys.getallocatedblocks()
        for _ in range(LOOKS):
            await watched.driver.observe()
        kept_blocks.append(sys.getallocatedblocks() - before)
    assert min(kept_blocks) < LOOKS, "each look left something behind"


@pytest.mark.parametrize("moving", [1, 7, GUESTS])
async def test_look_makes_anew_only_the_domains_that_moved(watched: Watched, moving: int) -> None:
    before = await watched.driver.observe()
    watched.shrink(range(1, moving + 1))
    after = await watched.driver.observe()
    same = list(map(is_, after.host.domains, before.host.domains))
    assert same == [False] * moving + [True] * (GUESTS - moving)
    assert after.descriptions is before.descriptions


async def test_keys_that_are_read_again_and_say_the_same_make_nothing_anew(watched: Watched) -> None:
    before = await watched.driver.observe()
    watched.host.store.write(paths.target(3), str(before.host.domains[2].target_kib))
    assert await watched.driver.wait(5)
    requests = watched.xenstore.requests
    after = await watched.driver.observe()
    assert watched.xenstore.requests > requests
    assert after.host.domains is before.host.domains


async def test_key_that_changed_has_its_domain_alone_read_and_made_anew(watched: Watched) -> None:
    before = await watched.driver.observe()
    watched.host.store.write(paths.dynamic_max(3), str(mib_to_kib(200)))
    assert await watched.driver.wait(5)
    after = await watched.driver.observe()
    changed = [a.domid for a, b in zip(after.host.domains, before.host.domains, strict=True) if a is not b]
    assert changed == [3]
    assert after.host.domains[2].dynamic_range.max_kib == mib_to_kib(200)


async def test_domain_is_seen_anew_once_memory_is_set_aside_for_it(watched: Watched) -> None:
    before = await watched.driver.observe()
    uuid = before.host.domains[4].uuid
    await watched.driver.apply(RecordReservation(Reservation("r", "me", 4096, vm_uuid=uuid)))
    after = await watched.driver.observe()
    changed = [a.domid for a, b in zip(after.host.domains, before.host.domains, strict=True) if a is not b]
    assert changed == [5]


async def test_target_costs_four_requests(watched: Watched) -> None:
    requests = watched.xenstore.requests
    await watched.driver.apply(SetTarget(1, mib_to_kib(128)))
    # begin, see that the domain is there, write, end
    assert watched.xenstore.requests - requests == 4


@pytest.mark.parametrize("told", [1, 7, GUESTS])
async def test_targets_of_many_domains_cost_two_requests_each_and_two_together(
    watched: Watched, told: int
) -> None:
    requests = watched.xenstore.requests
    await watched.driver.tell([SetTarget(domid, mib_to_kib(128)) for domid in range(1, told + 1)])
    assert watched.xenstore.requests - requests == 2 * told + 2


@pytest.mark.parametrize("told", [1, 7, GUESTS])
async def test_events_of_targets_of_ours_wake_nobody_and_have_nothing_read_but_the_targets(
    watched: Watched, told: int
) -> None:
    await watched.driver.tell([SetTarget(domid, mib_to_kib(128)) for domid in range(1, told + 1)])
    await watched.driver.catch_up()
    assert not await watched.driver.wait(0)
    requests = watched.xenstore.requests
    host = (await watched.driver.observe()).host
    assert watched.xenstore.requests - requests == told
    assert [domain.target_kib for domain in host.domains[:told]] == [mib_to_kib(128)] * told


async def test_key_that_changed_is_read_alone(watched: Watched) -> None:
    watched.host.store.write(paths.dynamic_max(3), str(mib_to_kib(200)))
    assert await watched.driver.wait(5)
    requests = watched.xenstore.requests
    await watched.driver.observe()
    assert watched.xenstore.requests - requests == 1


@asynccontextmanager
async def turning(watched: Watched) -> AsyncIterator[tuple[Controller, list[object]]]:
    """A ring over the driver that has come to rest, and its turns from here on."""
    controller, turns = Controller(watched.driver), list[object]()
    ring = asyncio.create_task(controller.run())
    assert await controller.settle(60)
    await watched.driver.catch_up()
    controller.subscribe(turns.append)
    watched.hypercalls.clear()
    yield controller, turns
    await controller.close()
    await ring


@pytest.mark.parametrize("moving", [0, 1, 7, GUESTS])
async def test_turn_asks_xen_once_and_xenstore_nothing_however_many_have_moved(
    watched: Watched, moving: int
) -> None:
    async with turning(watched) as (controller, turns):
        requests, seen = watched.xenstore.requests, controller.report
        assert seen is not None
        watched.shrink(range(1, moving + 1))
        controller.wake()
        assert await controller.next_report(seen.number, 60)
        assert watched.hypercalls == ["survey"] * len(turns)
        assert watched.xenstore.requests == requests


@pytest.mark.parametrize("givers", [1, 7, GUESTS])
async def test_reservation_for_which_guests_must_give_costs_a_target_for_each_and_one_for_itself(
    watched: Watched, givers: int
) -> None:
    requests: list[str] = []

    def note(message: Message) -> None:
        requests.append(describe(message.type, message.payload))

    for domid in range(givers + 1, GUESTS + 1):
        bound_kib = str(watched.host.catch_up().guest(domid).actual_kib)
        for path in (paths.dynamic_min(domid), paths.dynamic_max(domid)):
            watched.host.store.write(path, bound_kib)
    async with turning(watched) as (controller, turns):
        report = controller.report
        assert report is not None
        wanted_kib = report.look.host.free_kib + givers * mib_to_kib(16)
        watched.host.store_server.fault = note
        await controller.reserve(owner="me", min_kib=wanted_kib, max_kib=wanted_kib)
        written = [text.removeprefix("WRITE ") for text in requests if text.startswith("WRITE ")]
        assert sorted(written[:-1]) == sorted(map(paths.target, range(1, givers + 1)))
        assert written[-1].startswith(f"{paths.reservations()}/")
        calls = Counter(watched.hypercalls)
        assert calls.keys() == {"survey", "set_maxmem", "free_kib"}
        assert calls["set_maxmem"] == givers
        assert calls["survey"] <= len(turns) + 1  # the turn that is under way


async def test_reservation_of_what_is_free_costs_one_request_and_no_hypercall_but_the_look(
    watched: Watched,
) -> None:
    async with turning(watched) as (controller, _):
        requests = watched.xenstore.requests
        await controller.reserve(owner="me", min_kib=4096, max_kib=4096)
        assert watched.xenstore.requests - requests == 1
        assert watched.hypercalls == ["survey"]
