"""Keeps a connection to xenstored: opens it, mends it after a loss, sets its watches again.

The set of watches is a wish, not a history: whatever link comes, it gets them all, and the consumer is
told to look at everything, since nobody knows what changed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from xcpmem.errors import DriverDisconnected, DriverError, DriverTimeout
from xcpmem.xen import storerequest
from xcpmem.xen.mailbox import ChangedPaths, Events
from xcpmem.xen.storelink import StoreLink, connected_socket
from xcpmem.xen.wire import MessageType

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from xcpmem.errors import WireError
    from xcpmem.xen.mailbox import Mailbox
    from xcpmem.xen.storelink import Reader, Request
    from xcpmem.xen.storerequest import Reply

BATCH_REQUESTS_MAX: Final = 500
"""Requests that are sent before the first of their replies is awaited."""

_FIRST_BACKOFF_S: Final = 0.05
_LAST_BACKOFF_S: Final = 1.0
"""Short, so that the end of whatever was wrong is noticed soon: an attempt costs next to nothing."""

_logger = logging.getLogger(__name__)


class StoreSession:
    """A succession of links, at most one at a time.

    Attributes: ``watches`` holds the payloads of the watches that every new link gets; ``changed`` gathers
    changed paths; ``requests`` and ``reconnects`` count; ``on_exchange`` is told how long each exchange took;
    ``heeds`` says of a path whether links opened later tell of its changes.

    Args:
        path: xenstored's Unix socket.
        make_reader: makes a link's reader.
        call_deadline_s: how long an exchange may take, seconds, above 0.
        on_event: called in the loop when ``changed`` has something.
        sleep: waits between attempts to connect, seconds.
        jitter: a number from 0 to 1 that spreads those attempts.
    """

    def __init__(
        self,
        path: str,
        make_reader: Callable[[socket.socket, Mailbox], Reader],
        *,
        call_deadline_s: float,
        on_event: Callable[[], None] | None,
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self.watches: dict[bytes, None] = {}
        self.changed = ChangedPaths()
        self.on_event = on_event
        self.on_exchange: Callable[[float], None] | None = None
        self.heeds: Callable[[str], bool] = lambda _: True
        self.requests = 0
        self.reconnects = 0
        self._path = path
        self._make_reader = make_reader
        self._call_deadline_s = call_deadline_s
        self._sleep = sleep
        self._jitter = jitter
        self._link: StoreLink | None = None
        self._unfinished: set[StoreLink] = set()
        self._reconnection: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether requests can be sent now."""
        return self._link is not None

    async def connect(self) -> None:
        """Open the first link, unless there is one or the session is mending itself.

        Raises:
            DriverError: as `connected_socket` and `StoreLink`.
        """
        if self._link is None and self._reconnection is None:
            self._link = await self._open()

    async def close(self) -> None:
        """Give up the link, forget the watches, and wait until the reader threads have ended.

        Raises:
            DriverTimeout: one does not end.
        """
        self.watches.clear()
        if self._reconnection is not None:
            self._reconnection.cancel()
            await asyncio.wait((self._reconnection,))
            self._reconnection = None
        self._link = None
        for link in tuple(self._unfinished):
            link.lose("closed by the caller")
        endings = [link.ended for link in self._unfinished]
        if endings and (await asyncio.wait(endings, timeout=self._call_deadline_s))[1]:
            raise DriverTimeout("the thread that reads xenstore does not end")

    async def exchange(self, requests: Sequence[Request], transaction_id: int = 0) -> Sequence[Reply]:
        """Send requests over the present link; as `StoreLink.exchange`.

        Raises:
            DriverTimeout, DriverDisconnected: there was no answer, or there is no link.
        """
        if self._link is None:
            raise DriverDisconnected("not connected to xenstored")
        self.requests += len(requests)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            return await self._link.exchange(requests, transaction_id)
        finally:
            if self.on_exchange is not None:
                self.on_exchange(loop.time() - started_s)

    def break_off(self, error: WireError) -> NoReturn:
        """Give up a link whose other end does not keep to the protocol.

        Raises:
            DriverDisconnected: always.
        """
        if self._link is not None:
            self._link.lose(str(error))
        raise DriverDisconnected(str(error)) from error

    async def _open(self) -> StoreLink:
        connection = await connected_socket(self._path, self._call_deadline_s, self._sleep)
        link = StoreLink(
            connection,
            self._call_deadline_s,
            self._make_reader,
            self._take_events,
            self._take_loss,
            heeds=self.heeds,
        )
        self._unfinished.add(link)
        link.ended.add_done_callback(lambda _: self._unfinished.discard(link))
        return link

    def _take_events(self, events: Events) -> None:
        self.changed.merge(events)
        if self.on_event is not None:
            self.on_event()

    def _take_loss(self, link: StoreLink, reason: str) -> None:
        if link is self._link:
            _logger.warning("lost the connection to xenstored: %s", reason)
            self._link = None
            self._reconnection = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        link = None
        while link is None or link.lost:
            await self._sleep(backoff_s * (1 + self._jitter()) / 2)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)
            try:
                link = await self._reopen()
            except DriverError as error:
                _logger.debug("xenstored is not back yet: %s", error)
        self._link = link
        self._reconnection = None
        self.reconnects += 1
        _logger.warning("connected to xenstored again")
        self._take_events(Events(resync=True))

    async def _reopen(self) -> StoreLink:
        """Open a link and set all watches on it; a link that cannot have them all is given up."""
        link = await self._open()
        try:
            requests = [(MessageType.WATCH, payload) for payload in self.watches]
            for start in range(0, len(requests), BATCH_REQUESTS_MAX):
                for reply in await link.exchange(requests[start : start + BATCH_REQUESTS_MAX]):
                    storerequest.payload(reply)
        except BaseException:
            link.lose("its watches could not be set")
            raise
        return link
