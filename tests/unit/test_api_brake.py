"""How fast passwords can be guessed, and that whoever knows one gets in all the same."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from tests.virtualtime import VirtualTime
from xcpmem.api.brake import BrakeLimits, GuessBrake
from xcpmem.users import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOURCE = "192.0.2.1"
MOST_PER_S = 5


class Guesses:
    """Somebody who guesses, and when each guess was allowed."""

    def __init__(self, time: VirtualTime, brake: GuessBrake) -> None:
        self.time = time
        self.brake = brake
        self.allowed: list[tuple[float, str]] = []
        self.pushed_out: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def make(self, name: str, source: str = SOURCE, uname: str = "root") -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(self._guess(name, source, uname)))
        return self.tasks[-1]

    async def _guess(self, name: str, source: str, uname: str) -> None:
        if await self.brake.wait(source, uname):
            self.allowed.append((self.time.now_s, name))
            self.brake.note_wrong(uname)
        else:
            self.pushed_out.append(name)

    def most_in_a_second(self) -> int:
        times = [time_s for time_s, _ in self.allowed]
        return max(sum(start <= time_s < start + 1 for time_s in times) for start in times)


def make(limits: BrakeLimits | None = None) -> Guesses:
    time = VirtualTime()
    return Guesses(time, GuessBrake(time.monotonic_s, time.sleep, limits))


@pytest.fixture
async def guesses() -> AsyncIterator[Guesses]:
    found = make(BrakeLimits(user_delay_s=0))
    yield found
    for task in found.tasks:
        task.cancel()
    await asyncio.gather(*found.tasks, return_exceptions=True)


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.19, 0.5, 1.1])
async def test_no_source_guesses_more_than_five_times_in_any_second(guesses: Guesses, pause_s: float) -> None:
    for number in range(200):
        guesses.make(str(number))
        await guesses.time.run(pause_s)
    await guesses.time.run(20)
    assert len(guesses.allowed) > 30
    assert guesses.most_in_a_second() <= MOST_PER_S


async def test_latest_guess_comes_first_so_that_the_owner_gets_past_a_heap(guesses: Guesses) -> None:
    for number in range(200):
        guesses.make(f"guess {number}")
    await guesses.time.run(0)
    guesses.make("owner")
    await guesses.time.run(0.4)
    assert "owner" in [name for _, name in guesses.allowed]


async def test_heap_is_bounded_and_the_oldest_is_told_that_it_is_wrong(guesses: Guesses) -> None:
    for number in range(100):
        guesses.make(str(number))
    await guesses.time.run(0)
    assert [name for _, name in guesses.allowed] == ["0", "1"]
    assert guesses.pushed_out == [str(number) for number in range(2, 100 - BrakeLimits().waiting)]


async def test_one_source_does_not_hold_up_another(guesses: Guesses) -> None:
    for number in range(50):
        guesses.make(str(number))
    await guesses.time.run(0)
    guesses.make("neighbour", "192.0.2.2")
    await guesses.time.run(0)
    assert guesses.allowed[-1][1] == "neighbour"


async def test_right_passwords_cost_nothing(guesses: Guesses) -> None:
    for _ in range(1000):
        assert await guesses.brake.wait(SOURCE, "root")
        guesses.brake.note_right(SOURCE, "root")
    assert guesses.time.now_s == 1000.0


async def test_right_passwords_at_once_wait_for_each_other_only(guesses: Guesses) -> None:
    async def log_in() -> None:
        assert await guesses.brake.wait(SOURCE, "root")
        await asyncio.sleep(0)
        guesses.brake.note_right(SOURCE, "root")

    async with asyncio.timeout(10):
        await asyncio.gather(*(log_in() for _ in range(30)))
    assert guesses.time.now_s == 1000.0


async def test_guesses_from_everywhere_delay_a_stranger_by_seconds_and_the_owner_not_at_all() -> None:
    guesses = make()
    assert await guesses.brake.wait("192.0.2.9", "root")
    guesses.brake.note_right("192.0.2.9", "root")
    for number in range(1000):
        guesses.brake.note_wrong("root")
        guesses.brake.note_wrong(f"user {number % 3}")
    for name, source, uname in (
        ("stranger", "192.0.2.8", "root"),
        ("owner", "192.0.2.9", "root"),
        ("other user", "192.0.2.8", "alice"),
    ):
        guesses.make(name, source, uname)
    await guesses.time.run(4.9)
    assert [(time_s, name) for time_s, name in guesses.allowed] == [(1000.0, "owner"), (1000.0, "other user")]
    await guesses.time.run(0.2)
    assert guesses.allowed[-1][1] == "stranger"


async def test_wrong_guesses_at_a_user_are_forgotten() -> None:
    guesses = make()
    for _ in range(1000):
        guesses.brake.note_wrong("root")
    await guesses.time.run(BrakeLimits().forget_s)
    guesses.make("stranger")
    await guesses.time.run(0)
    assert guesses.allowed == [(1060.0, "stranger")]


async def test_names_and_addresses_are_remembered_within_bounds() -> None:
    guesses = make(BrakeLimits(remembered=10))
    for number in range(100):
        assert await guesses.brake.wait(f"192.0.2.{number}", f"user {number}")
        guesses.brake.note_right(f"192.0.2.{number}", f"user {number}")
        guesses.brake.note_wrong(f"user {number}")
    kept = (guesses.brake._sources, guesses.brake._good, guesses.brake._blames)
    assert [len(each) for each in kept] == [10, 10, 10]


async def test_guesses_at_names_as_long_as_a_call_leave_only_their_beginning() -> None:
    guesses = make()
    guesses.brake.note_wrong("x" * 290_000)
    guesses.brake.note_wrong("root")
    assert {len(name) for name in guesses.brake._blames} == {LONGEST_NAME, len("root")}
    assert guesses.brake._blame("x" * 290_000) == 1


class Gate:
    """Work that goes on in a thread until it is let go."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()

    def work(self, name: str) -> str:
        self.started.append(name)
        self.begun.release()
        assert self.let_go.wait(timeout=20)
        return name


async def until_started(gate: Gate, count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(gate.begun.acquire, timeout=20)


async def test_two_passwords_are_compared_at_once_and_the_owners_comes_before_strangers() -> None:
    guesses, gate = make(), Gate()
    guesses.brake.note_right(SOURCE, "root")
    names = ["a", "b", "stranger 1", "stranger 2"]
    strangers = [
        asyncio.create_task(guesses.brake.compare(f"s{name}", "root", lambda name=name: gate.work(name)))  # type: ignore[misc]
        for name in names
    ]
    await until_started(gate, 2)
    owner = asyncio.create_task(guesses.brake.compare(SOURCE, "root", lambda: gate.work("owner")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert sorted(gate.started) == ["a", "b"]
    gate.let_go.set()
    assert await owner == "owner"
    assert await asyncio.gather(*strangers) == names
    assert gate.started.index("owner") < gate.started.index("stranger 2")


async def test_whoever_hangs_up_frees_no_place_before_the_comparison_has_ended() -> None:
    guesses, gate = make(), Gate()
    hanging_up = [
        asyncio.create_task(guesses.brake.compare(SOURCE, "root", lambda: gate.work("gone")))
        for _ in range(2)
    ]
    await until_started(gate, 2)
    for task in hanging_up:
        task.cancel()
    await asyncio.gather(*hanging_up, return_exceptions=True)
    waiting = asyncio.create_task(guesses.brake.compare(SOURCE, "root", lambda: gate.work("next")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert gate.started == ["gone", "gone"]
    gate.let_go.set()
    assert await waiting == "next"


async def test_place_that_comes_to_one_who_has_gone_goes_to_the_next() -> None:
    guesses, gate = make(), Gate()
    first = [
        asyncio.create_task(guesses.brake.compare(SOURCE, "x", lambda: gate.work("1"))) for _ in range(2)
    ]
    await until_started(gate, 2)
    gone = asyncio.create_task(guesses.brake.compare(SOURCE, "x", lambda: gate.work("gone")))
    for _ in range(20):
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    gate.let_go.set()
    assert await asyncio.gather(*first) == ["1", "1"]
    assert await guesses.brake.compare(SOURCE, "x", lambda: "next") == "next"
    assert "gone" not in gate.started
