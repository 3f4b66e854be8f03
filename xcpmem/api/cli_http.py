"""`/cli` on aiohttp: an HTTP request whose answer is no HTTP.

The client sends an ordinary POST and from then on both sides speak the thin-CLI protocol on the bare
connection. So the request's parser is replaced by one that takes the bytes as they are before the first
byte is answered (the client is silent until then), and aiohttp is given a response that sends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from xcpmem.api.cli import CommandLine
from xcpmem.api.http import peer_of, read_body
from xcpmem.errors import WireError
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.api.cli import Calls

PROGRESS_HEADER: Final = "xcpmem-progress"
"""A request header of our own client: a person is watching its standard error."""
BODY_DEADLINE_S: Final = 10.0
"""The body must be there so many seconds after its head."""
SEND_DEADLINE_S: Final = 60.0
"""How long a client may leave what it is sent unread."""
_UNREAD_LIMIT_BYTES: Final = mib_to_bytes(1)

logger = logging.getLogger(__name__)


class _Tap:
    """Stands where aiohttp has its HTTP parser and keeps the bytes that arrive."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._unread_bytes = 0
        self._ended = False
        self._arrival = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes from aiohttp; a client that floods is treated as one that hung up."""
        self._unread_bytes += len(data)
        if self._unread_bytes > _UNREAD_LIMIT_BYTES:
            self._ended = True
        elif not self._ended:
            self._pieces.append(bytes(data))
        self._arrival.set()
        return False, b""

    def feed_eof(self) -> None:
        """Take note that the client has hung up."""
        self._ended = True
        self._arrival.set()

    async def receive(self) -> bytes:
        """Give the next piece, or nothing at the end."""
        while not self._pieces and not self._ended:
            self._arrival.clear()
            await self._arrival.wait()
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        self._unread_bytes -= len(piece)
        return piece


class _Connection:
    """The `Duplex` of a request."""

    def __init__(self, request: web.Request, transport: asyncio.Transport, tap: _Tap) -> None:
        self._request = request
        self._transport = transport
        self._tap = tap

    async def send(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        try:
            async with asyncio.timeout(SEND_DEADLINE_S):
                await self._request.writer.drain()
        except TimeoutError as error:
            self._transport.abort()
            raise ConnectionAbortedError("the client does not read") from error

    async def receive(self) -> bytes:
        return await self._tap.receive()


class _Silence(web.StreamResponse):
    """A response of no bytes at all."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send no headers."""

    async def write_eof(self, data: Any = b"") -> None:
        """Send no end."""


def make_cli_handler(calls: Calls) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Make the handler of ``POST /cli``, for `http.make_app`.

    Args:
        calls: carries out the XenAPI calls that commands are made of; the dispatcher.

    Returns:
        A handler; no middleware may touch what it returns.
    """
    command_line = CommandLine(calls)

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await read_body(request, BODY_DEADLINE_S)
        if isinstance(body, web.Response):
            return body
        transport = request.transport
        if not isinstance(transport, asyncio.Transport):
            raise ConnectionResetError("the client is gone")
        tap = _Tap()
        # aiohttp means this for its web sockets, but asks no more of a parser than feed_data and feed_eof.
        protocol: Any = request.protocol
        protocol.set_parser(tap)
        try:
            await command_line.converse(
                _Connection(request, transport, tap),
                body,
                peer_of(request),
                wants_progress=PROGRESS_HEADER in request.headers,
            )
        except (ConnectionError, TimeoutError, WireError) as error:
            logger.debug("a command line ended early", extra={"from": request.remote, "why": error})
        finally:
            transport.close()
        return _Silence()

    return handle
