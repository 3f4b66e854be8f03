"""How the records follow the host: adoption, whose word counts on a range, and domain 0."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import a_domain, a_host, uuid_of
from tests.replay import ReplayRing, describe
from xcpmem.adoption import AT_ONCE
from xcpmem.engine.model import (
    DynamicRange,
    Lifecycle,
    SetDynamicMax,
    SetMaxmem,
    SetTarget,
)
from xcpmem.errors import ConfigError, HostError, InvalidValue
from xcpmem.host import HostIdentity
from xcpmem.report import Failure
from xcpmem.service import Service, ServiceSettings
from xcpmem.store import Store
from xcpmem.units import kib_to_bytes, mib_to_bytes, mib_to_kib
from xcpmem.vm import DomainZero, Vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from xcpmem.engine.model import HostState

GIB = mib_to_kib(1024)
UUID = uuid_of(1)
BOTH = DynamicRange(GIB, 3 * GIB)
TIMEOUT = Failure("SetTarget", "DriverTimeout", "SetTarget: late")
DOMAIN = a_domain(GIB, 3 * GIB)
STORED = Vm(
    uuid=UUID,
    name_label="stored",
    memory_static_min=0,
    memory_static_max=kib_to_bytes(4 * GIB),
    memory_dynamic_min=kib_to_bytes(GIB),
    memory_dynamic_max=kib_to_bytes(3 * GIB),
    memory_target=kib_to_bytes(GIB),
)


class FullStore(Store):
    """Refuses to write while `is_full`."""

    is_full = False

    async def save(
        self, vms: Iterable[Vm] = (), values: Mapping[str, str] | None = None, forget: Iterable[str] = ()
    ) -> None:
        if self.is_full:
            raise HostError("disk full")
        await super().save(vms, values, forget)


class Line:
    """A service on a ring that replays."""

    def __init__(
        self, state_dir: Path, identity: HostIdentity | None = None, *, follows: bool = False
    ) -> None:
        self.ring = ReplayRing()
        self.store = FullStore(state_dir)
        settings = ServiceSettings(host=identity or HostIdentity(), follows=follows)
        self.service = Service(self.store, self.ring, settings, clock=self.ring.clock)

    @property
    def vm(self) -> Vm:
        return self.service.vm(UUID)

    async def rest(self) -> None:
        """Wait until everything that reports brought is stored."""
        await self.service.seed([])

    async def feed(self, host: HostState, **more: object) -> None:
        self.ring.feed(host, **more)  # type: ignore[arg-type]
        await self.rest()

    async def feed_range(self, dynamic_range: DynamicRange, **more: object) -> None:
        await self.feed(a_host(replace(DOMAIN, dynamic_range=dynamic_range)), **more)

    def limits_mib(self) -> tuple[float, float, float, float]:
        vm = self.vm
        sizes = (vm.memory_static_min, vm.memory_dynamic_min, vm.memory_dynamic_max, vm.memory_static_max)
        static_min, dynamic_min, dynamic_max, static_max = (size / mib_to_bytes(1) for size in sizes)
        return static_min, dynamic_min, dynamic_max, static_max


@asynccontextmanager
async def line(
    state_dir: Path, identity: HostIdentity | None = None, *, follows: bool = False
) -> AsyncIterator[Line]:
    made = Line(state_dir, identity, follows=follows)
    await made.service.start()
    try:
        yield made
    finally:
        await made.service.close()


async def store_vm(state_dir: Path, vm: Vm = STORED) -> None:
    store = Store(state_dir)
    await store.load()
    await store.save([vm])
    await store.close()


async def test_unknown_domain_is_adopted_as_it_was_found(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        description = describe(DOMAIN, name_label="db", static_max_kib=4 * GIB, vcpus=2, domain_type="hvm")
        await made.feed(a_host(DOMAIN), descriptions={1: description})
        assert made.limits_mib() == (0, 1024, 3072, 4096)
        vm = made.vm
        assert (vm.name_label, vm.VCPUs_max, vm.VCPUs_at_startup, vm.domain_type) == ("db", 2, 2, "hvm")
        assert vm.memory_overhead == made.service.compute_memory_overhead(UUID) > 0
        assert (vm.power_state, vm.domid) == ("Running", 1)
        assert made.ring.wishes == {}


async def test_domain_without_keys_stays_pinned_where_it_is(tmp_path: Path) -> None:
    pinned = a_domain(2 * GIB, 2 * GIB)
    async with line(tmp_path) as made:
        await made.feed(a_host(pinned), descriptions={1: describe(pinned, static_max_kib=4 * GIB)})
        assert made.limits_mib() == (0, 2048, 2048, 4096)
        assert made.ring.wishes == {}


@pytest.mark.parametrize("static_max_kib", [0, GIB])
async def test_static_max_is_never_adopted_below_dynamic_max(tmp_path: Path, static_max_kib: int) -> None:
    async with line(tmp_path) as made:
        await made.feed(a_host(DOMAIN), descriptions={1: describe(DOMAIN, static_max_kib=static_max_kib)})
        assert made.limits_mib() == (0, 1024, 3072, 3072)


async def test_domain_without_a_description_is_adopted_by_its_number(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed(a_host(DOMAIN), descriptions={})
        assert made.vm.name_label == "domain 1"


async def test_adopted_vm_outlives_its_domain_and_the_daemon(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed(a_host(DOMAIN))
        await made.feed(a_host())
        vm = made.vm
        assert (vm.power_state, vm.domid, vm.memory_actual, vm.start_time_s) == ("Halted", -1, 0, 0)
    async with line(tmp_path) as made:
        assert made.limits_mib() == (0, 1024, 3072, 3072)


async def test_adoption_that_the_disk_refused_is_stored_by_a_later_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with line(tmp_path) as made:
        made.store.is_full = True
        made.ring.feed(a_host(DOMAIN))
        with pytest.raises(HostError, match="disk full"):
            await made.service.edit_pool("other_config", lambda _: {})
        assert made.vm.power_state == "Running"
        assert "not stored yet: disk full" in caplog.text
        made.store.is_full = False
        await made.feed(a_host(DOMAIN))
    async with line(tmp_path) as made:
        assert made.vm.name_label == "vm1"


async def test_stored_limits_win_when_the_domain_is_first_seen(tmp_path: Path) -> None:
    await store_vm(tmp_path)
    async with line(tmp_path) as made:
        await made.feed_range(DynamicRange(2 * GIB, 2 * GIB))
        assert made.ring.wishes == {UUID: BOTH}
        assert made.limits_mib() == (0, 1024, 3072, 4096)


async def test_limits_that_xapi_changed_while_no_daemon_was_there_become_the_vms(tmp_path: Path) -> None:
    await store_vm(tmp_path)
    async with line(tmp_path, follows=True) as made:
        description = describe(DOMAIN, static_max_kib=4 * GIB)
        await made.feed_range(DynamicRange(2 * GIB, 2 * GIB), descriptions={1: description})
        assert made.ring.wishes == {}
        assert made.limits_mib() == (0, 2048, 2048, 4096)


async def test_static_max_that_xapi_gave_a_halted_vm_comes_with_its_next_domain(tmp_path: Path) -> None:
    await store_vm(
        tmp_path,
        replace(STORED, memory_static_min=kib_to_bytes(2 * GIB), memory_dynamic_min=kib_to_bytes(2 * GIB)),
    )
    grown = replace(DOMAIN, dynamic_range=DynamicRange(GIB, 6 * GIB))
    async with line(tmp_path, follows=True) as made:
        await made.feed(a_host(grown), descriptions={1: describe(grown, static_max_kib=8 * GIB)})
        assert made.limits_mib() == (1024, 1024, 6144, 8192)
        await made.feed(a_host(DOMAIN), descriptions={1: describe(DOMAIN, static_max_kib=8 * GIB)})
        assert made.limits_mib() == (1024, 1024, 3072, 8192)
        assert made.ring.wishes == {}


async def test_stored_limits_ask_for_nothing_where_the_keys_say_the_same(tmp_path: Path) -> None:
    await store_vm(tmp_path)
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        assert made.ring.wishes == {}
        assert made.vm.name_label == "stored"


async def test_change_whose_daemon_died_before_it_told_the_ring_is_carried_out_by_the_next(
    tmp_path: Path,
) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
    dead = Store(tmp_path)
    vm = (await dead.load()).vms[UUID]
    await dead.save([replace(vm, memory_dynamic_max=kib_to_bytes(2 * GIB))])
    await dead.close()
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        assert made.ring.wishes == {UUID: DynamicRange(GIB, 2 * GIB)}
        await made.feed_range(DynamicRange(GIB, 2 * GIB))
        assert made.limits_mib() == (0, 1024, 2048, 3072)


async def set_range(made: Line, low_kib: int, high_kib: int) -> None:
    await made.service.set_memory_dynamic_range(UUID, kib_to_bytes(low_kib), kib_to_bytes(high_kib))


async def test_wish_that_is_not_carried_out_yet_is_not_taken_for_someone_elses_range(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await set_range(made, GIB, 2 * GIB)
        for seen in (BOTH, BOTH, DynamicRange(GIB // 2, 3 * GIB)):
            await made.feed_range(seen)
            assert made.limits_mib() == (0, 1024, 2048, 3072)
            assert made.ring.wishes == {UUID: DynamicRange(GIB, 2 * GIB)}


async def test_wish_is_withdrawn_once_the_keys_say_it_and_the_ring_has_no_more_to_do(tmp_path: Path) -> None:
    narrow = DynamicRange(GIB, 2 * GIB)
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await set_range(made, GIB, 2 * GIB)
        await made.feed_range(BOTH, actions=(SetDynamicMax(1, 2 * GIB), SetTarget(1, 2 * GIB)))
        await made.feed_range(narrow, actions=(SetMaxmem(1, 2 * GIB),))
        await made.feed_range(narrow, failures=(TIMEOUT,))
        assert made.ring.wishes == {UUID: narrow}
        await made.feed_range(narrow, actions=(SetMaxmem(2, 2 * GIB),))
        assert made.ring.wishes == {}


async def test_look_from_before_a_wish_does_not_fulfil_it(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await set_range(made, GIB, 2 * GIB)
        await set_range(made, GIB, 3 * GIB)
        before_s = made.ring.now_s - 1
        await made.feed_range(BOTH, looked_at_s=before_s)
        await made.feed_range(DynamicRange(GIB, 2 * GIB))
        assert made.limits_mib() == (0, 1024, 3072, 3072)
        assert made.ring.wishes == {UUID: BOTH}


async def test_range_that_someone_else_wrote_becomes_the_vms(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await set_range(made, GIB, 2 * GIB)
        await made.feed_range(DynamicRange(GIB, 2 * GIB))
        await made.feed_range(DynamicRange(GIB // 2, GIB))
        assert made.limits_mib() == (0, 512, 1024, 3072)
        assert made.ring.wishes == {}
    async with line(tmp_path) as made:
        await made.feed_range(DynamicRange(GIB // 2, GIB))
        assert made.limits_mib() == (0, 512, 1024, 3072)
        assert made.ring.wishes == {}


async def test_range_that_someone_else_writes_key_by_key_is_taken_over_whole(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await made.feed_range(DynamicRange(2 * GIB, 3 * GIB))
        await made.feed_range(DynamicRange(2 * GIB, 2 * GIB))
        assert made.limits_mib() == (0, 2048, 2048, 3072)


async def test_bytes_below_a_kib_survive_when_someone_else_writes_the_other_key(tmp_path: Path) -> None:
    await store_vm(tmp_path, replace(STORED, memory_dynamic_min=kib_to_bytes(GIB) + 5))
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await made.feed_range(DynamicRange(GIB, 2 * GIB))
        vm = made.vm
        assert (vm.memory_dynamic_min, vm.memory_dynamic_max) == (
            kib_to_bytes(GIB) + 5,
            kib_to_bytes(2 * GIB),
        )


async def test_range_beyond_static_max_that_someone_else_wrote_is_undone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await made.feed(
            a_host(replace(DOMAIN, dynamic_range=DynamicRange(GIB, 5 * GIB))),
            descriptions={1: describe(DOMAIN)},
        )
        assert made.limits_mib() == (0, 1024, 3072, 3072)
        assert made.ring.wishes == {UUID: BOTH}
        assert "someone else wrote dynamic range 1 GiB to 5 GiB" in caplog.text


async def test_call_that_follows_someone_elses_write_wins(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        made.ring.feed(a_host(replace(DOMAIN, dynamic_range=DynamicRange(2 * GIB, 2 * GIB))))
        await set_range(made, GIB, 2 * GIB)
        assert made.limits_mib() == (0, 1024, 2048, 3072)
        assert made.ring.wishes == {UUID: DynamicRange(GIB, 2 * GIB)}
        await made.feed_range(DynamicRange(2 * GIB, 2 * GIB))
        assert made.limits_mib() == (0, 1024, 2048, 3072)


async def test_someone_elses_write_that_was_undone_before_it_was_stored_is_forgotten(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        made.store.is_full = True
        made.ring.feed(a_host(replace(DOMAIN, dynamic_range=DynamicRange(2 * GIB, 2 * GIB))))
        with pytest.raises(HostError, match="disk full"):
            await made.service.edit_pool("other_config", lambda _: {})
        made.store.is_full = False
        await made.feed_range(BOTH)
        assert made.limits_mib() == (0, 1024, 3072, 3072)


async def test_call_that_repeats_the_stored_range_undoes_someone_elses_write(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        made.store.is_full = True
        made.ring.feed(a_host(replace(DOMAIN, dynamic_range=DynamicRange(2 * GIB, 2 * GIB))))
        with pytest.raises(HostError, match="disk full"):
            await made.service.edit_pool("other_config", lambda _: {})
        made.store.is_full = False
        await set_range(made, GIB, 3 * GIB)
        await made.feed_range(DynamicRange(2 * GIB, 2 * GIB))
        assert made.limits_mib() == (0, 1024, 3072, 3072)
        assert made.ring.wishes == {UUID: BOTH}


async def test_call_under_way_when_someone_elses_write_is_seen_wins(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        call = asyncio.create_task(set_range(made, GIB, 2 * GIB))
        await asyncio.sleep(0)
        made.ring.feed(a_host(replace(DOMAIN, dynamic_range=DynamicRange(2 * GIB, 2 * GIB))))
        assert not call.done()
        await call
        await made.rest()
        assert made.limits_mib() == (0, 1024, 2048, 3072)
        assert made.ring.wishes == {UUID: DynamicRange(GIB, 2 * GIB)}


async def test_wish_of_a_vm_that_stops_is_withdrawn_and_made_anew_for_its_next_domain(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        await set_range(made, GIB, 2 * GIB)
        await made.feed(a_host())
        assert made.ring.wishes == {}
        await made.feed(a_host(replace(DOMAIN, domid=2)))
        assert made.ring.wishes == {UUID: DynamicRange(GIB, 2 * GIB)}
        assert made.vm.domid == 2


async def test_rebooted_vm_gets_its_stored_limits_though_no_report_showed_it_gone(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed_range(BOTH)
        started_s = made.vm.start_time_s
        await made.feed_range(BOTH)
        assert made.vm.start_time_s == started_s
        await made.feed(a_host(replace(DOMAIN, domid=2, dynamic_range=DynamicRange(GIB, GIB))))
        assert made.ring.wishes == {UUID: BOTH}
        assert made.limits_mib() == (0, 1024, 3072, 3072)
        assert made.vm.start_time_s > started_s


async def test_dying_domain_does_not_hide_the_vms_next_one(tmp_path: Path) -> None:
    dying = replace(DOMAIN, lifecycle=Lifecycle.DYING)
    async with line(tmp_path) as made:
        await made.feed(a_host(DOMAIN))
        await made.feed(a_host(dying))
        assert made.vm.power_state == "Halted"
        await made.feed(a_host(dying, replace(DOMAIN, domid=2)))
        assert (made.vm.power_state, made.vm.domid) == ("Running", 2)


async def test_domain_under_construction_is_followed_until_it_is_built(tmp_path: Path) -> None:
    building = a_domain(GIB // 4, GIB // 4, lifecycle=Lifecycle.BUILDING)
    async with line(tmp_path) as made:
        await made.feed(a_host(building))
        assert made.limits_mib() == (0, 256, 256, 256)
        assert made.vm.power_state == "Running"
        await made.feed(a_host(replace(building, dynamic_range=DynamicRange(GIB, GIB))))
        assert made.limits_mib() == (0, 1024, 1024, 1024)
        await made.feed(a_host(DOMAIN))
        assert made.limits_mib() == (0, 1024, 3072, 3072)
        assert made.ring.wishes == {}


async def test_domain_that_dies_under_construction_leaves_no_record(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed(a_host(replace(DOMAIN, lifecycle=Lifecycle.BUILDING)))
        assert UUID in made.service.vms()
        await made.feed(a_host())
        assert UUID not in made.service.vms()


async def test_stored_limits_wait_until_their_domain_is_built(tmp_path: Path) -> None:
    await store_vm(tmp_path)
    async with line(tmp_path) as made:
        await made.feed(a_host(a_domain(GIB // 4, GIB // 4, lifecycle=Lifecycle.BUILDING)))
        assert made.ring.wishes == {}
        await made.feed_range(DynamicRange(GIB, GIB))
        assert made.ring.wishes == {UUID: BOTH}
        assert made.limits_mib() == (0, 1024, 3072, 4096)


@pytest.mark.parametrize(
    ("lifecycle", "power_state"),
    [
        (Lifecycle.RUNNING, "Running"),
        (Lifecycle.PAUSED, "Paused"),
        (Lifecycle.SUSPENDED, "Suspended"),
        (Lifecycle.BUILDING, "Running"),
    ],
)
async def test_power_state_follows_the_domain(tmp_path: Path, lifecycle: Lifecycle, power_state: str) -> None:
    async with line(tmp_path) as made:
        await made.feed(a_host(replace(DOMAIN, lifecycle=lifecycle)))
        assert made.vm.power_state == power_state


async def test_record_shows_what_the_domain_holds_and_was_last_told(tmp_path: Path) -> None:
    domain = replace(DOMAIN, actual_kib=3 * GIB, target_kib=3 * GIB, uncooperative=True)
    async with line(tmp_path) as made:
        await made.feed(a_host(domain), actions=(SetTarget(1, 2 * GIB),))
        vm = made.vm
        assert (vm.memory_actual, vm.memory_target) == (kib_to_bytes(3 * GIB), kib_to_bytes(2 * GIB))
        assert vm.uncooperative


def zero_of(made: Line) -> Vm:
    (zero,) = (vm for vm in made.service.vms().values() if vm.is_control_domain)
    return zero


def a_host_with_domain_zero(size_kib: int = GIB) -> HostState:
    host = a_host(DOMAIN, free_kib=12 * GIB, slush_kib=73728)
    return replace(host, total_kib=host.total_kib + size_kib)


async def test_domain_zero_is_what_nobody_else_holds_when_nothing_is_said_of_it(tmp_path: Path) -> None:
    async with line(tmp_path) as made:
        await made.feed(a_host_with_domain_zero())
        zero = zero_of(made)
        assert (zero.memory_static_min, zero.memory_static_max) == (kib_to_bytes(GIB), kib_to_bytes(GIB))
        assert zero.limits.is_pinned_at_static_max
        assert (zero.memory_target, zero.memory_actual) == (kib_to_bytes(GIB), kib_to_bytes(GIB))
        assert (zero.domid, zero.power_state, zero.domain_type) == (0, "Running", "pv")
        assert zero.name_label == "Control domain on host: localhost"
        assert made.service.get_domain_zero_policy() == ("Fixed_size", kib_to_bytes(GIB))


async def test_domain_zero_is_what_its_description_says(tmp_path: Path) -> None:
    described = replace(describe(DOMAIN), domid=0, uuid=str(uuid_of(0)), static_max_kib=2 * GIB, vcpus=4)
    async with line(tmp_path) as made:
        await made.feed(a_host_with_domain_zero(), descriptions={0: described, 1: describe(DOMAIN)})
        zero = zero_of(made)
        assert (zero.uuid, zero.VCPUs_max) == (uuid_of(0), 4)
        assert zero.memory_dynamic_min == kib_to_bytes(2 * GIB)


async def test_domain_zero_without_a_handle_of_its_own_gets_a_uuid_that_it_keeps(tmp_path: Path) -> None:
    described = replace(describe(DOMAIN), domid=0, uuid="00000000-0000-0000-0000-000000000000")
    uuids = []
    for _ in range(2):
        async with line(tmp_path) as made:
            await made.feed(a_host_with_domain_zero(), descriptions={0: described})
            uuids.append(zero_of(made).uuid)
    assert uuids[0] == uuids[1] != described.uuid


async def test_free_memory_counts_domain_zero_the_reserve_and_every_running_vm(tmp_path: Path) -> None:
    async with line(tmp_path, HostIdentity(domain_zero=DomainZero(GIB, 2, "dom0", "zero"))) as made:
        await made.feed(a_host_with_domain_zero())
        zero, host = zero_of(made), made.service.host()
        assert (zero.uuid, zero.name_label) == ("zero", "dom0")
        assert host.memory_total == kib_to_bytes(16 * GIB)
        assert host.memory_free == kib_to_bytes(12 * GIB)
        assert host.memory_overhead == kib_to_bytes(73728)
        assert made.service.get_host_reserved_memory() == 73728
        assert made.service.get_host_initial_free_memory() == kib_to_bytes(16 * GIB)
        taken = kib_to_bytes(73728 + GIB + GIB) + zero.memory_overhead + made.vm.memory_overhead
        assert made.service.compute_free_memory() == kib_to_bytes(16 * GIB) - taken


async def test_figures_of_a_boot_are_kept_until_the_host_boots_again(tmp_path: Path) -> None:
    small = a_host_with_domain_zero()
    large = replace(a_host_with_domain_zero(2 * GIB), total_kib=24 * GIB)
    async with line(tmp_path, HostIdentity(boot_id="one", domain_zero=DomainZero(GIB))) as made:
        await made.feed(small)
        size = kib_to_bytes(2 * GIB)
        await made.service.set_memory_limits(
            zero_of(made).uuid, static_min=0, static_max=size, dynamic_min=size, dynamic_max=size
        )
        before = zero_of(made)
        assert before.requires_reboot
    async with line(tmp_path, HostIdentity(boot_id="one", domain_zero=DomainZero(GIB))) as made:
        await made.feed(large)
        assert zero_of(made).limits == replace(before.limits, target=kib_to_bytes(GIB))
        assert zero_of(made).requires_reboot
        assert made.service.get_host_initial_free_memory() == kib_to_bytes(16 * GIB)
    async with line(tmp_path, HostIdentity(boot_id="two", domain_zero=DomainZero(3 * GIB))) as made:
        await made.feed(large)
        zero = zero_of(made)
        assert (zero.uuid, zero.requires_reboot) == (before.uuid, False)
        assert zero.memory_static_min == zero.memory_static_max == kib_to_bytes(3 * GIB)
        assert made.service.get_host_initial_free_memory() == kib_to_bytes(18 * GIB)


async def test_every_start_counts_as_a_boot_where_boots_cannot_be_told_apart(tmp_path: Path) -> None:
    for size_kib in (GIB, 2 * GIB):
        async with line(tmp_path) as made:
            await made.feed(a_host_with_domain_zero(size_kib))
            assert zero_of(made).memory_static_max == kib_to_bytes(size_kib)
            assert made.service.get_host_initial_free_memory() == kib_to_bytes(15 * GIB + size_kib)


async def test_domain_zero_keeps_its_static_min_over_a_boot(tmp_path: Path) -> None:
    for boot_id, size_kib in (("one", GIB), ("two", 2 * GIB)):
        async with line(tmp_path, HostIdentity(boot_id=boot_id, domain_zero=DomainZero(size_kib))) as made:
            await made.feed(a_host_with_domain_zero())
            zero = zero_of(made)
    assert (zero.memory_static_min, zero.memory_static_max) == (kib_to_bytes(GIB), kib_to_bytes(2 * GIB))


async def test_start_names_a_kept_figure_that_somebody_spoilt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save(values={"boot_id": "one", "boot_free_bytes": "much"})
    await store.close()
    made = Line(tmp_path, HostIdentity(boot_id="one"))
    with pytest.raises(ConfigError, match="boot_free_bytes"):
        await made.service.start()
    await made.service.close()


async def test_domain_zero_that_the_driver_shows_is_measured_but_not_adopted_twice(tmp_path: Path) -> None:
    zero_domain = a_domain(GIB, GIB, GIB // 2, domid=0)
    async with line(tmp_path, HostIdentity(domain_zero=DomainZero(GIB))) as made:
        await made.feed(a_host(zero_domain, DOMAIN))
        assert len(made.service.vms()) == 2
        assert zero_of(made).memory_actual == kib_to_bytes(GIB // 2)
        assert made.service.get_host_initial_free_memory() == kib_to_bytes(GIB + 3 * GIB)


async def test_report_that_comes_while_the_daemon_ends_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with line(tmp_path) as made:
        made.ring.feed(a_host())
    made.ring.feed(a_host(DOMAIN))
    assert made.ring.report is not None
    for _ in made.service.absorb(made.ring.report):
        pass
    assert made.vm.power_state == "Running"
    assert "not stored yet: connection lost" in caplog.text


async def test_host_is_reported_as_changed_only_where_it_changed(tmp_path: Path) -> None:
    host = a_host_with_domain_zero()
    async with line(tmp_path) as made:
        await made.feed(host)
        uuid, version = made.service.host().uuid, made.service.host().version
        heard: list[tuple[str, str]] = []
        made.service.subscribe(heard.extend)
        await made.feed(host)
        assert (heard, made.service.host().version) == ([], version)
        await made.feed(replace(host, free_kib=host.free_kib - 4))
        assert heard == [("host_metrics", uuid)]
        heard.clear()
        await made.feed(replace(host, free_kib=host.free_kib - 4, slush_kib=9216))
        assert heard == [("host", uuid)]
        assert made.service.get_host_reserved_memory() == 9216


@pytest.mark.parametrize(("memory_kib", "vcpus", "field"), [(-1, 1, "memory_kib"), (1, 0, "vcpus")])
def test_domain_zero_is_valid_from_birth(memory_kib: int, vcpus: int, field: str) -> None:
    with pytest.raises(InvalidValue, match=field):
        DomainZero(memory_kib, vcpus)


async def test_crowd_that_moves_is_taken_up_a_few_at_a_time(tmp_path: Path) -> None:
    domains = [a_domain(GIB, 3 * GIB, domid=domid) for domid in range(1, 2 * AT_ONCE + 2)]
    async with line(tmp_path) as made:
        await made.feed(a_host(*domains))
        report, heard = made.ring.report, list[tuple[str, str]]()
        assert report is not None
        made.service.subscribe(heard.extend)
        moved = [replace(domain, actual_kib=2 * GIB) for domain in domains]
        done = []
        for _ in made.service.absorb(replace(report, look=replace(report.look, host=a_host(*moved)))):
            done.append(sum(vm.memory_actual == kib_to_bytes(2 * GIB) for vm in made.service.vms().values()))
            assert not heard
        assert done == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 1]
        assert set(heard) >= {("VM_metrics", domain.uuid) for domain in domains}
