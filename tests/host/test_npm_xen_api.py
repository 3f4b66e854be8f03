"""npm's xen-api on Node, with which Xen Orchestra talks to hosts, as a foreign client on both wires."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest

from tests.apistack import GIB, PASSWORD, Stack, a_guest, no_delay, running_stack
from xcpmem.api import jsonrpc
from xcpmem.api.connections import ConnectionLimits
from xcpmem.api.events import EventClock
from xcpmem.api.feed import followed_classes
from xcpmem.api.fields import metrics_uuid
from xcpmem.api.server import Server
from xcpmem.specs import BalloonSpec, GuestSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

HERE: Final = Path(__file__).parent / "npm"
DEADLINE_S: Final = 60
LINE_BYTES: Final = 1 << 24
WEB: Final = a_guest(1, "web1")
NOBODY: Final = "OpaqueRef:11111111-1111-4111-8111-111111111111"


class ClientError(Exception):
    """What the client threw: its code and parameters."""


class Client:
    """The client in its own process; see ``npm/client.mjs``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._heard = asyncio.Event()
        self.mirror: dict[str, dict[str, Any]] = {}
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, value, *error = json.loads(line)
            if number is not None:
                answer = self._answers.pop(number)
                if error:
                    answer.set_exception(ClientError(*error[0]))
                else:
                    answer.set_result(value)
            elif value == "remove":
                for key in error[0]:
                    del self.mirror[key]
            else:
                self.mirror |= error[0]
            self._heard.set()

    async def __call__(self, verb: str, *arguments: object) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([number, verb, *arguments]).encode() + b"\n")
        async with asyncio.timeout(DEADLINE_S):
            return await self._answers[number]

    async def failure(self, verb: str, *arguments: object) -> list[str]:
        with pytest.raises(ClientError) as failure:
            await self(verb, *arguments)
        return list(failure.value.args)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the mirror is as somebody waits for."""
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():
                self._heard.clear()
                await self._heard.wait()

    async def shows(self, name_label: str) -> dict[str, Any]:
        """Wait until there is an object of a name; the object."""
        await self.until(lambda: name_label in self.names())
        return self.names()[name_label]

    def names(self) -> dict[str, dict[str, Any]]:
        return {each["name_label"]: each for each in self.mirror.values() if "name_label" in each}

    async def pass_barrier(self, ref: str | None = None) -> Any:
        """Let the client see all that was done; nothing of its own is under way afterwards."""
        shown = await self("barrier", ref)
        await self.until(lambda: not any(each["other_config"] for each in self.pools()))
        return shown

    def pools(self) -> list[dict[str, Any]]:
        return [each for each in self.mirror.values() if "restrictions" in each]

    async def has_no_tasks(self) -> None:
        await self.until(lambda: not any("error_info" in each for each in self.mirror.values()))


@asynccontextmanager
async def node() -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        *("node", "client.mjs"),
        cwd=HERE,
        limit=LINE_BYTES,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    client = Client(process)
    try:
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            await client.reader
            assert await process.wait() == 0


@asynccontextmanager
async def serving(
    folder: Path, guest: GuestSpec = WEB, port: int = 0, seconds: Iterator[int] | None = None
) -> AsyncIterator[tuple[Stack, int]]:
    seconds = count(step=10) if seconds is None else seconds
    clock = EventClock(monotonic_s=lambda: next(seconds), sleep=no_delay)
    async with running_stack(folder, [guest], event_clock=clock) as stack:
        assert await stack.controller.settle(DEADLINE_S)
        limits = ConnectionLimits(linger_s=0.1, grace_s=0.1)
        server = Server(stack.app(), host="127.0.0.1", port=port, limits=limits)
        try:
            yield stack, await server.start()
        finally:
            stack.events.close()
            await server.close()


def address(port: int) -> str:
    return f"http://root:{quote(PASSWORD)}@127.0.0.1:{port}"


@pytest.fixture(params=["auto", "xml-rpc"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stack_and_port(tmp_path: Path) -> AsyncIterator[tuple[Stack, int]]:
    async with serving(tmp_path) as parts:
        yield parts


@pytest.fixture
def stack(stack_and_port: tuple[Stack, int]) -> Stack:
    return stack_and_port[0]


@pytest.fixture
async def client(stack_and_port: tuple[Stack, int], transport: str) -> AsyncIterator[Client]:
    async with node() as client:
        await client("connect", address(stack_and_port[1]), {"transport": transport})
        yield client


def calls(stack: Stack, method: str) -> int:
    return sum(name == method for name, _ in stack.observed)


async def test_client_logs_in_and_mirrors_all_objects(stack: Stack, client: Client, transport: str) -> None:
    mirrored = await client("objects")
    for class_name in followed_classes():
        records = stack.records.records(class_name)
        ours = {ref for ref, each in mirrored.items() if each["type"] == class_name}
        assert ours == records.keys()
        for ref in ours:
            expected = json.loads(jsonrpc.encode_value(records[ref]))
            found = mirrored[ref]["record"]
            assert found.keys() == expected.keys()
            assert transport == "xml-rpc" or found == expected
    assert all(status == "success" for _, status in stack.observed)
    assert calls(stack, "session.login_with_password") == 1


async def test_client_is_told_of_each_change(stack: Stack, client: Client) -> None:
    halted, web = stack.vm("halted").uuid, stack.vm("web1").uuid
    for number in range(20):
        await client("set", halted, "name_label", f"{number}. name")
        assert (await client.shows(f"{number}. name"))["uuid"] == halted
    await client("call", "VM.set_memory_dynamic_range", stack.vm("web1").ref, str(GIB), str(2 * GIB))
    metrics = metrics_uuid("VM_metrics", web)
    await client.until(lambda: int(client.mirror[metrics]["memory_actual"]) <= 2 * GIB + 4096)
    assert int(client.mirror[web]["memory_target"]) == 2 * GIB
    assert calls(stack, "VM.get_all_records") == 1


async def test_client_follows_asynchronous_calls_by_their_tasks(stack: Stack, client: Client) -> None:
    halted = stack.vm("halted").ref
    assert await client("callAsync", "VM.set_memory", halted, str(3 * GIB)) == ""
    assert stack.vm("halted").memory_static_max == 3 * GIB
    (host,) = stack.records.refs("host")
    assert int(await client("callAsync", "host.compute_free_memory", host)) > GIB
    assert await client("callAsync", "VM.get_cooperative", stack.vm("web1").ref) is True
    assert await client.failure("callAsync", "VM.set_memory", halted, "1") == [
        *("MEMORY_CONSTRAINT_VIOLATION_ORDER",),
    ]
    assert await client.failure("callAsync", "VM.set_memory", NOBODY, "1") == ["HANDLE_INVALID", "VM", NOBODY]
    assert (await client.failure("callAsync", "VM.set_memory_static_min", halted, "1"))[0] == "Fault"
    await client.has_no_tasks()
    assert stack.tasks.refs() == ()
    assert calls(stack, "task.get_all_records") == 1


async def test_client_cancels_a_task(tmp_path: Path, transport: str) -> None:
    hung = replace(WEB, balloon=BalloonSpec(stuck=True))
    async with serving(tmp_path, hung) as (stack, port), node() as client:
        await client("connect", address(port), {"transport": transport})
        web = stack.vm("web1").ref
        await client("call", "VM.set_memory_dynamic_range", web, str(GIB), str(GIB))
        await client("begin", "wait", "VM.wait_memory_target_live", web)
        name = "Async.VM.wait_memory_target_live"
        await client.until(lambda: client.names().get(name, {}).get("allowed_operations") == ["cancel"])
        assert "task canceled" in await client.failure("cancel", "wait")
        await client.has_no_tasks()
        assert stack.tasks.refs() == ()


async def test_barrier_comes_back_by_an_event(stack: Stack, client: Client) -> None:
    halted = stack.vm("halted").ref
    for number in range(100):
        await client("call", "VM.set_name_label", halted, str(number))
        assert (await client.pass_barrier(halted))["name_label"] == str(number)
    assert stack.service.pool_annotations == {"other_config": {}}
    assert (calls(stack, "VM.get_all_records"), calls(stack, "task.get_all_records")) == (1, 1)
    assert len(stack.sessions) == 1


async def test_ten_minutes_of_changes_and_calls_need_one_session_and_no_resync(
    tmp_path: Path, transport: str
) -> None:
    seconds = count(step=10)
    async with serving(tmp_path, seconds=seconds) as (stack, port), node() as client:
        await client("connect", address(port), {"transport": transport})
        halted, web = stack.vm("halted").ref, stack.vm("web1").ref
        listed = [name for name, _ in stack.observed if name.endswith(".get_all_records")]
        for number in range(60):
            assert await client("callAsync", "VM.set_memory", halted, str((1 + number % 3) * GIB)) == ""
            await client("call", "VM.set_memory_dynamic_range", web, str(GIB), str((2 + number % 2) * GIB))
            assert int((await client.pass_barrier(web))["memory_dynamic_max"]) == (2 + number % 2) * GIB
            assert len(stack.sessions) == 1
        assert next(seconds) >= 600
        assert all(status == "success" for _, status in stack.observed)
        assert [name for name, _ in stack.observed if name.endswith(".get_all_records")] == listed
        assert calls(stack, "session.login_with_password") == 1
        await client.has_no_tasks()
        assert stack.tasks.refs() == ()


async def test_client_whose_session_expires_logs_in_again_and_goes_on(stack: Stack, client: Client) -> None:
    uuid = stack.vm("web1").uuid
    await client.pass_barrier()
    for number in (1, 2):
        (session,) = stack.sessions._by_ref.values()
        await stack.sessions.logout(session)
        await stack.rename(uuid, f"{number}. name")
        await client.shows(f"{number}. name")
        await client.pass_barrier()
    assert calls(stack, "session.login_with_password") == 3
    assert calls(stack, "VM.get_all_records") == 3
    assert len(stack.sessions) == 1


async def test_client_goes_on_when_the_daemon_was_started_again(tmp_path: Path, transport: str) -> None:
    async with node() as client:
        async with serving(tmp_path) as (stack, port):
            await client("connect", address(port), {"transport": transport})
            await client.pass_barrier()
            before = set(client.mirror)
        async with serving(tmp_path, port=port) as (stack, _):
            await stack.rename(stack.vm("halted").uuid, "named")
            await client.shows("named")
            await client.pass_barrier()
            assert set(client.mirror) == before
            assert len(stack.sessions) == 1


async def test_failures_come_with_code_and_parameters(stack: Stack, client: Client) -> None:
    web, halted = stack.vm("web1").ref, stack.vm("halted").ref
    assert await client.failure("call", "VM.set_memory_limits", web, "1", "4", "2", "3") == [
        *("VM_BAD_POWER_STATE", web, "halted", "running"),
    ]
    assert await client.failure("call", "VM.set_memory", halted, "1") == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
    assert await client.failure("call", "VM.fly", web) == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]


async def test_client_that_leaves_ends_its_session(stack: Stack, client: Client) -> None:
    ended = asyncio.Event()
    stack.sessions.on_end(lambda _: ended.set())
    await client("disconnect")
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    assert len(stack.sessions) == 0
