"""The use cases over the real ring and the pure simulated host, on virtual time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from tests.builders import a_domain, a_host, a_request, uuid_of
from tests.replay import ReplayRing
from xcpmem.controller import Controller
from xcpmem.engine.accounting import OLD_FORMULA
from xcpmem.engine.model import DynamicRange, Lifecycle
from xcpmem.errors import (
    BadPowerState,
    ConfigError,
    ConnectionLost,
    ConstraintMaxPin,
    ConstraintOrder,
    DomainsUncooperative,
    HostError,
    InvalidValue,
    NoReservation,
    NotEnoughMemory,
    OperationBlocked,
    TargetWaitTimeout,
    UnknownReservation,
    UuidInvalid,
    XcpmemError,
)
from xcpmem.host import HostIdentity
from xcpmem.refs import opaque_ref
from xcpmem.report import Failure
from xcpmem.scenario import Scenario
from xcpmem.service import Service, ServiceSettings
from xcpmem.specs import MICROSECONDS_PER_SECOND, BalloonSpec, GuestSpec, HostSpec
from xcpmem.store import Store
from xcpmem.units import kib_to_bytes, mib_to_bytes, mib_to_kib
from xcpmem.vm import Vm
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from xcpmem.ledger import Touched

GIB: Final = mib_to_kib(1024)
GIB_BYTES: Final = mib_to_bytes(1024)
SLUSH: Final = 73728
PROMPT = BalloonSpec(rate_kib_s=GIB, inaccuracy_kib=0)
DEAF = BalloonSpec(stuck=True)
HALTED = Vm(
    uuid="0c0ffee0-0000-4000-8000-000000000001",
    name_label="web1",
    memory_static_min=GIB_BYTES,
    memory_static_max=4 * GIB_BYTES,
    memory_dynamic_min=2 * GIB_BYTES,
    memory_dynamic_max=4 * GIB_BYTES,
    memory_target=4 * GIB_BYTES,
    domain_type="hvm",
)


def guest(domid: int, balloon: BalloonSpec = PROMPT) -> GuestSpec:
    """A guest of static 0.5 to 4 GiB, dynamic 1 to 3 GiB, that holds 3 GiB."""
    return GuestSpec(
        domid=domid,
        uuid=uuid_of(domid),
        dynamic_min_kib=GIB,
        dynamic_max_kib=3 * GIB,
        static_min_kib=GIB // 2,
        static_max_kib=4 * GIB,
        balloon=balloon,
    )


def sim_host(*guests: GuestSpec, spare_kib: int = 0, domain_zero_kib: int = GIB) -> SimHost:
    free_kib = SLUSH + spare_kib
    total_kib = free_kib + domain_zero_kib + sum(each.actual_kib for each in guests)
    host = HostSpec(free_kib=free_kib, total_kib=total_kib, slush_kib=SLUSH)
    return SimHost(Scenario(name="test", host=host, guests=guests))


@asynccontextmanager
async def serve(
    state_dir: Path, host: SimHost, settings: ServiceSettings | None = None
) -> AsyncIterator[Service]:
    def clock() -> float:
        return host.now_us / MICROSECONDS_PER_SECOND

    controller = Controller(VirtualDriver(host), clock=clock, wall=clock)
    service = Service(Store(state_dir), controller, settings, clock=clock)
    await service.start()
    task = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(30):
            await service.set_memory_target_live(host.guests[1].uuid, 0)
            yield service
    finally:
        await controller.close()
        await task
        await service.close()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(tmp_path, sim_host(guest(1), guest(2))) as service:
        await service.seed([HALTED])
        yield service


ONE, TWO, WEB = uuid_of(1), uuid_of(2), HALTED.uuid


async def test_range_of_a_running_vm_reaches_xenstore_and_its_balloon(tmp_path: Path) -> None:
    host = sim_host(guest(1))
    async with serve(tmp_path, host) as service:
        await service.set_memory_dynamic_range(ONE, GIB_BYTES, 2 * GIB_BYTES)
        await service.wait_memory_target_live(ONE, "task")
        assert (host.guests[1].dynamic_min_kib, host.guests[1].dynamic_max_kib) == (GIB, 2 * GIB)
        assert host.guests[1].actual_kib == 2 * GIB
        vm = service.vm(ONE)
        assert vm.memory_dynamic_max == vm.memory_target == vm.memory_actual == 2 * GIB_BYTES
        assert vm.memory_static_max == 4 * GIB_BYTES


async def test_single_ends_of_a_range_keep_the_other_end(service: Service) -> None:
    await service.set_memory_dynamic_max(ONE, 2 * GIB_BYTES)
    await service.set_memory_dynamic_min(ONE, GIB_BYTES // 2)
    assert (service.vm(ONE).memory_dynamic_min, service.vm(ONE).memory_dynamic_max) == (
        GIB_BYTES // 2,
        2 * GIB_BYTES,
    )
    await service.set_memory_static_max(WEB, 8 * GIB_BYTES)
    await service.set_memory_static_min(WEB, 5)
    assert (service.vm(WEB).memory_static_min, service.vm(WEB).memory_static_max) == (5, 8 * GIB_BYTES)
    await service.set_memory_static_range(WEB, 6, 16 * GIB_BYTES)
    assert (service.vm(WEB).memory_static_min, service.vm(WEB).memory_static_max) == (6, 16 * GIB_BYTES)


async def test_concurrent_changes_of_both_ends_lose_neither(service: Service) -> None:
    await asyncio.gather(
        service.set_memory_dynamic_min(WEB, GIB_BYTES),
        service.set_memory_dynamic_max(WEB, 3 * GIB_BYTES),
    )
    assert (service.vm(WEB).memory_dynamic_min, service.vm(WEB).memory_dynamic_max) == (
        GIB_BYTES,
        3 * GIB_BYTES,
    )


async def test_all_limits_of_a_halted_vm_are_set_at_once(service: Service) -> None:
    before = service.vm(WEB)
    await service.set_memory_limits(
        WEB, static_min=1, static_max=8 * GIB_BYTES, dynamic_min=2, dynamic_max=6 * GIB_BYTES
    )
    vm = service.vm(WEB)
    assert (vm.memory_static_min, vm.memory_dynamic_min, vm.memory_target) == (1, 2, 2)
    assert (vm.memory_dynamic_max, vm.memory_static_max) == (6 * GIB_BYTES, 8 * GIB_BYTES)
    assert vm.memory_overhead == service.compute_memory_overhead(WEB) > before.memory_overhead
    assert vm.version > before.version
    await service.set_memory(WEB, 2 * GIB_BYTES)
    assert service.vm(WEB).limits.is_pinned_at_static_max


CALLS: list[tuple[Callable[[Service, str], Awaitable[None]], str]] = [
    (lambda s, u: s.set_memory_limits(u, static_min=0, static_max=9, dynamic_min=0, dynamic_max=9), "halted"),
    (lambda s, u: s.set_memory(u, GIB_BYTES), "halted"),
    (lambda s, u: s.set_memory_static_range(u, 0, 9 * GIB_BYTES), "halted"),
    (lambda s, u: s.set_memory_static_min(u, 0), "halted"),
    (lambda s, u: s.set_memory_static_max(u, 9 * GIB_BYTES), "halted"),
    (lambda s, u: s.set_HVM_shadow_multiplier(u, 2.0), "halted"),
    (lambda s, u: s.set_VCPUs_max(u, 2), "halted"),
]


@pytest.mark.parametrize(("call", "expected"), CALLS)
async def test_setter_of_halted_vms_is_refused_on_a_running_one_and_changes_nothing(
    service: Service, call: Callable[[Service, str], Awaitable[None]], expected: str
) -> None:
    before = service.vm(ONE).limits
    with pytest.raises(BadPowerState) as caught:
        await call(service, ONE)
    assert caught.value.params == (opaque_ref("VM", ONE), expected, "running")
    assert service.vm(ONE).limits == before
    await call(service, WEB)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.set_memory_target_live(WEB, 0),
        lambda s: s.wait_memory_target_live(WEB, "task"),
        lambda s: s.set_shadow_multiplier_live(WEB, 2.0),
    ],
)
async def test_live_call_is_refused_on_a_halted_vm(
    service: Service, call: Callable[[Service], Awaitable[None]]
) -> None:
    with pytest.raises(BadPowerState) as caught:
        await call(service)
    assert caught.value.params == (opaque_ref("VM", WEB), "running", "halted")


async def test_range_of_a_paused_vm_is_refused(tmp_path: Path) -> None:
    host = sim_host(guest(1))
    async with serve(tmp_path, host) as service:
        host.set_lifecycle(1, Lifecycle.PAUSED)
        await service.reservations.balance()
        with pytest.raises(BadPowerState) as caught:
            await service.set_memory_dynamic_range(ONE, GIB_BYTES, GIB_BYTES)
        assert caught.value.params == (opaque_ref("VM", ONE), "halted, running", "paused")


async def test_vm_that_nobody_knows_is_refused_by_every_call(service: Service) -> None:
    calls: list[Callable[[], Awaitable[None]]] = [
        lambda: service.set_memory("no such", 1),
        lambda: service.set_memory_target_live("no such", 1),
        lambda: service.wait_memory_target_live("no such", "task"),
    ]
    for call in calls:
        with pytest.raises(UuidInvalid) as caught:
            await call()
        assert caught.value.params == ("VM", "no such")
    with pytest.raises(UuidInvalid):
        service.compute_memory_overhead("no such")


async def test_blocked_operation_is_refused_with_its_reason(service: Service) -> None:
    await service.seed([replace(HALTED, uuid="blocked", blocked_operations={"changing_dynamic_range": "no"})])
    with pytest.raises(OperationBlocked) as caught:
        await service.set_memory_dynamic_range("blocked", 0, 0)
    assert caught.value.params == (opaque_ref("VM", "blocked"), "no")


async def test_refused_change_is_neither_stored_nor_passed_on(tmp_path: Path) -> None:
    host = sim_host(guest(1))
    async with serve(tmp_path, host) as service:
        with pytest.raises(ConstraintOrder):
            await service.set_memory_dynamic_range(ONE, GIB_BYTES, 5 * GIB_BYTES)
        await service.reservations.balance()
        assert service.vm(ONE).memory_dynamic_max == 3 * GIB_BYTES
        assert host.guests[1].dynamic_max_kib == 3 * GIB


async def test_dynamic_min_that_the_host_cannot_keep_is_refused_in_kib_before_its_order(
    service: Service,
) -> None:
    free = service.compute_free_memory()
    with pytest.raises(NotEnoughMemory) as caught:
        await service.set_memory_dynamic_min(ONE, 100 * GIB_BYTES)
    assert caught.value.params == (str(99 * GIB), str(free // 1024))
    assert service.vm(ONE).memory_dynamic_min == GIB_BYTES


async def test_vms_that_rise_together_do_not_both_get_what_is_left(service: Service) -> None:
    rises = await asyncio.gather(
        *(service.set_memory_dynamic_range(uuid, 3 * GIB_BYTES, 3 * GIB_BYTES) for uuid in (ONE, TWO)),
        return_exceptions=True,
    )
    refused = [error for error in rises if error is not None]
    assert [type(error) for error in refused] == [NotEnoughMemory]
    assert service.compute_free_memory() >= 0


async def test_limits_and_uuids_survive_a_restart(tmp_path: Path) -> None:
    host = sim_host(guest(1))
    async with serve(tmp_path, host) as service:
        await service.set_memory_dynamic_range(ONE, GIB_BYTES + 1, 2 * GIB_BYTES + 1)
        await service.wait_memory_target_live(ONE, "task")
        await service.edit_pool("other_config", lambda _: {"a": "b"})
        before = (service.pool_uuid, service.host().uuid, service.vms().keys(), service.vm(ONE).limits)
        assert service.vm(ONE).memory_dynamic_max == 2 * GIB_BYTES + 1
    async with serve(tmp_path, host) as service:
        after = (service.pool_uuid, service.host().uuid, service.vms().keys(), service.vm(ONE).limits)
        assert after == before
        assert service.pool_annotations == {"other_config": {"a": "b"}}


async def test_change_that_was_stored_but_not_carried_out_is_carried_out_after_a_restart(
    tmp_path: Path,
) -> None:
    host = sim_host(guest(1))
    async with serve(tmp_path, host):
        pass
    dead = Store(tmp_path)
    vm = (await dead.load()).vms[ONE]
    await dead.save([replace(vm, memory_dynamic_max=2 * GIB_BYTES)])
    await dead.close()
    async with serve(tmp_path, host) as service:
        await service.wait_memory_target_live(ONE, "task")
        assert host.guests[1].actual_kib == 2 * GIB


async def test_range_that_an_operator_writes_to_xenstore_is_taken_over_after_a_call(tmp_path: Path) -> None:
    host = sim_host(guest(1))
    async with serve(tmp_path, host) as service:
        await service.set_memory_dynamic_range(ONE, GIB_BYTES, 2 * GIB_BYTES)
        await service.wait_memory_target_live(ONE, "task")
        await service.reservations.balance()
        host.write_dynamic_range(1, GIB, GIB)
        await service.reservations.balance()
        await service.reservations.balance()
        assert service.vm(ONE).memory_dynamic_max == GIB_BYTES
        assert host.guests[1].actual_kib == GIB
        assert (host.guests[1].dynamic_min_kib, host.guests[1].dynamic_max_kib) == (GIB, GIB)


async def test_pinned_rule_of_a_control_domain_names_its_reason(service: Service) -> None:
    (zero,) = (vm for vm in service.vms().values() if vm.is_control_domain)
    with pytest.raises(ConstraintMaxPin) as caught:
        await service.set_memory_dynamic_range(
            zero.uuid, zero.memory_dynamic_min - 1, zero.memory_dynamic_max
        )
    assert caught.value.params == ("control domain",)
    await service.set_memory(zero.uuid, zero.memory_dynamic_max)
    assert service.vm(zero.uuid).requires_reboot


async def test_new_size_of_domain_zero_says_what_xens_command_line_needs(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    (zero,) = (vm for vm in service.vms().values() if vm.is_control_domain)
    size = zero.memory_static_max + GIB_BYTES
    await service.set_memory_limits(
        zero.uuid, static_min=0, static_max=size, dynamic_min=size, dynamic_max=size
    )
    assert f"Xen's command line says dom0_mem={size}B,max:{size}B" in caplog.text


async def test_shadow_multiplier_of_a_halted_vm_changes_its_overhead(service: Service) -> None:
    before = service.vm(WEB).memory_overhead
    await service.set_HVM_shadow_multiplier(WEB, 2.0)
    assert service.vm(WEB).memory_overhead == service.compute_memory_overhead(WEB) > before


async def test_live_shadow_multiplier_needs_memory_that_is_promised_to_nobody(tmp_path: Path) -> None:
    host = sim_host(guest(1), spare_kib=mib_to_kib(8))
    async with serve(tmp_path, host) as service:
        with pytest.raises(NotEnoughMemory) as caught:
            await service.set_shadow_multiplier_live(ONE, 2.0)
        assert caught.value.params[0] == str(mib_to_bytes(33))
        await service.set_shadow_multiplier_live(ONE, 1.1)
        assert service.vm(ONE).HVM_shadow_multiplier == pytest.approx(36 / 33)


async def test_vcpus_max_changes_the_overhead(service: Service) -> None:
    before = service.vm(WEB).memory_overhead
    await service.set_VCPUs_max(WEB, 8)
    assert service.vm(WEB).memory_overhead > before
    assert service.vm(WEB).VCPUs_max == 8


async def test_overheads_follow_the_release_that_is_asked_for(tmp_path: Path) -> None:
    async with serve(tmp_path, sim_host(guest(1)), ServiceSettings(formula=OLD_FORMULA)) as service:
        await service.seed([HALTED])
        assert service.vm(WEB).memory_overhead == 35 * mib_to_bytes(1)


async def test_maximise_memory_is_answered_for_any_power_state(service: Service) -> None:
    exact = service.maximise_memory(WEB, 4 * GIB_BYTES, False)
    assert exact == (4096 - 36) * mib_to_bytes(1)
    assert service.maximise_memory(WEB, 4 * GIB_BYTES, True) < exact
    assert service.maximise_memory(ONE, 0, False) == 0


async def test_host_overhead_is_answered_as_stored(service: Service) -> None:
    assert service.compute_host_memory_overhead() == service.host().memory_overhead == kib_to_bytes(SLUSH)


async def test_reservation_is_granted_queried_and_given_back(tmp_path: Path) -> None:
    host = sim_host(guest(1), guest(2))
    async with serve(tmp_path, host) as service:
        reservation_id, granted_kib = await service.reservations.reserve("me", GIB, 2 * GIB)
        assert GIB <= granted_kib <= 2 * GIB
        exact_id = await service.reservations.reserve_exactly("me", GIB // 2)
        assert host.reservations[exact_id].size_kib == GIB // 2
        await service.reservations.delete(exact_id)
        await service.reservations.delete("no such")
        await service.reservations.release("me")
        assert dict(host.reservations) == {}
        with pytest.raises(UnknownReservation):
            await service.reservations.transfer(reservation_id, 1)
        with pytest.raises(NoReservation) as caught:
            service.reservations.of_domain(1)
        assert caught.value.params == ("1",)


async def test_reservation_of_a_domain_is_named_after_its_transfer(tmp_path: Path) -> None:
    building = GuestSpec(domid=3, uuid=uuid_of(3), dynamic_min_kib=0, dynamic_max_kib=GIB, actual_kib=0)
    async with serve(tmp_path, sim_host(guest(1), building)) as service:
        reservation_id = await service.reservations.reserve_exactly("me", GIB)
        await service.reservations.transfer(reservation_id, 3)
        await service.reservations.balance()
        assert service.reservations.of_domain(3) == reservation_id
        assert f"reservation {reservation_id} of me" in service.get_diagnostics()


async def test_diagnostics_count_what_was_granted_and_given_back_just_now(service: Service) -> None:
    reservation_id, _ = await service.reservations.reserve("me", GIB, GIB)
    first, *more = service.get_diagnostics().splitlines()
    assert "1 GiB reserved" in first
    assert f"reservation {reservation_id} of me: {GIB} KiB" in more
    await service.reservations.balance()
    assert "1 GiB reserved" in service.get_diagnostics()
    await service.reservations.delete(reservation_id)
    assert "0 KiB reserved" in service.get_diagnostics()


@pytest.mark.parametrize(
    ("min_kib", "max_kib", "field", "value"),
    [(-1, 5, "min_kib", "-1"), (6, 5, "max_kib", "5"), (-7, -9, "min_kib", "-7"), (0, -1, "max_kib", "-1")],
)
async def test_reservation_of_a_senseless_range_is_refused(
    service: Service, min_kib: int, max_kib: int, field: str, value: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        await service.reservations.reserve("me", min_kib, max_kib)
    assert caught.value.params == (field, value)


async def test_reservation_of_a_negative_size_is_refused(service: Service) -> None:
    with pytest.raises(InvalidValue) as caught:
        await service.reservations.reserve_exactly("me", -1)
    assert caught.value.params == ("size_kib", "-1")


async def test_reservation_blames_vms_by_reference(tmp_path: Path) -> None:
    async with serve(tmp_path, sim_host(guest(1), guest(2, DEAF))) as service:
        with pytest.raises(DomainsUncooperative) as caught:
            await service.reservations.reserve_exactly("me", 3 * GIB)
        assert caught.value.params == (opaque_ref("VM", TWO),)


async def test_diagnostics_say_what_the_ring_knows(service: Service) -> None:
    text = service.get_diagnostics()
    assert text.startswith("turn ")
    assert f"domain 1 ({ONE})" in text


async def test_edits_of_the_pool_and_the_host_see_what_was_written_before(tmp_path: Path) -> None:
    async with serve(tmp_path, sim_host(guest(1))) as service:
        for edit in (service.edit_pool, service.edit_host):
            await edit("tags", lambda present: (*(present or ()), "a"))
            await asyncio.gather(*(edit("tags", lambda present: (*present, "b")) for _ in range(2)))
        assert service.pool_annotations == service.host().annotations == {"tags": ("a", "b", "b")}
    async with serve(tmp_path, sim_host(guest(1))) as service:
        assert service.pool_annotations == service.host().annotations == {"tags": ("a", "b", "b")}


async def test_what_the_first_release_kept_of_the_pool_is_taken_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save(values={"pool_other_config": '{"a": "b"}'})
    await store.close()
    async with serve(tmp_path, sim_host(guest(1))) as service:
        assert service.pool_annotations == {"other_config": {"a": "b"}}
        await service.edit_pool("other_config", lambda present: {**present, "c": "d"})
        assert service.pool_annotations == {"other_config": {"a": "b", "c": "d"}}


@pytest.mark.parametrize("name", ["pool_annotations", "host_annotations"])
@pytest.mark.parametrize("spoilt", ["{", "[1]"])
async def test_start_names_the_annotations_that_somebody_spoilt(
    tmp_path: Path, name: str, spoilt: str
) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save(values={name: spoilt})
    await store.close()
    service = Service(Store(tmp_path), ReplayRing())
    with pytest.raises(ConfigError, match=name):
        await service.start()
    await service.close()


@pytest.mark.parametrize("spoilt", ["{", "[1]", '{"a": 1}'])
async def test_start_names_the_pool_map_that_somebody_spoilt(tmp_path: Path, spoilt: str) -> None:
    store = Store(tmp_path)
    await store.load()
    await store.save(values={"pool_other_config": spoilt})
    await store.close()
    service = Service(Store(tmp_path), ReplayRing())
    with pytest.raises(ConfigError, match="pool_other_config"):
        await service.start()
    await service.close()


async def test_diagnostics_name_who_waits_and_what_failed(tmp_path: Path) -> None:
    ring = ReplayRing()
    service = Service(Store(tmp_path), ring, clock=ring.clock)
    await service.start()
    ring.feed(
        a_host(a_domain(GIB, 3 * GIB)),
        failures=(Failure("SetTarget", "DriverTimeout", "SetTarget: late"),),
        pending=(a_request(GIB, 2 * GIB),),
    )
    lines = service.get_diagnostics().splitlines()
    assert lines[-2:] == [f"waiting: owner asks for {GIB} to {2 * GIB} KiB", "failed: SetTarget: late"]
    await service.close()


async def test_subscribers_hear_of_every_object_that_changed(service: Service) -> None:
    heard: set[tuple[str, str]] = set()

    def hear(touched: Touched) -> None:
        heard.update(touched)

    unsubscribe = service.subscribe(hear)
    await service.set_memory_dynamic_max(ONE, 2 * GIB_BYTES)
    await service.edit_pool("other_config", lambda _: {})
    await service.wait_memory_target_live(ONE, "task")
    unsubscribe()
    host = service.host().uuid
    assert heard >= {("VM", ONE), ("VM_metrics", ONE), ("pool", service.pool_uuid), ("host_metrics", host)}
    assert ("VM", WEB) not in heard


async def test_seed_introduces_strangers_and_leaves_known_vms_alone(service: Service) -> None:
    await service.set_memory(WEB, 2 * GIB_BYTES)
    await service.seed([HALTED, replace(HALTED, uuid="stranger")])
    assert service.vm(WEB).memory_static_max == 2 * GIB_BYTES
    assert service.vm("stranger").memory_overhead == service.compute_memory_overhead("stranger")


async def test_seeded_vm_has_the_static_min_that_its_domain_does_not_tell(tmp_path: Path) -> None:
    host = sim_host(guest(1))
    seeded = replace(
        HALTED,
        uuid=ONE,
        memory_static_min=GIB_BYTES // 2,
        memory_dynamic_min=GIB_BYTES,
        memory_dynamic_max=3 * GIB_BYTES,
    )
    ring = ReplayRing()
    service = Service(Store(tmp_path), ring, clock=ring.clock)
    await service.start()
    await service.seed([seeded])
    ring.feed(host.observe().host)
    assert service.vm(ONE).memory_static_min == GIB_BYTES // 2
    assert (service.vm(ONE).power_state, ring.wishes) == ("Running", {})
    await service.close()


async def test_given_uuids_are_used_for_new_records(tmp_path: Path) -> None:
    settings = ServiceSettings(host=HostIdentity(uuid="host-1", name_label="xen1"), pool_uuid="pool-1")
    async with serve(tmp_path, sim_host(guest(1)), settings) as service:
        assert (service.host().uuid, service.host().name_label, service.pool_uuid) == (
            "host-1",
            "xen1",
            "pool-1",
        )


async def test_setter_before_the_first_look_at_the_host_is_refused_when_there_is_none(tmp_path: Path) -> None:
    ring = ReplayRing()
    service = Service(Store(tmp_path), ring, ServiceSettings(first_look_s=0.0), clock=ring.clock)
    await service.start()
    await service.seed([HALTED])
    with pytest.raises(HostError, match="could not be seen"):
        await service.set_memory(WEB, GIB_BYTES)
    assert service.get_diagnostics() == "the host was not seen yet"
    assert service.compute_free_memory() == 0
    assert service.get_domain_zero_policy() == ("Fixed_size", 0)
    await service.close()


async def test_call_that_waits_for_the_guest_times_out_in_the_name_of_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcpmem.service.TARGET_WAIT_S", 0.0)
    ring = ReplayRing()
    service = Service(Store(tmp_path), ring, clock=ring.clock)
    await service.start()
    ring.feed(a_host(a_domain(GIB, 3 * GIB, 3 * GIB, target_kib=2 * GIB)))
    with pytest.raises(TargetWaitTimeout) as caught:
        await service.wait_memory_target_live(ONE, "OpaqueRef:task")
    assert caught.value.params == ("OpaqueRef:task",)
    await service.close()


async def test_wait_for_a_target_ends_within_a_mib_of_it_and_not_before_the_wish_is_carried_out(
    tmp_path: Path,
) -> None:
    ring = ReplayRing()
    service = Service(Store(tmp_path), ring, clock=ring.clock)
    await service.start()
    domain = a_domain(GIB, 3 * GIB)
    ring.feed(a_host(domain))
    await service.set_memory_dynamic_range(ONE, GIB_BYTES, 2 * GIB_BYTES)
    waiting = asyncio.create_task(service.wait_memory_target_live(ONE, "task"))
    narrow = replace(domain, dynamic_range=DynamicRange(GIB, 2 * GIB), target_kib=2 * GIB)
    for seen in (domain, replace(narrow, actual_kib=2 * GIB + mib_to_kib(1) + 1)):
        ring.feed(a_host(seen))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    ring.feed(a_host(replace(narrow, actual_kib=2 * GIB + mib_to_kib(1))))
    async with asyncio.timeout(5):
        await waiting
    await service.close()


async def test_wait_for_a_target_ends_in_a_refusal_when_the_vm_stops(tmp_path: Path) -> None:
    ring = ReplayRing()
    service = Service(Store(tmp_path), ring, clock=ring.clock)
    await service.start()
    ring.feed(a_host(a_domain(GIB, 3 * GIB, 3 * GIB, target_kib=2 * GIB)))
    waiting = asyncio.create_task(service.wait_memory_target_live(ONE, "task"))
    await asyncio.sleep(0)
    await service.seed([])
    ring.feed(a_host())
    with pytest.raises(BadPowerState):
        await waiting
    await service.close()


async def test_closed_service_refuses_changes(tmp_path: Path) -> None:
    async with serve(tmp_path, sim_host(guest(1))) as service:
        kept = service
    with pytest.raises(ConnectionLost):
        await kept.set_memory_dynamic_max(ONE, GIB_BYTES)
    with pytest.raises(XcpmemError):
        await kept.edit_pool("other_config", lambda _: {})
