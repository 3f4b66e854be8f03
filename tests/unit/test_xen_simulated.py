"""The simulated host in real time: what it writes, what it obeys, and its hypervisor on a socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import DomainVanished, DriverDisconnected, DriverError, DriverTimeout, InvalidValue
from xcpmem.scenario import Scenario
from xcpmem.script import (
    BalanceMemory,
    DeleteReservation,
    KillDaemon,
    ScriptCall,
    SetBalloon,
    Shutdown,
    TakeMemory,
)
from xcpmem.specs import AgentKind, AgentSpec, BalloonSpec, DomainType, GuestSpec, HostSpec, LoadPoint
from xcpmem.units import mib_to_kib
from xcpmem.xen import paths
from xcpmem.xen.guestreports import Report, read_own
from xcpmem.xen.hypervisor import PhysInfo, Survey
from xcpmem.xen.simhypervisor import DOMAIN_ZERO_UUID, HypervisorServer, RemoteHypervisor
from xcpmem.xen.simline import CLIENTS_MOST
from xcpmem.xen.simulated import HYPERVISOR_SUFFIX, MAXMEM_SLACK_KIB, SimulatedHost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.script import Call

MIB = mib_to_kib(1)
EXACT = BalloonSpec(rate_kib_s=1000, inaccuracy_kib=0)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def guest(domid: int = 1, **facts: Any) -> GuestSpec:
    values: dict[str, Any] = {
        "dynamic_min_kib": 1000,
        "dynamic_max_kib": 9000,
        "target_kib": 5000,
        "balloon": EXACT,
    }
    return GuestSpec(domid=domid, **(values | facts))


def make(
    clock: Clock, *guests: GuestSpec, script: tuple[ScriptCall, ...] = (), total_kib: int = 50_000
) -> SimulatedHost:
    host = HostSpec(total_kib=total_kib, free_kib=10000)
    return SimulatedHost(Scenario(host=host, guests=guests, script=script), clock=clock)


def held_kib(host: SimulatedHost, domid: int = 1) -> int:
    return host.catch_up().guests[domid].actual_kib


def test_a_domain_has_the_keys_that_a_toolstack_writes(clock: Clock) -> None:
    host = make(clock, guest(name_label="web", domain_type=DomainType.PV_IN_PVH, static_max_kib=9500))
    uuid = host.catch_up().guests[1].uuid
    found = {path: host.store.read(f"/local/domain/1/{path}") for path in KEYS}
    assert found == KEYS | {"vm": f"/vm/{uuid}"}
    assert host.store.read(f"/vm/{uuid}/name") == "web"
    assert host.store.introduced == {0, 1}


KEYS = {
    "name": "web",
    "domid": "1",
    "vm": "",
    "domain-type": "pv-in-pvh",
    "memory/static-max": "9500",
    "memory/target": "5000",
    "memory/dynamic-min": "1000",
    "memory/dynamic-max": "9000",
    "memory/memory-offset": "0",
    "control/feature-balloon": "1",
}


def test_domain_zero_has_its_name(clock: Clock) -> None:
    assert make(clock).store.read(paths.name(0)) == "Domain-0"


def test_a_guest_without_driver_does_not_announce_one(clock: Clock) -> None:
    host = make(clock, guest(balloon=BalloonSpec(feature=False)))
    assert host.store.read(paths.feature_balloon(1)) is None
    host.set_balloon(1, {"feature": True})
    assert host.store.read(paths.feature_balloon(1)) == "1"
    host.set_balloon(1, {"feature": False})
    assert host.store.read(paths.feature_balloon(1)) is None


def test_a_guest_obeys_the_target_that_is_written(clock: Clock) -> None:
    host = make(clock, guest())
    host.store.write(paths.target(1), "3000")
    clock.now_s += 1.5
    assert held_kib(host) == 3500
    clock.now_s += 1.0
    assert held_kib(host) == 3000


@pytest.mark.parametrize("text", ["", "x", "-4", "1e3", "9" * 30, "\x00"])
def test_a_guest_ignores_a_target_that_is_no_size(clock: Clock, text: str) -> None:
    host = make(clock, guest())
    host.store.write(paths.target(1), text)
    clock.now_s += 5.0
    assert held_kib(host) == 5000


def test_a_target_of_a_domain_that_is_not_there_moves_nobody(clock: Clock) -> None:
    host = make(clock, guest())
    host.store.write(paths.target(7), "3000")
    assert list(host.catch_up().guests) == [1]


async def test_a_guest_grows_as_far_as_its_maxmem(clock: Clock) -> None:
    host = make(clock, guest())
    host.store.write(paths.target(1), "9000")
    clock.now_s += 60.0
    assert held_kib(host) == 5000 + MAXMEM_SLACK_KIB
    await host.hypervisor.set_maxmem(1, 9000 + MAXMEM_SLACK_KIB)
    clock.now_s += 60.0
    assert held_kib(host) == 9000


def test_a_long_absence_is_caught_up_exactly(clock: Clock) -> None:
    host = make(clock, guest(balloon=BalloonSpec(rate_kib_s=0.01, inaccuracy_kib=0)))
    host.store.write(paths.target(1), "1000")
    clock.now_s += 100000.0
    assert held_kib(host) == 4000


async def test_the_hypervisor_lists_domains_with_domain_zero_first(clock: Clock) -> None:
    host = make(clock, guest(1, vcpus=3), guest(2, domain_type=DomainType.PV))
    zero, first, second = (await host.hypervisor.survey()).domains
    assert (zero.domid, zero.uuid, zero.actual_kib) == (0, DOMAIN_ZERO_UUID, 30000)
    assert (first.domid, first.vcpus, first.hvm) == (1, 3, True)
    assert (first.actual_kib, first.maxmem_kib) == (5000, 5000 + MAXMEM_SLACK_KIB)
    assert not second.hvm
    assert (await host.hypervisor.survey()).physical == PhysInfo(50000, 10000, 0, cpus=64)


@pytest.mark.parametrize(
    ("lifecycle", "flags"),
    [
        (Lifecycle.RUNNING, (False, False, False)),
        (Lifecycle.PAUSED, (True, False, False)),
        (Lifecycle.SUSPENDED, (False, True, False)),
        (Lifecycle.DYING, (False, False, True)),
    ],
)
async def test_the_hypervisor_tells_what_a_domain_is_doing(
    clock: Clock, lifecycle: Lifecycle, flags: tuple[bool, bool, bool]
) -> None:
    host = make(clock, guest())
    host.set_lifecycle(1, lifecycle)
    info = (await host.hypervisor.survey()).domains[1]
    assert (info.paused, info.shutdown, info.dying) == flags


async def test_the_hypervisor_refuses_what_xen_refuses(clock: Clock) -> None:
    host = make(clock, guest())
    with pytest.raises(DomainVanished):
        await host.hypervisor.set_maxmem(9, 4096)
    with pytest.raises(DriverError):
        await host.hypervisor.set_maxmem(0, 4096)
    with pytest.raises(DriverError):
        await host.hypervisor.set_maxmem(1, -1)


async def test_the_hypervisor_can_be_made_to_fail(clock: Clock) -> None:
    host = make(clock, guest(1), guest(2))
    host.hypervisor.fault = lambda call, domid: (
        DriverTimeout("slow") if (call, domid) == ("set_maxmem", 2) else None
    )
    await host.hypervisor.set_maxmem(1, 7000)
    with pytest.raises(DriverTimeout):
        await host.hypervisor.set_maxmem(2, 7000)


async def test_a_guest_that_ends_is_gone_everywhere_and_xenstore_tells(clock: Clock) -> None:
    host = make(clock, guest(1), guest(2))
    uuid = host.catch_up().guests[2].uuid
    fired: list[str] = []
    host.store.subscribe(fired.append)
    host.remove_guest(2)
    assert [info.domid for info in (await host.hypervisor.survey()).domains] == [0, 1]
    assert not host.store.exists(paths.domain(2))
    assert not host.store.exists(f"/vm/{uuid}")
    assert 2 not in host.store.introduced
    assert (await host.hypervisor.survey()).physical.free_kib == 15000
    with pytest.raises(DomainVanished):
        host.remove_guest(2)


async def test_a_guest_that_starts_appears_everywhere(clock: Clock) -> None:
    host = make(clock, guest(1))
    host.add_guest(guest(2), 2000)
    info = (await host.hypervisor.survey()).domains[2]
    assert (info.domid, info.actual_kib, info.maxmem_kib) == (2, 2000, 2000 + MAXMEM_SLACK_KIB)
    assert host.store.read(paths.target(2)) == "2000"
    assert 2 in host.store.introduced
    with pytest.raises(InvalidValue):
        host.add_guest(guest(2), 2000)


def test_an_agent_reports_from_time_to_time(clock: Clock) -> None:
    load = (LoadPoint(0.0, 1500), LoadPoint(4.0, 4000))
    host = make(clock, guest(agent=AgentSpec(kind=AgentKind.MEMINFO, period_s=5.0), load=load))
    assert host.live_until_now() == 5.0
    assert host.store.read(paths.meminfo_total(1)) == "5000"
    assert host.store.read(paths.meminfo_free(1)) == "3500"
    clock.now_s += 4.5
    assert host.live_until_now() == 0.5
    assert host.store.read(paths.meminfo_free(1)) == "3500"
    clock.now_s += 0.5
    assert host.live_until_now() == 5.0
    assert host.store.read(paths.meminfo_free(1)) == "1000"


def said(host: SimulatedHost) -> Report | None:
    """What domain 1's own agent last reported."""
    text = host.store.read(paths.xcpmem_report(1))
    return None if text is None else read_own(text)


def test_our_own_agent_reports_when_something_changes_and_as_a_heartbeat(clock: Clock) -> None:
    load = (LoadPoint(0.0, MIB), LoadPoint(30.0, 100 * MIB))
    events = AgentSpec(kind=AgentKind.EVENTS)
    spec = guest(agent=events, load=load, dynamic_max_kib=200 * MIB, target_kib=200 * MIB)
    host = make(clock, spec, total_kib=300 * MIB)
    assert host.live_until_now() == 10.0
    assert said(host) == Report(available_kib=199 * MIB, stall_us=0, refault_kib=0)
    for _ in range(3):
        clock.now_s += 10.0
        host.live_until_now()
    assert said(host) == Report(available_kib=100 * MIB, stall_us=0, refault_kib=0)
    assert (host.store.read(paths.xcpmem_report(1)) or "").startswith("4 ")
    host.store.write(paths.target(1), str(50 * MIB))
    clock.now_s += 200.0
    host.live_until_now()
    report = said(host)
    assert report is not None
    assert report.available_kib == 0
    assert report.swapped_kib == 50 * MIB
    assert report.stall_us is not None
    assert report.stall_us > 10**6
    assert host.store.read(paths.meminfo_free(1)) is None


def test_a_silent_guest_reports_nothing(clock: Clock) -> None:
    host = make(clock, guest(load=(LoadPoint(0.0, 1500),)))
    assert host.live_until_now() is None
    assert host.store.read(paths.meminfo_free(1)) is None


@pytest.mark.parametrize("acts_out_all", [True, False])
async def test_calls_of_the_script_that_are_not_acted_out_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: Clock, *, acts_out_all: bool
) -> None:
    calls: list[Call] = [Shutdown(domid=1), TakeMemory(size_kib=1)]
    if not acts_out_all:
        calls += [KillDaemon(), BalanceMemory(), KillDaemon()]
    host = make(clock, guest(1), script=tuple(ScriptCall(50.0, call) for call in calls))
    await host.start(str(tmp_path / "xs"))
    await host.close()
    said = (
        "of the script of 'unnamed' these calls are not acted out: balance_memory, kill_daemon; on a host in "
        "real time set_balloon, shutdown, take_memory are, all are by 'xcpmem simulate'"
    )
    assert [record.message for record in caplog.records] == ([] if acts_out_all else [said])


def test_the_script_acts_out_what_happens_by_itself(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    script = (
        ScriptCall(9.0, Shutdown(domid=2)),
        ScriptCall(3.0, SetBalloon(domid=1, changes={"stuck": True})),
        ScriptCall(3.0, TakeMemory(size_kib=4000)),
        ScriptCall(3.0, DeleteReservation(reservation="x")),
        ScriptCall(9.5, Shutdown(domid=2)),
    )
    host = make(clock, guest(1), guest(2), script=script)
    assert host.live_until_now() == 3.0
    clock.now_s += 4.0
    assert host.live_until_now() == 5.0
    assert host.catch_up().guests[1].balloon.stuck
    assert host.catch_up().physical_free_kib == 6000
    clock.now_s += 10.0
    assert host.live_until_now() is None
    assert list(host.catch_up().guests) == [1]
    assert "shutdown did not work" in caplog.text


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_the_host_lives_by_itself_once_started(tmp_path: Path) -> None:
    script = (ScriptCall(0.0, Shutdown(domid=2)),)
    scenario = Scenario(host=HostSpec(free_kib=10), guests=(guest(1), guest(2)), script=script)
    host = SimulatedHost(scenario)
    gone = asyncio.Event()
    host.store.subscribe(lambda path: gone.set() if path == paths.domain(2) else None)
    await host.start(str(tmp_path / "xs"))
    async with asyncio.timeout(5.0):
        await gone.wait()
    await host.close()
    assert files_in(tmp_path) == []


async def test_a_task_that_fails_is_not_forgotten(tmp_path: Path, clock: Clock) -> None:
    host = make(clock, guest(agent=AgentSpec(kind=AgentKind.MEMINFO, period_s=5.0)))
    failed = asyncio.Event()

    def refuse(path: str) -> None:
        if path == paths.meminfo_free(1):
            failed.set()
            raise RuntimeError("broken")

    host.store.subscribe(refuse)
    await host.start(str(tmp_path / "xs"))
    async with asyncio.timeout(5.0):
        await failed.wait()
    with pytest.raises(RuntimeError, match="broken"):
        await host.close()


@pytest.fixture
async def served(clock: Clock, tmp_path: Path) -> AsyncIterator[tuple[SimulatedHost, str]]:
    host = make(clock, guest(1), guest(2))
    path = str(tmp_path / "xs")
    await host.start(path)
    yield host, path + HYPERVISOR_SUFFIX
    await host.close()


async def test_a_remote_hypervisor_says_what_the_one_beside_it_says(
    served: tuple[SimulatedHost, str],
) -> None:
    host, path = served
    remote = RemoteHypervisor(path)
    assert await remote.survey() == await host.hypervisor.survey()
    await remote.set_maxmem(1, 7777)
    assert (await remote.survey()).domains[1].maxmem_kib == 7776
    await remote.close()


async def test_a_remote_hypervisor_passes_errors_on(served: tuple[SimulatedHost, str]) -> None:
    host, path = served
    remote = RemoteHypervisor(path)
    with pytest.raises(DomainVanished, match="domain 9 does not exist"):
        await remote.set_maxmem(9, 1)
    with pytest.raises(DriverError, match="domain 0"):
        await remote.set_maxmem(0, 1)
    host.hypervisor.fault = lambda _, __: DriverTimeout("slow")
    with pytest.raises(DriverError, match="slow"):
        await remote.survey()
    host.hypervisor.fault = None
    await remote.survey()
    await remote.close()


async def test_calls_at_once_each_get_their_own_answer(served: tuple[SimulatedHost, str]) -> None:
    _, path = served
    remote = RemoteHypervisor(path)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(remote.survey() if n % 2 else remote.set_maxmem(1, 4096)) for n in range(20)
        ]
    assert all(isinstance(task.result(), Survey) is bool(n % 2) for n, task in enumerate(tasks))
    await remote.close()


async def test_a_call_that_was_given_up_does_not_answer_the_next(served: tuple[SimulatedHost, str]) -> None:
    _, path = served
    remote = RemoteHypervisor(path)
    await remote.survey()
    given_up = asyncio.create_task(remote.survey())
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert isinstance(await remote.survey(), Survey)
    await remote.close()


async def test_a_remote_hypervisor_finds_its_host_again_after_a_restart(
    served: tuple[SimulatedHost, str],
) -> None:
    host, path = served
    remote = RemoteHypervisor(path)
    await remote.survey()
    await host.hypervisor_server.close()
    with pytest.raises(DriverDisconnected):
        await remote.survey()
    await host.hypervisor_server.start(path)
    await remote.survey()
    await remote.close()


async def test_a_host_that_is_not_there_is_disconnected(tmp_path: Path) -> None:
    with pytest.raises(DriverDisconnected):
        await RemoteHypervisor(str(tmp_path / "nothing")).survey()


@asynccontextmanager
async def speaking(tmp_path: Path, reply: bytes) -> AsyncIterator[str]:
    """A server that answers each line of its clients with the same bytes."""
    path = str(tmp_path / "odd")
    talks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        while await reader.readline():
            writer.write(reply)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    yield path
    server.close()
    await asyncio.gather(*(talk for talk in talks if talk))


@pytest.mark.parametrize(
    "reply",
    [
        b"nonsense\n",
        b"{}\n",
        b"[]\n",
        b'{"result": 3}\n',
        b'{"result": [[{"domid": 1}], [1, 2, 3, 4]]}\n',
        b'{"result": [["7"], [1, 2, 3, 4]]}\n',
        b'{"result": [["nonsense"], [1, 2, 3, 4]]}\n',
        b'{"result": [["[1, \\"u\\", 2, 3, 4, 0, 0, 0, 0]"], [1, 2, 3, 4]]}\n',
        b'{"result": [[], [1, 2, "3", 4]]}\n',
        b'{"error": "x"}\n',
        b"\xff\n",
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_lost_connection(tmp_path: Path, reply: bytes) -> None:
    async with speaking(tmp_path, reply) as path:
        remote = RemoteHypervisor(path)
        with pytest.raises(DriverDisconnected):
            await remote.survey()
        await remote.close()


async def test_a_host_that_does_not_answer_is_given_up_after_the_deadline(tmp_path: Path) -> None:
    async with speaking(tmp_path, b"") as path:
        with pytest.raises(DriverTimeout):
            await RemoteHypervisor(path, call_deadline_s=0.05).survey()


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b'{"call": "reboot"}\n', ["DriverError", "no such call"]),
        (b'{"call": "set_maxmem", "domid": "1", "maxmem_kib": 3}\n', ["DriverError", "no such call"]),
        (b"[1, 2]\n", ["DriverError", "no such call"]),
    ],
)
async def test_the_server_refuses_calls_that_do_not_exist(
    served: tuple[SimulatedHost, str], request_line: bytes, answer: list[str]
) -> None:
    reader, writer = await asyncio.open_unix_connection(served[1])
    writer.write(request_line)
    assert json.loads(await reader.readline()) == {"error": answer}
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("line", [b"nonsense\n", b"[" * 4000 + b"\n", b"x" * 100000, b"\xff\xfe\n"])
async def test_the_server_hangs_up_on_whoever_talks_nonsense(
    served: tuple[SimulatedHost, str], line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(served[1])
    writer.write(line)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    remote = RemoteHypervisor(served[1])
    assert len((await remote.survey()).domains) == 3
    await remote.close()


async def test_the_server_turns_away_more_clients_than_it_has_places_for(
    served: tuple[SimulatedHost, str],
) -> None:
    places = [RemoteHypervisor(served[1]) for _ in range(CLIENTS_MOST)]
    for place in places:
        await place.survey()
    with pytest.raises(DriverDisconnected):
        await RemoteHypervisor(served[1]).survey()
    await places[0].survey()
    for place in places:
        await place.close()


async def test_the_server_can_be_closed_before_it_was_started(clock: Clock) -> None:
    await HypervisorServer(make(clock).hypervisor).close()
