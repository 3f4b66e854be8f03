"""The simulated host's toolstack, beside its host and at the other end of a socket."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import uuid_of
from tests.startstack import DEAF, MIB_KIB, guest, simulated
from xcpmem.engine.model import Lifecycle
from xcpmem.errors import DriverDisconnected, DriverTimeout, InvalidValue, ToolstackError
from xcpmem.scenario import Scenario
from xcpmem.specs import DOMID_END, AgentKind, AgentSpec
from xcpmem.xen import paths
from xcpmem.xen.simline import LineServer
from xcpmem.xen.simtoolstack import RemoteToolstack
from xcpmem.xen.simulated import MAXMEM_SLACK_KIB, TOOLSTACK_SUFFIX, SimulatedHost
from xcpmem.xen.toolstack import NO_TOOLSTACK, Blueprint, Holding, Size, Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from xcpmem.xen.toolstack import Toolstack

NEW = Blueprint(
    uuid="0c0ffee0-0000-4000-8000-000000000001",
    name_label="web",
    vcpus=3,
    domain_type="pv_in_pvh",
    settings={"a": "b"},
)
SIZE = Size(memory_mib=300, static_max_mib=900)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    async with simulated(tmp_path, guest(1), guest(7, DEAF), spare_mib=1000) as host:
        yield host


@pytest.fixture(params=["beside", "remote"])
async def toolstack(
    request: pytest.FixtureRequest, host: SimulatedHost, tmp_path: Path
) -> AsyncIterator[Toolstack]:
    if request.param == "beside":
        yield host.toolstack
    else:
        remote = RemoteToolstack(str(tmp_path / "xs") + TOOLSTACK_SUFFIX)
        yield remote
        remote.close()


def lifecycle(host: SimulatedHost, domid: int) -> Lifecycle:
    return host.catch_up().guest(domid).lifecycle


async def test_built_domain_is_paused_and_has_the_keys_that_libxl_writes(
    host: SimulatedHost, toolstack: Toolstack
) -> None:
    toolstack.check(NEW)
    await toolstack.create(NEW, SIZE)
    built = host.catch_up().guest(8)
    assert (built.uuid, built.spec.vcpus, built.lifecycle) == (NEW.uuid, 3, Lifecycle.PAUSED)
    assert (built.actual_kib, built.maxmem_kib) == (300 * MIB_KIB, 300 * MIB_KIB + MAXMEM_SLACK_KIB)
    assert host.store.read(paths.target(8)) == str(300 * MIB_KIB)
    assert host.store.read(paths.static_max(8)) == str(900 * MIB_KIB)
    assert host.store.read(paths.name(8)) == "web"
    assert host.store.read(paths.domain_type(8)) == "pv-in-pvh"
    assert host.store.read(paths.dynamic_min(8)) is host.store.read(paths.dynamic_max(8)) is None
    assert 8 in host.store.introduced


async def test_domain_runs_pauses_and_ends_as_it_is_told(host: SimulatedHost, toolstack: Toolstack) -> None:
    await toolstack.create(NEW, SIZE)
    web = Subject(8, NEW.title)
    await toolstack.unpause(web)
    assert lifecycle(host, 8) is Lifecycle.RUNNING
    await toolstack.pause(web)
    assert lifecycle(host, 8) is Lifecycle.PAUSED
    await toolstack.shutdown(web)
    await toolstack.reboot(web)
    assert lifecycle(host, 8) is Lifecycle.PAUSED
    await toolstack.destroy(web)
    assert 8 not in host.catch_up().guests
    assert host.store.read(paths.name(8)) is None


async def test_guest_that_listens_shuts_down_and_one_that_is_deaf_does_not(
    host: SimulatedHost, toolstack: Toolstack
) -> None:
    for domid in (1, 7):
        await toolstack.shutdown(Subject(domid, "VM"))
    await toolstack.reboot(Subject(7, "VM"))
    assert list(host.catch_up().guests) == [7]


async def test_guest_that_reboots_has_another_domid_and_the_rest_as_before(
    host: SimulatedHost, toolstack: Toolstack
) -> None:
    before = host.catch_up().guest(1)
    host.store.write(paths.target(1), str(500 * MIB_KIB))
    await toolstack.reboot(Subject(1, "VM"))
    after = host.catch_up().guest(8)
    assert list(host.catch_up().guests) == [7, 8]
    assert (after.uuid, after.balloon, after.lifecycle) == (before.uuid, before.balloon, Lifecycle.RUNNING)
    assert after.actual_kib == 500 * MIB_KIB


async def test_guest_that_starts_again_keeps_its_character(host: SimulatedHost, toolstack: Toolstack) -> None:
    host.set_balloon(1, {"delay_s": 3.0})
    await toolstack.destroy(Subject(1, "VM"))
    again = Blueprint(uuid=uuid_of(1), name_label="again", domain_type="pvh")
    await toolstack.create(again, SIZE)
    built = host.catch_up().guest(8)
    assert (built.balloon.delay_s, built.balloon.rate_kib_s) == (3.0, guest(1).balloon.rate_kib_s)
    assert host.store.read(paths.name(8)) == "again"


async def test_memory_that_is_not_free_is_not_built_with(host: SimulatedHost, toolstack: Toolstack) -> None:
    with pytest.raises(ToolstackError) as failure:
        await toolstack.create(NEW, Size(4000, 4000))
    assert str(failure.value) == f"{NEW.title}: 3.906 GiB are not free to build it with"
    assert list(host.catch_up().guests) == [1, 7]


ACTS: list[Callable[[Toolstack, Subject], Awaitable[None]]] = [
    lambda it, vm: it.unpause(vm),
    lambda it, vm: it.pause(vm),
    lambda it, vm: it.shutdown(vm),
    lambda it, vm: it.reboot(vm),
    lambda it, vm: it.destroy(vm),
]


@pytest.mark.parametrize("act", ACTS)
async def test_domain_that_is_not_there_is_named_with_its_vm(
    toolstack: Toolstack, act: Callable[[Toolstack, Subject], Awaitable[None]]
) -> None:
    with pytest.raises(ToolstackError) as failure:
        await act(toolstack, Subject(99, NEW.title))
    assert str(failure.value) == f"{NEW.title}: domain 99 does not exist"


@pytest.mark.parametrize("act", [*ACTS, lambda it, _: it.create(NEW, SIZE)])
async def test_host_without_toolstack_refuses_everything(
    act: Callable[[Toolstack, Subject], Awaitable[None]],
) -> None:
    with pytest.raises(ToolstackError, match="this host has no toolstack"):
        await act(NO_TOOLSTACK, Subject(1, NEW.title))
    with pytest.raises(ToolstackError, match=NEW.name_label):
        NO_TOOLSTACK.check(NEW)


async def test_domain_under_construction_is_there_before_it_is_complete(host: SimulatedHost) -> None:
    reached = asyncio.Event()

    async def stop(step: str, _: str) -> None:
        if step == "furnish":
            reached.set()
            await asyncio.Event().wait()

    host.toolstack.gate = stop
    build = asyncio.create_task(host.toolstack.create(NEW, SIZE))
    await reached.wait()
    info = next(info for info in (await host.hypervisor.survey()).domains if info.domid == 8)
    assert (info.uuid, info.paused, info.actual_kib) == (NEW.uuid, True, 300 * MIB_KIB)
    assert host.store.read(paths.target(8)) is None
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    host.toolstack.gate = None
    await host.toolstack.destroy(Subject(8, NEW.title))
    assert 8 not in host.catch_up().guests


def test_agent_of_a_guest_that_does_not_run_says_nothing() -> None:
    talker = replace(guest(1), agent=AgentSpec(kind=AgentKind.EVENTS))
    host = SimulatedHost(Scenario(guests=(talker,)))
    host.set_lifecycle(1, Lifecycle.PAUSED)
    assert host.live_until_now() is None
    assert host.store.read(paths.meminfo_free(1)) is None


async def test_domids_count_on_and_begin_anew_at_the_end(host: SimulatedHost) -> None:
    assert host.next_domid() == 8
    host.remove_guest(7)
    assert host.next_domid() == 9
    host._last_domid = DOMID_END - 1
    assert host.next_domid() == 2


@pytest.mark.parametrize(
    "request_line",
    [
        {"call": "create", "blueprint": {"uuid": "x"}, "size": {"memory_mib": 1, "static_max_mib": 1}},
        {"call": "create", "blueprint": {}, "size": 3},
        {"call": "explode", "subject": {"domid": 1, "title": "VM"}},
        {"call": "pause", "subject": {"domid": 1}},
        {"call": "pause"},
        [],
    ],
)
async def test_call_that_does_not_exist_is_refused(
    host: SimulatedHost, tmp_path: Path, request_line: object
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "xs") + TOOLSTACK_SUFFIX)
    writer.write(json.dumps(request_line).encode() + b"\n")
    assert json.loads(await reader.readline()) == {"error": ["DriverError", "no such call"]}
    writer.close()
    await writer.wait_closed()


async def test_toolstack_that_is_gone_is_told_of_the_vm(tmp_path: Path) -> None:
    with pytest.raises(ToolstackError, match=r"^VM web .* the simulated toolstack is gone"):
        await RemoteToolstack(str(tmp_path / "nothing")).create(NEW, SIZE)


@pytest.mark.parametrize(("memory_mib", "static_max_mib"), [(-1, 1), (2, 1)])
def test_size_that_cannot_be_is_refused(memory_mib: int, static_max_mib: int) -> None:
    with pytest.raises(InvalidValue):
        Size(memory_mib, static_max_mib)
    with pytest.raises(InvalidValue):
        Blueprint(uuid="x", name_label="y", vcpus=0)


async def test_domain_that_was_written_down_is_built_again_as_large_as_it_was(
    host: SimulatedHost, toolstack: Toolstack, tmp_path: Path
) -> None:
    path = str(tmp_path / "image")
    await toolstack.create(NEW, SIZE)
    web = Subject(8, NEW.title)
    with pytest.raises(ToolstackError, match="it does not run"):
        await toolstack.save(web, path, Holding(0, 0))
    await toolstack.unpause(web)
    await toolstack.save(web, path, Holding(300 * MIB_KIB, 300 * MIB_KIB))
    assert lifecycle(host, 8) is Lifecycle.PAUSED
    await toolstack.destroy(web)
    await toolstack.restore(NEW, SIZE, path)
    back = host.catch_up().guest(9)
    assert (back.uuid, back.actual_kib, back.lifecycle) == (NEW.uuid, 300 * MIB_KIB, Lifecycle.PAUSED)
    assert host.store.read(paths.target(9)) == str(300 * MIB_KIB)


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "No such file"), ("{", "Expecting"), ('{"uuid": "x", "actual_kib": 1}', "it is none of this VM")],
)
async def test_file_that_is_no_image_of_the_vm_is_refused(
    host: SimulatedHost, toolstack: Toolstack, tmp_path: Path, text: str | None, why: str
) -> None:
    path = tmp_path / "image"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ToolstackError, match=why):
        await toolstack.restore(NEW, SIZE, str(path))
    with pytest.raises(ToolstackError):
        await toolstack.save(Subject(1, "one"), str(tmp_path / "no" / "where"), Holding(0, 0))
    assert lifecycle(host, 1) is Lifecycle.RUNNING


async def test_host_without_a_toolstack_keeps_no_images() -> None:
    with pytest.raises(ToolstackError, match="this host has no toolstack"):
        await NO_TOOLSTACK.save(Subject(1, "one"), "", Holding(0, 0))
    with pytest.raises(ToolstackError, match="this host has no toolstack"):
        await NO_TOOLSTACK.restore(NEW, SIZE, "")


async def test_host_hands_over_the_vms_that_it_was_made_with_and_those_that_run_as_they_run(
    host: SimulatedHost, tmp_path: Path
) -> None:
    host.store.write(paths.dynamic_max(1), str(512 * MIB_KIB))
    host.store.write(paths.target(1), str(400 * MIB_KIB))
    host.store.write(paths.dynamic_max(7), "2048 cows")
    remote = RemoteToolstack(str(tmp_path / "xs") + TOOLSTACK_SUFFIX)
    found = await remote.definitions()
    assert [(vm.uuid, vm.dynamic_max_kib, vm.target_kib) for vm in found.guests] == [
        (uuid_of(1), 512 * MIB_KIB, 400 * MIB_KIB),
        (uuid_of(7), 768 * MIB_KIB, 768 * MIB_KIB),
    ]
    assert found.host.slush_kib == host.scenario.host.slush_kib
    host.remove_guest(1)
    assert (await remote.definitions()).guests[0].dynamic_max_kib == 768 * MIB_KIB
    remote.close()


async def test_host_that_hangs_is_not_waited_for_as_long_as_for_a_domain_that_is_built(
    tmp_path: Path,
) -> None:
    async def hang(_: object) -> object:
        return await asyncio.Event().wait()

    server = LineServer(hang)
    await server.start(str(tmp_path / "t"))
    remote = RemoteToolstack(str(tmp_path / "t"), question_deadline_s=0.05)
    async with asyncio.timeout(20):
        with pytest.raises(DriverTimeout, match="the simulated toolstack does not answer"):
            await remote.definitions()
    remote.close()
    await server.close()


@pytest.mark.parametrize("answer", [[], {"guest": [{"domid": 1}]}, {"host": 3}])
async def test_definitions_that_make_no_sense_are_refused(tmp_path: Path, answer: object) -> None:
    async def answers(_: object) -> object:
        return answer

    server = LineServer(answers)
    await server.start(str(tmp_path / "t"))
    remote = RemoteToolstack(str(tmp_path / "t"))
    with pytest.raises(DriverDisconnected, match="what came back defines no VMs: the simulated toolstack"):
        await remote.definitions()
    remote.close()
    await server.close()
