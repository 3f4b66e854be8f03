"""What a browser gets: the dashboard's files, and what they read.

The files are read once, at the start, and there are no others: no path from outside ever names a file. They
hold nothing of the host, so everybody may have them, also who has yet to log in; what they read passes the
gate. The policy of their content allows nothing but themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from xcpmem.api.http import may_read, page, refuse_reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.api.gates import ReadGate
    from xcpmem.api.stream import StateFeed
    from xcpmem.api.timeline import Timeline

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STREAMS_MOST: Final = 64
"""So many readers of events are served at a time."""
SEND_DEADLINE_S: Final = 20.0
"""A reader of events who leaves what it was sent unread for so long is dropped."""

_FILES: Final = Path(__file__).parent / "page"
_CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_COMMON_HEADERS: Final[Mapping[str, str]] = {"Server": "xcpmem", "X-Content-Type-Options": "nosniff"}
_FILE_HEADERS: Final[Mapping[str, str]] = {
    **_COMMON_HEADERS,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
}
_DATA_HEADERS: Final[Mapping[str, str]] = {
    **_COMMON_HEADERS,
    "Cache-Control": "no-store",
    "Content-Type": "application/json",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_EVENT_HEADERS: Final[Mapping[str, str]] = {**_DATA_HEADERS, "Content-Type": "text/event-stream"}

_log = logging.getLogger(__name__)


def page_routes(
    feed: StateFeed,
    timeline: Timeline,
    gate: ReadGate | None = None,
    *,
    send_deadline_s: float = SEND_DEADLINE_S,
) -> list[web.RouteDef]:
    """Make the routes of the dashboard, for `http.make_app`.

    Args:
        feed: of states.
        timeline: the last hour.
        gate: who may read; None: everyone.
        send_deadline_s: see `SEND_DEADLINE_S`.
    """
    readings = _Readings(feed, timeline, gate, send_deadline_s)
    routes = [
        web.get(path, _guarded(answer, gate), allow_head=False)
        for path, answer in (
            ("/api/v1/state", readings.answer_state),
            ("/api/v1/events", readings.answer_events),
            ("/api/v1/timeline", readings.answer_timeline),
        )
    ]
    for file in sorted(_FILES.rglob("*")):
        if file.suffix in _CONTENT_TYPES:
            name = file.relative_to(_FILES).as_posix()
            path = "/" if name == "index.html" else f"/page/{name}"
            routes.append(web.get(path, _make_file(file), allow_head=False))
    return routes


def _guarded(answer: Handler, gate: ReadGate | None) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if gate is not None and (refusal := refuse_reader(request, gate)):
            return refusal
        return await answer(request)

    return guarded


def _make_file(file: Path) -> Handler:
    body = file.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_FILE_HEADERS, "ETag": tag}

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return web.Response(body=body, headers={**headers, "Content-Type": _CONTENT_TYPES[file.suffix]})

    return answer


class _Readings:
    """Answers those who read what the host does."""

    def __init__(
        self, feed: StateFeed, timeline: Timeline, gate: ReadGate | None, send_deadline_s: float
    ) -> None:
        self._feed = feed
        self._timeline = timeline
        self._gate = gate
        self._send_deadline_s = send_deadline_s
        self._streams = 0

    async def answer_state(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=(await self._feed.latest()).document, headers=_DATA_HEADERS)

    async def answer_timeline(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._timeline.document(request.query.get("vm")), headers=_DATA_HEADERS)

    async def answer_events(self, request: web.Request) -> web.StreamResponse:
        if self._streams >= STREAMS_MOST:
            response = page(HTTPStatus.SERVICE_UNAVAILABLE, "too many readers of events at once")
            response.headers[hdrs.RETRY_AFTER] = "10"
            return response
        self._streams += 1
        try:
            return await self._stream(request)
        finally:
            self._streams -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=_EVENT_HEADERS)
        response.force_close()
        try:
            await response.prepare(request)
            async with aclosing(self._feed.follow()) as events:
                async for event in events:
                    if self._gate is not None and not may_read(request, self._gate, reads_on=True):
                        _log.info("a reader of events may read no more", extra={"from": request.remote})
                        break
                    async with asyncio.timeout(self._send_deadline_s):
                        await response.write(event)
        except TimeoutError:
            text = "dropped a reader of events at %s who does not read"
            _log.info(text, request.remote, extra={"from": request.remote})
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError as error:
            _log.debug("a reader of events went away", extra={"from": request.remote, "why": error})
        return response
