"""What the ring does where nothing happens: wake-ups with a cause and no others, counted on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from xcpmem.controller import Controller
from xcpmem.engine.belief import Caution
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.scenario import load_scenario
from xcpmem.shadows import Shadows
from xcpmem.specs import MICROSECONDS_PER_SECOND
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

HOUR_S = 3600.0
SAFETY_LOOK_S = 30.0


@pytest.mark.parametrize("policy", ["proportional", "shares", "pressure"])
async def test_idle_hour_has_a_look_each_half_minute_and_no_other(policy: str) -> None:
    host = SimHost(load_scenario("fleet:20"))

    def now_s() -> float:
        return host.now_us / MICROSECONDS_PER_SECOND

    controller = Controller(
        VirtualDriver(host),
        policy=find_policy(policy),
        shadows=Shadows({name: find_policy(name) for name in POLICIES}, Caution(), now_s),
        safety_look_s=SAFETY_LOOK_S,
        clock=now_s,
    )
    looks_s: list[float] = []
    over = asyncio.Event()

    def note(_: object) -> None:
        looks_s.append(now_s())
        if now_s() >= HOUR_S:
            over.set()

    controller.subscribe(note)
    ring = asyncio.create_task(controller.run())
    async with asyncio.timeout(60):
        await over.wait()
    await controller.close()
    await ring
    assert looks_s == [SAFETY_LOOK_S * number for number in range(121)]
