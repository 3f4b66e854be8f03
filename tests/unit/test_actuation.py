from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from xcpmem.actuation import TOGETHER_MOST, Actuator, Deeds
from xcpmem.commands import delete, keep, transfer
from xcpmem.engine.draft import Draft
from xcpmem.engine.model import (
    RecordReservation,
    Reservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetTarget,
    TransferReservation,
)
from xcpmem.errors import ConnectionLost, DomainVanished, DriverError, UnknownReservation
from xcpmem.inbox import Command
from xcpmem.scenario import Scenario
from xcpmem.specs import GuestSpec, HostSpec
from xcpmem.troubles import Troubles
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.commands import Making
    from xcpmem.engine.model import Action

GUESTS = 70
NOW_S = 100.0


@dataclass
class Watched(VirtualDriver):
    """A host that takes a while over each action, and fails some."""

    host: SimHost
    errors: dict[Action, Exception] = field(default_factory=dict)
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
    return Actuator(driver, troubles, lambda: NOW_S, lambda _, reservation: recorded.append(reservation))


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


async def test_nobody_may_hold_more_before_all_that_frees_memory_is_done(
    actuator: Actuator, driver: Watched
) -> None:
    for domid in (1, 2):
        driver.host.write_target(domid, 1024)
    host = driver.host.observe().host
    first, second, third = host.domains[:3]
    draft = Draft(host)
    for domain in (first, second):
        draft.cap(domain, domain.target_kib)
    draft.grow([(third, 8192)], kept_kib=0)
    assert draft.actions == [SetMaxmem(1, 1024), SetMaxmem(2, 1024), SetMaxmem(3, 8192), SetTarget(3, 8192)]
    driver.errors[SetMaxmem(2, 1024)] = DriverError("no")
    deeds = Deeds()
    assert not await actuator.carry_out(draft.actions, deeds)
    assert driver.begun == [SetMaxmem(1, 1024), SetMaxmem(2, 1024)]
    assert deeds.done == [SetMaxmem(1, 1024)]


async def test_domain_that_could_not_be_touched_is_left_alone_for_a_while(
    actuator: Actuator, driver: Watched, troubles: Troubles
) -> None:
    driver.errors[SetTarget(2, 2048)] = DriverError("no")
    await actuator.carry_out([SetTarget(1, 2048), SetTarget(2, 2048)], Deeds())
    assert troubles.left_alone(driver.host.observe().host, NOW_S) == {2}


async def test_domain_that_is_gone_is_no_failure_but_ends_the_plan(
    actuator: Actuator, driver: Watched
) -> None:
    driver.errors[SetTarget(1, 2048)] = DomainVanished("gone")
    deeds = Deeds()
    assert not await actuator.carry_out([SetTarget(1, 2048), SetMaxmem(2, 2048)], deeds)
    assert (deeds.done, deeds.failures) == ([], [])


async def test_domain_that_is_there_again_and_still_cannot_be_touched_is_a_failure(
    actuator: Actuator, driver: Watched, troubles: Troubles
) -> None:
    driver.errors[SetMaxmem(1, 8192)] = DomainVanished("domain 1 is gone")
    first, second = Deeds(), Deeds()
    assert not await actuator.carry_out([SetMaxmem(1, 8192)], first)
    assert troubles.left_alone(driver.host.observe().host, NOW_S) == {1}
    assert not await actuator.carry_out([SetMaxmem(1, 8192)], second)
    assert (first.failures, [each.reason for each in second.failures]) == ([], ["DomainVanished"])
    assert second.hindrance == "could not set the maxmem of domain 1 to 8 MiB: domain 1 is gone"


async def test_domain_that_cannot_be_written_keeps_no_other_from_its_range(
    actuator: Actuator, driver: Watched, troubles: Troubles
) -> None:
    driver.errors |= {SetDynamicMin(domid, 1024): DomainVanished("gone") for domid in (1, 3)}
    ranges: list[list[Action]] = [
        [SetDynamicMin(domid, 1024), SetDynamicMax(domid, 2048)] for domid in (1, 2, 3)
    ]
    deeds = Deeds()
    assert not await actuator.carry_out([*chain(*ranges), SetTarget(2, 2048)], deeds)
    assert deeds.done == ranges[1]
    assert troubles.left_alone(driver.host.observe().host, NOW_S) == {1, 3}
    assert SetDynamicMax(1, 2048) not in driver.begun


@pytest.mark.parametrize(
    "actions",
    [
        [SetTarget(2, 2048)],
        [SetTarget(1, 2048), SetTarget(2, 2048), SetTarget(3, 2048)],
        [SetMaxmem(1, 8192), SetMaxmem(2, 8192), SetMaxmem(3, 8192)],
    ],
)
async def test_exception_that_nobody_foresaw_concerns_its_domain_alone_and_is_logged_once(
    actuator: Actuator,
    driver: Watched,
    troubles: Troubles,
    actions: list[SetTarget | SetMaxmem],
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver.errors |= {action: ZeroDivisionError("so it goes") for action in actions if action.domid == 2}
    logged = []
    for _ in range(3):
        deeds = Deeds()
        assert not await actuator.carry_out(actions, deeds)
        assert deeds.done == [action for action in actions if action.domid != 2]
        assert [str(each).partition(": ")[2] for each in deeds.failures] == [
            "unforeseen ZeroDivisionError: so it goes"
        ]
        logged.append(sum(record.exc_info is not None for record in caplog.records))
    assert troubles.left_alone(driver.host.observe().host, NOW_S) == {2}
    assert logged[0] >= 1
    assert logged == logged[:1] * 3


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


async def commanded(actuator: Actuator, driver: Watched, *makings: Making) -> list[Command]:
    """What commands of one turn came to; those that were not taken still wait."""
    loop, deeds = asyncio.get_running_loop(), Deeds()
    waiting = [Command(make, loop.create_future(), math.inf) for make in makings]
    await actuator.obey(waiting, driver.host.observe().host, deeds)
    for command, outcome in deeds.outcomes:
        command.answer(outcome)
    return waiting


async def test_reservation_goes_to_one_domain_of_two_that_are_named_in_the_same_turn(
    actuator: Actuator, driver: Watched
) -> None:
    driver.host.apply(RecordReservation(Reservation("r1", "me", 64)))
    first, second = await commanded(actuator, driver, transfer("r1", 1), transfer("r1", 2))
    assert first.done.result() == (TransferReservation(Reservation("r1", "me", 64), 1),)
    assert isinstance(second.done.exception(), UnknownReservation)
    assert driver.host.reservations["r1"].domid == 1


async def test_reservation_that_was_deleted_is_unknown_to_what_comes_after_in_the_same_turn(
    actuator: Actuator, driver: Watched
) -> None:
    driver.host.apply(RecordReservation(Reservation("r1", "me", 64)))
    uuid = driver.host.guest(3).uuid
    deleted, late, kept, given_back = await commanded(
        actuator, driver, delete("r1"), transfer("r1", 1), keep("r2", "me", uuid, 0), delete("r2")
    )
    assert len(deleted.done.result()) == len(kept.done.result()) == len(given_back.done.result()) == 1
    assert isinstance(late.done.exception(), UnknownReservation)
    assert driver.host.reservations == {}


@pytest.mark.parametrize("error", [DriverError("no"), ZeroDivisionError("so it goes")])
async def test_command_after_one_that_the_host_did_not_do_waits_for_another_look(
    actuator: Actuator, driver: Watched, error: Exception
) -> None:
    reservation = Reservation("r1", "me", 64)
    driver.host.apply(RecordReservation(reservation))
    driver.errors[TransferReservation(reservation, 1)] = error
    first, second = await commanded(actuator, driver, transfer("r1", 1), transfer("r1", 2))
    assert isinstance(first.done.exception(), DriverError)
    assert not second.done.done()


async def test_caller_is_answered_whose_command_the_end_of_the_ring_cut_short(
    actuator: Actuator, driver: Watched
) -> None:
    reservation = Reservation("r1", "me", 64)
    driver.host.apply(RecordReservation(reservation))
    command = Command(delete("r1"), asyncio.get_running_loop().create_future(), math.inf)
    deeds = Deeds()
    obeying = asyncio.create_task(actuator.obey([command], driver.host.observe().host, deeds))
    await asyncio.sleep(0)
    obeying.cancel()
    await asyncio.gather(obeying, return_exceptions=True)
    ((answered, outcome),) = deeds.outcomes
    assert answered is command
    assert isinstance(outcome, ConnectionLost)
