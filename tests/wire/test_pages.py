"""What a browser reads, over a running line: state, events, time line, and who may."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from yarl import URL

from tests.apistack import GIB, HALTED, PASSWORD, listening, running_stack
from xcpmem.api.gates import ReadGate
from xcpmem.api.http import make_app
from xcpmem.api.pages import STREAMS_MOST, page_routes
from xcpmem.api.sessions import Peer
from xcpmem.api.state import State, StateSources, StateWriter
from xcpmem.api.stream import StateFeed
from xcpmem.api.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiohttp import ClientResponse

    from tests.apistack import Stack


class FromAfar(ReadGate):
    """A gate on which this machine's own readers stand as if they came from another."""

    def admits(
        self, peer: Peer, authorization: str = "", cookie: str = "", *, uses_session: bool = True
    ) -> bool:
        assert peer.is_on_this_machine
        return super().admits(Peer("192.0.2.1"), authorization, cookie, uses_session=uses_session)


@asynccontextmanager
async def dashboard(
    state_dir: Path, *, from_afar: bool = False, send_deadline_s: float = 20.0
) -> AsyncIterator[tuple[Stack, StateFeed, ClientSession]]:
    """Serve the pages over a running stack."""
    async with running_stack(state_dir) as stack:
        sources = StateSources(
            report=lambda: stack.controller.report,
            vms=stack.service.vms,
            host=stack.service.host,
            policy=lambda: "proportional",
            name_owner=str,
            driver="simulated",
            looks_every_s=30.0,
        )
        feed = StateFeed(StateWriter(sources), gap_s=0.0)
        stack.controller.subscribe(feed.outdate)
        stack.service.subscribe(feed.outdate)
        timeline = Timeline(lambda uuid: stack.service.vm(uuid).name_label)
        stack.controller.subscribe(timeline.observe_cycle)
        stack.controller.wake()
        gate = FromAfar(stack.sessions, "the token") if from_afar else ReadGate(stack.sessions)
        app = make_app(
            stack.dispatcher, pages=page_routes(feed, timeline, gate, send_deadline_s=send_deadline_s)
        )
        async with listening(app) as url, ClientSession(url) as client, asyncio.timeout(60):
            yield stack, feed, client
            feed.close()


async def next_event(answer: ClientResponse) -> tuple[str, dict[str, Any]]:
    name = (await answer.content.readline()).decode()
    data = (await answer.content.readline()).decode()
    assert await answer.content.readline() == b"\n"
    return name.removeprefix("event: ").strip(), json.loads(data.removeprefix("data: "))


async def test_state_tells_of_all_vms_by_name(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (_, _, client), client.get("/api/v1/state") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        told = await answer.json()
    assert {"web1", "db1", "halted"} <= {vm["name_label"] for vm in told["vms"]}
    assert told["host"]["total_bytes"] == 16 * GIB


async def test_change_by_a_caller_is_the_next_event(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (stack, _, client), client.get("/api/v1/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        name, told = await next_event(answer)
        assert name == "state"
        uuid = stack.vm("halted").uuid
        session = await stack.login()
        await stack.call("VM.set_memory_dynamic_range", session, stack.vm("halted").ref, 3 * GIB, 4 * GIB)
        while not [vm for vm in told["vms"] if vm["uuid"] == uuid and vm["dynamic_min_bytes"] == 3 * GIB]:
            name, told = await next_event(answer)
            assert name in {"change", "state"}


async def test_timeline_is_told_of_host_and_vm(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (stack, _, client):
        await stack.controller.next_report(
            stack.controller.report.number if stack.controller.report else 0, 10
        )
        async with client.get("/api/v1/timeline") as answer:
            assert (await answer.json())["total_bytes"] == [16 * GIB]
        async with client.get("/api/v1/timeline", params={"vm": stack.vm("web1").uuid}) as answer:
            assert (await answer.json())["dynamic_max_bytes"] == [3 * GIB]
        async with client.get("/api/v1/timeline", params={"vm": "nobody"}) as answer:
            assert (await answer.json())["actual_bytes"] == [None]


async def test_readers_from_other_machines_need_a_session_or_the_token(tmp_path: Path) -> None:
    async with dashboard(tmp_path, from_afar=True) as (stack, _, client):
        session = await stack.sessions.login("reader", PASSWORD, Peer("192.0.2.1"))
        for path in ("/api/v1/state", "/api/v1/events", "/api/v1/timeline"):
            async with client.get(path) as answer:
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="xcpmem"')
            for brought in ("the token", session.ref):
                async with client.get(path, headers={"Authorization": f"Bearer {brought}"}) as answer:
                    assert answer.status == 200


async def test_reader_of_events_gets_none_any_more_when_the_session_has_ended(tmp_path: Path) -> None:
    async with dashboard(tmp_path, from_afar=True) as (stack, feed, client):
        session = await stack.sessions.login("reader", PASSWORD, Peer("192.0.2.1"))
        came_s = session.last_active_s
        headers = {"Authorization": f"Bearer {session.ref}"}
        async with client.get("/api/v1/events", headers=headers) as answer:
            let_in_s = session.last_active_s
            assert let_in_s > came_s
            told: object = None
            while "first" not in str(told):
                await stack.rename(HALTED, "first")
                feed.outdate()
                told = await next_event(answer)
            assert session.last_active_s == let_in_s
            await stack.sessions.logout(session)
            await stack.rename(HALTED, "second")
            feed.outdate()
            assert b"second" not in await answer.content.read()


async def test_readers_of_events_are_limited_and_those_who_went_make_room(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (stack, _, client):
        readers = [await client.get("/api/v1/events") for _ in range(STREAMS_MOST)]
        async with client.get("/api/v1/events") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        readers.pop().close()
        status = 503
        while status == 503:
            stack.controller.wake()
            await stack.controller.settle(10)
            async with client.get("/api/v1/events") as answer:
                status = answer.status
        assert status == 200
        for reader in readers:
            reader.close()


class Bulky:
    """Makes states of a megabyte."""

    def __init__(self) -> None:
        self._serial = 0

    async def write(self, now_s: float) -> State:
        self._serial += 1
        return State(self._serial, b'{"time_s":%d,"bulk":"%b"' % (now_s, b"x" * 1_000_000), {}, {})


class Bell(logging.Handler):
    """Rings when something is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "dropped a reader of events at 127.0.0.1 who does not read":
            self.rung.set()


@pytest.fixture
def bell() -> Iterator[Bell]:
    log, bell = logging.getLogger("xcpmem.api.pages"), Bell()
    log.addHandler(bell)
    log.setLevel(logging.INFO)
    yield bell
    log.removeHandler(bell)
    log.setLevel(logging.NOTSET)


async def test_reader_who_does_not_read_is_dropped(tmp_path: Path, bell: Bell) -> None:
    feed = StateFeed(Bulky(), gap_s=0.0)
    async with running_stack(tmp_path) as stack:
        pages = page_routes(feed, Timeline(str), send_deadline_s=0.1)
        async with listening(make_app(stack.dispatcher, pages=pages)) as url, asyncio.timeout(60):
            with socket.socket() as idle:
                idle.connect(("127.0.0.1", urlsplit(url).port))
                idle.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
                while not bell.rung.is_set():
                    feed.outdate()
                    await asyncio.sleep(0)


async def test_closing_the_feed_ends_streams(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (_, feed, client), client.get("/api/v1/events") as answer:
        await next_event(answer)
        feed.close()
        rest = await answer.content.read()
    assert re.fullmatch(rb"(event: \w+\ndata: .*\n\n)*", rest)


FILES = Path(__file__).parents[2] / "xcpmem/api/page"


async def test_page_and_all_that_it_names_are_served_to_anybody(tmp_path: Path) -> None:
    async with dashboard(tmp_path, from_afar=True) as (_, _, client):
        async with client.get("/") as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            page = await answer.text()
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', page)
        named += [
            f"page/{name}"
            for script in FILES.glob("*.js")
            for name in re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8"))
        ]
        assert {"page/app.js", "page/style.css", "page/feed.js", "page/vendor/uPlot.iife.min.js"} <= set(
            named
        )
        for path in set(named):
            async with client.get(f"/{path}") as answer:
                assert (answer.status, await answer.read()) == (200, (FILES.parent / path).read_bytes())


async def test_files_allow_nothing_but_themselves(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (_, _, client), client.get("/") as answer:
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert {name: value for name, value in policy.items() if value != "'none'"} == {
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
    }
    assert {"default-src", "base-uri", "form-action", "frame-ancestors"} <= policy.keys()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_file_that_the_browser_has_is_not_sent_again(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (_, _, client):
        async with client.get("/page/app.js") as answer:
            tag = answer.headers["ETag"]
        async with client.get("/page/app.js", headers={"If-None-Match": tag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


async def test_no_other_file_can_be_had(tmp_path: Path) -> None:
    async with dashboard(tmp_path) as (_, _, client):
        for path in (
            "/page/",
            "/page/pages.py",
            "/page/../pages.py",
            "/page/%2e%2e/pages.py",
            "/page/index.html",
        ):
            async with client.get(URL(str(client._base_url) + path, encoded=True)) as answer:
                assert answer.status == 403, path
        async with client.post("/", data=b"junk") as answer:
            assert answer.status == 500
        async with client.head("/") as answer:
            assert answer.status == 501


def test_page_has_no_script_or_style_of_its_own_and_names_nobody_else() -> None:
    sources = [path for path in FILES.iterdir() if path.is_file()]
    assert len(sources) > 10
    for path in sources:
        text = path.read_text(encoding="utf-8")
        urls = set(re.findall(r"https?://[^\s\"'<>)]+", text))
        assert urls <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path
        if path.suffix == ".html":
            assert not re.search(r"<style|\bstyle=|\bon\w+=|<script>", text)


def test_vendored_files_are_the_released_ones() -> None:
    vendor = FILES / "vendor"
    lines = (vendor / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    kept = {path.name for path in vendor.iterdir()} - {"SHA256SUMS", "README.md"}
    assert sums.keys() == kept
    found = {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in kept}
    assert found == sums
    assert "MIT" in (vendor / "uPlot.LICENSE").read_text(encoding="utf-8")
