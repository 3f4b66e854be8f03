"""What breaks xenopsd when its balancer misbehaves, each a story in which it does not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.apistack import GIB_KIB, a_guest, running_stack
from xcpmem.api.boottime import BootMemory
from xcpmem.api.squeezed import SqueezedCalls
from xcpmem.engine.model import Lifecycle
from xcpmem.specs import BalloonSpec
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.apistack import Stack

MIB = mib_to_kib(1)
SLUSH = mib_to_kib(72)
SERVICE = "xenopsd"


class Xenopsd:
    """Asks as xenopsd does, and knows the host that it builds on."""

    def __init__(self, stack: Stack) -> None:
        self.host = stack.host
        self._calls = SqueezedCalls(stack.service, BootMemory(None))

    async def ask(self, method: str, *params: object) -> Any:
        answer = await self._calls.call(method, ["dbg", *params])
        assert answer.error is None, answer.error
        return answer.value

    async def error(self, method: str, *params: object) -> Any:
        return (await self._calls.call(method, ["dbg", *params])).error

    async def build(self, domid: int, min_kib: int, max_kib: int) -> int:
        """Start a VM; return what it was built with, KiB."""
        reservation_id, amount_kib = await self.ask("reserve_memory_range", SERVICE, min_kib, max_kib)
        assert min_kib <= amount_kib <= max_kib
        # xenopsd gives up at once unless so much is free; pages being scrubbed do not count
        assert self.host.physical_free_kib >= amount_kib
        self.create(domid)
        await self.ask("transfer_reservation_to_domain", SERVICE, reservation_id, domid)
        assert self.host.guest(domid).maxmem_kib == amount_kib
        self.host.write_target(domid, amount_kib)
        assert await self.ask("query_reservation_of_domain", SERVICE, domid) == reservation_id
        await self.ask("balance_memory")
        self.host.set_lifecycle(domid, Lifecycle.RUNNING)
        await self.ask("delete_reservation", SERVICE, reservation_id)
        return int(amount_kib)

    def create(self, domid: int) -> None:
        """Let a domain appear that has no memory yet."""
        self.host.add_guest(a_guest(domid, f"vm{domid}"), 0)
        self.host.set_lifecycle(domid, Lifecycle.BUILDING)


@asynccontextmanager
async def xenopsd(tmp_path: Path, guests: int = 2) -> AsyncIterator[Xenopsd]:
    async with running_stack(tmp_path, [a_guest(n, f"web{n}") for n in range(1, guests + 1)]) as stack:
        yield Xenopsd(stack)


async def test_start_is_built_with_memory_that_is_really_free_and_may_be_taken(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        await caller.ask("login", SERVICE)
        amount_kib = await caller.build(7, GIB_KIB, 2 * GIB_KIB)
        await caller.ask("balance_memory")
        assert caller.host.guest(7).actual_kib >= amount_kib - 4


async def test_resume_and_migration_reserve_exactly_what_they_say(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        assert await caller.build(7, 1536 * MIB, 1536 * MIB) == 1536 * MIB


async def test_parallel_starts_share_and_none_is_refused_for_memory_that_is_there(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        amounts = await asyncio.gather(*(caller.build(domid, GIB_KIB, GIB_KIB) for domid in range(11, 19)))
        assert amounts == [GIB_KIB] * 8
        assert caller.host.reservations == {}


async def test_memory_is_not_given_away_between_the_transfer_and_the_end_of_the_build(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        reservation_id, _ = await caller.ask("reserve_memory_range", SERVICE, 4 * GIB_KIB, 4 * GIB_KIB)
        caller.create(7)
        await caller.ask("transfer_reservation_to_domain", SERVICE, reservation_id, 7)
        freeable_kib = 2 * 2 * GIB_KIB  # the two others, down to their dynamic-min
        left_kib = caller.host.physical_free_kib - SLUSH - 4 * GIB_KIB + freeable_kib
        error = await caller.error("reserve_memory", SERVICE, left_kib + MIB)
        assert error[0] == "Cannot_free_this_much_memory"
        assert caller.host.physical_free_kib >= 4 * GIB_KIB


async def test_domain_is_capped_at_its_target_once_it_is_built(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        await caller.build(7, GIB_KIB, 2 * GIB_KIB)
        await caller.ask("balance_memory")
        guest = caller.host.guest(7)
        assert guest.maxmem_kib == guest.target_kib


async def test_range_change_is_balanced_when_the_call_returns(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        await caller.ask("balance_memory")
        caller.host.write_dynamic_range(1, GIB_KIB, GIB_KIB)
        await caller.ask("balance_memory")
        guest = caller.host.guest(1)
        assert abs(guest.actual_kib - GIB_KIB) <= 4
        assert guest.maxmem_kib == guest.target_kib


async def test_xenopsd_that_was_restarted_logs_in_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        await caller.ask("reserve_memory_range", SERVICE, GIB_KIB, 2 * GIB_KIB)
        assert caller.host.reservations
        await caller.ask("login", SERVICE)
        assert caller.host.reservations == {}


async def test_domain_that_died_in_its_build_gives_its_memory_back(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        reservation_id, _ = await caller.ask("reserve_memory_range", SERVICE, GIB_KIB, GIB_KIB)
        caller.create(7)
        await caller.ask("transfer_reservation_to_domain", SERVICE, reservation_id, 7)
        caller.host.remove_guest(7)
        await caller.ask("delete_reservation", SERVICE, reservation_id)
        await caller.ask("balance_memory")
        assert caller.host.reservations == {}


async def test_domain_whose_driver_has_not_spoken_yet_keeps_its_maxmem(tmp_path: Path) -> None:
    async with xenopsd(tmp_path) as caller:
        silent = replace(a_guest(7, "vm7"), balloon=BalloonSpec(feature=False))
        caller.host.add_guest(silent, GIB_KIB)
        caller.host.write_maxmem(7, 3 * GIB_KIB)
        await caller.ask("balance_memory")
        await caller.ask("reserve_memory", SERVICE, 2 * GIB_KIB)
        assert caller.host.guest(7).maxmem_kib == 3 * GIB_KIB
        assert caller.host.guest(7).target_kib == GIB_KIB


async def test_guests_that_give_nothing_are_blamed_by_their_domids(tmp_path: Path) -> None:
    deaf = [replace(a_guest(n, f"deaf{n}"), balloon=BalloonSpec(stuck=True)) for n in (3, 4)]
    async with running_stack(tmp_path, deaf) as stack:
        caller = Xenopsd(stack)
        free_kib = caller.host.physical_free_kib - SLUSH
        error = await caller.error("reserve_memory", SERVICE, free_kib + MIB)
        assert error == ["Domains_refused_to_cooperate", [3, 4]]
        assert caller.host.reservations == {}


def test_keys_are_those_that_other_programs_read() -> None:
    keys = {
        "memory/target": paths.target,
        "memory/dynamic-min": paths.dynamic_min,
        "memory/dynamic-max": paths.dynamic_max,
        "memory/initial-reservation": paths.initial_reservation,
        "memory/reservation-id": paths.reservation_id,
        "memory/memory-offset": paths.memory_offset,
        "memory/uncooperative": paths.uncooperative,
        "control/feature-balloon": paths.feature_balloon,
        "data/updated": paths.data_updated,
    }
    assert {key: path(7) for key, path in keys.items()} == {key: f"/local/domain/7/{key}" for key in keys}
