"""What holds for every host behind the `HostDriver` port: the laws, each a plain function.

They need nothing but xcpmem, so the lab runs them inside a real dom0; here `test_host_contract` runs them
on the simulated hosts. Each law takes a `World`, opens drivers of its own, and leaves the host as it was.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

from xcpmem.engine.model import (
    DeleteReservation,
    RecordReservation,
    Reservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetTarget,
    SetUncooperative,
    TransferReservation,
)
from xcpmem.errors import DomainVanished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from xcpmem.engine.model import DomainState, HostState
    from xcpmem.xen.driver import HostDriver

PAGE_KIB: Final = 4
NOBODY: Final = 31999
"""A domid that no domain has."""

OWNER: Final = "host-laws"
RESERVATION: Final = Reservation("6e0d7f3c-7d0e-4c55-9c1c-3a3f5b0c9a11", OWNER, 4096)

WAIT_S: Final = 0.2
ROUNDS_MOST: Final = 5000


class World(Protocol):
    """A host to try the laws on.

    Args:
        domids: obedient guests, at rest at their targets, that can shrink by ``step_kib`` and grow again.
        step_kib: how far to move them.
        patience_s: how long a movement may take.
        inaccuracy_kib: how far from its target a guest may stop.
    """

    @property
    def domids(self) -> Sequence[int]: ...

    @property
    def step_kib(self) -> int: ...

    @property
    def patience_s(self) -> float: ...

    @property
    def inaccuracy_kib(self) -> int: ...

    async def open(self) -> HostDriver:
        """Open one more driver on the host."""


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[HostDriver]:
    driver = await world.open()
    try:
        yield driver
    finally:
        await driver.close()


def domain_of(host: HostState, domid: int) -> DomainState:
    (domain,) = (each for each in host.domains if each.domid == domid)
    return domain


async def seen(driver: HostDriver, domid: int) -> DomainState:
    return domain_of((await driver.observe()).host, domid)


async def until(driver: HostDriver, world: World, holds: Callable[[HostState], bool]) -> HostState:
    """Look until something holds, and return that look."""
    async with asyncio.timeout(world.patience_s):
        for _ in range(ROUNDS_MOST):
            host = (await driver.observe()).host
            if holds(host):
                return host
            await driver.wait(WAIT_S)
    raise AssertionError("it did not come to pass")


async def quieten(driver: HostDriver, world: World) -> None:
    """Look until there is nothing new."""
    async with asyncio.timeout(world.patience_s):
        for _ in range(ROUNDS_MOST):
            await driver.observe()
            if not await driver.wait(WAIT_S):
                return
    raise AssertionError("the host never becomes quiet")


async def move(driver: HostDriver, world: World, domid: int, target_kib: int) -> HostState:
    """Send a guest to a target, maxmem in the right order, and wait until it is there."""
    if target_kib > (await seen(driver, domid)).target_kib:
        await driver.apply(SetMaxmem(domid, target_kib))
        await driver.apply(SetTarget(domid, target_kib))
    else:
        await driver.apply(SetTarget(domid, target_kib))
        await driver.apply(SetMaxmem(domid, target_kib))

    def is_there(host: HostState) -> bool:
        return abs(domain_of(host, domid).actual_kib - target_kib) <= world.inaccuracy_kib

    return await until(driver, world, is_there)


async def domains_are_listed_by_rising_domid_without_domain_zero(world: World) -> None:
    async with opened(world) as driver:
        look = await driver.observe()
    domids = [domain.domid for domain in look.host.domains]
    assert domids == sorted(set(domids))
    assert 0 not in domids
    assert set(world.domids) <= set(domids)
    assert look.descriptions.keys() - {0} == set(domids)
    for domain in look.host.domains:
        assert look.descriptions[domain.domid].uuid == domain.uuid


async def a_look_adds_up(world: World) -> None:
    async with opened(world) as driver:
        host = (await driver.observe()).host
    held_kib = sum(domain.actual_kib for domain in host.domains)
    assert min(host.free_kib, host.scrub_kib, host.slush_kib) >= 0
    assert host.free_kib + host.scrub_kib + held_kib <= host.total_kib
    for domain in host.domains:
        assert domain.dynamic_range.min_kib <= domain.dynamic_range.max_kib
        assert min(domain.target_kib, domain.actual_kib, domain.maxmem_kib) >= 0


async def two_looks_at_a_host_at_rest_are_the_same(world: World) -> None:
    async with opened(world) as driver:
        await quieten(driver, world)
        first, second = await driver.observe(), await driver.observe()
    assert [domain.target_kib for domain in first.host.domains] == [
        domain.target_kib for domain in second.host.domains
    ]
    assert first.descriptions == second.descriptions
    assert first.host.reservations == second.host.reservations


async def a_guest_follows_its_target_down_and_up(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        before = (await driver.observe()).host
        start_kib = domain_of(before, domid).target_kib
        down = await move(driver, world, domid, start_kib - world.step_kib)
        freed_kib = down.free_kib + down.scrub_kib - before.free_kib - before.scrub_kib
        assert freed_kib >= world.step_kib - 2 * world.inaccuracy_kib - PAGE_KIB
        assert domain_of(down, domid).target_kib == start_kib - world.step_kib
        up = await move(driver, world, domid, start_kib)
        assert domain_of(up, domid).target_kib == start_kib


async def guests_move_at_the_same_time(world: World) -> None:
    async with opened(world) as driver:
        starts_kib = {domid: (await seen(driver, domid)).target_kib for domid in world.domids}
        await driver.tell([SetTarget(domid, kib - world.step_kib) for domid, kib in starts_kib.items()])

        def all_are_down(host: HostState) -> bool:
            return all(
                domain_of(host, domid).actual_kib <= start_kib - world.step_kib + world.inaccuracy_kib
                for domid, start_kib in starts_kib.items()
            )

        await until(driver, world, all_are_down)
        for domid, start_kib in starts_kib.items():
            await move(driver, world, domid, start_kib)


async def maxmem_is_told_in_the_terms_of_actual(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        before = await seen(driver, domid)
        for maxmem_kib in (before.target_kib + world.step_kib, before.target_kib):
            for _ in range(2):
                await driver.apply(SetMaxmem(domid, maxmem_kib))
            assert abs((await seen(driver, domid)).maxmem_kib - maxmem_kib) <= PAGE_KIB
        await driver.apply(SetMaxmem(domid, max(before.maxmem_kib, before.target_kib)))


async def a_target_of_no_whole_pages_and_its_maxmem_are_told_alike(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        before = await seen(driver, domid)
        for odd_kib in range(1, PAGE_KIB):
            target_kib = before.target_kib - world.step_kib + odd_kib
            host = await move(driver, world, domid, target_kib)
            moved = domain_of(host, domid)
            assert (moved.target_kib, moved.maxmem_kib) == (target_kib, target_kib)
        await move(driver, world, domid, before.target_kib)


async def a_target_written_twice_is_written_once(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        start_kib = (await seen(driver, domid)).target_kib
        for _ in range(2):
            await driver.apply(SetTarget(domid, start_kib - PAGE_KIB))
        assert (await seen(driver, domid)).target_kib == start_kib - PAGE_KIB
        await move(driver, world, domid, start_kib)


async def a_range_is_kept_where_other_drivers_see_it(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        before = (await seen(driver, domid)).dynamic_range
        await driver.apply(SetDynamicMax(domid, before.max_kib + world.step_kib))
        await driver.apply(SetDynamicMin(domid, before.min_kib + PAGE_KIB))
        async with opened(world) as other:
            changed = (await seen(other, domid)).dynamic_range
        await driver.apply(SetDynamicMin(domid, before.min_kib))
        await driver.apply(SetDynamicMax(domid, before.max_kib))
        assert (await seen(driver, domid)).dynamic_range == before
    assert (changed.min_kib, changed.max_kib) == (
        before.min_kib + PAGE_KIB,
        before.max_kib + world.step_kib,
    )


async def the_uncooperative_flag_is_raised_and_lowered(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        for wanted in (True, True, False, False):
            await driver.apply(SetUncooperative(domid, wanted))
            assert (await seen(driver, domid)).uncooperative is wanted


async def what_others_wrote_before_catching_up_is_seen(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver, opened(world) as other:
        await quieten(driver, world)
        await other.observe()
        for wanted in (True, False):
            await other.apply(SetUncooperative(domid, wanted))
            await driver.catch_up()
            assert (await seen(driver, domid)).uncooperative is wanted


async def a_reservation_stands_until_it_is_deleted(world: World) -> None:
    async with opened(world) as driver:
        before_kib = (await driver.observe()).host.reserved_kib
        for _ in range(2):
            await driver.apply(RecordReservation(RESERVATION))
        async with opened(world) as other:
            host = (await other.observe()).host
        assert RESERVATION in host.reservations
        assert host.reserved_kib == before_kib + RESERVATION.size_kib
        for _ in range(2):
            await driver.apply(DeleteReservation(RESERVATION))
        assert (await driver.observe()).host.reserved_kib == before_kib


async def a_transferred_reservation_is_its_domains_promise(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        before = (await driver.observe()).host
        maxmem_kib = max(domain_of(before, domid).maxmem_kib, domain_of(before, domid).target_kib)
        reservation = Reservation(RESERVATION.reservation_id, OWNER, maxmem_kib)
        await driver.apply(RecordReservation(reservation))
        for _ in range(2):
            await driver.apply(TransferReservation(reservation, domid))
        async with opened(world) as other:
            host = (await other.observe()).host
        await driver.apply(DeleteReservation(reservation))
    assert host.reserved_kib == before.reserved_kib
    assert [each.domid for each in host.reservations if each.owner == OWNER] == [domid]
    assert domain_of(host, domid).initial_reservation_kib == maxmem_kib
    assert abs(domain_of(host, domid).maxmem_kib - maxmem_kib) <= PAGE_KIB


async def a_domain_that_is_not_there_cannot_be_touched(world: World) -> None:
    actions = (
        SetTarget(NOBODY, 4096),
        SetMaxmem(NOBODY, 4096),
        SetDynamicMin(NOBODY, 4096),
        SetDynamicMax(NOBODY, 4096),
        SetUncooperative(NOBODY, uncooperative=True),
    )
    async with opened(world) as driver:
        before = await driver.observe()
        for action in actions:
            try:
                await driver.apply(action)
            except DomainVanished:
                continue
            raise AssertionError(f"{action} was taken")
        after = await driver.observe()
    assert after.descriptions == before.descriptions


async def waiting_ends_when_nothing_happens(world: World) -> None:
    async with opened(world) as driver:
        await quieten(driver, world)
        assert not await driver.wait(WAIT_S)


async def waiting_ends_when_somebody_else_changes_something(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver, opened(world) as other:
        await quieten(driver, world)
        before = (await seen(other, domid)).dynamic_range
        await other.apply(SetDynamicMax(domid, before.max_kib + PAGE_KIB))
        async with asyncio.timeout(world.patience_s):
            assert await driver.wait(world.patience_s)
        assert (await seen(driver, domid)).dynamic_range.max_kib == before.max_kib + PAGE_KIB
        await other.apply(SetDynamicMax(domid, before.max_kib))


async def a_driver_that_is_closed_leaves_the_host_as_it_is(world: World) -> None:
    domid = world.domids[0]
    async with opened(world) as driver:
        start_kib = (await seen(driver, domid)).target_kib
        await driver.apply(SetTarget(domid, start_kib - PAGE_KIB))
    async with opened(world) as driver:
        assert (await seen(driver, domid)).target_kib == start_kib - PAGE_KIB
        await move(driver, world, domid, start_kib)


LAWS: Final[tuple[Callable[[World], Awaitable[None]], ...]] = (
    domains_are_listed_by_rising_domid_without_domain_zero,
    a_look_adds_up,
    two_looks_at_a_host_at_rest_are_the_same,
    a_guest_follows_its_target_down_and_up,
    guests_move_at_the_same_time,
    maxmem_is_told_in_the_terms_of_actual,
    a_target_of_no_whole_pages_and_its_maxmem_are_told_alike,
    a_target_written_twice_is_written_once,
    a_range_is_kept_where_other_drivers_see_it,
    the_uncooperative_flag_is_raised_and_lowered,
    what_others_wrote_before_catching_up_is_seen,
    a_reservation_stands_until_it_is_deleted,
    a_transferred_reservation_is_its_domains_promise,
    a_domain_that_is_not_there_cannot_be_touched,
    waiting_ends_when_nothing_happens,
    waiting_ends_when_somebody_else_changes_something,
    a_driver_that_is_closed_leaves_the_host_as_it_is,
)
"""All laws; whoever runs them parametrizes over this."""
