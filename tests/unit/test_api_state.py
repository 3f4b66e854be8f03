"""The state as JSON: what is told of host, ring, VMs and of those who wait, and what is written anew."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.builders import a_domain, a_host, a_request, uuid_of
from xcpmem.api.state import StateSources, StateWriter
from xcpmem.engine.model import BalloonState, Lifecycle, Reservation
from xcpmem.engine.reasons import Motive, Reason
from xcpmem.engine.sample import Sample
from xcpmem.engine.shadow import ShadowPlan
from xcpmem.errors import DriverTimeout
from xcpmem.report import CycleReport, Failure
from xcpmem.units import kib_to_bytes, mib_to_bytes, mib_to_kib
from xcpmem.vm import HostFacts, Live, Vm
from xcpmem.xen.driver import Look

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState, HostState

MIB = mib_to_kib(1)
DESCRIPTION = Path(__file__).parents[2] / "api-spec/state.md"
NOW_S = 1_700_000_010.0
FACTS = HostFacts(uuid="host-uuid", name_label="laptop", hostname="laptop", address="127.0.0.1", cpu_count=1)


def a_vm(domid: int, name_label: str = "web", *, is_running: bool = True, **more: Any) -> Vm:
    vm = Vm(
        uuid=uuid_of(domid),
        name_label=name_label,
        memory_static_min=mib_to_bytes(500),
        memory_static_max=mib_to_bytes(4000),
        memory_dynamic_min=mib_to_bytes(1000),
        memory_dynamic_max=mib_to_bytes(3000),
        memory_target=mib_to_bytes(1000),
        **more,
    )
    return (
        vm.with_live(Live(domid, "Running", mib_to_bytes(2000), mib_to_bytes(2500)), 1) if is_running else vm
    )


def a_reason(domain: DomainState) -> Reason:
    return Reason(
        BalloonState.MOVING, Motive.SHARE, 2000 * MIB, 2000 * MIB, domain.actual_kib, domain.dynamic_range
    )


def a_report(host: HostState, **more: Any) -> CycleReport:
    reasons = {domain.domid: a_reason(domain) for domain in host.domains}
    return CycleReport(7, NOW_S - 10, 100.0, Look(host), reasons=reasons, duration_s=0.002, **more)


@dataclass
class World:
    """What there is to tell of."""

    report: CycleReport | None = None
    vms: dict[str, Vm] = field(default_factory=dict)

    def writer(self) -> StateWriter:
        return StateWriter(
            StateSources(
                report=lambda: self.report,
                vms=lambda: self.vms,
                host=lambda: FACTS,
                policy=lambda: "proportional",
                name_owner=str.upper,
                driver="simulated",
                looks_every_s=30.0,
            )
        )

    async def told(self) -> dict[str, Any]:
        state = await self.writer().write(NOW_S)
        told: dict[str, Any] = json.loads(state.document)
        return told


def one_guest(**more: Any) -> World:
    domain = a_domain(actual_kib=2500 * MIB, target_kib=2000 * MIB, maxmem_kib=2500 * MIB, **more)
    host = a_host(domain, free_kib=300 * MIB, scrub_kib=100 * MIB, slush_kib=72 * MIB)
    host = replace(host, total_kib=host.total_kib + 1000 * MIB)
    return World(a_report(host), {uuid_of(1): a_vm(1)})


async def test_host_is_told_in_bytes() -> None:
    told = (await one_guest().told())["host"]
    assert told == {
        "uuid": "host-uuid",
        "name_label": "laptop",
        "driver": "simulated",
        "policy": "proportional",
        "observes": False,
        "total_bytes": mib_to_bytes(3900),
        "free_bytes": mib_to_bytes(300),
        "scrub_bytes": mib_to_bytes(100),
        "slush_bytes": mib_to_bytes(72),
        "reserved_bytes": 0,
        "spare_bytes": mib_to_bytes(300 - 72),
        "others_bytes": mib_to_bytes(1000),
    }


async def test_running_vm_is_told_with_its_limits_its_target_and_why() -> None:
    (told,) = (await one_guest().told())["vms"]
    assert told == {
        "uuid": uuid_of(1),
        "name_label": "web",
        "domid": 1,
        "power_state": "Running",
        "is_control_domain": False,
        "static_min_bytes": mib_to_bytes(500),
        "dynamic_min_bytes": mib_to_bytes(1000),
        "dynamic_max_bytes": mib_to_bytes(3000),
        "static_max_bytes": mib_to_bytes(4000),
        "target_bytes": mib_to_bytes(2000),
        "actual_bytes": mib_to_bytes(2500),
        "maxmem_bytes": mib_to_bytes(2500),
        "goal_bytes": mib_to_bytes(2000),
        "state": "moving",
        "motive": "share",
        "reason": "gets its share: 1.953 GiB, 50.0 % of the way from 1000 MiB to 2.93 GiB",
        "shadow_targets_bytes": {},
        "is_being_built": False,
        "sample": None,
    }


async def test_what_other_policies_would_do_is_told_with_the_vm() -> None:
    world = one_guest()
    assert world.report is not None
    writer = world.writer()
    first = await writer.write(NOW_S)
    shadows = {"pressure": ShadowPlan({1: 1500 * MIB}), "shares": ShadowPlan({})}
    world.report = replace(world.report, shadows=shadows)
    (told,) = json.loads((await writer.write(NOW_S)).changes)["vms"]
    assert told["shadow_targets_bytes"] == {"pressure": mib_to_bytes(1500)}
    assert told["uuid"] in first.vms


async def test_halted_vm_and_control_domain_are_told_with_why_they_are_not_balanced() -> None:
    world = one_guest()
    world.vms[uuid_of(2)] = a_vm(2, "spare", is_running=False)
    world.vms[uuid_of(3)] = a_vm(0, "Control domain", is_control_domain=True)
    _, halted, control = (await world.told())["vms"]
    assert (halted["domid"], halted["power_state"], halted["state"]) == (None, "Halted", None)
    assert halted["reason"].startswith("spare does not run. When it starts it gets")
    assert control["is_control_domain"]
    assert control["reason"] == "Control domain holds 2.441 GiB and is not balanced."


async def test_templates_and_snapshots_are_not_told_of() -> None:
    world = World(None, {uuid_of(n): a_vm(n, is_running=False) for n in (1, 2, 3)})
    world.vms[uuid_of(1)] = replace(world.vms[uuid_of(1)], is_a_template=True)
    world.vms[uuid_of(2)] = replace(world.vms[uuid_of(2)], is_a_snapshot=True)
    assert [vm["uuid"] for vm in (await world.told())["vms"]] == [uuid_of(3)]


async def test_guests_own_report_is_told_with_the_time_of_day_at_which_it_came() -> None:
    world = one_guest()
    assert world.report is not None
    (domain,) = world.report.look.host.domains
    sample = Sample(seen_s=96.0, period_s=5.0, used_kib=700 * MIB, swapped_kib=MIB, source="meminfo")
    host = replace(world.report.look.host, domains=(replace(domain, sample=sample),))
    world.report = replace(world.report, look=Look(host))
    (vm,) = (await world.told())["vms"]
    assert vm["sample"] == {
        "sampled_at_s": NOW_S - 14,
        "period_s": 5.0,
        "used_bytes": mib_to_bytes(700),
        "swapped_bytes": mib_to_bytes(1),
        "source": "meminfo",
    }


async def test_ring_is_told_with_its_last_look_and_what_failed() -> None:
    world = one_guest()
    assert world.report is not None
    world.report = replace(world.report, failures=(Failure.of(None, DriverTimeout("no answer")),))
    assert (await world.told())["ring"] == {
        "turn": 7,
        "looked_at_s": NOW_S - 10,
        "looks_every_s": 30.0,
        "duration_s": 0.002,
        "sees_host": False,
        "is_stable": False,
        "failures": [{"kind": "Look", "reason": "DriverTimeout", "text": "cannot see the host: no answer"}],
    }


async def test_before_the_first_look_there_is_a_state_as_well() -> None:
    told = await World().told()
    assert told["ring"] == {"turn": 0, "looks_every_s": 30.0, "sees_host": False, "failures": []}
    assert told["vms"] == told["requests"] == told["reservations"] == []
    assert "total_bytes" not in told["host"]


async def test_request_is_told_with_what_it_waits_for() -> None:
    world = one_guest()
    assert world.report is not None
    world.report = replace(world.report, pending=(a_request(400 * MIB, 800 * MIB, deadline_s=145.0),))
    (request,) = (await world.told())["requests"]
    assert request == {
        "id": "r1",
        "owner": "owner",
        "owner_name": "OWNER",
        "vm_uuid": None,
        "min_bytes": mib_to_bytes(400),
        "max_bytes": mib_to_bytes(800),
        "ends_in_s": 35.0,
        "waits_for": "until domain 1 gives back 500 MiB: 228 MiB is free and promised to nobody",
        "givers": [uuid_of(1)],
    }


async def test_request_that_nobody_gives_for_waits_for_the_next_turn() -> None:
    host = a_host(a_domain(actual_kib=2000 * MIB), free_kib=10 * MIB)
    world = World(a_report(host, pending=(a_request(MIB, vm_uuid=uuid_of(9)),)))
    (request,) = (await world.told())["requests"]
    assert request["waits_for"] == "for the next turn: 10 MiB is free and promised to nobody"
    assert (request["vm_uuid"], request["givers"]) == (uuid_of(9), [])


async def test_reservation_is_told_with_whom_it_is_kept_for() -> None:
    building = a_domain(domid=5, lifecycle=Lifecycle.BUILDING)
    reservations = (
        Reservation("r1", "session", 100),
        Reservation("r2", "session", 200, vm_uuid=uuid_of(9)),
        Reservation("r3", "session", 300, domid=8),
        Reservation("r4", "session", 400, domid=5),
    )
    host = a_host(building, free_kib=2000 * MIB, reservations=reservations)
    told = (await World(a_report(host)).told())["reservations"]
    assert [(each["id"], each["size_bytes"], each["domid"]) for each in told] == [
        ("r1", kib_to_bytes(100), None),
        ("r2", kib_to_bytes(200), None),
        ("r3", kib_to_bytes(300), 8),
        ("r4", kib_to_bytes(400), 5),
    ]
    assert [each["waits_for"] for each in told] == [
        "for its owner, who builds a domain with it or gives it back",
        "for the VM that is being started with it",
        "for domain 8, to which it was given",
        "until domain 5 is built: it counts with that domain now",
    ]


async def test_change_tells_of_the_vms_that_changed_and_of_those_that_went() -> None:
    world = one_guest()
    world.vms |= {uuid_of(n): a_vm(n, f"vm{n}", is_running=False) for n in (2, 3)}
    writer = world.writer()
    first = json.loads((await writer.write(NOW_S)).changes)
    assert (len(first["vms"]), first["gone"]) == (3, [])
    world.vms[uuid_of(2)] = replace(world.vms[uuid_of(2)], name_label="renamed")
    del world.vms[uuid_of(3)]
    state = await writer.write(NOW_S + 1)
    change = json.loads(state.changes)
    assert [vm["name_label"] for vm in change["vms"]] == ["renamed"]
    assert change["gone"] == [uuid_of(3)]
    assert change["time_s"] == NOW_S + 1
    assert change["host"] == json.loads(state.document)["host"]


async def test_turn_that_changes_nothing_of_a_vm_does_not_write_it_anew() -> None:
    world = one_guest()
    assert world.report is not None
    writer = world.writer()
    first = await writer.write(NOW_S)
    world.report = replace(world.report, number=8, time_s=NOW_S, monotonic_s=110.0)
    second = await writer.write(NOW_S)
    assert second.vms[uuid_of(1)] is first.vms[uuid_of(1)]
    assert json.loads(second.changes)["vms"] == []


async def test_others_get_their_turn_while_many_vms_are_written() -> None:
    world = World(None, {uuid_of(n): a_vm(n, is_running=False) for n in range(200)})
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    await world.writer().write(NOW_S)
    other.cancel()
    assert turns >= 4


async def test_any_name_becomes_json() -> None:
    world = World(None, {uuid_of(1): a_vm(1, '</script>"\ud800\n', is_running=False)})
    (vm,) = (await world.told())["vms"]
    assert vm["name_label"] == '</script>"\ud800\n'


def members(told: Any) -> set[str]:
    match told:
        case dict():
            return set(told).union(*(members(value) for value in told.values()))
        case list():
            return set().union(*(members(item) for item in told))
    return set()


async def test_every_member_is_described() -> None:
    world = one_guest()
    assert world.report is not None
    (domain,) = world.report.look.host.domains
    sampled = replace(domain, sample=Sample(seen_s=96.0, period_s=5.0, used_kib=1))
    host = replace(world.report.look.host, domains=(sampled,), reservations=(Reservation("r", "s", 1),))
    failure = Failure.of(None, DriverTimeout("no answer"))
    world.report = replace(world.report, look=Look(host), pending=(a_request(MIB),), failures=(failure,))
    found = members(await world.told())
    described = set(re.findall(r"`(?:host\.|ring\.)?(\w+)`", DESCRIPTION.read_text(encoding="utf-8")))
    assert len(found) > 50
    assert found - described == set()
