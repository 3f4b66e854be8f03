"""Xenstore for the loop, over pyxs: the one module that imports it.

pyxs 0.4.1 brings the thread that reads the socket and matches replies to requests. What it lacks is added
here and in `storelink`: a deadline for each call, a reader whose death wakes all who wait, reconnection
with all watches, pipelined requests, bounded messages of any type, watch events without a thread of their
own, and requests that are checked before they are sent.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeAlias

from pyxs.client import Router
from pyxs.connection import UnixSocketConnection

from xcpmem.errors import (
    InvalidValue,
    StoreError,
    WireError,
)
from xcpmem.units import kib_to_bytes
from xcpmem.xen import paths, storerequest, wire
from xcpmem.xen.mailbox import Delivery, Events, Mailbox
from xcpmem.xen.storesession import BATCH_REQUESTS_MAX, StoreSession
from xcpmem.xen.wire import Decoder, MessageType

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from xcpmem.xen.storelink import Request

RECEIVED_AT_ONCE_BYTES: Final = kib_to_bytes(64)

_CONFLICT_RETRIES: Final = 5

_Names: TypeAlias = list[str]
_Values: TypeAlias = list[str | None]


class _Connection(UnixSocketConnection):  # type: ignore[misc]
    """pyxs's connection, with our own framing; the link made the socket and closes it.

    Closed here, in the reader thread, the socket's number could be another's while the loop watches it.
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection.getpeername())
        self._socket = connection
        self._decoder = Decoder()

    def create_transport(self) -> socket.socket:
        return self._socket

    def recv(self) -> Delivery:
        """Read all messages that have come, of any type: one by one each would cost three system calls."""
        data = self._socket.recv(RECEIVED_AT_ONCE_BYTES)
        if not data:
            raise WireError("xenstored closed the connection")
        return Delivery(self._decoder.feed(data))

    def close(self, silent: bool = True) -> None:  # noqa: ARG002 -- signature is pyxs's
        self.transport = None


class _Reader(Router):  # type: ignore[misc]
    """pyxs's router, which leaves everything in the mailbox, also why its thread has ended."""

    def __init__(self, connection: socket.socket, mailbox: Mailbox) -> None:
        super().__init__(_Connection(connection))
        self._mailbox = self.rvars = mailbox
        self.thread.name = "xenstore reader"

    def __call__(self) -> None:
        reason = "the reader was told to end"
        try:
            super().__call__()
        except Exception as error:  # noqa: BLE001 -- goes to the loop
            reason = f"{type(error).__name__}: {error}"
        self._mailbox.end(reason)

    @property
    def highest_descriptor(self) -> int:
        return int(self.r_terminator.fileno())

    def start(self) -> None:
        self.connection.connect()
        self.thread.start()

    def join(self) -> None:
        self.thread.join()

    def discard(self) -> None:
        self.r_terminator.close()
        self.w_terminator.close()


class Xenstore:
    """A connection to xenstored that mends itself.

    Every call answers or raises within its deadline. A deadline that passes ends the connection, since
    the answer might still come and belong to nobody. After a loss, calls raise DriverDisconnected until
    the connection is back with all its watches; then `take_events` says ``resync`` once.

    Besides the errors that a call documents, all may raise DriverTimeout and DriverDisconnected (there was
    no answer) and StoreError (xenstored refused).

    Args:
        path: xenstored's Unix socket.
        call_deadline_s: how long a request may take, seconds, above 0.
        on_event: called in the loop when `take_events` has something; may be replaced at any time.
        sleep: waits between attempts to connect, seconds.
        jitter: a number from 0 to 1 that spreads those attempts.
    """

    def __init__(
        self,
        path: str,
        *,
        call_deadline_s: float = 5.0,
        on_event: Callable[[], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._session = StoreSession(
            path,
            _Reader,
            call_deadline_s=call_deadline_s,
            on_event=on_event,
            sleep=sleep,
            jitter=jitter,
        )

    @property
    def connected(self) -> bool:
        """Whether requests can be sent now."""
        return self._session.connected

    @property
    def requests(self) -> int:
        """How many requests were sent since the beginning."""
        return self._session.requests

    @property
    def reconnects(self) -> int:
        """How often a lost connection has come back."""
        return self._session.reconnects

    @property
    def on_event(self) -> Callable[[], None] | None:
        """What is called in the loop when `take_events` has something; may be set at any time."""
        return self._session.on_event

    @on_event.setter
    def on_event(self, callback: Callable[[], None] | None) -> None:
        self._session.on_event = callback

    def heed(self, heeds: Callable[[str], bool]) -> None:
        """Gather only changes of paths for which ``heeds`` holds, from the next connection on; any thread."""
        self._session.heeds = heeds

    def observe_exchanges(self, callback: Callable[[float], None]) -> None:
        """Call back, in the loop, with how long each exchange took, answered or not, seconds."""
        self._session.on_exchange = callback

    async def connect(self) -> None:
        """Connect for the first time, or again after `close`; nothing to do while connected.

        Raises:
            DriverDisconnected: xenstored is not there.
            DriverTimeout: it does not accept the connection.
            DriverError: too many files are open for pyxs.
        """
        await self._session.connect()

    async def close(self) -> None:
        """Disconnect and forget all watches; calls that still wait raise, no thread stays behind.

        Raises:
            DriverTimeout: the reader thread does not end.
        """
        await self._session.close()

    async def read(self, path: str) -> str | None:
        r"""Read a value.

        Args:
            path: absolute.

        Returns:
            The value, None if the key is absent. Anything may be in it: guests write what they like, and
            bytes that are no UTF-8 come as ``\x..``.

        Raises:
            InvalidValue: xenstored would not take the path.
        """
        return (await self.read_many((path,)))[0]

    async def read_many(self, keys: Sequence[str]) -> _Values:
        """Read values, many on their way at the same time; not one moment's picture.

        Args:
            keys: absolute paths.

        Returns:
            For each path what `read` returns, in order.

        Raises:
            InvalidValue: xenstored would not take a path.
        """
        requests = [(MessageType.READ, storerequest.path_payload(path)) for path in keys]
        values: list[str | None] = []
        for start in range(0, len(requests), BATCH_REQUESTS_MAX):
            replies = await self._session.exchange(requests[start : start + BATCH_REQUESTS_MAX])
            values += [storerequest.value(reply) for reply in replies]
        return values

    async def list(self, path: str) -> _Names:
        """List the names below a path, however many.

        Args:
            path: absolute; not ``/vm``, whose listing grows with every VM: the hypervisor knows the uuids.

        Returns:
            Names in xenstored's order; none if the path is absent.

        Raises:
            InvalidValue: the path is none, or ``/vm``.
            StoreError: E2BIG if the names exceed a message and xenstored has no DIRECTORY_PART; EAGAIN if
                the directory kept changing.
        """
        name = storerequest.path_payload(path)
        if path == paths.VMS:
            raise InvalidValue("path", path)
        try:
            listing = await self._ask(MessageType.DIRECTORY, name)
        except StoreError as error:
            if error.name == "ENOENT":
                return []
            if error.name != "E2BIG":
                raise
            listing = await self._list_in_parts(name, error)
        return storerequest.names(listing)

    async def write(self, path: str, value: str) -> None:
        """Write a value, creating the path where missing.

        Args:
            path: absolute.
            value: printable ASCII, may be empty; path and value together below 4096 bytes.

        Raises:
            InvalidValue: names path and value that the protocol does not allow; nothing was sent.
        """
        await self._ask(MessageType.WRITE, storerequest.write_payload(path, value))

    async def write_if_exists(self, values: Mapping[str, str], *guard_paths: str) -> bool:
        """Write values together, but only while other paths exist.

        For the keys of domains, guarded by their directories: a plain write would bring back the directory of
        a domain that has just gone (QubesOS/qubes-issues#1409).

        Args:
            values: value by absolute path; both as for `write`.
            guard_paths: absolute.

        Returns:
            Whether all guards existed and all was written; if not, nothing was.

        Raises:
            InvalidValue: as `write`.
            StoreError: EAGAIN if others kept changing the same keys.
        """
        guards = [(MessageType.READ, storerequest.path_payload(path)) for path in guard_paths]
        writes = [
            (MessageType.WRITE, storerequest.write_payload(path, value)) for path, value in values.items()
        ]
        for _ in range(_CONFLICT_RETRIES):
            try:
                return await self._write_guarded(guards, writes)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise
        return await self._write_guarded(guards, writes)

    async def remove(self, path: str) -> None:
        """Remove a path and all below it; a missing one is fine.

        Raises:
            InvalidValue: xenstored would not take the path.
        """
        await self._ask(MessageType.RM, storerequest.path_payload(path), fine="ENOENT")

    async def mkdir(self, path: str) -> None:
        """Make sure that a path exists; what stands there stays.

        Raises:
            InvalidValue: xenstored would not take the path.
        """
        await self._ask(MessageType.MKDIR, storerequest.path_payload(path))

    async def watch(self, path: str, token: str) -> None:
        """Hear of every change at a path and below, also after reconnections; it fires once at first.

        Args:
            path: absolute, or a special watch such as ``@releaseDomain`` or ``@releaseDomain/3``.
            token: names the watch together with its path; printable ASCII, not empty.

        Raises:
            InvalidValue: path or token is not allowed. After any error there is no watch.
        """
        await self.watch_many(((path, token),))

    async def watch_many(self, watches: Iterable[tuple[str, str]]) -> None:
        """Set watches as `watch` does, path and token of each, many on their way at the same time."""
        payloads = [storerequest.watch_payload(path, token) for path, token in watches]
        missing = [payload for payload in payloads if payload not in self._session.watches]
        for start in range(0, len(missing), BATCH_REQUESTS_MAX):
            batch = missing[start : start + BATCH_REQUESTS_MAX]
            replies = await self._session.exchange([(MessageType.WATCH, payload) for payload in batch])
            for payload, reply in zip(batch, replies, strict=True):
                storerequest.payload(reply, fine="EEXIST")
                self._session.watches[payload] = None

    async def unwatch(self, path: str, token: str) -> None:
        """End a watch; one that is not there is fine. Events on their way may still come.

        Raises:
            InvalidValue: path or token is not allowed.
        """
        request = storerequest.watch_payload(path, token)
        self._session.watches.pop(request, None)
        if self.connected:
            await self._ask(MessageType.UNWATCH, request, fine="ENOENT")

    def take_events(self) -> Events:
        """Return what changed since the last call."""
        return self._session.changed.take()

    async def _list_in_parts(self, name: bytes, refusal: StoreError) -> bytes:
        parts = storerequest.PartedListing()
        restarts = 0
        while True:
            offset = wire.join_strings(str(len(parts.listing)).encode())
            try:
                if parts.add(await self._ask(MessageType.DIRECTORY_PART, name + offset)):
                    return parts.listing
            except StoreError as error:
                if error.name == "ENOSYS":
                    raise refusal from None
                if error.name != "EAGAIN" or restarts == _CONFLICT_RETRIES:
                    raise
                restarts += 1
                parts = storerequest.PartedListing()
            except WireError as error:
                self._session.break_off(error)

    async def _write_guarded(self, guards: Sequence[Request], writes: Sequence[Request]) -> bool:
        started = await self._ask(MessageType.TRANSACTION_START, wire.NUL)
        transaction_id = wire.parse_decimal(storerequest.text(started))
        if transaction_id is None or not 0 < transaction_id < wire.REQUEST_ID_END:
            self._session.break_off(WireError(f"a transaction called {storerequest.text(started)}"))
        verdict = b"F"
        try:
            replies = await self._session.exchange([*guards, *writes], transaction_id)
            if all(storerequest.value(reply) is not None for reply in replies[: len(guards)]):
                for reply in replies[len(guards) :]:
                    storerequest.payload(reply)
                verdict = b"T"
        finally:
            await self._ask(
                MessageType.TRANSACTION_END,
                wire.join_strings(verdict),
                transaction_id=transaction_id,
            )
        return verdict == b"T"

    async def _ask(
        self,
        message_type: MessageType,
        payload: bytes,
        *,
        transaction_id: int = 0,
        fine: str = "",
    ) -> bytes:
        reply = (await self._session.exchange([(message_type, payload)], transaction_id))[0]
        return storerequest.payload(reply, fine)
