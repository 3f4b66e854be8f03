"""One dialogue from greeting to exit code: logging in, failing, hanging up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.cli_double import (
    DB1,
    SESSION,
    STRANGER,
    TRUSTED,
    WEB1,
    Line,
    XenDouble,
    say,
)
from xcpmem.api.cli import CommandLine
from xcpmem.api.cli_frames import Error, Exit, Greeting, Print, encode
from xcpmem.errors import (
    BadPowerState,
    ConstraintOrder,
    DomainsUncooperative,
    NotEnoughMemory,
    WireError,
    XcpmemError,
)

if TYPE_CHECKING:
    from xcpmem.api.sessions import Peer

USAGE = "For usage run: 'xe help'\n"


class Odd(XcpmemError):
    code = "ODD_THING"


async def test_dialogue_is_greeting_answer_and_exit_code() -> None:
    line = await say(XenDouble(), "vm-list", "--minimal", "uuid=11111111-1111-1111-1111-111111111111")
    assert line.messages == [Greeting(), Print("11111111-1111-1111-1111-111111111111"), Exit(0)]


async def test_command_logs_in_and_out() -> None:
    xen = XenDouble()
    await say(xen, "vm-list")
    assert (xen.logins, xen.open_sessions) == (1, 0)


async def test_failing_command_logs_out() -> None:
    xen = XenDouble()
    line = await say(xen, "vm-param-get", "uuid=none", "param-name=uuid")
    assert line.code == 1
    assert (xen.logins, xen.open_sessions) == (1, 0)


async def test_words_of_a_proxying_member_run_in_its_session() -> None:
    xen = XenDouble()
    line = Line()
    body = f"session_id={SESSION}\r\npool-list\r\n--minimal".encode()
    await CommandLine(xen).converse(line, body, STRANGER)
    assert line.stdout == "77777777-7777-7777-7777-777777777777\n"
    assert xen.logins == 0


async def test_dead_session_is_told() -> None:
    line = Line()
    await CommandLine(XenDouble()).converse(line, b"session_id=OpaqueRef:dead\npool-list", STRANGER)
    assert line.stderr == "The session is unknown or has expired.\nhandle: OpaqueRef:dead\n"
    assert line.code == 1


@pytest.mark.parametrize(
    ("login", "text"),
    [
        (("username=root", "password=wrong"), "Authentication failed"),
        (("username=root", "password=null"), "Authentication failed"),
        (("username=", "password="), "Username/password must be specified"),
        ((), "Username/password must be specified"),
    ],
)
async def test_bad_login_is_refused(login: tuple[str, ...], text: str) -> None:
    line = await say(XenDouble(), "vm-list", login=login)
    assert line.stderr == f"{text}\n{USAGE}"
    assert line.code == 1


async def test_any_password_will_do_for_a_trusted_peer() -> None:
    line = await say(XenDouble(), "vm-list", "--minimal", peer=TRUSTED, login=("username=root", "password=x"))
    assert line.code == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["foo"], "Unknown command: foo"),
        (["--minimal", "vm-list"], "Unknown command: --minimal"),
        (["a=b", "vm-list"], "Syntax error: command name is missing"),
        (["vm-memory-dynamic-range-set", "vm=web1", "max=1GiB"], "Required parameter not found: min"),
        (["vm-param-get", "uuid=1"], "Required parameter not found: param-name"),
    ],
)
async def test_words_that_are_no_command_are_refused_without_a_login(words: list[str], text: str) -> None:
    xen = XenDouble()
    line = await say(xen, *words)
    assert line.stderr == f"{text}\n{USAGE}"
    assert line.stdout == ""
    assert line.code == 1
    assert xen.logins == 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            BadPowerState(WEB1, "halted", "running"),
            (
                "The VM is in a power state that forbids this.\n"
                "vm: 11111111-1111-1111-1111-111111111111 (web1)\nexpected: halted\nactual: running\n"
            ),
        ),
        (
            ConstraintOrder(),
            "The limits must keep the order static-min <= dynamic-min <= dynamic-max <= static-max.\n",
        ),
        (
            NotEnoughMemory(5, 4),
            (
                "The host has not enough memory, even with every VM that obeys at its dynamic-min.\n"
                "needed: 5\navailable: 4\n"
            ),
        ),
        (
            DomainsUncooperative(WEB1, "OpaqueRef:gone"),
            (
                "These VMs did not give back the memory they were asked for.\n"
                "VM: 11111111-1111-1111-1111-111111111111 (web1)\nVM: OpaqueRef:gone\n"
            ),
        ),
    ],
)
async def test_failed_call_is_told_in_words(error: XcpmemError, text: str) -> None:
    xen = XenDouble()
    xen.failures["VM.set_memory"] = error
    line = await say(xen, "vm-memory-set", "vm=web1", "memory=1GiB")
    assert line.stderr == text
    assert line.stdout == ""
    assert line.code == 1


async def test_failed_call_without_words_is_told_in_an_error_frame() -> None:
    xen = XenDouble()
    xen.failures["VM.set_memory"] = Odd("so")
    line = await say(xen, "vm-memory-set", "vm=web1", "memory=1GiB")
    assert line.messages[1:] == [Error("ODD_THING", ("so",)), Exit(1)]


async def test_failed_login_call_is_told() -> None:
    class Closed(XenDouble):
        def log_in(self, *params: object, peer: Peer) -> str:
            raise Odd(f"closed for {params[0]} from {peer.address}")

    line = await say(Closed(), "vm-list")
    assert line.messages[1:] == [Error("ODD_THING", ("closed for root from 127.0.0.1",)), Exit(1)]


@pytest.mark.parametrize("minimal", [[], ["--minimal"]])
async def test_nothing_is_printed_when_a_command_fails(minimal: list[str]) -> None:
    line = await say(XenDouble(), "vm-list", "nonsense=1", *minimal)
    assert line.stdout == ""
    assert line.stderr == "Error: Unknown field 'nonsense'\n"
    assert line.code == 1


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"XenSource thin CLI protocol\x01\x00\x00\x00\x02\x00\x00\x00",
    ],
    ids=["no greeting", "another version"],
)
async def test_client_that_does_not_speak_the_protocol_is_told_nothing(first: bytes) -> None:
    xen = XenDouble()
    line = Line(first)
    with pytest.raises(WireError):
        await CommandLine(xen).converse(line, b"vm-list", TRUSTED)
    assert line.messages == [Greeting()]
    assert xen.logins == 0


async def test_client_that_hangs_up_before_its_greeting_is_let_go() -> None:
    line = Line(b"XenSource")
    line.say(b"")
    with pytest.raises(ConnectionResetError):
        await CommandLine(XenDouble()).converse(line, b"vm-list", TRUSTED)


async def test_client_that_never_greets_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcpmem.api.cli.GREETING_DEADLINE_S", 0.0)
    with pytest.raises(TimeoutError):
        await CommandLine(XenDouble()).converse(Line(b"Xen"), b"vm-list", TRUSTED)


async def test_waiting_command_ends_when_its_client_hangs_up() -> None:
    xen = XenDouble()
    xen.held["VM.wait_memory_target_live"] = asyncio.Event()
    line = Line()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        body = b"vm-memory-target-wait\nvm=web1\nusername=root\npassword=secret"
        group.create_task(CommandLine(xen).converse(line, body, STRANGER))
        await xen.begun.wait()
        line.say(b"")
    assert line.messages == [Greeting()]
    assert xen.open_sessions == 0


async def test_change_under_way_is_finished_and_the_next_not_begun_when_the_client_hangs_up() -> None:
    xen = XenDouble()
    xen.held[f"VM.set_memory {WEB1}"] = hold = asyncio.Event()
    line = Line()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        body = b"vm-memory-set\nmemory=1GiB\n--multiple\nusername=root\npassword=secret"
        group.create_task(CommandLine(xen).converse(line, body, STRANGER))
        await xen.begun.wait()
        line.say(b"")
        for _ in range(10):
            await asyncio.sleep(0)
        hold.set()
    assert [change[:2] for change in xen.changes] == [("VM.set_memory", WEB1)]
    assert DB1 in xen.records["VM"]
    assert xen.open_sessions == 0


async def test_client_that_talks_nonsense_is_hung_up_on() -> None:
    xen = XenDouble()
    xen.held["VM.wait_memory_target_live"] = asyncio.Event()
    line = Line(encode(Greeting()) + b"\xff\xff\xff\xff")
    async with asyncio.timeout(10):
        with pytest.raises(WireError):
            await CommandLine(xen).converse(line, b"vm-list", TRUSTED)
    line = Line()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(CommandLine(xen).converse(line, b"vm-memory-target-wait\nvm=web1", TRUSTED))
        await xen.begun.wait()
        line.say(b"\xff\xff\xff\xff")
    assert line.messages == [Greeting()]
