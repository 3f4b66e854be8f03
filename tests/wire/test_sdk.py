"""The official Python SDK as a foreign client, over TCP and over the Unix socket."""

from __future__ import annotations

import asyncio
import http.client
import socket
import xmlrpc.client
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import XenAPI

from tests.apistack import GIB, GIB_KIB, PASSWORD, Stack, listening, running_stack
from xcpmem.api.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class ThisSocket(XenAPI.UDSTransport):  # type: ignore[misc]
    """The SDK's transport for ``/var/lib/xcp/xapi``, which has that path built in, at another path."""

    _connection: tuple[Any, Any]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection[1] is None:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self._path))
            self._connection = host, connection
        kept: http.client.HTTPConnection = self._connection[1]
        return kept


class Served:
    """A running server, and a way to use a blocking client against it."""

    def __init__(self, stack: Stack, url: str) -> None:
        self.stack = stack
        self.url = url

    async def use(self, script: Callable[[Any], object]) -> Any:
        """Run a script in a thread, with a logged-in ``XenAPI.Session``."""

        def run() -> object:
            session = XenAPI.Session(self.url)
            session.xenapi.login_with_password("root", PASSWORD, "1.0", "test")
            try:
                return script(session)
            finally:
                session.xenapi.session.logout()
                session("close")()

        async with asyncio.timeout(60):
            return await asyncio.to_thread(run)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with running_stack(tmp_path) as stack, listening(stack.app()) as url:
        yield Served(stack, url)


async def test_sdk_finds_out_which_api_it_talks_to(served: Served) -> None:
    assert await served.use(lambda session: session.API_version) == "2.21"


async def test_sdk_reads_all_records_with_all_fields(served: Served) -> None:
    def script(session: Any) -> dict[str, Any]:
        classes = ("pool", "host", "host_metrics", "VM", "VM_metrics", "VM_guest_metrics")
        return {name: getattr(session.xenapi, name).get_all_records() for name in classes}

    everything = await served.use(script)
    vms = everything["VM"]
    assert {vm["name_label"] for vm in vms.values()} >= {"web1", "db1", "halted"}
    assert {len(vm) for vm in vms.values()} == {92}
    (web,) = [vm for vm in vms.values() if vm["name_label"] == "web1"]
    assert web["memory_dynamic_min"] == str(GIB)
    assert web["is_control_domain"] is False
    assert web["HVM_shadow_multiplier"] == 1.0
    assert web["other_config"] == {}
    assert web["tags"] == []
    assert web["snapshot_time"] == xmlrpc.client.DateTime("19700101T00:00:00Z")
    assert everything["host"][web["resident_on"]]["software_version"]["xapi"]
    assert everything["VM_metrics"][web["metrics"]]["current_domain_type"] == "pvh"
    assert everything["VM_guest_metrics"][web["guest_metrics"]]["memory"] == {}
    (host_metrics,) = everything["host_metrics"].values()
    assert host_metrics["memory_total"] == str(16 * GIB)


async def test_sdk_moves_a_running_guest(served: Served) -> None:
    def script(session: Any) -> list[object]:
        (ref,) = session.xenapi.VM.get_by_name_label("web1")
        answers: list[object] = [session.xenapi.VM.set_memory_dynamic_range(ref, str(GIB), str(2 * GIB))]
        session.xenapi.VM.wait_memory_target_live(ref)
        answers.append(session.xenapi.VM.get_memory_dynamic_max(ref))
        answers.append(session.xenapi.VM.get_memory_target(ref))
        return answers

    assert await served.use(script) == ["", str(2 * GIB), str(2 * GIB)]


async def test_sdk_sees_failures_with_code_and_parameters(served: Served) -> None:
    def script(session: Any) -> list[list[str]]:
        (web,) = session.xenapi.VM.get_by_name_label("web1")
        (halted,) = session.xenapi.VM.get_by_name_label("halted")
        assert session.xenapi.VM.get_by_name_label("nobody") == []
        calls: list[Callable[[], object]] = [
            lambda: session.xenapi.VM.set_memory_limits(web, "1", "4", "2", "3"),
            lambda: session.xenapi.VM.set_memory_limits(halted, "1", "4", "3", "2"),
            lambda: session.xenapi.VM.set_memory(halted, "4GiB"),
            lambda: session.xenapi.VM.get_uuid("OpaqueRef:NULL"),
            lambda: session.xenapi.VM.get_by_uuid("none"),
            lambda: session.xenapi.VM.fly(web),
            lambda: session.xenapi.VM.get_all(web),
            lambda: session.xenapi.Async.VM.set_memory_static_min(halted, "1"),
            lambda: session.xenapi.event_from([], "yesterday", 1.0),
        ]
        failures = []
        for call in calls:
            with pytest.raises(XenAPI.Failure) as failure:
                call()
            failures.append(failure.value.details)
        return [[web], *failures]

    (web,), *failures = await served.use(script)
    assert failures == [
        ["VM_BAD_POWER_STATE", web, "halted", "running"],
        ["MEMORY_CONSTRAINT_VIOLATION_ORDER"],
        ["INTERNAL_ERROR", 'Failure("Int64.of_string")'],
        ["HANDLE_INVALID", "VM", "OpaqueRef:NULL"],
        ["UUID_INVALID", "VM", "none"],
        ["MESSAGE_METHOD_UNKNOWN", "VM.fly"],
        ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_all", "0", "1"],
        ["Fault", "No async mode for this operation (rpc: VM.set_memory_static_min)"],
        ["EVENT_FROM_TOKEN_PARSE_FAILURE", "yesterday"],
    ]


async def test_sdk_lists_methods_and_uses_underscores(served: Served) -> None:
    def script(session: Any) -> tuple[list[str], list[str]]:
        return session.system.listMethods(), session.xenapi.VM_get_all()

    names, refs = await served.use(script)
    assert "VM.set_memory_dynamic_range" in names
    assert len(refs) == 4


async def test_sdk_reserves_memory_until_it_logs_out(served: Served) -> None:
    def script(session: Any) -> list[object]:
        reservation_id, granted = session.xenapi.Memory.reserve_memory_range(str(GIB_KIB), str(2 * GIB_KIB))
        assert GIB_KIB <= int(granted) <= 2 * GIB_KIB
        return [reservation_id, session.xenapi.Memory.get_domain_zero_policy()]

    _, policy = await served.use(script)
    assert policy == ["Fixed_size", str(2 * GIB)]
    assert served.stack.host.observe().host.reservations == ()


async def test_sdk_logs_in_again_when_its_session_has_expired(served: Served) -> None:
    loop, sessions = asyncio.get_running_loop(), served.stack.sessions

    async def idle_for_too_long() -> None:
        limit_s, sessions._idle_limit_s = sessions._idle_limit_s, 0.0
        sessions.expire()
        sessions._idle_limit_s = limit_s

    def script(session: Any) -> int:
        first = session.handle
        asyncio.run_coroutine_threadsafe(idle_for_too_long(), loop).result(10)
        assert len(sessions) == 0
        count = len(session.xenapi.VM.get_all())
        assert session.handle != first
        return count

    assert await served.use(script) == 4
    assert ("VM.get_all", "SESSION_INVALID") in served.stack.observed


async def test_sdk_with_a_wrong_password_is_refused(served: Served) -> None:
    def login() -> None:
        session = XenAPI.Session(served.url)
        try:
            session.xenapi.login_with_password("root", "wrong", "1.0", "test")
        finally:
            session("close")()

    with pytest.raises(XenAPI.Failure) as failure:
        await asyncio.to_thread(login)
    assert failure.value.details == ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"]


async def test_sdk_needs_no_password_on_the_unix_socket(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="xm-") as folder:  # a socket's path may have 107 characters at most
        path = Path(folder) / "s"

        def script() -> list[str]:
            session = XenAPI.Session("http://localhost", transport=ThisSocket(path))
            session.xenapi.login_with_password("root", "", "", "xen-api-scripts-test")
            names = [session.xenapi.VM.get_name_label(ref) for ref in session.xenapi.VM.get_all()]
            session.xenapi.session.logout()
            session("close")()
            return names

        async with running_stack(tmp_path) as stack:
            server = Server(stack.app(), socket_path=path)
            await server.start()
            async with asyncio.timeout(60):
                assert "web1" in await asyncio.to_thread(script)
            await server.close()
