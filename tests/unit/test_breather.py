"""Long work gives others their turn, but not after each step."""

from __future__ import annotations

import asyncio

from xcpmem.breather import WORK_S, Breather


async def steps_of_others(*work_s: float) -> list[int]:
    """Work in steps that take so long; say how often somebody else had a turn by the end of each."""
    now_s, others, counts = 0.0, [0], []

    async def other() -> None:
        while True:
            others[0] += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    breather = Breather(lambda: now_s)
    for each_s in work_s:
        now_s += each_s
        await breather.pause()
        counts.append(others[0])
    beside.cancel()
    return counts


async def test_short_steps_are_worked_off_together() -> None:
    assert await steps_of_others(WORK_S / 4, WORK_S / 4, WORK_S / 4) == [0, 0, 0]


async def test_others_have_their_turn_once_the_work_was_long_and_again_after_as_long() -> None:
    assert await steps_of_others(WORK_S, WORK_S / 2, WORK_S / 2) == [1, 1, 2]
