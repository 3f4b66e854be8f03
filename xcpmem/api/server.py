"""Listening: TCP and Unix sockets, TLS with a certificate that can be renewed while connections go on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Final

from aiohttp import web

from xcpmem.api.addresses import Addresses
from xcpmem.api.connections import ConnectionLimits, Crowd
from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TCP: Final = "listen"
UNIX: Final = "socket"
"""The settings that name where XenAPI is served."""

_ACCEPTS: Final = 16
"""Connections taken at once. When no file can be opened asyncio tries, complains and comes back for each."""

_log = logging.getLogger(__name__)


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
    load_certificate(context, certificate, key)
    return context


class Certificate:
    """A certificate that can be renewed while the daemon runs.

    Args:
        chain: as for `make_ssl_context`.
        key: as for `make_ssl_context`.

    Raises:
        ConfigError: as `make_ssl_context`.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._files = (chain, key)
        self.context = make_ssl_context(chain, key)

    def renew(self) -> None:
        """Read the files again, for the connections to come; what does not fit is told in the log."""
        try:
            load_certificate(self.context, *self._files)
        except ConfigError as error:
            _log.error("the certificate stays as it was: %s", error, extra={"why": error})
        else:
            _log.info("the certificate was read again: %s", self._files[0], extra={"file": self._files[0]})


def open_certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    """Read a certificate if there is one, and again whenever SIGHUP says so.

    Raises:
        ConfigError: as `make_ssl_context`.
    """
    if chain is None or key is None:
        return None
    certificate = Certificate(chain, key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.renew)
    return certificate


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Read a certificate and its key, for the connections to come.

    Raises:
        ConfigError: as `make_ssl_context`; the context keeps what it had if the files are not there or make
            no sense.
    """
    try:
        # Both are tried first where nothing can be spoilt.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_passphrase)
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise ConfigError("settings", "tls_cert", f"{certificate} with {key}: {error}") from error


def _no_passphrase() -> str:
    """Keep OpenSSL from asking the terminal."""
    raise ValueError("the key has a passphrase")


class Server:
    """Serves an application on TCP, on a Unix socket, or on both.

    Args:
        app: what is served.
        addresses: taken already, by the settings `TCP` and `UNIX`, and let go of by whoever took them; None:
            those of the next three.
        host: address to listen on; None: no TCP.
        port: 0 takes a free one.
        socket_path: of the Unix socket, which only its owner may open; None: none.
        ssl_context: for TCP; None: plain HTTP, unless there is a certificate.
        certificate: for TCP.
        limits: for connections.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        addresses: Addresses | None = None,
        host: str | None = None,
        port: int = 0,
        socket_path: Path | None = None,
        ssl_context: ssl.SSLContext | None = None,
        certificate: Certificate | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._limits = limits or ConnectionLimits()
        self._runner = web.AppRunner(app, shutdown_timeout=self._limits.grace_s)
        self._takes_them = addresses is None
        self._addresses = addresses or Addresses(self._limits.connections)
        self._host = host
        self._port = port
        self._socket_path = socket_path
        self._ssl_context = certificate.context if certificate else ssl_context
        self._listeners: list[asyncio.Server] = []
        self._crowds: list[Crowd] = []

    async def start(self) -> int:
        """Serve the addresses that were taken, or else take them first.

        Returns:
            The TCP port, 0 without TCP.

        Raises:
            ConfigError: an address cannot be listened on.
        """
        await self._runner.setup()
        try:
            if self._takes_them:
                await self._take()
            await self._serve()
        except BaseException:
            await self.close()
            raise
        return self._addresses.port

    async def close(self) -> None:
        """Take no more connections, give calls that are under way a moment, and end."""
        for listener in self._listeners:
            listener.close()
        for crowd in self._crowds:
            crowd.close()
        await self._runner.cleanup()
        for crowd in self._crowds:
            crowd.abandon()  # before the wait: some releases of Python wait there until nobody is left
        for listener in self._listeners:
            await listener.wait_closed()
        self._listeners.clear()
        if self._takes_them:
            self._addresses.release()

    async def _take(self) -> None:
        if self._host is not None:
            await self._addresses.take_tcp(TCP, self._host, self._port)
        if self._socket_path is not None:
            self._addresses.take_unix(UNIX, self._socket_path)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._addresses.sockets(TCP):
            listener = await loop.create_server(
                self._make_crowd(self._ssl_context).admit, sock=listening, backlog=_ACCEPTS
            )
            self._let_wait(listener)
        for listening in self._addresses.sockets(UNIX):
            self._let_wait(
                await loop.create_unix_server(self._make_crowd().admit, sock=listening, backlog=_ACCEPTS)
            )

    def _let_wait(self, listener: asyncio.Server) -> None:
        """Keep a listener, with room for all who wait; asyncio knows one figure for this and `_ACCEPTS`."""
        self._listeners.append(listener)
        for each in listener.sockets:
            with socket.socket(fileno=os.dup(each.fileno())) as same:
                same.listen(self._limits.connections)

    def _make_crowd(self, context: ssl.SSLContext | None = None) -> Crowd:
        self._crowds.append(Crowd(lambda: self._runner.server, self._limits, context))
        return self._crowds[-1]
