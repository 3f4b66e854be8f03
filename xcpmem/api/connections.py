"""A connection's rules: how slowly a client may speak and listen, and who makes room when there are too many.

aiohttp waits for ever for the rest of a request's head, and for ever for a client that does not read its
answer, so each connection here has deadlines for both; with those of TLS and of bodies (in `http`) they bound
the whole of a request. When there is no room for a new connection, the oldest that has not finished asking
goes, or that is being closed: whoever only holds connections open is the first to lose them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong

from xcpmem.api.http import page
from xcpmem.api.presence import Presence
from xcpmem.api.sessions import Peer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)
_UNKNOWN: Final = "unknown"

_log = logging.getLogger(__name__)


def _call_later(delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay_s, callback)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may do with connections.

    Args:
        connections: at once, TCP and Unix sockets each; above, one makes room or the new one is answered 503.
        handshake_timeout_s: from a connection's begin to the end of its TLS handshake.
        head_timeout_s: from a connection's begin, or a later request's first byte, to the end of its headers.
        keepalive_s: a connection that is idle after a request is closed after so many seconds.
        send_timeout_s: a client may leave its answer unread for so many seconds, and with TLS the word that
            nothing more will come.
        linger_s: a body that was refused is read and forgotten for so many seconds, so that its sender gets
            to read why.
        grace_s: calls that are under way at the end get twice so many seconds, the second time cancelled.
        call_later: calls back after so many seconds; tests bring their own.
    """

    connections: int = 1024
    handshake_timeout_s: float = 10.0
    head_timeout_s: float = 10.0
    keepalive_s: float = 75.0
    send_timeout_s: float = 60.0
    linger_s: float = 5.0
    grace_s: float = 1.0
    call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] = _call_later


class Connection(web.RequestHandler):
    """aiohttp's side of a connection, with deadlines.

    Args:
        manager: makes the requests.
        loop: that it lives in.
        crowd: that it is part of.
        line: what its TLS goes over; None: it is spoken to without.
    """

    __slots__ = ("_crowd", "_deadline", "_has_finished", "_line", "_send_deadline", "peer")

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        crowd: Crowd,
        line: asyncio.Transport | None = None,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=crowd.limits.keepalive_s,
            lingering_time=crowd.limits.linger_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way of saying none
            auto_decompress=False,
        )
        self._crowd = crowd
        self._line = line
        self._deadline: asyncio.TimerHandle | None = None
        self._send_deadline: asyncio.TimerHandle | None = None
        self._has_finished = False
        self.peer = Peer(_UNKNOWN)
        """Who is at the other end; asked of the kernel once, for it cannot change."""

    @property
    def is_asking(self) -> bool:
        """Whether its first request has not come whole so far."""
        request = self._current_request
        return not self._has_finished and (request is None or not request.content.is_eof())

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def is_closing(self) -> bool:
        """Whether it was hung up on, and only its client keeps it."""
        return self.transport is None or self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: who connects has something to say."""
        super().connection_made(transport)
        self._line = self._line or self.transport
        self.peer = _peer_behind(transport, Presence(self._is_read))
        self._crowd.add(self)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Let the clock run while part of a head, and no request, is there."""
        requests = self._request_count
        super().data_received(data)
        if self._request_count > requests:
            self._stop_clock()
        elif self.is_idle and self._deadline is None:
            self._start_clock()
        if not self._is_read():
            self.peer.presence.look()

    def pause_writing(self) -> None:
        """Start another clock: the client reads more slowly than it is answered."""
        super().pause_writing()
        limits = self._crowd.limits
        self._send_deadline = limits.call_later(limits.send_timeout_s, self.drop)

    def resume_writing(self) -> None:
        """Stop that clock."""
        super().resume_writing()
        self._stop_send_clock()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Take note that the client got an answer."""
        finished = await super().finish_response(request, resp, start_time)
        self._has_finished = True
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer with a page: what clients do wrong quietly, what nobody expected after aiohttp logs it."""
        if not isinstance(exc, HttpProcessingError | web.RequestPayloadError | ConnectionError):
            super().handle_error(request, status, exc, message)
        match exc:
            case BadHttpMethod():
                return page(HTTPStatus.NOT_IMPLEMENTED)
            case LineTooLong():
                return page(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return page(HTTPStatus(status))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clocks, and what waits for the sake of this client alone."""
        self._stop_clock()
        self._stop_send_clock()
        self._crowd.remove(self)
        self.peer.presence.end()
        super().connection_lost(exc)

    def drop(self) -> None:
        """End it at once, whatever is still to be sent."""
        if self._line is not None:  # aiohttp forgets the transport that it closes, which may yet take long
            self._line.abort()

    def _is_read(self) -> bool:
        """Tell whether it would be noticed if the client hung up."""
        return self.transport is not None and self.transport.is_reading()

    def _start_clock(self) -> None:
        self._deadline = self._crowd.limits.call_later(
            self._crowd.limits.head_timeout_s, self._refuse_slow_head
        )

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_send_clock(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _refuse_slow_head(self) -> None:
        self._deadline = None
        if self.transport is not None:
            self.transport.write(_TOO_SLOW)
        self.force_close()


def _peer_behind(transport: asyncio.BaseTransport, presence: Presence | None = None) -> Peer:
    """Ask who is at the other end; on a Unix socket the kernel names the user."""
    connection, presence = transport.get_extra_info("socket"), presence or Presence()
    if connection is None or connection.family != socket.AF_UNIX:
        address = transport.get_extra_info("peername")
        return Peer(str(address[0]) if address else _UNKNOWN, presence=presence)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return Peer("unix", uid, presence)


class Handshake(asyncio.Protocol):
    """A connection before its TLS is agreed on, which counts as one that never asked for anything.

    asyncio's own listeners keep such connections to themselves, so that nobody could bound or end them.

    Args:
        crowd: that it is part of.
        context: for TLS.
    """

    def __init__(self, crowd: Crowd, context: ssl.SSLContext) -> None:
        self._crowd = crowd
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._securing: asyncio.Task[None] | None = None
        self._early = bytearray()
        self.is_asking = True
        self.is_idle = False
        self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._crowd.add(self)
        self._securing = asyncio.create_task(self._secure(self._transport))

    def data_received(self, data: bytes) -> None:
        """Keep what comes with the handshake's last bytes."""
        self._early += data

    def drop(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _secure(self, transport: asyncio.Transport) -> None:
        """Shake hands, and hand over to a connection."""
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._crowd.limits.handshake_timeout_s,
                ssl_shutdown_timeout=self._crowd.limits.send_timeout_s,
            )
        except OSError as error:
            _log.debug("no TLS was agreed on", extra={"from": _peer_behind(transport).where, "why": error})
            return
        finally:
            self._crowd.remove(self)
        connection = self._crowd.make_connection(transport)
        if secured is None or secured.is_closing() or connection is None:
            transport.abort()
            return
        secured.set_protocol(connection)
        connection.connection_made(secured)
        if self._early:
            connection.data_received(bytes(self._early))


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def __init__(self, farewell: bytes) -> None:
        self._farewell = farewell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(self._farewell)
        transport.close()


class Crowd:
    """All connections of one listener, so that a flood on one leaves the other alone.

    Args:
        manager: makes their requests; None: there is no server yet, or no more.
        limits: their rules.
        context: for TLS; None: plain HTTP.
    """

    def __init__(
        self,
        manager: Callable[[], web.Server | None],
        limits: ConnectionLimits,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._manager = manager
        self.limits = limits
        self._context = context
        self._members: dict[Connection | Handshake, None] = {}  # the oldest first
        self.dropped = 0
        """How many had to make room."""

    def __len__(self) -> int:
        return len(self._members)

    def admit(self) -> asyncio.Protocol:
        """Make the protocol of a new connection, for which another may have to go."""
        if not self._make_room():
            return _TurnedAway(_TOO_MANY if self._context is None else b"")
        if self._context is not None:
            return Handshake(self, self._context)
        return self.make_connection() or _TurnedAway(_TOO_MANY)

    def make_connection(self, line: asyncio.Transport | None = None) -> Connection | None:
        """Make what answers requests, unless there is no server to do so; ``line`` as for `Connection`."""
        manager = self._manager()
        return None if manager is None else Connection(manager, asyncio.get_running_loop(), self, line)

    def close(self) -> None:
        """Let go of those who have yet to agree on TLS."""
        for member in [each for each in self._members if isinstance(each, Handshake)]:
            member.drop()

    def abandon(self) -> None:
        """Let go of all, whatever they have yet to read."""
        for member in tuple(self._members):
            member.drop()

    def add(self, connection: Connection | Handshake) -> None:
        """Count a connection."""
        self._members[connection] = None

    def remove(self, connection: Connection | Handshake) -> None:
        """Count a connection no more."""
        self._members.pop(connection, None)

    def _make_room(self) -> bool:
        """Have at most one go: the oldest that never asked or was hung up on, else the oldest idle one."""
        if len(self._members) < self.limits.connections:
            return True
        victim = next((each for each in self._members if each.is_asking or each.is_closing), None)
        victim = victim or next((each for each in self._members if each.is_idle), None)
        if victim is None:
            return False
        self.dropped += 1
        self.remove(victim)
        victim.drop()
        return True
