"""The HTTP edge byte by byte: statuses, headers, limits, health."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.apistack import PASSWORD, OneUser, listening, no_delay
from xcpmem.api.datamodel import load_datamodel
from xcpmem.api.dispatch import Caller, Dispatcher
from xcpmem.api.gates import ReadGate
from xcpmem.api.http import HttpLimits, make_app
from xcpmem.api.places import PlaceLimits
from xcpmem.api.sessions import Peer, SessionClock, Sessions
from xcpmem.api.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xcpmem.api.dispatch import Handler

LIST = b"<methodCall><methodName>system.listMethods</methodName><params/></methodCall>"
LIST_JSON = b'{"jsonrpc":"2.0","method":"system.listMethods","params":[],"id":0}'
LIMIT = 300 * 1024


def make_dispatcher(handlers: dict[str, Handler] | None = None) -> Dispatcher:
    async def nothing(*_: object) -> list[str]:
        return ["one"]

    async def release(_: str) -> None:
        pass

    every: dict[str, Handler] = {message.wire_name: nothing for message in load_datamodel().messages()}
    sessions = Sessions(OneUser(), release, clock=SessionClock(sleep=no_delay))
    return Dispatcher(sessions, {**every, **(handlers or {})}, Tasks("OpaqueRef:host"))


class Answer:
    """What came back over one connection."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status_line = lines[0]
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }


async def send(url: str, raw: bytes) -> Answer:
    """Send bytes, read until the server closes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(20):
            writer.write(raw)
            await writer.drain()
            return Answer(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: x",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def in_chunks(*pieces: bytes) -> bytes:
    """A call without a Content-Length."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def get(path: str, method: str = "GET", *headers: str) -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    ).encode()


@asynccontextmanager
async def serving(app: web.Application | None = None) -> AsyncIterator[str]:
    async with listening(app or make_app(make_dispatcher())) as url:
        yield url


@pytest.mark.parametrize("path", ["/", "/RPC2", "/xmlrpc", "/any/where?x=1", "//"])
async def test_xml_rpc_is_served_at_every_path(path: str) -> None:
    async with serving() as url:
        answer = await send(url, post(path, LIST, "Content-Type: application/json"))
    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.body == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><array><data><value>one</value></data>'
        b"</array></value></param></params></methodResponse>"
    )


async def test_answer_has_the_headers_of_xapi_and_a_bare_content_type() -> None:
    async with serving() as url:
        answers = {
            path: await send(url, post(path, body)) for path, body in (("/", LIST), ("/jsonrpc", LIST_JSON))
        }
    for path, answer in answers.items():
        answer.headers.pop("date")
        assert answer.headers == {
            "content-type": "text/xml" if path == "/" else "application/json",
            "content-length": str(len(answer.body)),
            "connection": "close",
            "cache-control": "no-cache, no-store",
            "access-control-allow-origin": "*",
            "access-control-allow-headers": "X-Requested-With",
            "server": "xcpmem",
        }
    assert answers["/jsonrpc"].body == b'{"jsonrpc":"2.0","result":["one"],"id":0}'


@pytest.mark.parametrize(
    "content_type", ["", "Content-Type: application/json; charset=utf-8", "Content-Type: x"]
)
async def test_content_type_of_a_request_is_never_looked_at(content_type: str) -> None:
    async with serving() as url:
        answer = await send(url, post("/jsonrpc", LIST_JSON, *filter(None, [content_type])))
    assert answer.status == 200


async def test_compression_is_offered_in_vain() -> None:
    async with serving() as url:
        answer = await send(url, post("/", LIST, "Accept-Encoding: gzip"))
    assert "content-encoding" not in answer.headers
    assert "transfer-encoding" not in answer.headers


async def test_connection_is_kept_alive_if_the_client_says_so() -> None:
    async with serving() as url:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        async with asyncio.timeout(20):
            for _ in range(3):
                writer.write(post("/", LIST).replace(b"Connection: close\r\n", b""))
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"Connection: keep-alive\r\n" in head
                length = re.search(rb"Content-Length: ([0-9]+)", head)
                assert length is not None
                await reader.readexactly(int(length[1]))
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("headers", "connection"), [([], "close"), (["Connection: keep-alive"], "keep-alive")]
)
async def test_http_1_0_is_answered_in_kind(headers: list[str], connection: str) -> None:
    raw = post("/", LIST, version="1.0").replace(b"Connection: close\r\n", b"")
    for header in headers:
        raw = raw.replace(b"Host: x", b"Host: x\r\n" + header.encode())
    async with serving() as url:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        async with asyncio.timeout(20):
            writer.write(raw)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
        await writer.wait_closed()
    assert head.startswith("HTTP/1.0 200 OK\r\n")
    assert f"Connection: {connection}\r\n" in head


BAD = [
    (post("/", b"junk"), 500),
    (post("/", b""), 500),
    (post("/jsonrpc", b"junk"), 500),
    (post("/jsonrpc", b'{"method":"system.listMethods","params":[],"id":null}'), 500),
    (post("/jsonrpc", b"[" + LIST_JSON + b"]"), 500),
    (post("/", b"<methodCall><methodName>system.listMethods</methodName></methodCall>"), 500),
    (post("/", LIST + b" " * (LIMIT - len(LIST))), 200),
    (post("/", LIST + b" " * (LIMIT - len(LIST) + 1)), 413),
    (post("/", b" " * (1 << 20)), 413),
    (post("/jsonrpc", b" " * (1 << 20)), 413),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n<methodCall>", 413),
    (in_chunks(b"<meth"), 500),
    (in_chunks(LIST, b" " * (LIMIT - len(LIST))), 500),
    (in_chunks(LIST, b" " * (LIMIT - len(LIST) + 1)), 413),
    (in_chunks(*[b" " * 1000] * 2000), 413),
    (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 500),
    (b"nonsense\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
    (get("/", "BREW"), 501),
    (get("/", "GET", "X-Long: " + "x" * 9000), 431),
    (get("/"), 404),
    (get("/nowhere"), 403),
    (get("/RPC2"), 403),
    (get("/", "PUT"), 403),
    (get("/x", "DELETE"), 501),
    (get("/x", "PATCH"), 501),
]


@pytest.mark.parametrize(("raw", "status"), BAD, ids=[f"{raw[:40]!r}-{len(raw)}" for raw, _ in BAD])
async def test_transport_errors_are_small_pages_on_a_connection_that_closes(raw: bytes, status: int) -> None:
    async with serving() as url:
        answer = await send(url, raw)
    assert answer.status == status
    if status != 200:
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["connection"] == "close"
        assert answer.body.startswith(f"<html><body><h1>HTTP {status} ".encode())
        assert len(answer.body) < 400


async def test_bad_http_is_answered_without_a_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as url:
        for raw in (
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nno header\r\n\r\n",
            get("/", "GET", "X: " + "x" * 9000),
        ):
            await send(url, raw)
    assert caplog.records == []


async def test_handler_that_fails_is_logged_and_answered_with_a_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer_bytes(_: Caller) -> list[bytes]:
        return [b"bytes have no place on any wire"]

    async with serving(make_app(make_dispatcher({"system.listMethods": answer_bytes}))) as url:
        answer = await send(url, post("/", LIST))
    assert (answer.status, answer.headers["content-type"]) == (500, "text/html")
    assert "bytes has no place on XML-RPC" in caplog.text


async def test_page_does_not_reflect_what_was_sent() -> None:
    async with serving() as url:
        answer = await send(
            url, post("/", LIST.replace(b"<params/>", b"<params><int>&lt;b&gt;</int></params>"))
        )
    assert answer.status == 500
    assert b"&lt;b" not in answer.body
    assert b"<b>" not in answer.body


async def test_preflight_is_answered_as_xapi_does() -> None:
    async with serving() as url:
        for path in ("/", "/jsonrpc", "/json"):
            answer = await send(url, get(path, "OPTIONS", "Access-Control-Request-Headers: x-a, x-b"))
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["access-control-allow-headers"] == "x-a, x-b, X-Requested-With"
            assert answer.headers["access-control-allow-methods"] == "PUT"


async def test_body_that_does_not_come_in_time_is_given_up() -> None:
    app = make_app(make_dispatcher(), limits=HttpLimits(body_timeout_s=0.05))
    async with serving(app) as url:
        answer = await send(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<methodCall>")
    assert answer.status == 408


async def test_body_of_no_stated_length_that_does_not_end_in_time_is_none() -> None:
    app = make_app(make_dispatcher(), limits=HttpLimits(body_timeout_s=0.05))
    async with serving(app) as url:
        answer = await send(url, in_chunks(b"<methodCall>").removesuffix(b"0\r\n\r\n"))
    assert answer.status == 500
    assert b"a request needs a Content-Length" in answer.body


async def test_too_many_calls_at_once_are_told_to_come_later() -> None:
    under_way, let_go = asyncio.Event(), asyncio.Event()

    async def wait(_: Caller) -> list[str]:
        under_way.set()
        await let_go.wait()
        return []

    app = make_app(
        make_dispatcher({"system.listMethods": wait}), limits=HttpLimits(places=PlaceLimits(calls=1, kept=0))
    )
    async with serving(app) as url, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(send(url, post("/", LIST)))
        await under_way.wait()
        answer = await send(url, post("/", LIST))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        let_go.set()
        assert (await first).status == 200
        assert (await send(url, post("/", LIST))).status == 200


async def test_health_says_ok_and_lists_checks_when_asked() -> None:
    checks = {"driver": lambda: True, "store": lambda: True}
    app = make_app(make_dispatcher(), live_checks={"ring": lambda: True}, ready_checks=checks)
    async with serving(app) as url:
        plain = await send(url, get("/livez"))
        verbose = await send(url, get("/readyz?verbose"))
    assert (plain.status, plain.body) == (200, b"ok")
    assert verbose.status == 200
    assert verbose.body == b"[+]driver ok\n[+]store ok\nreadyz check passed\n"


async def test_failed_check_is_named_and_nothing_else_is() -> None:
    checks = {"driver": lambda: False, "store": lambda: True}
    async with serving(make_app(make_dispatcher(), ready_checks=checks)) as url:
        answer = await send(url, get("/readyz"))
    assert answer.status == 503
    assert answer.body == b"[-]driver failed\n[+]store ok\nreadyz check failed\n"


async def test_metrics_are_rendered_for_who_asks() -> None:
    asked: list[str | None] = []

    async def render(accept: str | None) -> tuple[bytes, str]:
        asked.append(accept)
        return b"xcpmem_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async with serving(make_app(make_dispatcher(), render_metrics=render)) as url:
        answer = await send(url, get("/metrics", "GET", "Accept: text/plain"))
    assert (answer.status, answer.body) == (200, b"xcpmem_up 1\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert asked == ["text/plain"]


class FromAfar(ReadGate):
    """A gate on which this machine's own readers stand as if they came from another."""

    def admits(
        self, peer: Peer, authorization: str = "", cookie: str = "", *, uses_session: bool = True
    ) -> bool:
        assert peer.is_on_this_machine
        return super().admits(Peer("192.0.2.1"), authorization, cookie, uses_session=uses_session)


async def test_metrics_are_kept_from_strangers_on_other_machines() -> None:
    dispatcher = make_dispatcher()
    gate = FromAfar(dispatcher._sessions, "the token")

    async def render(_: str | None) -> tuple[bytes, str]:
        return b"up 1\n", "text/plain"

    app = make_app(dispatcher, render_metrics=render, readers=gate)
    session = await dispatcher._sessions.login("reader", PASSWORD, Peer("192.0.2.1"))
    async with serving(app) as url:
        refusal = await send(url, get("/metrics"))
        assert refusal.status == 401
        assert refusal.headers["www-authenticate"] == 'Bearer realm="xcpmem"'
        for header in ("Authorization: Bearer the token", f"Cookie: xcpmem_session={session.ref}"):
            assert (await send(url, get("/metrics", "GET", header))).body == b"up 1\n"


async def test_command_line_gets_its_request_if_it_is_served() -> None:
    async def cli(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"got {request.path}")

    async with serving(make_app(make_dispatcher(), cli=cli)) as url:
        assert (await send(url, post("/cli", b"vm-list"))).body == b"got /cli"
        assert (await send(url, post("/clip", LIST))).status == 200


@pytest.mark.parametrize("start", [b"", b"<methodCall>"])
async def test_client_that_goes_away_amid_its_body_is_no_news(
    start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as url:
        parts = urlsplit(url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + start)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await send(url, post("/", LIST))).status == 200
    assert caplog.records == []


async def list_much(*_: object) -> list[str]:
    return ["x" * 1000] * 10_000


async def test_answer_of_megabytes_arrives_whole_on_both_wires() -> None:
    app = make_app(make_dispatcher({"system.listMethods": list_much}))
    async with listening(app) as url:
        for path, body in (("/", LIST), ("/jsonrpc", LIST_JSON)):
            answer = await send(url, post(path, body))
            assert answer.status == 200
            assert len(answer.body) == int(answer.headers["content-length"])
            assert answer.body.count(b"x" * 1000) == 10_000


async def test_client_that_hangs_up_amid_a_long_answer_is_nobodys_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(make_dispatcher({"system.listMethods": list_much}))
    async with listening(app) as url:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1000)
        writer.write(post("/", LIST))
        await reader.readexactly(1000)
        writer.transport.abort()
        assert (await send(url, post("/", LIST))).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
