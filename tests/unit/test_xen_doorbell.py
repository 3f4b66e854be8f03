"""What rings for the ring, and how often."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from xcpmem.xen.doorbell import GAP_S, GUEST_GAP_S, Doorbell
from xcpmem.xen.mailbox import ChangedPaths, Events

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORT = "/local/domain/7/data/xcpmem/1"
TARGET = "/local/domain/7/memory/target"


class Entrance:
    """A doorbell, what xenstore gathered, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.gathered = ChangedPaths()
        self.bell = Doorbell(self.gathered.take, clock=lambda: self.now_s)

    def change(self, *changed: str) -> Events:
        """Let paths change, and take what it rang for."""
        for path in changed:
            self.gathered.add(path)
        self.bell.hear()
        return self.bell.take()


@pytest.fixture
async def entrance() -> Entrance:
    return Entrance()


@pytest.fixture(autouse=True)
def still(entrance: Entrance) -> Iterator[None]:
    yield
    entrance.bell.close()


async def test_dom0_rings_at_once_and_as_often_as_it_likes(entrance: Entrance) -> None:
    for path in [TARGET] * 3 + ["@releaseDomain", "/xcpmem/reservations/x/y"]:
        assert entrance.change(path) == Events(frozenset({path}))


async def test_a_write_of_ours_does_not_ring_but_the_next_one_does(entrance: Entrance) -> None:
    entrance.bell.expect([TARGET])
    entrance.gathered.add(TARGET)
    entrance.bell.hear()
    assert not await entrance.bell.wait(0)
    entrance.gathered.add(TARGET)
    entrance.bell.hear()
    assert await entrance.bell.wait(0)
    assert entrance.bell.take() == Events(frozenset({TARGET}))


async def test_what_we_did_not_write_after_all_rings(entrance: Entrance) -> None:
    entrance.bell.expect([TARGET])
    entrance.bell.forget([TARGET])
    entrance.gathered.add(TARGET)
    entrance.bell.hear()
    assert await entrance.bell.wait(0)


async def test_after_a_lost_count_every_write_rings(entrance: Entrance) -> None:
    entrance.bell.expect([TARGET])
    entrance.gathered.merge(Events(resync=True))
    assert entrance.change() == Events(resync=True)
    entrance.gathered.add(TARGET)
    entrance.bell.hear()
    assert await entrance.bell.wait(0)


async def test_what_nobody_reads_does_not_ring(entrance: Entrance) -> None:
    assert not entrance.change(
        "/local/domain/7/data/os_name", "/local/domain/7/memory/foo", "/local/domain/7/data/xcpmem/2"
    )


async def test_a_directory_that_guests_write_in_is_read_again_at_the_next_look(entrance: Entrance) -> None:
    entrance.gathered.add("/local/domain/7/data")
    entrance.bell.hear()
    assert not await entrance.bell.wait(0)
    assert entrance.bell.take() == Events(frozenset({"/local/domain/7/data"}))


async def test_a_lost_count_rings(entrance: Entrance) -> None:
    entrance.gathered.merge(Events(resync=True))
    assert entrance.change() == Events(resync=True)


async def test_a_guest_that_writes_without_end_rings_once_a_second(entrance: Entrance) -> None:
    rings = 0
    for _ in range(5000):
        rings += bool(entrance.change(REPORT))
        entrance.now_s += 0.001
    assert rings == 5


@pytest.mark.parametrize(
    "key",
    [
        "data/xcpmem",
        "data/meminfo_free",
        "control/feature-balloon",
        "control/balloon-active",
        "memory/meminfo",
    ],
)
async def test_whatever_a_guest_can_write_is_held(entrance: Entrance, key: str) -> None:
    path = f"/local/domain/7/{key}"
    assert entrance.change(path)
    entrance.now_s += GUEST_GAP_S - 0.01
    assert not entrance.change(path)


async def test_what_was_held_is_let_through_when_its_second_is_over(entrance: Entrance) -> None:
    entrance.change(REPORT)
    assert not entrance.change(REPORT)
    entrance.now_s += GUEST_GAP_S
    assert entrance.change() == Events(frozenset({REPORT}))
    assert not entrance.change()


async def test_many_guests_ring_together(entrance: Entrance) -> None:
    first, *others = (f"/local/domain/{domid}/data/xcpmem/1" for domid in range(1, 1001))
    assert entrance.change(first) == Events(frozenset({first}))
    for path in others:
        assert not entrance.change(path)
    entrance.now_s += GAP_S
    assert entrance.change() == Events(frozenset(others))


async def test_a_flood_of_one_guest_does_not_hold_up_dom0(entrance: Entrance) -> None:
    entrance.change(REPORT)
    assert entrance.change(REPORT, TARGET) == Events(frozenset({TARGET}))


async def test_it_comes_back_by_itself_for_what_it_holds() -> None:
    gathered = ChangedPaths()
    bell = Doorbell(gathered.take, guest_gap_s=0.05, gap_s=0.0)
    for _ in range(2):
        gathered.add(REPORT)
        bell.hear()
    assert bell.take()
    assert await bell.wait(5)
    assert bell.take() == Events(frozenset({REPORT}))
    await asyncio.sleep(0)
    assert not await bell.wait(0)
