"""Waiting for what a look at the host shows; the ring turns only when a test says so."""

from __future__ import annotations

import asyncio

import pytest

from tests.builders import a_domain, a_host, uuid_of
from tests.replay import ReplayRing, describe
from xcpmem import lookout
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import NotSeen, TaskCancelled
from xcpmem.lookout import Lookout, Sight, sight_of
from xcpmem.report import Failure

ONE = uuid_of(1)


class WokenRing(ReplayRing):
    """Counts how often it is woken."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def ring() -> WokenRing:
    return WokenRing()


@pytest.fixture
def watch(ring: WokenRing) -> Lookout:
    return Lookout(ring, ring.clock)


async def begin(waiting: asyncio.Task[Sight | None]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()


async def test_look_that_began_before_the_waiting_does_not_count(ring: WokenRing, watch: Lookout) -> None:
    ring.feed(a_host(a_domain()))
    waiting = asyncio.create_task(watch.look(ONE))
    await begin(waiting)
    ring.feed(a_host(a_domain()), looked_at_s=ring.now_s - 1)
    await begin(waiting)
    assert ring.woken == 2
    ring.feed(a_host())
    assert await waiting is None


async def test_turn_that_did_not_see_the_host_does_not_count(ring: WokenRing, watch: Lookout) -> None:
    waiting = asyncio.create_task(watch.look(ONE))
    await begin(waiting)
    ring.feed(a_host(), failures=(Failure("Look", "DriverTimeout", "dark"),))
    await begin(waiting)
    ring.feed(a_host(a_domain()), failures=(Failure("SetTarget", "DriverError", "no"),))
    sight = await waiting
    assert sight is not None
    assert sight.domid == 1


async def test_waiting_goes_on_until_it_is_so(ring: WokenRing, watch: Lookout) -> None:
    waiting = asyncio.create_task(
        watch.until(ONE, lambda sight: sight is not None and sight.domain.actual_kib == 7, 20.0, "it did not")
    )
    await begin(waiting)
    for size_kib in (5, 6):
        ring.feed(a_host(a_domain(actual_kib=size_kib)))
        await begin(waiting)
    ring.feed(a_host(a_domain(actual_kib=7)))
    assert await waiting is not None
    assert ring.woken == 1


async def test_silent_host_is_looked_at_again_and_again(
    ring: WokenRing, watch: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOK_GAP_S", 0.001)
    with pytest.raises(NotSeen, match=r"^nobody came within 0\.02 s$"):
        await watch.until(ONE, lambda sight: sight is not None, 0.02, "nobody came")
    assert ring.woken > 2


async def test_who_waits_may_change_his_mind(ring: WokenRing, watch: Lookout) -> None:
    def refuse(_: Sight | None) -> bool:
        raise TaskCancelled("task")

    waiting = asyncio.create_task(watch.until(ONE, refuse, 20.0, ""))
    await begin(waiting)
    ring.feed(a_host())
    with pytest.raises(TaskCancelled):
        await waiting


async def test_domain_is_seen_as_what_it_does_by_itself(ring: WokenRing) -> None:
    building = a_domain(lifecycle=Lifecycle.BUILDING)
    ring.feed(a_host(building), descriptions={1: describe(building, lifecycle=Lifecycle.PAUSED)})
    assert ring.report is not None
    sight = sight_of(ring.report, ONE)
    assert sight is not None
    assert (sight.lifecycle, sight.domain.lifecycle) == (Lifecycle.PAUSED, Lifecycle.BUILDING)
    ring.feed(a_host(building), descriptions={})
    sight = sight_of(ring.report, ONE)
    assert sight is not None
    assert sight.lifecycle is Lifecycle.BUILDING


async def test_living_domain_of_a_vm_goes_before_its_dying_one(ring: WokenRing) -> None:
    living, dying = a_domain(domid=1), a_domain(domid=9, uuid=ONE, lifecycle=Lifecycle.DYING)
    ring.feed(a_host(living, dying))
    assert ring.report is not None
    sight = sight_of(ring.report, ONE)
    assert sight is not None
    assert sight.domid == 1
    ring.feed(a_host(dying), descriptions={9: describe(dying, lifecycle=Lifecycle.DYING)})
    sight = sight_of(ring.report, ONE)
    assert sight is not None
    assert (sight.domid, sight.is_dying, sight.is_down) == (9, True, True)
