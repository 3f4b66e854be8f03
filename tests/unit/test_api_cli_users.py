"""The commands about users, on the whole line: what they ask, what they do, what they print."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from tests.apistack import GIB, LOCAL, NETWORK, PASSWORD, Stack, running_stack
from tests.cli_double import Line
from xcpmem import client
from xcpmem.api.cli import CommandLine
from xcpmem.api.cli_frames import Chunk, End, Failed, Prompt, encode
from xcpmem.errors import AuthenticationFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xcpmem.api.sessions import Peer


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


class Typist(Line):
    """A client whose user types a line for each question."""

    def __init__(self, *typed: bytes) -> None:
        super().__init__()
        self._typed = iter(typed)

    async def send(self, data: bytes) -> None:
        await super().send(data)
        if isinstance(self.messages[-1], Prompt):
            self.say(next(self._typed))


def line_of(text: str) -> bytes:
    return encode(Chunk(text.encode())) + encode(End())


async def say(stack: Stack, line: Line, *words: str, peer: Peer = LOCAL, login: str = "root") -> Line:
    async with asyncio.timeout(20):
        body = "\n".join([*words, f"username={login}", f"password={PASSWORD}"]).encode()
        await CommandLine(stack.dispatcher).converse(line, body, peer)
    return line


async def test_user_is_added_with_a_password_that_is_asked_for_and_logs_in(stack: Stack) -> None:
    added = await say(stack, Typist(line_of("geheim")), "user-add", "name=alice", "role=vm-operator")
    assert (added.stdout, added.stderr, added.code) == ("", "New password: ", 0)
    session = await stack.sessions.login("alice", "geheim", NETWORK)
    assert session.role == "vm-operator"
    listed = await say(stack, Line(), "user-list")
    assert listed.stdout == "name ( RO)    : alice\n    role ( RO): vm-operator\n\n\n"
    assert (await say(stack, Line(), "user-list", "--minimal")).stdout == "alice\n"


async def test_password_may_come_as_a_word_and_can_be_changed_by_both(stack: Stack) -> None:
    assert (await say(stack, Line(), "user-add", "name=alice", "role=read-only", "new=one")).code == 0
    assert (await say(stack, Line(), "user-password-set", "name=alice", "new=two")).code == 0
    line, body = (
        Typist(line_of("two"), line_of("three")),
        b"user-password-change\nusername=alice\npassword=two",
    )
    await CommandLine(stack.dispatcher).converse(line, body, NETWORK)
    assert (line.stderr, line.code) == ("Old password: New password: ", 0)
    assert await stack.sessions.login("alice", "three", NETWORK)
    with pytest.raises(AuthenticationFailed):
        await stack.sessions.login("alice", "two", NETWORK)


async def test_role_is_changed_and_user_removed(stack: Stack) -> None:
    for words in (
        ("user-add", "name=alice", "role=read-only", "--pam"),
        ("user-role-set", "name=alice", "role=pool-operator"),
    ):
        assert (await say(stack, Line(), *words)).code == 0
    assert stack.service.users.roles() == {"alice": "pool-operator"}
    assert (await say(stack, Line(), "user-remove", "name=alice")).code == 0
    assert stack.service.users.roles() == {}


@pytest.mark.parametrize("reply", [line_of(""), encode(Failed()), encode(End())])
async def test_no_password_adds_nobody(stack: Stack, reply: bytes) -> None:
    line = await say(stack, Typist(reply), "user-add", "name=alice", "role=read-only")
    assert line.code == 1
    assert "Error: " in line.stderr
    assert stack.service.users.roles() == {}


async def test_reader_adds_nobody_and_is_told_who_could(stack: Stack) -> None:
    line = await say(
        stack, Line(), "user-add", "name=x", "role=pool-admin", "new=y", peer=NETWORK, login="reader"
    )
    assert line.stderr == (
        "This user's role does not include the call: reader is read-only, and this needs pool-admin or "
        "mightier: a pool admin can change that (user-role-set).\n"
        "permission: memory.add_user\nmessage: No permission in user session\n"
    )
    assert stack.service.users.roles() == {}


async def test_audit_list_shows_the_latest_changes(stack: Stack) -> None:
    vm = stack.vm("halted")
    session = await stack.login()
    for maximum in (2, 3):
        await stack.call("VM.set_memory_dynamic_range", session, vm.ref, GIB, maximum * GIB)
    line = await say(stack, Line(), "audit-list", "count=1")
    rows = dict(row.strip().split(": ", 1) for row in line.stdout.splitlines() if row.strip())
    assert rows["user"] == "root"
    assert rows["source"] == "192.0.2.1"
    assert rows["target"] == f"VM {vm.uuid} (halted)"
    assert rows["before"] == f"memory_dynamic_max: {2 * GIB}"
    assert rows["after"] == f"memory_dynamic_max: {3 * GIB}"
    refused = await say(stack, Line(), "audit-list", "count=all")
    assert (
        refused.stderr == "Error: Failed to parse parameter 'count': expecting a number of lines, got 'all'\n"
    )


async def test_what_nobody_asked_for_is_passed_over(stack: Stack) -> None:
    line = Line()
    line.say(line_of("unasked"))
    assert (await say(stack, line, "user-list")).code == 0


def type_once_it_is_hidden(terminal: int, typing: int) -> None:
    """Type a password as soon as the terminal shows nothing any more."""
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        pass
    os.write(typing, b"geheim\n")


def test_secret_that_is_typed_at_a_terminal_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    typing, terminal = os.openpty()
    with os.fdopen(terminal, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        typist = threading.Thread(target=type_once_it_is_hidden, args=(terminal, typing))
        typist.start()
        assert client._read_line(is_secret=True) == b"geheim\n"
        typist.join(20)
        os.write(typing, b"yes\n")
        assert client._read_line(is_secret=False) == b"yes\n"
        shown = os.read(typing, 1000)
    os.close(typing)
    assert b"yes" in shown
    assert b"geheim" not in shown
