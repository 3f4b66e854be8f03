from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from xcpmem.actuation import TOGETHER_MOST, Actuator, Deeds
from xcpmem.engine.model import RecordReservation, Reservation, SetMaxmem, SetTarget
from xcpmem.errors import DomainVanished, DriverError
from xcpmem.scenario import Scenario
from xcpmem.specs import GuestSpec, HostSpec
from xcpmem.troubles import Troubles
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.model import Action

GUESTS = 70
NOW_S = 100.0


@dataclass
class Watched(VirtualDriver):
    """A host that takes a while over each action, and fails some."""

    host: SimHost
    errors: dict[Action, DriverError] = field(default_factory=dict)
    begun: list[Action] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        super().__init__(self.host)

    async def tell(self, targets: Sequence[SetTarget]) -> None:
        self.told.append(len(targets))
        await super().tell(targets)

    async def apply(self, action: Action) -> None:
        self.begun.append(action)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if action in self.errors:
            raise self.errors[action]
        await super().apply(action)


@pytest.fixture
def driver() -> Watched:
    guests = tuple(
        GuestSpec(domid=domid, dynamic_min_kib=0, dynamic_max_kib=4096) for domid in range(1, GUESTS + 1)
    )
    return Watched(SimHost(Scenario(name="t", host=HostSpec(free_kib=10**6), guests=guests)))


@pytest.fixture
def troubles() -> Troubles:
    return Troubles()


@pytest.fixture
def recorded() -> list[Reservation]:
    return []


@pytest.fixture
def actuator(driver: Watched, troubles: Troubles, recorded: list[Reservation]) -> Actuator:
    return Actuator(driver, troubles, lambda: NOW_S, recorded.append)


async def test_targets_of_several_domains_are_told_at_one_go(actuator: Actuator, driver: Watched) -> None:
    deeds = Deeds()
    assert await actuator.carry_out([SetTarget(1, 2048), SetTarget(2, 2048), SetTarget(3, 2048)], deeds)
    assert driver.told == [3]
    assert deeds.done == [SetTarget(1, 2048), SetTarget(2, 2048), SetTarget(3, 2048)]


async def test_one_domain_that_is_gone_keeps_no_other_from_its_target(
    actuator: Actuator, driver: Watched
) -> None:
    deeds = Deeds()
    gone = SetTarget(GUESTS + 1, 2048)
    assert not await actuator.carry_out([SetTarget(1, 2048), gone, SetTarget(2, 2048)], deeds)
    assert (deeds.done, deeds.failures) == ([SetTarget(1, 2048), SetTarget(2, 2048)], [])
    assert [driver.host.guest(domid).target_kib for domid in (1, 2)] == [2048, 2048]


async def test_caps_of_several_domains_are_set_at_the_same_time(actuator: Actuator, driver: Watched) -> None:
    assert await actuator.carry_out([SetMaxmem(1, 8192), SetMaxmem(2, 8192), SetMaxmem(3, 8192)], Deeds())
    assert driver.most_at_once == 3


async def test_no_target_is_told_before_all_that_comes_before_is_done(
    actuator: Actuator, driver: Watched
) -> None:
    refused = SetMaxmem(2, 8192)
    driver.errors[refused] = DriverError("no")
    deeds = Deeds()
    assert not await actuator.carry_out([SetMaxmem(1, 8192), refused, SetTarget(1, 2048)], deeds)
    assert driver.begun == [SetMaxmem(1, 8192), refused]
    assert deeds.done == [SetMaxmem(1, 8192)]
    assert [failure.kind for failure in deeds.failures] == ["SetMaxmem"]


async def test_domain_that_could_not_be_touched_is_left_alone_for_a_while(
    actuator: Actuator, driver: Watched, troubles: Troubles
) -> None:
    driver.errors[SetTarget(2, 2048)] = DriverError("no")
    await actuator.carry_out([SetTarget(1, 2048), SetTarget(2, 2048)], Deeds())
    assert troubles.left_alone(NOW_S) == {2}


async def test_domain_that_is_gone_is_no_failure_but_ends_the_plan(
    actuator: Actuator, driver: Watched
) -> None:
    driver.errors[SetTarget(1, 2048)] = DomainVanished("gone")
    deeds = Deeds()
    assert not await actuator.carry_out([SetTarget(1, 2048), SetMaxmem(2, 2048)], deeds)
    assert (deeds.done, deeds.failures) == ([], [])


async def test_so_many_are_under_way_and_no_more(actuator: Actuator, driver: Watched) -> None:
    assert await actuator.carry_out([SetTarget(domid, 2048) for domid in range(1, GUESTS + 1)], Deeds())
    assert driver.told == [TOGETHER_MOST, GUESTS - TOGETHER_MOST]
    assert await actuator.carry_out([SetMaxmem(domid, 8192) for domid in range(1, GUESTS + 1)], Deeds())
    assert driver.most_at_once == TOGETHER_MOST


async def test_reservations_are_recorded_one_by_one_and_told(
    actuator: Actuator, driver: Watched, recorded: list[Reservation]
) -> None:
    first, second = Reservation("r1", "me", 64), Reservation("r2", "me", 64)
    assert await actuator.carry_out([RecordReservation(first), RecordReservation(second)], Deeds())
    assert driver.most_at_once == 1
    assert recorded == [first, second]
