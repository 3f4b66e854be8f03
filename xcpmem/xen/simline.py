"""The wire between a daemon and a simulated host that runs elsewhere: a JSON object a line, on a Unix socket.

``{"call": "domains"}`` is answered by ``{"result": …}`` or ``{"error": [kind, text]}``, in order. Lines are
bounded, calls have deadlines, and a connection that failed once is not used again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem.errors import DomainVanished, DriverDisconnected, DriverError, DriverTimeout, ToolstackError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REQUEST_BYTES_MOST: Final = 65536
REPLY_BYTES_MOST: Final = 16 * 2**20
"""Room for the list of as many domains as Xen can have."""

CLIENTS_MOST: Final = 16
CALL_DEADLINE_S: Final = 5.0

_SOCKET_MODE: Final = 0o600
_ERRORS: Final = {error.__name__: error for error in (DomainVanished, ToolstackError)}

_log = logging.getLogger(__name__)


class LineServer:
    """Serves calls on a Unix socket.

    Args:
        answer: carries out a request and gives what is sent back; DriverError and ToolstackError are passed
            on to the caller.
    """

    def __init__(self, answer: Callable[[Any], Awaitable[Any]]) -> None:
        self._carry_out = answer
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._path = Path()

    async def start(self, path: str) -> None:
        """Listen on a socket that only its owner may connect to; one that is there is replaced.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path = Path(path)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=REQUEST_BYTES_MOST)
        self._path.chmod(_SOCKET_MODE)

    async def close(self) -> None:
        """Stop listening, hang up on all clients, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task, writer in self._clients.items():
            writer.transport.abort()
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
        await self._server.wait_closed()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= CLIENTS_MOST:
            writer.close()
            return
        self._clients[task] = writer
        reason: Exception | None = None
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                async with asyncio.timeout(CALL_DEADLINE_S):
                    await writer.drain()
        except (ValueError, RecursionError, OSError, TimeoutError) as error:
            reason = error
        except asyncio.CancelledError:
            _log.debug("hung up on a client: the simulated host ends")  # asyncio would show its frames
        finally:
            del self._clients[task]
            writer.transport.abort()
        if reason is not None:
            _log.info("hung up on a client of the simulated host: %s", reason)

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return {"result": await self._carry_out(json.loads(line))}
        except (DriverError, ToolstackError) as error:
            return {"error": [type(error).__name__, str(error)]}


class LineClient:
    """The other end of a `LineServer`; connects when first needed, and again after a loss.

    Args:
        path: of the socket.
        who: the simulated part at the other end, for sentences.
        call_deadline_s: how long a call may take, connecting included, seconds.
    """

    def __init__(self, path: str, who: str, *, call_deadline_s: float = CALL_DEADLINE_S) -> None:
        self._path = path
        self._who = who
        self._call_deadline_s = call_deadline_s
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def call(self, request: dict[str, Any]) -> Any:
        """Have a request carried out.

        Returns:
            What came back; any JSON.

        Raises:
            DriverTimeout: it took too long.
            DriverDisconnected: nobody is there, or what came back is no answer.
            DomainVanished: the other end says so; likewise DriverError and ToolstackError.
        """
        try:
            async with asyncio.timeout(self._call_deadline_s), self._turn:
                reply = await self._ask(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            raise DriverTimeout(f"the simulated {self._who} does not answer") from None
        except (OSError, ValueError) as error:
            raise DriverDisconnected(f"the simulated {self._who} is gone: {error}") from error
        match reply:
            case {"result": result}:
                return result
            case {"error": [str(kind), str(text)]}:
                raise _ERRORS.get(kind, DriverError)(text)
        raise DriverDisconnected(f"the simulated {self._who} sent no answer that makes sense")

    async def _ask(self, line: bytes) -> Any:
        """Send a line and return what is answered; after any failure the connection is not used again."""
        answered = False
        try:
            if self._streams is None:
                self._streams = await asyncio.open_unix_connection(self._path, limit=REPLY_BYTES_MOST)
            reader, writer = self._streams
            writer.write(line)
            await writer.drain()
            reply = await reader.readline()
            if not reply.endswith(b"\n"):
                raise ConnectionResetError("it closed the connection")
            answer = json.loads(reply)
            answered = True
            return answer
        finally:
            if not answered:
                self.close()
