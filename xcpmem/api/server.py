"""Listening: TCP and Unix sockets, how many connections there may be and how slow a request may come.

aiohttp waits for ever for the rest of a request's head, so each connection here has a deadline for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import stat
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong

from xcpmem.api.http import page
from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_SOCKET_MODE: Final = 0o600
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may do with connections.

    Args:
        connections: at once; more are answered 503 and closed.
        head_timeout_s: from a request's first byte to the end of its headers.
        keepalive_s: an idle connection is closed after so many seconds.
        linger_s: a body that was refused is read and forgotten for so many seconds, so that its sender gets
            to read why.
        grace_s: calls that are under way at the end get twice so many seconds, the second time cancelled.
    """

    connections: int = 1024
    head_timeout_s: float = 10.0
    keepalive_s: float = 75.0
    linger_s: float = 5.0
    grace_s: float = 1.0


class _Connection(web.RequestHandler):
    """aiohttp's side of a connection, with a deadline for the head of each request."""

    __slots__ = ("_head_deadline", "_head_timeout_s")

    def __init__(
        self, manager: web.Server, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.keepalive_s,
            lingering_time=limits.linger_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way of saying none
            auto_decompress=False,
        )
        self._head_timeout_s = limits.head_timeout_s
        self._head_deadline: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Let the clock run while part of a head, and no request, is there."""
        requests = self._request_count
        super().data_received(data)
        is_idle = self._waiter is not None and not self._waiter.done()
        if self._request_count > requests:
            self._stop_clock()
        elif is_idle and self._head_deadline is None:
            self._head_deadline = self._loop.call_later(self._head_timeout_s, self._refuse_slow_head)

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
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse_slow_head(self) -> None:
        self._head_deadline = None
        if self.transport is not None:
            self.transport.write(_TOO_SLOW)
        self.force_close()


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(_TOO_MANY)
        transport.close()


def make_ssl_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make the context for TLS 1.2 and later.

    Args:
        certificate: PEM, the server's own first; RSA, for the Go SDK offers nothing else under TLS 1.2.
        key: PEM, without a passphrase.

    Raises:
        ConfigError: a file cannot be read, or the two do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise ConfigError("settings", "tls_cert", f"{certificate} with {key}: {error}") from error
    return context


def _no_passphrase() -> str:
    """Keep OpenSSL from asking the terminal."""
    raise ValueError("the key has a passphrase")


class Server:
    """Serves an application on TCP, on a Unix socket, or on both.

    Args:
        app: what is served.
        host: address to listen on; None: no TCP.
        port: 0 takes a free one.
        socket_path: of the Unix socket, which only its owner may open; None: none.
        ssl_context: for TCP; None: plain HTTP.
        limits: for connections.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        host: str | None = None,
        port: int = 0,
        socket_path: Path | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._limits = limits or ConnectionLimits()
        self._runner = web.AppRunner(app, shutdown_timeout=self._limits.grace_s)
        self._host = host
        self._port = port
        self._socket_path = socket_path
        self._ssl_context = ssl_context
        self._listeners: list[asyncio.Server] = []

    async def start(self) -> int:
        """Listen.

        Returns:
            The TCP port, 0 without TCP.

        Raises:
            ConfigError: an address cannot be listened on.
        """
        await self._runner.setup()
        port = 0
        try:
            if self._host is not None:
                port = await self._listen_on_tcp(self._host)
            if self._socket_path is not None:
                await self._listen_on_unix(self._socket_path)
        except BaseException:
            await self.close()
            raise
        return port

    async def close(self) -> None:
        """Take no more connections, give calls that are under way a moment, and end."""
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()
        for listener in self._listeners:
            await listener.wait_closed()
        if self._listeners and self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
        self._listeners.clear()

    async def _listen_on_tcp(self, host: str) -> int:
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(self._connect, host, self._port, ssl=self._ssl_context)
        except OSError as error:
            raise ConfigError("listen", f"{host}:{self._port}", str(error.strerror or error)) from error
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def _listen_on_unix(self, path: Path) -> None:
        listening = socket.socket(socket.AF_UNIX)
        try:
            bind_unix(listening, path)
            listener = await asyncio.get_running_loop().create_unix_server(self._connect, sock=listening)
        except OSError as error:
            listening.close()
            raise ConfigError("socket", str(path), str(error.strerror or error)) from error
        self._listeners.append(listener)

    def _connect(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._limits.connections:
            return _TurnedAway()
        return _Connection(server, asyncio.get_running_loop(), self._limits)


def bind_unix(listening: socket.socket, path: Path) -> None:
    """Take the path, and close it to others before anyone can connect."""
    _remove_stale(path)
    listening.bind(str(path))
    path.chmod(_SOCKET_MODE)


def _remove_stale(path: Path) -> None:
    """Remove a socket that a daemon left behind when it was killed; one that answers stays."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
