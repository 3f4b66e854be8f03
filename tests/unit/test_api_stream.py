"""States as events: whole, changed, missed, and a heartbeat when there is nothing to tell."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_api_state import NOW_S, World, a_vm
from xcpmem.api.stream import StateFeed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Desk:
    """A world, a feed of its states, and one who counts how many were made."""

    def __init__(self, heartbeat_s: float = 60.0) -> None:
        self.world = World(None, {"a": a_vm(1, "first", is_running=False)})
        writer, self.made = self.world.writer(), 0
        write = writer.write

        class Counting:
            async def write(_, now_s: float) -> Any:  # noqa: N805 - the desk is self
                self.made += 1
                return await write(now_s)

        self.feed = StateFeed(Counting(), heartbeat_s=heartbeat_s, gap_s=0.0, wall=lambda: NOW_S)

    def rename(self, name_label: str) -> None:
        self.world.vms["a"] = a_vm(1, name_label, is_running=False)
        self.feed.outdate()


async def event(events: AsyncGenerator[bytes, None]) -> tuple[str, dict[str, Any]]:
    async with asyncio.timeout(20):
        raw = await anext(events)
    name, data, *rest = raw.decode().split("\n")
    assert rest == ["", ""]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_reader_gets_the_whole_first_and_then_what_changed() -> None:
    desk = Desk()
    async with aclosing(desk.feed.follow()) as events:
        name, told = await event(events)
        assert (name, [vm["name_label"] for vm in told["vms"]]) == ("state", ["first"])
        desk.rename("second")
        name, told = await event(events)
        assert (name, [vm["name_label"] for vm in told["vms"]], told["gone"]) == ("change", ["second"], [])


async def test_reader_who_missed_a_state_gets_the_whole_again() -> None:
    desk = Desk()
    async with aclosing(desk.feed.follow()) as slow, aclosing(desk.feed.follow()) as quick:
        await event(slow)
        await event(quick)
        for name_label in ("second", "third"):
            desk.rename(name_label)
            assert (await event(quick))[0] == "change"
        name, told = await event(slow)
        assert (name, [vm["name_label"] for vm in told["vms"]]) == ("state", ["third"])


async def test_changes_in_quick_succession_are_one_event() -> None:
    desk = Desk()
    async with aclosing(desk.feed.follow()) as events:
        await event(events)
        for number in range(5):
            desk.rename(f"name {number}")
        name, told = await event(events)
        assert (name, told["vms"][0]["name_label"]) == ("change", "name 4")
        assert desk.made == 2


async def test_many_readers_cost_one_state() -> None:
    desk = Desk()
    states = await asyncio.gather(*(desk.feed.latest() for _ in range(10)))
    assert len(set(map(id, states))) == 1
    assert desk.made == 1


async def test_reader_sees_its_own_change_though_a_state_was_being_made() -> None:
    desk = Desk()
    under_way = asyncio.ensure_future(desk.feed.latest())
    await asyncio.sleep(0)
    desk.rename("mine")
    assert b"mine" in (await desk.feed.latest()).document
    await under_way


async def test_nothing_is_made_while_nobody_reads() -> None:
    desk = Desk()
    for number in range(3):
        desk.rename(f"name {number}")
    await asyncio.sleep(0)
    assert desk.made == 0


async def test_reader_hears_a_heartbeat_when_nothing_changes() -> None:
    desk = Desk(heartbeat_s=0.01)
    async with aclosing(desk.feed.follow()) as events:
        await event(events)
        assert await event(events) == ("heartbeat", {"time_s": NOW_S})


async def test_closing_ends_streams_at_once() -> None:
    desk = Desk()
    async with aclosing(desk.feed.follow()) as events:
        await event(events)
        waiting = asyncio.ensure_future(event(events))
        await asyncio.sleep(0)
        desk.feed.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
    async with aclosing(desk.feed.follow()) as events:
        with pytest.raises(StopAsyncIteration):
            await event(events)


async def test_state_that_could_not_be_made_is_made_for_the_next_reader() -> None:
    desk = Desk()
    vms = desk.world.vms
    desk.world.vms = None  # type: ignore[assignment]  # whatever goes wrong
    with pytest.raises(AttributeError):
        await desk.feed.latest()
    desk.world.vms = vms
    assert b"first" in (await desk.feed.latest()).document
