"""A xenstored double on a Unix socket: speaks to pyxs, to libxenstore and to Debian's xenstore-utils.

It serves what a client in dom0 may ask (xen's docs/misc/xenstore.txt), refuses what the C xenstored
refuses with the same errors, and hangs up where it would. For tests it can also misbehave, by request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.errors import WireError
from xcpmem.units import kib_to_bytes, mib_to_bytes
from xcpmem.xen import wire
from xcpmem.xen.storedialogue import StoreDialogue, refusal
from xcpmem.xen.storefault import Misbehaviour
from xcpmem.xen.wire import Decoder, MessageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.xen.storefault import Fault
    from xcpmem.xen.storetree import Store
    from xcpmem.xen.wire import Message

CONNECTIONS_MAX: Final = 256
"""Clients at the same time; further ones are hung up on."""
UNREAD_BYTES_MAX: Final = mib_to_bytes(1)
"""Watch events that a client may leave unread before it is hung up on."""
SENT_AT_ONCE_BYTES: Final = kib_to_bytes(64)
"""What is answered to requests that came together is sent together, so many bytes at a time."""

_SOCKET_MODE: Final = 0o600
_SPOILED: Final = frozenset(Misbehaviour) - {
    Misbehaviour.REFUSE,
    Misbehaviour.SILENCE,
    Misbehaviour.HANG_UP,
}

_logger = logging.getLogger(__name__)


class StoreServer:
    """Serves a store on a Unix socket, at ``path`` once it has started.

    Args:
        store: what to serve.
        fault: asked before each request is carried out and before each watch event is sent; returns how to
            fail it, None not to. It may change the store meanwhile, as another client would.
    """

    def __init__(self, store: Store, fault: Callable[[Message], Fault | None] | None = None) -> None:
        self.store = store
        self.fault = fault
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self.path = ""

    async def start(self, path: str) -> None:
        """Listen.

        Args:
            path: of the socket, at most 107 bytes; a socket that is there is replaced. Only its owner may
                connect.

        Raises:
            OSError: the socket cannot be made.
        """
        self.path = path
        loop = asyncio.get_running_loop()
        connection = _private_socket(Path(path))
        self._server = await loop.create_unix_server(lambda: _Client(self, self._clients), sock=connection)

    async def close(self) -> None:
        """Stop listening, hang up on all clients, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        await self.disconnect()
        await self._server.wait_closed()
        self._server = None
        _unlink_socket(Path(self.path))

    async def disconnect(self) -> None:
        """Hang up on all clients and forget their watches and transactions, as a restart does."""
        clients = tuple(self._clients)
        for client in clients:
            client.hang_up()
        for client in clients:
            await client.gone


class _Client(asyncio.Protocol):
    """One connection; replies in the order of requests."""

    def __init__(self, server: StoreServer, clients: set[_Client]) -> None:
        self._server = server
        self._clients = clients
        self._decoder = Decoder()
        self._requests: deque[Message] = deque()
        self._paused = False
        self._is_serving = False
        self._unsent = bytearray()
        self._dialogue = StoreDialogue(server.store, self._send_event)
        self.gone = asyncio.get_running_loop().create_future()

    def hang_up(self) -> None:
        """Close; what the client has not taken is not sent any more."""
        self._requests.clear()
        self._flush()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- narrows asyncio's type
        self._transport = transport
        self._clients.add(self)
        if len(self._clients) > CONNECTIONS_MAX:
            _logger.warning("more than %d clients, hung up on one", CONNECTIONS_MAX)
            self.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._requests.clear()
        self._dialogue.end()
        self._clients.discard(self)
        self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._serve()

    def data_received(self, data: bytes) -> None:
        try:
            self._requests.extend(self._decoder.feed(data))
        except WireError as error:
            _logger.info("hung up on a client: %s", error)
            self.hang_up()
        else:
            self._serve()

    def _serve(self) -> None:
        self._is_serving = True
        while self._requests and not self._paused and not self._transport.is_closing():
            self._answer(self._requests.popleft())
            if len(self._unsent) >= SENT_AT_ONCE_BYTES:
                self._flush()
        self._is_serving = False
        self._flush()

    def _answer(self, request: Message) -> None:
        fault = self._fault(request)
        if fault is None or fault.misbehaviour in _SPOILED:
            reply = self._dialogue.answer(request)
        elif fault.misbehaviour is Misbehaviour.REFUSE:
            reply = refusal(request, fault.error)
        else:
            return
        self._send(reply, fault)
        if reply.type == MessageType.WATCH:
            self._dialogue.follow_up(request)

    def _send_event(self, event: Message) -> None:
        if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            _logger.warning("hung up on a client that does not read its watch events")
            self.hang_up()
        fault = self._fault(event)
        if fault is None or fault.misbehaviour in _SPOILED:
            self._send(event, fault)

    def _fault(self, message: Message) -> Fault | None:
        fault = self._server.fault(message) if self._server.fault is not None else None
        if fault is not None and fault.misbehaviour is Misbehaviour.HANG_UP:
            self.hang_up()
        return fault

    def _send(self, message: Message, fault: Fault | None) -> None:
        self._unsent += fault.spoil(message) if fault is not None else wire.encode(message)
        if not self._is_serving:
            self._flush()

    def _flush(self) -> None:
        if self._unsent and not self._transport.is_closing():
            self._transport.write(bytes(self._unsent))
        self._unsent.clear()


def _private_socket(path: Path) -> socket.socket:
    """Bind a Unix socket that only its owner may connect to, in the place of an older one."""
    _unlink_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(_SOCKET_MODE)
    except OSError:
        bound.close()
        raise
    return bound


def _unlink_socket(path: Path) -> None:
    if path.is_socket():
        path.unlink()
