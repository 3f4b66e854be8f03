"""What is wrong with a call, and what of several wrongs is told: xapi's order."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.apistack import LOCAL, NETWORK, PASSWORD, OneUser, no_delay
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.dispatch import Caller, Dispatcher
from xcpmem.api.presence import Presence
from xcpmem.api.sessions import SessionClock, Sessions
from xcpmem.api.tasks import Tasks
from xcpmem.api.typenames import EPOCH
from xcpmem.errors import ConnectionLost, InternalError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.api.dispatch import Handler

DEAD = "OpaqueRef:00000000-0000-4000-8000-000000000000"
VM = "OpaqueRef:11111111-1111-4111-8111-111111111111"
LIMITS = "VM.set_memory_limits"


class Line:
    """A dispatcher whose every message answers with the arguments it was handed."""

    def __init__(self, *, answers_removed: bool = True, handlers: dict[str, Handler] | None = None) -> None:
        self.handled: list[str] = []
        self.observed: list[tuple[str, str]] = []
        self.sessions = Sessions(OneUser(), self._release, clock=SessionClock(sleep=no_delay))
        echoes = {message.wire_name: self._echo(message.wire_name) for message in load_datamodel().messages()}
        self.tasks = Tasks("OpaqueRef:host")
        self.dispatcher = Dispatcher(
            self.sessions,
            {**echoes, **(handlers or {})},
            self.tasks,
            observe=lambda method, status, _: self.observed.append((method, status)),
            answers_removed=answers_removed,
        )

    async def _release(self, _: str) -> None:
        pass

    def _echo(self, name: str) -> Handler:
        async def handle(_: Caller, *args: object) -> object:
            self.handled.append(name)
            return args

        return handle

    async def login(self, uname: str = "root") -> str:
        return (await self.sessions.login(uname, PASSWORD, NETWORK)).ref

    async def call(self, method: str, *params: object) -> object:
        return await self.dispatcher.call(method, params, peer=NETWORK)

    async def failure(self, method: str, *params: object) -> list[str]:
        with pytest.raises(XcpmemError) as refusal:
            await self.call(method, *params)
        return [refusal.value.code, *refusal.value.params]


async def test_call_reaches_its_handler_with_typed_arguments() -> None:
    line = Line()
    session = await line.login()
    assert await line.call(LIMITS, session, VM, "1", 2, "0x3", "8589934592") == (VM, 1, 2, 3, 8589934592)
    assert await line.call("VM_set_memory_limits", session, VM, 1, 2, 3, 4) == (VM, 1, 2, 3, 4)
    assert await line.call("VM.maximise_memory", session, VM, "5", True) == (VM, 5, True)
    assert line.handled == [LIMITS, LIMITS, "VM.maximise_memory"]


async def test_unknown_method_without_parameters_is_told_so_without_a_session() -> None:
    assert await Line().failure("VM.fly") == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert await Line().failure("system.methodHelp") == ["MESSAGE_METHOD_UNKNOWN", "system.methodHelp"]
    assert await Line().failure("") == ["MESSAGE_METHOD_UNKNOWN", ""]


async def test_unknown_method_with_parameters_needs_a_session_first() -> None:
    line = Line()
    assert await line.failure("VM.fly", DEAD) == ["SESSION_INVALID", DEAD]
    assert await line.failure("system.methodHelp", "VM.start") == ["SESSION_INVALID", "VM.start"]
    assert await line.failure("VM.fly", await line.login(), 1) == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]


@pytest.mark.parametrize(
    "name", ["vm.get_all", "VM.Get_all", "VM.get.all", "Async.VM.fly", "Async.VM_get_all"]
)
async def test_other_spellings_are_unknown(name: str) -> None:
    line = Line()
    assert await line.failure(name, await line.login()) == ["MESSAGE_METHOD_UNKNOWN", name]


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        (LIMITS, 0, ["5", "0"]),
        (LIMITS, 1, ["5", "0"]),
        (LIMITS, 5, ["5", "4"]),
        (LIMITS, 7, ["5", "6"]),
        ("VM_set_memory_limits", 5, ["5", "4"]),
        ("VM.get_all", 2, ["0", "1"]),
        ("session.login_with_password", 0, ["2", "0"]),
        ("session.login_with_password", 1, ["2", "1"]),
        ("system.listMethods", 1, ["0", "1"]),
    ],
)
async def test_wrong_number_of_parameters_is_told_before_anything_else(
    name: str, count: int, expected: list[str]
) -> None:
    line = Line()
    assert await line.failure(name, *[DEAD] * count) == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        name,
        *expected,
    ]
    assert line.handled == []


async def test_wrong_number_is_told_by_the_name_without_async() -> None:
    assert await Line().failure(f"Async.{LIMITS}", DEAD, VM) == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH",
        LIMITS,
        "5",
        "1",
    ]


async def test_login_takes_any_surplus() -> None:
    line = Line()
    assert await line.call("session.login_with_password", "root", "x") == ("root", "x")
    for surplus in (["2.21"], ["2.21", "xo"]):
        given = ("root", "x", *surplus)
        assert await line.call("session.login_with_password", *given) == given
    assert await line.call("session.login_with_password", *"abcdef") == ("a", "b", "c", "d")


async def test_dead_session_is_told_before_role_text_and_type() -> None:
    line = Line()
    assert await line.failure(LIMITS, DEAD, VM, "\ud800", True, None, []) == ["SESSION_INVALID", DEAD]
    assert await line.failure("VM.get_all", "") == ["SESSION_INVALID", ""]


async def test_session_of_another_type_is_an_argument_error() -> None:
    complaint = ["INTERNAL_ERROR", "Failure(\"Expected string, got 'N'\")"]
    assert await Line().failure("VM.get_all", None) == complaint
    assert await Line().failure("VM.fly", None) == complaint


async def test_role_is_told_before_text_and_type() -> None:
    line = Line()
    reader = await line.login("reader")
    denied = ["RBAC_PERMISSION_DENIED", "vm.set_memory_limits", "No permission in user session"]
    assert await line.failure(LIMITS, reader, VM, "\ud800", True, None, []) == denied
    assert await line.failure(f"Async.{LIMITS}", reader, VM, 1, 2, 3, 4) == denied
    assert await line.call("VM.get_memory_target", reader, VM) == (VM,)
    assert await line.call("VM.wait_memory_target_live", reader, VM) == (VM,)
    assert line.handled == ["VM.get_memory_target", "VM.wait_memory_target_live"]


async def test_text_that_is_not_unicode_is_told_before_async_and_type() -> None:
    line = Line()
    session = await line.login()
    complaint = ["INVALID_VALUE", "Invalid UTF-8 string in parameter", "\ud800"]
    assert await line.failure("VM.maximise_memory", session, "\ud800", "x", "x") == complaint
    assert await line.failure("Async.VM.set_memory", session, VM, "\ud800") == complaint


async def test_async_of_a_message_without_such_a_form_is_a_fault() -> None:
    line = Line()
    fault = ["Fault", "No async mode for this operation (rpc: VM.set_memory_dynamic_min)"]
    assert await line.failure("Async.VM.set_memory_dynamic_min", await line.login(), VM, "x") == fault
    assert await line.failure("Async.VM.set_memory_dynamic_min", DEAD, VM, "x") == ["SESSION_INVALID", DEAD]
    assert line.handled == []


async def test_async_call_is_handled_in_a_task_of_its_name() -> None:
    line = Line()
    session = await line.login()
    ended = asyncio.Event()
    line.tasks.on_change(lambda ref: ended.set() if line.tasks.record(ref)["finished"] != EPOCH else None)
    ref = await line.call(f"Async.{LIMITS}", session, VM, "1", 2, 3, 4)
    async with asyncio.timeout(10):
        await ended.wait()
    record = line.tasks.record(str(ref))
    assert (record["name_label"], record["status"]) == (f"Async.{LIMITS}", "success")
    assert line.handled == [LIMITS]
    assert line.observed == [(LIMITS, "success")]
    await line.tasks.close()


async def test_unexpected_failure_in_a_task_is_logged_and_counted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object) -> object:
        raise KeyError("no such key")

    line = Line(handlers={LIMITS: fail})
    ended = asyncio.Event()
    line.tasks.on_change(lambda ref: ended.set() if line.tasks.record(ref)["finished"] != EPOCH else None)
    ref = await line.call(f"Async.{LIMITS}", await line.login(), VM, 1, 2, 3, 4)
    async with asyncio.timeout(10):
        await ended.wait()
    error_info = ("INTERNAL_ERROR", "unexpected KeyError, see the daemon's log")
    assert line.tasks.record(str(ref))["error_info"] == error_info
    assert line.dispatcher.unexpected_errors == 1
    assert "no such key" in caplog.text
    await line.tasks.close()


async def test_wrong_type_is_an_internal_error_as_in_xapi() -> None:
    line = Line()
    session = await line.login()
    assert await line.failure("VM.set_memory", session, VM, "4GiB") == [
        "INTERNAL_ERROR",
        'Failure("Int64.of_string")',
    ]
    assert await line.failure("VM.maximise_memory", session, VM, 5, "true") == [
        "INTERNAL_ERROR",
        "Failure(\"Expected bool, got 'S(true)'\")",
    ]
    assert line.handled == []


async def test_getter_of_a_removed_field_answers_unless_told_otherwise() -> None:
    kind = Line()
    assert await kind.call("host_metrics.get_memory_free", await kind.login(), VM) == (VM,)
    strict = Line(answers_removed=False)
    session = await strict.login()
    for name in (
        "host_metrics.get_memory_free",
        "VM_guest_metrics.get_memory",
        "VM_guest_metrics_get_memory",
    ):
        assert await strict.failure(name, session, VM) == ["MESSAGE_REMOVED"]
    assert await strict.failure("host_metrics.get_memory_free", DEAD, VM) == ["SESSION_INVALID", DEAD]
    assert (await strict.failure("host_metrics.get_memory_free", session))[0] == (
        "MESSAGE_PARAMETER_COUNT_MISMATCH"
    )
    assert await strict.call("host_metrics.get_memory_total", session, VM) == (VM,)


async def test_unexpected_failure_is_logged_counted_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_: object) -> object:
        raise KeyError("no such key")

    line = Line(handlers={"VM.get_all": fail})
    answer = await line.failure("VM.get_all", await line.login())
    assert answer == ["INTERNAL_ERROR", "unexpected KeyError, see the daemon's log"]
    assert line.dispatcher.unexpected_errors == 1
    assert "VM.get_all failed in a way nobody expected" in caplog.messages
    assert "no such key" in caplog.text
    assert line.observed[-1] == ("VM.get_all", "INTERNAL_ERROR")


async def test_call_whose_client_hangs_up_is_no_error_and_told_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    presence = Presence()

    async def wait(caller: Caller, *_: object) -> object:
        if caller.peer.presence is presence:
            presence.end()
        raise ConnectionLost

    line = Line(handlers={"event.from": wait})
    session = await line.login()
    assert await line.failure("event.from", session, [], "", 1.0) == ["INTERNAL_ERROR", "connection lost"]
    with pytest.raises(ConnectionLost):
        await line.dispatcher.call(
            "event.from", (session, [], "", 1.0), peer=replace(NETWORK, presence=presence)
        )
    assert line.observed == [("event.from", "INTERNAL_ERROR"), ("event.from", "hung_up")]
    assert [record.levelname for record in caplog.records if "event.from" in record.message] == ["INFO"]


async def test_every_call_is_observed_under_its_proper_name() -> None:
    line = Line()
    session = await line.login()
    await line.call("VM_get_all", session)
    await line.failure("VM.fly")
    await line.failure("VM.get_all", DEAD)
    assert line.observed == [
        ("VM.get_all", "success"),
        ("VM.fly", "MESSAGE_METHOD_UNKNOWN"),
        ("VM.get_all", "SESSION_INVALID"),
    ]


async def test_neither_session_nor_password_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    line = Line()
    session = await line.login()
    await line.call("VM.get_all", session)
    await line.failure("VM.fly", session)
    await line.failure("VM.set_memory", session, VM, "x")
    await line.call("session.login_with_password", "root", PASSWORD)
    shown = "".join(str(record.__dict__) for record in caplog.records)
    assert "VM.set_memory" in shown
    assert session.removeprefix("OpaqueRef:") not in shown
    assert PASSWORD not in shown


async def test_is_alive_echoes_as_in_xapi() -> None:
    assert await Line().call("system.isAlive:me", "here") == "here"
    assert await Line().failure("system.isAlive:me") == ["MESSAGE_METHOD_UNKNOWN", "system.isAlive:me"]


@pytest.mark.parametrize(
    "spoil",
    [lambda handlers: handlers.pop("VM.get_all"), lambda handlers: handlers.update({"VM.fly": None})],
)
def test_messages_and_handlers_must_match(spoil: Callable[[dict[str, Handler]], object]) -> None:
    async def handle(*_: object) -> None:
        pass

    async def release(_: str) -> None:
        pass

    handlers: dict[str, Handler] = {message.wire_name: handle for message in load_datamodel().messages()}
    sessions = Sessions(OneUser(), release)
    tasks = Tasks("OpaqueRef:host")
    assert Dispatcher(sessions, handlers, tasks)
    spoil(handlers)
    with pytest.raises(ValueError, match=r"differ: VM\.(get_all|fly)$"):
        Dispatcher(sessions, handlers, tasks)


async def test_trusted_peer_logs_in_by_any_password() -> None:
    line = Line()
    session = await line.sessions.login("root", "", LOCAL)
    assert await line.call("VM.get_all", session.ref) == ()


def test_caller_without_a_session_owns_nothing() -> None:
    with pytest.raises(InternalError):
        _ = Caller(NETWORK, None).owner
