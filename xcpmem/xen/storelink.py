"""One connection to xenstored: the loop sends, a reader thread reads, a mailbox is between them.

A link lives from connecting to its loss and is never used again. Its loss has many causes (xenstored ends,
a deadline passes, a reply breaks the protocol, the caller closes) and one course: all who wait are woken,
the socket is shut down, the reader thread ends, the socket is closed.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from xcpmem.errors import DriverDisconnected, DriverError, DriverTimeout
from xcpmem.xen import wire
from xcpmem.xen.mailbox import Batch, Mailbox
from xcpmem.xen.storerequest import Refusal, describe
from xcpmem.xen.wire import Message, MessageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from xcpmem.xen.mailbox import Events
    from xcpmem.xen.storerequest import Reply

FD_SETSIZE: Final = 0x400
"""File descriptors from here on are beyond select(); glibc's <sys/select.h>."""

Request: TypeAlias = tuple[MessageType, bytes]
"""Type and payload."""

_ERROR: Final = int(MessageType.ERROR)
_ACCEPT_POLL_S: Final = 0.02
_EXCHANGES_MAX: Final = 64
_PROBES: Final = 5
"""How often within the deadline of an exchange that waits it is asked whether its requests were swallowed."""
_PROBE: Final[Request] = (MessageType.GET_DOMAIN_PATH, wire.join_strings(b"0"))
"""A question that xenstored answers without looking anything up."""


class Reader(Protocol):
    """The thread that reads the socket into the mailbox."""

    @property
    def highest_descriptor(self) -> int:
        """The highest file descriptor that it waits for."""

    def start(self) -> None:
        """Begin to read."""

    def join(self) -> None:
        """Wait for the thread, which has said that it ends."""

    def discard(self) -> None:
        """Close what was opened for a thread that does not start."""


async def connected_socket(
    path: str,
    deadline_s: float,
    sleep: Callable[[float], Awaitable[None]],
) -> socket.socket:
    """Connect to xenstored.

    Its queue of unaccepted connections is short (it listens with a backlog of 1), and nothing tells when
    there is room again, hence the polling.

    Args:
        path: the Unix socket.
        deadline_s: how long to try, seconds.
        sleep: waits between attempts, seconds.

    Raises:
        DriverDisconnected: nobody listens there.
        DriverTimeout: the queue stayed full.
    """
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                except OSError as error:  # no file descriptor is left
                    raise DriverDisconnected(f"cannot connect to {path}: {error}") from error
                try:
                    connection.setblocking(False)
                    connection.connect(path)
                except BlockingIOError:
                    connection.close()
                    await sleep(_ACCEPT_POLL_S)
                except OSError as error:
                    connection.close()
                    raise DriverDisconnected(f"cannot connect to {path}: {error}") from error
                else:
                    connection.setblocking(True)
                    return connection
    except TimeoutError:
        raise DriverTimeout(f"{path} accepts no connection within {deadline_s} s") from None


class StoreLink:
    """One connection with its reader thread.

    Args:
        connection: a connected, blocking socket; the link closes it, at once if it cannot start.
        deadline_s: how long an exchange may take, seconds, above 0.
        make_reader: makes the reader for the socket and the mailbox.
        on_events: told of changed paths.
        on_loss: told once, when the connection is lost, and why.
        heeds: whether changes of a path matter; see `Mailbox`.

    Raises:
        DriverError: a file descriptor is too high for the reader, or there can be no further thread.
    """

    def __init__(
        self,
        connection: socket.socket,
        deadline_s: float,
        make_reader: Callable[[socket.socket, Mailbox], Reader],
        on_events: Callable[[Events], None],
        on_loss: Callable[[StoreLink, str], None],
        *,
        heeds: Callable[[str], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._deadline_s = deadline_s
        self._on_events = on_events
        self._on_loss = on_loss
        self._mailbox = Mailbox(self._loop, self._take_mail, heeds)
        self._waiting: dict[int, tuple[Batch, int]] = {}
        self._window = asyncio.Semaphore(_EXCHANGES_MAX)
        self._request_id = 0
        self._outgoing = bytearray()
        self._probe_timer: asyncio.TimerHandle | None = None
        try:
            self._reader = make_reader(connection, self._mailbox)
        except OSError as error:
            connection.close()
            raise DriverError(f"cannot read xenstore: {error}") from error
        self.lost = ""
        self.ended: asyncio.Future[None] = self._loop.create_future()
        try:
            self._start()
        except DriverError:
            self._reader.discard()
            connection.close()
            raise

    async def exchange(self, requests: Sequence[Request], transaction_id: int = 0) -> list[Reply]:
        """Send requests and wait for all their replies; every call to xenstored passes here.

        Args:
            requests: at least one, checked.
            transaction_id: 0 outside of transactions.

        Returns:
            A reply for each, in order.

        Raises:
            DriverTimeout: not all came in time; the link is given up.
            DriverDisconnected: it is lost, a reply was none to its request, or a request was swallowed.
        """
        try:
            async with asyncio.timeout(self._deadline_s), self._window:
                messages = self._number(requests, transaction_id)
                batch = self._post(messages)
                await batch.complete
        except TimeoutError:
            reason = f"no answer to {describe(*requests[0])} within {self._deadline_s} s"
            self.lose(reason)
            raise DriverTimeout(reason) from None
        return [self._check(*pair) for pair in zip(messages, batch.replies, strict=True)]

    def lose(self, reason: str) -> None:
        """Declare the connection dead: all who wait raise DriverDisconnected, the reader ends."""
        if self.lost:
            return
        self.lost = reason
        self._loop.remove_writer(self._socket)
        self._outgoing.clear()
        self._stop_probing()
        with suppress(OSError):  # some systems refuse it when the other end has closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        waiting, self._waiting = self._waiting, {}
        for batch in {id(batch): batch for batch, _ in waiting.values()}.values():
            batch.fail(DriverDisconnected(reason))
        self._on_loss(self, reason)

    def _number(self, requests: Sequence[Request], transaction_id: int) -> list[Message]:
        messages = []
        for message_type, payload in requests:
            self._request_id = (self._request_id + 1) % wire.REQUEST_ID_END
            messages.append(Message(message_type, self._request_id, transaction_id, payload))
        return messages

    def _post(self, messages: Sequence[Message]) -> Batch:
        batch = Batch(len(messages), self._loop.create_future())
        if self.lost:
            batch.fail(DriverDisconnected(self.lost))
            return batch
        self._mailbox.expect([message.request_id for message in messages])
        for index, message in enumerate(messages):
            self._waiting[message.request_id] = (batch, index)
            self._outgoing += wire.encode(message)
        self._flush()
        if self._probe_timer is None and not self.lost:
            self._probe_timer = self._loop.call_later(self._deadline_s / _PROBES, self._probe)
        return batch

    def _probe(self) -> None:
        """Ask a question of no weight: whoever is answered in turn has lost what was asked before it."""
        self._probe_timer = None
        before = tuple(self._waiting)

        def miss(answered: asyncio.Future[None]) -> None:
            if answered.exception() is None and not self._waiting.keys().isdisjoint(before):
                self.lose("a request was swallowed: a later one has been answered")

        self._post(self._number([_PROBE], 0)).complete.add_done_callback(miss)

    def _stop_probing(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _check(self, message: Message, reply: Message) -> Reply:
        if reply.type == _ERROR:
            return Refusal(wire.error_name(reply.payload), message)
        if reply.type != message.type or reply.transaction_id != message.transaction_id:
            reason = f"type {reply.type} came for {describe(message.type, message.payload)}"
            self.lose(reason)
            raise DriverDisconnected(reason)
        return reply.payload

    def _start(self) -> None:
        highest = max(self._socket.fileno(), self._reader.highest_descriptor)
        if highest >= FD_SETSIZE:
            raise DriverError(
                f"file descriptor {highest} is too high: pyxs waits with select(), which takes those below "
                f"{FD_SETSIZE}; connect to xenstore earlier or keep fewer files open",
            )
        try:
            self._reader.start()
        except RuntimeError as error:
            raise DriverError(f"no thread to read xenstore: {error}") from error

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError as error:
                self.lose(f"cannot send: {error}")
                return
            del self._outgoing[:sent]
        self._loop.remove_writer(self._socket)

    def _take_mail(self) -> None:
        mail = self._mailbox.take()
        for reply in mail.replies:
            batch, index = self._waiting.pop(reply.request_id, (None, 0))
            if batch is not None:
                batch.put(index, reply)
        if not self._waiting:
            self._stop_probing()
        if mail.events:
            self._on_events(mail.events)
        if mail.end is not None:
            self.lose(mail.end)
            self._reader.join()
            self._socket.close()
            self.ended.set_result(None)
