"""The client's way to the state, against the real server and against servers that answer nonsense."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.apistack import PASSWORD
from xcpmem.client_settings import Settings, read_settings
from xcpmem.errors import CommandError
from xcpmem.statelink import StateLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def settings_for(port: int, *, password: str = PASSWORD) -> Settings:
    words = ["top", "-s", "127.0.0.1", "-p", str(port), "-u", "root", "-pw", password]
    return read_settings(words, {})


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives one answer after the other, and keeps what it was asked."""
    left, asked = list(answers), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(row.split(b":")[1]) for row in head.splitlines() if b"Content-Length" in row)
        asked.append(head + await reader.readexactly(length))
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


def http(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


STATE = http(200, b'{"ring": {}, "host": {}, "vms": [], "requests": []}')
REFUSED = http(401, b"")


async def test_state_is_asked_for_without_a_login_where_that_is_enough() -> None:
    async with answering(STATE) as (port, asked):
        link = StateLink(settings_for(port), {})
        assert (await asyncio.to_thread(link.fetch))["vms"] == []
        await asyncio.to_thread(link.close)
    assert len(asked) == 1
    assert asked[0].startswith(b"GET /api/v1/state HTTP/1.0\r\n")
    assert b"Authorization" not in asked[0]


async def test_user_logs_in_where_it_must_be_and_out_again() -> None:
    session = http(200, b'{"jsonrpc": "2.0", "id": 1, "result": "OpaqueRef:secret"}')
    async with answering(REFUSED, session, STATE, STATE, session) as (port, asked):
        link = StateLink(settings_for(port), {})
        for _ in range(2):
            await asyncio.to_thread(link.fetch)
        await asyncio.to_thread(link.close)
    assert b'"session.login_with_password", "params": ["root", "' in asked[1]
    assert all(b"Authorization: Bearer OpaqueRef:secret\r\n" in request for request in asked[2:4])
    assert b'"session.logout", "params": ["OpaqueRef:secret"]' in asked[4]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((http(404, b""),), "the server answered 404 when asked for /api/v1/state"),
        ((http(200, b"<html>"),), "the server's answer is no JSON"),
        ((http(200, b"[]"),), "is not what this client knows"),
        ((b"SSH-2.0-OpenSSH\r\n",), "the server speaks no HTTP"),
        ((REFUSED, http(500, b"")), "the server answered 500 to session.login_with_password"),
        (
            (REFUSED, http(200, b'{"error": {"message": "SESSION_AUTHENTICATION_FAILED"}}')),
            "session.login_with_password: SESSION_AUTHENTICATION_FAILED",
        ),
    ],
)
async def test_what_is_no_state_is_told_in_a_sentence(answers: tuple[bytes, ...], said: str) -> None:
    async with answering(*answers) as (port, _):
        link = StateLink(settings_for(port), {})
        with pytest.raises(CommandError, match=said):
            await asyncio.to_thread(link.fetch)


async def test_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcpmem.statelink.LARGEST", 1000)
    async with answering(http(200, b"x" * 5000)) as (port, _):
        with pytest.raises(CommandError, match="does not end"):
            await asyncio.to_thread(StateLink(settings_for(port), {}).fetch)
