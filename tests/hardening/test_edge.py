"""The edge against clients who hold on: slow, silent, deaf, many, or sent by somebody else's page."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.apistack import GIB, PASSWORD, Stack, a_guest, running_stack
from xcpmem.api.connections import ConnectionLimits
from xcpmem.api.http import HttpLimits, make_app
from xcpmem.api.places import PlaceLimits
from xcpmem.api.server import Server
from xcpmem.call_tally import HUNG_UP
from xcpmem.errors import ToolstackError
from xcpmem.specs import BalloonSpec
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

DEADLINE_S = 20.0
SLOW_CLIENTS = 200
LIST = b"<methodCall><methodName>system.listMethods</methodName><params/></methodCall>"
HEAD_MOST_S = 30.0


@dataclass
class Timers:
    """Deadlines that pass when a test says so."""

    set: list[tuple[float, Callable[[], None], asyncio.TimerHandle]] = field(default_factory=list)

    awaited_s: float = -1.0
    awaited: asyncio.Event = field(default_factory=asyncio.Event)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        if delay_s == self.awaited_s:
            self.awaited.set()
        handle = asyncio.get_running_loop().call_later(3600, callback)
        self.set.append((delay_s, callback, handle))
        return handle

    def pass_by(self, seconds: float) -> int:
        """Let every deadline pass that is no further away; how many did."""
        due = [each for each in self.set if each[0] <= seconds and not each[2].cancelled()]
        self.set = [each for each in self.set if each not in due and not each[2].cancelled()]
        for _, callback, handle in due:
            handle.cancel()
            callback()
        return len(due)


@dataclass
class Client:
    """One connection, and how it ends."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def rest(self) -> bytes:
        """Everything until the server hangs up."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                return await self.reader.read()
            return b""

    async def ask(self, raw: bytes, until: bytes) -> None:
        async with asyncio.timeout(DEADLINE_S):
            self.writer.write(raw)
            await self.reader.readuntil(until)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def post(body: bytes = LIST, *headers: str, path: str = "/", keep: bool = False) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    if not keep:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Edge:
    """A server and the clients that a test opens."""

    def __init__(self, stack: Stack, port: int, timers: Timers) -> None:
        self.stack = stack
        self.port = port
        self.timers = timers
        self.clients: list[Client] = []

    async def open(self, first: bytes = b"") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        client.writer.write(first)
        await client.writer.drain()
        return client

    async def answer(self, raw: bytes | None = None) -> bytes:
        """What a well-behaved client is answered."""
        client = await self.open(raw or post())
        try:
            return await client.rest()
        finally:
            await client.close()


@asynccontextmanager
async def serving(
    stack: Stack,
    *,
    http: HttpLimits | None = None,
    app: web.Application | None = None,
    connections: int = 1024,
) -> AsyncIterator[Edge]:
    timers = Timers()
    limits = ConnectionLimits(
        connections=connections, call_later=timers.call_later, grace_s=0.05, linger_s=0.05
    )
    app = app or make_app(stack.dispatcher, limits=http, has_session=stack.sessions.has_source)
    server = Server(app, host="127.0.0.1", limits=limits)
    edge = Edge(stack, await server.start(), timers)
    try:
        yield edge
    finally:
        await asyncio.gather(*(client.close() for client in edge.clients))
        await server.close()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


async def test_slow_clients_are_dropped_at_their_deadline_while_others_are_answered(stack: Stack) -> None:
    starts = [b"", b"G", b"POST / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nX-Slow: "]
    async with serving(stack) as edge:
        slow = [await edge.open(starts[number % 4]) for number in range(SLOW_CLIENTS)]
        assert (await edge.answer()).startswith(b"HTTP/1.1 200 ")
        assert edge.timers.pass_by(HEAD_MOST_S) == SLOW_CLIENTS
        ends = await asyncio.gather(*(client.rest() for client in slow))
        assert {end.split(b"\r\n")[0] for end in ends} == {b"HTTP/1.1 408 Request Timeout"}
        assert (await edge.answer()).startswith(b"HTTP/1.1 200 ")


async def test_slow_bodies_end_at_their_deadline_while_others_are_answered(stack: Stack) -> None:
    async with serving(stack, http=HttpLimits(body_timeout_s=0.2)) as edge:
        slow = [
            await edge.open(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n<me")
            for _ in range(50)
        ]
        assert (await edge.answer()).startswith(b"HTTP/1.1 200 ")
        ends = await asyncio.gather(*(client.rest() for client in slow))
        assert {end.split(b"\r\n")[0] for end in ends} == {b"HTTP/1.1 408 Request Timeout"}


async def test_full_house_drops_the_oldest_that_never_asked_and_serves_the_new_one(stack: Stack) -> None:
    async with serving(stack, connections=10) as edge:
        useful = await edge.open()
        await useful.ask(post(keep=True), b"</methodResponse>")
        silent = [await edge.open(b"POST / HTTP/1.1\r\n") for _ in range(9)]
        for _ in range(3):
            assert (await edge.answer()).startswith(b"HTTP/1.1 200 ")
        assert await silent[0].rest() == b""
        await useful.ask(post(keep=True), b"</methodResponse>")
        for _ in range(30):
            await edge.open(b"P")
        await useful.ask(post(keep=True), b"</methodResponse>")
        assert (await edge.answer()).startswith(b"HTTP/1.1 200 ")


async def test_house_full_of_idle_ones_lets_the_oldest_idle_one_go(stack: Stack) -> None:
    async with serving(stack, connections=3) as edge:
        idle = [await edge.open() for _ in range(3)]
        for client in idle:
            await client.ask(post(keep=True), b"</methodResponse>")
        assert (await edge.answer()).startswith(b"HTTP/1.1 200 ")
        assert await idle[0].rest() == b""
        await idle[1].ask(post(keep=True), b"</methodResponse>")


async def test_house_full_of_calls_that_wait_tells_the_next_to_come_again(stack: Stack) -> None:
    session = await stack.login()
    wait = (
        "<methodCall><methodName>event.from</methodName><params>"
        f"<param><value>{session}</value></param><param><value><array><data><value>task</value></data></array>"
        f"</value></param><param><value>{'9' * 20},0</value></param>"
        "<param><value><double>600</double></value></param></params></methodCall>"
    ).replace("9" * 20, str(stack.events.next_id()))
    waiting_begun = asyncio.Event()
    call = stack.events.wait_from

    async def wait_from(*args: object) -> object:
        waiting_begun.set()
        return await call(*args)  # type: ignore[arg-type]  # passed on as it came

    stack.events.wait_from = wait_from  # type: ignore[method-assign,assignment]  # to see when it has begun
    async with serving(stack, connections=1) as edge:
        await edge.open(post(wait.encode()))
        async with asyncio.timeout(DEADLINE_S):
            await waiting_begun.wait()
        refusal = await edge.answer()
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in refusal


def waiting(method: str, *params: object) -> bytes:
    return post(
        json.dumps({"id": 1, "method": method, "params": params}).encode(), path="/jsonrpc", keep=True
    )


@pytest.mark.parametrize("behind", [b"", post(keep=True) * 40, post(LIST + b" " * 2_000_000)])
@pytest.mark.parametrize("method", ["event.from", "event.next", "VM.wait_memory_target_live"])
async def test_call_that_waits_gives_its_place_back_when_its_client_hangs_up(
    tmp_path: Path, method: str, behind: bytes
) -> None:
    hung = replace(a_guest(1, "web1"), balloon=BalloonSpec(stuck=True))
    limits = HttpLimits(places=PlaceLimits(calls=2, kept=1))
    async with running_stack(tmp_path, [hung]) as stack, serving(stack, http=limits) as edge:
        session, ref = await stack.login(), stack.vm("web1").ref
        await stack.call("VM.set_memory_dynamic_range", session, ref, GIB, GIB)
        await stack.call("event.register", session, ["task"])
        known = f"{stack.events.next_id() - 1},0"
        params = {"event.from": (["task"], known, 3000), "VM.wait_memory_target_live": (ref,)}
        client = await edge.open(waiting(method, session, *params.get(method, ())))
        async with asyncio.timeout(DEADLINE_S):
            while not (await edge.answer()).startswith(b"HTTP/1.1 503 "):
                pass
            assert method not in dict(stack.observed)
            client.writer.write(behind)
            client.writer.transport.abort()
            while not (await edge.answer()).startswith(b"HTTP/1.1 200 "):
                pass
        told = {status for name, status in stack.observed if name == method}
        # Of a client that sends more than is taken on it is not known that it has gone.
        assert told == {HUNG_UP} or (behind and told == {"INTERNAL_ERROR"})


async def test_call_of_a_whole_bodys_length_may_wait_all_the_same(stack: Stack) -> None:
    session = await stack.login()
    known, classes = f"{stack.events.next_id() - 1},0", ["task", *("x" * 1000 for _ in range(250))]
    limits = HttpLimits(places=PlaceLimits(calls=2, kept=1))
    async with serving(stack, http=limits) as edge:
        client = await edge.open(waiting("event.from", session, classes, known, 3000))
        async with asyncio.timeout(DEADLINE_S):
            while not (await edge.answer()).startswith(b"HTTP/1.1 503 "):
                pass
            task = str(await stack.call("task.create", session, "mine", ""))
            await client.reader.readuntil(task.encode())


async def test_client_that_does_not_read_its_answer_is_dropped(stack: Stack) -> None:
    async def flood(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * mib_to_bytes(32))

    app = web.Application()
    app.router.add_get("/", flood)
    async with serving(stack, app=app) as edge:
        edge.timers.awaited_s = ConnectionLimits().send_timeout_s
        deaf = await edge.open(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await edge.timers.awaited.wait()
        assert edge.timers.pass_by(60) >= 1
        assert len(await deaf.rest()) < mib_to_bytes(32)


async def test_one_source_cannot_take_every_place(stack: Stack) -> None:
    limits = HttpLimits(places=PlaceLimits(calls=4, kept=1), body_timeout_s=DEADLINE_S)
    async with serving(stack, http=limits) as edge:
        for _ in range(3):
            await edge.open(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        while not (refusal := await edge.answer()).startswith(b"HTTP/1.1 503 "):
            pass
        assert b"Retry-After: 1" in refusal


async def test_strangers_bodies_are_bounded_and_those_of_people_who_are_logged_in_are_not(
    stack: Stack,
) -> None:
    limits = HttpLimits(places=PlaceLimits(stranger_bytes=500))
    long_call = LIST + b" " * 600
    async with serving(stack, http=limits) as edge:
        assert (await edge.answer(post(long_call))).startswith(b"HTTP/1.1 503 ")
        login = (
            "<methodCall><methodName>session.login_with_password</methodName><params><param><value>root</value>"
            "</param><param><value>p&lt;&amp;&gt;ss</value></param></params></methodCall>"
        )
        assert PASSWORD == "p<&>ss"
        assert b"Success" in await edge.answer(post(login.encode()))
        assert (await edge.answer(post(long_call))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "evil.example", 200),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", 200),
        ("http://localhost", "localhost:80", 200),
        ("http://[::1]:8080", "[::1]:8080", 200),
        ("http://evil.example", "127.0.0.1:8080", 403),
        ("http://evil.example:8080", "evil.example:8080", 403),
        ("http://127.0.0.1:9999", "127.0.0.1:8080", 403),
        ("null", "127.0.0.1:8080", 403),
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080", 403),
        ("", "127.0.0.1:8080", 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/jsonrpc"])
async def test_page_of_somebody_else_may_not_call(
    stack: Stack, path: str, origin: str | None, host: str, status: int
) -> None:
    body = LIST if path == "/" else b'{"method":"system.listMethods","params":[],"id":1}'
    raw = post(body, *([] if origin is None else [f"Origin: {origin}"]), path=path)
    async with serving(stack) as edge:
        answer = await edge.answer(raw.replace(b"Host: 127.0.0.1", f"Host: {host}".encode()))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_path_and_trace_stay_in_the_log(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_: object) -> None:
        raise ToolstackError("web1: xl create /etc/xen/web1.cfg: no such file, see http://xen.example/a/b")

    async def crash(*_: object) -> None:
        raise RuntimeError("/var/lib/secret/place")

    handlers = stack.dispatcher._handlers
    assert isinstance(handlers, dict)
    handlers |= {"VM.get_all": fail, "host.get_all": crash}
    session = await stack.login()
    end = f"</methodName><params><param><value>{session}</value></param></params></methodCall>"
    async with serving(stack) as edge:
        answers = [
            await edge.answer(post(f"<methodCall><methodName>{method}{end}".encode()))
            for method in ("VM.get_all", "host.get_all")
        ]
    assert b"web1: xl create (a file): no such file, see http://xen.example/a/b" in answers[0]
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert not any(word in answer for word in (b"/etc", b"/var", b"Traceback", b".py"))
    assert "/etc/xen/web1.cfg" in str([record.__dict__ for record in caplog.records])
