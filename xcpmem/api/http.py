"""HTTP: which request goes where, how much of it is read, and which headers an answer has.

XenAPI's outcomes, failures included, are all 200; other statuses speak of the transport alone and come as
small pages. Content types are exact to the byte, for npm's xen-api compares them as strings, and a
request's own is never looked at. With `server`, `pages` and the command line's endpoint the only importer of
aiohttp here.
"""

from __future__ import annotations

import asyncio
import html
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web

from xcpmem.api import codec, jsonrpc
from xcpmem.api.gates import SESSION_COOKIE, OriginGate
from xcpmem.api.places import PlaceLimits, Places
from xcpmem.api.responses import API_HEADERS, ApiResponse
from xcpmem.errors import WireError, XcpmemError
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aiohttp import StreamReader

    from xcpmem.api.connections import Connection
    from xcpmem.api.dispatch import Dispatcher
    from xcpmem.api.gates import ReadGate
    from xcpmem.api.sessions import Peer

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Check = Callable[[], bool]
    Parts = tuple[bytes, ...]
    RenderMetrics = Callable[[str | None], Awaitable[tuple[bytes, str]]]

BODY_LIMIT_BYTES: Final = kib_to_bytes(300)
"""The longest request that xapi reads; command lines may be as long, which xapi cuts off at 200 KiB."""

XML: Final = "text/xml"
JSON: Final = "application/json"
_PAGE_HEADERS: Final[Mapping[str, str]] = {
    "Server": "xcpmem",
    "Content-Type": "text/html",
    "Cache-Control": "no-cache, no-store",
    "X-Content-Type-Options": "nosniff",
}
_TEXT_HEADERS: Final[Mapping[str, str]] = {**_PAGE_HEADERS, "Content-Type": "text/plain; charset=utf-8"}
_RETRY_AFTER_S: Final = 1
_KNOWN_METHODS: Final = frozenset({hdrs.METH_GET, hdrs.METH_PUT, hdrs.METH_CONNECT})
_LIST_METHODS: Final = "system.listMethods"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How much is taken on at once.

    Args:
        body_timeout_s: a request's body must be there so many seconds after its head.
        places: how many requests may be under way; more are answered 503.
    """

    body_timeout_s: float = 10.0
    places: PlaceLimits = field(default_factory=PlaceLimits)


def make_app(
    dispatcher: Dispatcher,
    *,
    render_metrics: RenderMetrics | None = None,
    readers: ReadGate | None = None,
    origins: OriginGate | None = None,
    has_session: Callable[[str], bool] = lambda _: False,
    live_checks: Mapping[str, Check] | None = None,
    ready_checks: Mapping[str, Check] | None = None,
    cli: Handler | None = None,
    pages: Iterable[web.AbstractRouteDef] = (),
    limits: HttpLimits | None = None,
) -> web.Application:
    """Make the application that serves everything.

    Args:
        dispatcher: carries out calls.
        render_metrics: makes the body and content type of ``/metrics`` for an Accept header.
        readers: who may read the metrics; None: everyone.
        origins: which browsers' pages may call; None: our own on this machine.
        has_session: whether a source has an open session; see `Places`.
        live_checks: by name, whether the daemon's parts live; one that fails means: restart it.
        ready_checks: by name, whether it can serve.
        cli: the handler of ``POST /cli``; it answers on the bare connection.
        pages: the dashboard; see `pages.page_routes`.
        limits: how much at once.
    """
    limits = limits or HttpLimits()
    edge = _Edge(dispatcher, origins or OriginGate(), Places(limits.places, has_session), limits)
    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    app.router.add_get("/livez", _make_health("livez", live_checks or {}))
    app.router.add_get("/readyz", _make_health("readyz", ready_checks or {}))
    if render_metrics is not None:
        app.router.add_get("/metrics", _make_metrics(render_metrics, readers))
    if cli is not None:
        app.router.add_post("/cli", edge.admit_to(cli))
    app.router.add_routes(pages)
    app.router.add_post("/jsonrpc", edge.answer_json)
    app.router.add_post("/", edge.answer_xml)  # found sooner than by the pattern, which would do
    # As in xapi, whose router falls back to "/" for every path that is not registered.
    app.router.add_post("/{path:.*}", edge.answer_xml)
    app.router.add_route("*", "/{path:.*}", _answer_other)
    return app


def peer_of(request: web.BaseRequest) -> Peer:
    """Tell who sent a request, as its connection knows."""
    return cast("Connection", request.protocol).peer


def may_read(request: web.Request, gate: ReadGate, *, reads_on: bool = False) -> bool:
    """Tell whether the gate lets a reader in, or whether one that it let in may read on."""
    return gate.admits(
        peer_of(request),
        request.headers.get(hdrs.AUTHORIZATION, ""),
        request.cookies.get(SESSION_COOKIE, ""),
        uses_session=not reads_on,
    )


def refuse_reader(request: web.Request, gate: ReadGate) -> web.Response | None:
    """Make the page for a reader that the gate keeps out, None for one that it lets in.

    Every page that tells of the host begins with this; see `ReadGate`.
    """
    if may_read(request, gate):
        return None
    refusal = page(HTTPStatus.UNAUTHORIZED, "beyond this machine reading needs a session or the token")
    refusal.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="xcpmem"'
    return refusal


async def read_body(request: web.Request, timeout_s: float) -> bytes | web.Response:
    """Read a request's body, or give the page for one that is too long, too slow or of no stated length.

    Args:
        request: whose.
        timeout_s: it must be there so many seconds after the head.
    """
    length_bytes = request.content_length
    if length_bytes is not None and length_bytes > BODY_LIMIT_BYTES:
        return _too_long()
    if request.content.is_eof() and length_bytes is not None:  # it came with the head
        return request.content.read_nowait()
    try:
        async with asyncio.timeout(timeout_s):
            if length_bytes is not None:
                return await request.read()
            if await _is_longer(request.content, BODY_LIMIT_BYTES):
                return _too_long()
    except TimeoutError:
        if length_bytes is not None:
            return page(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time")
    return page(HTTPStatus.INTERNAL_SERVER_ERROR, "a request needs a Content-Length")


async def _is_longer(content: StreamReader, most_bytes: int) -> bool:
    """Count what comes without keeping it, up to the end or until it is too much."""
    counted_bytes = 0
    async for piece in content.iter_any():
        counted_bytes += len(piece)
        if counted_bytes > most_bytes:
            return True
    return False


def _too_long() -> web.Response:
    return page(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {BODY_LIMIT_BYTES} bytes are read")


def page(status: HTTPStatus, text: str = "") -> web.Response:
    """Make the small page that goes with any status but 200, after which the connection is closed."""
    title = f"HTTP {status.value} {status.phrase.lower()}"
    body = f"<html><body><h1>{title}</h1><p>{html.escape(text)}</p></body></html>"
    response = web.Response(
        status=status, body=body.encode(), headers={**_PAGE_HEADERS, "Connection": "close"}
    )
    response.force_close()
    return response


class _Edge:
    """Where bytes from outside become calls."""

    def __init__(
        self, dispatcher: Dispatcher, origins: OriginGate, places: Places, limits: HttpLimits
    ) -> None:
        self._dispatcher = dispatcher
        self._origins = origins
        self._places = places
        self._limits = limits

    def admit_to(self, handler: Handler) -> Handler:
        """Make a handler that only those reach who may call, and for whom there is a place."""

        async def answer(request: web.Request) -> web.StreamResponse:
            peer = peer_of(request)
            if refusal := self._refuse(request, peer):
                return refusal
            with self._places.taken(peer):
                return await handler(request)

        return answer

    async def answer_xml(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, self._carry_out_xml, XML)

    async def answer_json(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, self._carry_out_json, JSON)

    async def _answer(
        self, request: web.Request, carry_out: Callable[[bytes, Peer], Awaitable[Parts]], content_type: str
    ) -> web.StreamResponse:
        peer = peer_of(request)
        if refusal := self._refuse(request, peer):
            return refusal
        try:
            with self._places.taken(peer):
                body = await self._read(request, peer)
                if isinstance(body, web.Response):
                    return body
                answer = await carry_out(body, peer)
        except WireError as error:
            _log.debug("a request was no call", extra={"from": request.remote, "why": error})
            return page(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return ApiResponse(answer, content_type)

    def _refuse(self, request: web.Request, peer: Peer) -> web.Response | None:
        """Make the page for a page of somebody else's, or for a call for which there is no place."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not self._origins.admits(origin, request.headers.get(hdrs.HOST, "")):
            _log.debug("a page of another origin may not call", extra={"from": request.remote})
            return page(HTTPStatus.FORBIDDEN, "pages of other origins may not call")
        if self._places.is_free(peer, min(request.content_length or 0, BODY_LIMIT_BYTES)):
            return None
        refusal = page(HTTPStatus.SERVICE_UNAVAILABLE, "too many calls at once")
        refusal.headers[hdrs.RETRY_AFTER] = str(_RETRY_AFTER_S)
        return refusal

    async def _read(self, request: web.Request, peer: Peer) -> bytes | web.Response:
        if request.content.is_eof():  # nothing is waited for
            return await read_body(request, self._limits.body_timeout_s)
        with self._places.reading(peer, min(request.content_length or 0, BODY_LIMIT_BYTES)):
            return await read_body(request, self._limits.body_timeout_s)

    async def _carry_out_xml(self, body: bytes, peer: Peer) -> Parts:
        call = codec.decode_call(body)
        try:
            value = await self._dispatcher.call(call.method, call.params, peer=peer)
        except XcpmemError as error:
            return (codec.encode_failure(error.code, error.params),)
        if call.method == _LIST_METHODS:
            return (codec.encode_bare(value),)
        return codec.success_parts(value)

    async def _carry_out_json(self, body: bytes, peer: Peer) -> Parts:
        request = jsonrpc.decode_request(body)
        try:
            value = await self._dispatcher.call(request.method, request.params, peer=peer)
        except XcpmemError as error:
            return (jsonrpc.encode_failure(request, error.code, error.params),)
        return jsonrpc.success_parts(request, value)


async def _answer_other(request: web.Request) -> web.StreamResponse:
    """Answer what is neither a call nor a page: a browser's question before a call, or a refusal."""
    if request.method == hdrs.METH_OPTIONS:
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        headers = {
            **API_HEADERS,
            "Access-Control-Allow-Headers": ", ".join(filter(None, (asked, "X-Requested-With"))),
            "Access-Control-Allow-Methods": "PUT",
        }
        return web.Response(headers=headers)
    if request.method not in _KNOWN_METHODS:
        return page(HTTPStatus.NOT_IMPLEMENTED)
    # The place of the dashboard, where there is one.
    if request.method == hdrs.METH_GET and request.path == "/":
        return page(HTTPStatus.NOT_FOUND)
    return page(HTTPStatus.FORBIDDEN)


def _make_health(name: str, checks: Mapping[str, Check]) -> Handler:
    """Make a health endpoint; the status is what counts, ``?verbose`` lists the checks for people."""

    async def answer(request: web.Request) -> web.StreamResponse:
        results = {check: is_good() for check, is_good in checks.items()}
        is_good = all(results.values())
        lines = [f"[+]{check} ok" if good else f"[-]{check} failed" for check, good in results.items()]
        lines.append(f"{name} check {'passed' if is_good else 'failed'}")
        text = "\n".join(lines) + "\n" if "verbose" in request.query or not is_good else "ok"
        status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
        return web.Response(status=status, body=text.encode(), headers=_TEXT_HEADERS)

    return answer


def _make_metrics(render: RenderMetrics, readers: ReadGate | None) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        if readers is not None and (refusal := refuse_reader(request, readers)):
            return refusal
        body, content_type = await render(request.headers.get(hdrs.ACCEPT))
        return web.Response(body=body, headers={**_TEXT_HEADERS, "Content-Type": content_type})

    return answer
