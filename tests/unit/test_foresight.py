"""What if: answers over the real service and the pure simulated host, on virtual time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import uuid_of
from xcpmem.controller import Controller
from xcpmem.engine.parameters import Parameters
from xcpmem.errors import DomainsUncooperative, InvalidValue, NotSeen, UuidInvalid
from xcpmem.scenario import Scenario
from xcpmem.service import Service
from xcpmem.specs import MICROSECONDS_PER_SECOND, BalloonSpec, GuestSpec, HostSpec
from xcpmem.store import Store
from xcpmem.units import mib_to_bytes, mib_to_kib
from xcpmem.vm import Vm
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.engine.policy import Division, Snapshot, State

GIB = mib_to_kib(1024)
GIB_BYTES = mib_to_bytes(1024)
SLUSH = 73728
ONE, TWO = uuid_of(1), uuid_of(2)
HALTED = Vm(
    uuid="0c0ffee0-0000-4000-8000-000000000001",
    name_label="web1",
    memory_static_min=0,
    memory_static_max=2 * GIB_BYTES,
    memory_dynamic_min=GIB_BYTES,
    memory_dynamic_max=2 * GIB_BYTES,
    memory_target=GIB_BYTES,
    domain_type="pvh",
)


def sim_host() -> SimHost:
    """Two guests of dynamic 1 to 3 GiB that hold 3 GiB, and nothing to spare."""
    guests = tuple(
        GuestSpec(
            domid=domid,
            uuid=uuid_of(domid),
            dynamic_min_kib=GIB,
            dynamic_max_kib=3 * GIB,
            static_max_kib=4 * GIB,
            balloon=BalloonSpec(rate_kib_s=GIB, inaccuracy_kib=0),
        )
        for domid in (1, 2)
    )
    host = HostSpec(free_kib=SLUSH, total_kib=SLUSH + 7 * GIB, slush_kib=SLUSH)
    return SimHost(Scenario(name="test", host=host, guests=guests))


@asynccontextmanager
async def serve(state_dir: Path, host: SimHost) -> AsyncIterator[Service]:
    def clock() -> float:
        return host.now_us / MICROSECONDS_PER_SECOND

    controller = Controller(VirtualDriver(host), clock=clock, wall=clock)
    service = Service(Store(state_dir), controller, clock=clock)
    await service.start()
    task = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(30):
            await service.set_memory_target_live(ONE, 0)
            await service.seed([HALTED])
            yield service
    finally:
        await controller.close()
        await task
        await service.close()


@pytest.fixture
def host() -> SimHost:
    return sim_host()


@pytest.fixture
async def service(tmp_path: Path, host: SimHost) -> AsyncIterator[Service]:
    async with serve(tmp_path, host) as service:
        yield service


def after(answer: dict[str, Any]) -> dict[str, int]:
    return {uuid: domain["after_kib"] for uuid, domain in answer["domains"].items()}


async def test_nothing_wished_shows_where_the_host_is_going_anyway(service: Service) -> None:
    answer = await service.foresight.plan({})
    assert (answer["feasible"], answer["error"], answer["wish"]) == (True, None, None)
    assert answer["granted_kib"] is None
    assert after(answer) == {ONE: 3 * GIB, TWO: 3 * GIB}
    assert answer["domains"][ONE]["reason"] == "gets dynamic-max 3 GiB: there is enough for everyone"


async def test_narrower_range_is_shown_with_before_and_after_and_touches_nothing(
    service: Service, host: SimHost
) -> None:
    before = (service.vm(ONE), host.guests[1].target_kib)
    answer = await service.foresight.plan({"vm": ONE, "dynamic_max": "1GiB"})
    assert answer["feasible"]
    assert answer["domains"][ONE]["before_kib"] == 3 * GIB
    assert after(answer) == {ONE: GIB, TWO: 3 * GIB}
    assert (service.vm(ONE), host.guests[1].target_kib) == before


async def test_reservation_is_granted_in_figures_only(service: Service, host: SimHost) -> None:
    answer = await service.foresight.plan({"reserve_min_kib": str(GIB), "reserve_max_kib": str(2 * GIB)})
    assert GIB <= answer["granted_kib"] <= 2 * GIB
    assert sum(after(answer).values()) <= 6 * GIB - answer["granted_kib"]
    assert host.observe().host.reservations == ()


async def test_started_vm_stands_among_the_others(service: Service) -> None:
    answer = await service.foresight.plan({"start": HALTED.uuid})
    started = answer["domains"][HALTED.uuid]
    assert answer["feasible"]
    assert (started["name_label"], started["before_kib"]) == ("web1", 0)
    assert GIB <= started["after_kib"] <= 2 * GIB
    assert answer["granted_kib"] >= started["after_kib"]
    assert after(answer)[ONE] < 3 * GIB


async def test_vm_is_started_with_the_range_that_is_wished_for_it(service: Service) -> None:
    answer = await service.foresight.plan(
        {"start": HALTED.uuid, "vm": HALTED.uuid, "dynamic_min": str(2 * GIB_BYTES)}
    )
    assert after(answer)[HALTED.uuid] == 2 * GIB


async def test_present_policy_by_its_name_changes_nothing(service: Service) -> None:
    answer = await service.foresight.plan({"policy": "proportional"})
    assert after(answer) == {ONE: 3 * GIB, TWO: 3 * GIB}


async def test_a_policy_is_played_through_with_the_parameters_that_are_wished(service: Service) -> None:
    answer = await service.foresight.plan({"policy": "pressure", "policy:reserve_percent": "25"})
    assert answer["feasible"]
    assert answer["trouble"] == ""
    with pytest.raises(InvalidValue) as caught:
        await service.foresight.plan({"policy": "pressure", "policy:reserve_percent": "70"})
    assert caught.value.params == ("reserve_percent", "70")


async def test_a_policy_that_errs_is_told_apart_from_xcps_rule_that_decides_for_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rude:
        name, about, parameters = "rude", "raises", Parameters

        def plan(self, snapshot: Snapshot, state: State, parameters: Parameters) -> tuple[Division, State]:
            raise ZeroDivisionError("so it goes")

    monkeypatch.setattr("xcpmem.plugins.installed_policies", lambda: {"rude": Rude()})
    answer = await service.foresight.plan({"policy": "rude"})
    assert answer["trouble"] == "ZeroDivisionError: so it goes"
    assert after(answer) == {ONE: 3 * GIB, TWO: 3 * GIB}


@pytest.mark.parametrize(
    ("wishes", "code", "wish"),
    [
        (
            {"vm": ONE, "dynamic_min": "3GiB", "dynamic_max": "2GiB"},
            "MEMORY_CONSTRAINT_VIOLATION_ORDER",
            "vm",
        ),
        ({"vm": ONE, "dynamic_max": "5GiB"}, "MEMORY_CONSTRAINT_VIOLATION_ORDER", "vm"),
        ({"vm": ONE, "dynamic_min": "9GiB"}, "HOST_NOT_ENOUGH_FREE_MEMORY", "vm"),
        ({"reserve_min_kib": str(8 * GIB)}, "HOST_NOT_ENOUGH_FREE_MEMORY", "reserve_min_kib"),
        (
            {"vm": ONE, "dynamic_max": "3GiB", "reserve_min_kib": str(8 * GIB)},
            "HOST_NOT_ENOUGH_FREE_MEMORY",
            "reserve_min_kib",
        ),
        ({"start": ONE}, "VM_BAD_POWER_STATE", "start"),
        ({"vm": ONE, "dynamic_max": "2GiB", "start": ONE}, "VM_BAD_POWER_STATE", "start"),
    ],
)
async def test_what_the_real_call_would_refuse_is_refused_alike_and_shows_that_nobody_moves(
    service: Service, wishes: dict[str, str], code: str, wish: str
) -> None:
    answer = await service.foresight.plan(wishes)
    assert not answer["feasible"]
    assert (answer["error"][0], answer["wish"]) == (code, wish)
    assert answer["granted_kib"] is None
    assert after(answer) == {ONE: 3 * GIB, TWO: 3 * GIB}


async def test_guests_that_would_not_give_are_named_as_vms(service: Service, host: SimHost) -> None:
    for domid in (1, 2):
        host.set_balloon(domid, {"stuck": True})
    with pytest.raises(DomainsUncooperative):
        await service.reservations.reserve_exactly("me", GIB)
    answer = await service.foresight.plan({"reserve_min_kib": str(GIB)})
    assert answer["error"] == ["VMS_FAILED_TO_COOPERATE", service.vm(ONE).ref, service.vm(TWO).ref]


@pytest.mark.parametrize(
    ("wishes", "params"),
    [
        ({"dynamc_min": "1"}, ("dynamc_min", "1")),
        ({"vm": ONE, "dynamic_min": "-1"}, ("dynamic_min", "-1")),
        ({"vm": ONE, "dynamic_min": "1 cow"}, ("dynamic_min", "1 cow")),
        ({"vm": ONE, "dynamic_min": "9" * 30}, ("dynamic_min", "9" * 30)),
        ({"vm": ONE}, ("dynamic_min", "")),
        ({"dynamic_max": "1"}, ("vm", "")),
        ({"reserve_max_kib": "1"}, ("reserve_min_kib", "")),
        ({"reserve_min_kib": "1GiB"}, ("reserve_min_kib", "1GiB")),
        ({"reserve_min_kib": "2", "reserve_max_kib": "1"}, ("reserve_max_kib", "1")),
        ({"policy": "gut-feeling"}, ("policy", "gut-feeling")),
        ({"policy": "shares", "policy:vigour": "9"}, ("vigour", "9")),
        ({"policy:room_percent": "9"}, ("policy:room_percent", "9")),
        ({"start": HALTED.uuid, "reserve_min_kib": "1"}, ("start", HALTED.uuid)),
    ],
)
async def test_wish_that_cannot_be_understood_is_named_with_its_value(
    service: Service, wishes: dict[str, str], params: tuple[str, str]
) -> None:
    with pytest.raises(InvalidValue) as caught:
        await service.foresight.plan(wishes)
    assert caught.value.params == params


@pytest.mark.parametrize("wishes", [{"vm": "nobody", "dynamic_min": "1"}, {"start": "nobody"}])
async def test_unknown_vm_is_named(service: Service, wishes: dict[str, str]) -> None:
    with pytest.raises(UuidInvalid) as caught:
        await service.foresight.plan(wishes)
    assert caught.value.params == ("VM", "nobody")


async def test_before_the_first_look_there_is_nothing_to_plan_with(tmp_path: Path) -> None:
    service = Service(Store(tmp_path), Controller(VirtualDriver(sim_host())))
    with pytest.raises(NotSeen):
        await service.foresight.plan({})
