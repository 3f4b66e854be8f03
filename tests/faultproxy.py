"""Stands between a daemon and its host, on Unix sockets, and fails either of them by request.

It passes whole messages, so that a test can say after which of them what happens. Nothing here knows what a
daemon is: the one behind it may live in this process or in another.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem.errors import WireError
from xcpmem.xen import wire
from xcpmem.xen.storedialogue import refusal
from xcpmem.xen.storefault import Fault, Misbehaviour
from xcpmem.xen.wire import Decoder, Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES: Final = 1 << 16
LINE_BYTES_MOST: Final = 1 << 24

_END: Final = MessageType.TRANSACTION_END
_DROP: Final = wire.join_strings(b"F")


class _Proxy(ABC):
    """What both kinds have in common: a door that can be shut, and a gate that can be closed.

    Args:
        upstream: the socket of the real thing.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.path = ""
        self.late_s = 0.0
        """Every reply is passed on so much later, seconds."""
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, path: str) -> None:
        """Listen at a path."""
        self.path = path
        self._server = await asyncio.start_unix_server(self._accept, path, limit=LINE_BYTES_MOST)

    async def cut(self) -> None:
        """Hang up on everybody and be gone, as a program that has ended."""
        if self._server is not None:
            self._server.close()
            clients = tuple(self._clients)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None
            _unlink(self.path)

    async def restore(self) -> None:
        """Be there again."""
        if self._server is None:
            await self.start(self.path)

    def hold(self) -> None:
        """Pass nothing on, in either direction, as a program that is stopped."""
        self._open.clear()

    def release(self) -> None:
        """Pass on what was held, and whatever comes."""
        self._open.set()

    async def close(self) -> None:
        self.release()
        await self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        up_writer: asyncio.StreamWriter | None = None
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self.upstream, limit=LINE_BYTES_MOST)
            down = asyncio.ensure_future(self._pass_replies(up_reader, writer))
            up = asyncio.ensure_future(self._pass_requests(reader, up_writer, writer))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # both ends are told below
        finally:
            self._clients.discard(task)
            for end in (writer, up_writer):
                if end is not None:
                    end.transport.abort()

    def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send now, or late; what is sent late stays in order."""
        if self.late_s:
            asyncio.get_running_loop().call_later(self.late_s, _write, writer, data)
        else:
            _write(writer, data)

    @abstractmethod
    async def _pass_requests(
        self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, down: asyncio.StreamWriter
    ) -> None: ...

    @abstractmethod
    async def _pass_replies(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None: ...


class StoreProxy(_Proxy):
    """In front of a xenstored.

    Args:
        upstream: its socket.
        fault: asked before each request and each watch event is passed on; says how to fail it, None not to.
            A request that is refused, met with silence or hung up on never arrives; else its reply is spoilt.
            (The end of a transaction that is refused arrives as a request to drop it, as xenstored does.)
    """

    def __init__(self, upstream: str, fault: Callable[[Message], Fault | None] | None = None) -> None:
        super().__init__(upstream)
        self.fault = fault
        self._spoilt: dict[int, Fault] = {}

    async def _pass_requests(
        self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, down: asyncio.StreamWriter
    ) -> None:
        decoder = Decoder()
        self._spoilt.clear()
        with suppress(WireError):
            while data := await reader.read(CHUNK_BYTES):
                for message in decoder.feed(data):
                    await self._open.wait()
                    fault = self.fault(message) if self.fault is not None else None
                    if fault is None:
                        _write(up, wire.encode(message))
                    elif fault.misbehaviour is Misbehaviour.HANG_UP:
                        return
                    elif fault.misbehaviour is Misbehaviour.REFUSE and message.type == _END:
                        self._spoilt[message.request_id] = fault
                        _write(up, wire.encode(message._replace(payload=_DROP)))
                    elif fault.misbehaviour is Misbehaviour.REFUSE:
                        self._send(down, wire.encode(refusal(message, fault.error)))
                    elif fault.misbehaviour is not Misbehaviour.SILENCE:
                        self._spoilt[message.request_id] = fault
                        _write(up, wire.encode(message))

    async def _pass_replies(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        while data := await reader.read(CHUNK_BYTES):
            for message in decoder.feed(data):
                await self._open.wait()
                if message.type == MessageType.WATCH_EVENT:
                    fault = self.fault(message) if self.fault is not None else None
                    if fault is not None and fault.misbehaviour is Misbehaviour.SILENCE:
                        continue
                else:
                    fault = self._spoilt.pop(message.request_id, None)
                if fault is not None and fault.misbehaviour is Misbehaviour.REFUSE:
                    message = refusal(message, fault.error)  # noqa: PLW2901 -- told instead
                self._send(down, fault.spoil(message) if fault is not None else wire.encode(message))


class LineProxy(_Proxy):
    """In front of the simulated hypervisor or toolstack: a JSON object a line.

    Args:
        upstream: its socket.
        hang_up: asked before each request is passed on; True hangs up instead.
    """

    def __init__(self, upstream: str, hang_up: Callable[[dict[str, Any]], bool] | None = None) -> None:
        super().__init__(upstream)
        self.hang_up = hang_up

    async def _pass_requests(
        self,
        reader: asyncio.StreamReader,
        up: asyncio.StreamWriter,
        down: asyncio.StreamWriter,
    ) -> None:
        while (line := await reader.readline()) and not down.is_closing():
            await self._open.wait()
            if self.hang_up is not None and self.hang_up(json.loads(line)):
                return
            _write(up, line)

    async def _pass_replies(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await self._open.wait()
            self._send(down, line)


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(data)
