"""squeezed's direct socket: XML-RPC over HTTP on a Unix socket, one call a connection.

Its clients (xenopsd with ``use-switch = false``) send one POST with a ``content-length`` and no ``host``,
which a strict HTTP server would refuse, and read until the connection closes; the path means nothing.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from xcpmem.api import codec
from xcpmem.api.squeezed_wire import answer_xml
from xcpmem.errors import WireError

if TYPE_CHECKING:
    import socket

    from xcpmem.api.squeezed import SqueezedCalls

BODY_BYTES_MOST: Final = 300 * 2**10
"""As for XenAPI's own requests."""

REQUEST_S: Final = 30.0
"""A request has arrived after so long, or is given up."""

CONNECTIONS_MOST: Final = 256
"""As many calls at a time; xenopsd has 25 workers."""

_HEAD_BYTES_MOST: Final = 2**14

_log = logging.getLogger(__name__)


class SqueezedSocket:
    """Serves squeezed's calls.

    Args:
        calls: carries them out.
        listening: the socket, which is let go of by whoever took it.
    """

    def __init__(self, calls: SqueezedCalls, listening: socket.socket) -> None:
        self._calls = calls
        self._listening = listening
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Serve whoever has connected, and will."""
        self._listener = await asyncio.start_unix_server(
            self._serve, sock=self._listening, limit=_HEAD_BYTES_MOST
        )

    async def close(self) -> None:
        """Take no more calls and drop those that are under way: their callers ask again."""
        if self._listener is None:
            return
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= CONNECTIONS_MOST:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            _log.debug("a caller of squeezed's socket sent no request: %s", error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REQUEST_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request_line, *lines = head.lower().split("\r\n")
            if not request_line.startswith("post "):
                writer.write(_head(HTTPStatus.NOT_FOUND, 0))
                return
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            size = int(fields.get("content-length", ""))
            if not 0 <= size <= BODY_BYTES_MOST:
                raise ValueError(f"a request of {size} bytes")
            body = await reader.readexactly(size)
        try:
            answer = await answer_xml(self._calls, body)
        except WireError as error:
            answer = codec.encode_error(["Internal_error", str(error)])
        writer.write(_head(HTTPStatus.OK, len(answer)) + answer)
        await writer.drain()


def _head(status: HTTPStatus, size: int) -> bytes:
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "user-agent: xcpmem",
        f"content-length: {size}",
        "connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")
