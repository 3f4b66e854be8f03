"""Between the thread that reads xenstore and the loop: replies, changed paths, the end.

pyxs reads in a thread; everything else happens in the loop. The mailbox is the one object that both
touch. Replies are as many as requests are out, changed paths are coalesced and bounded, and however much
comes in, the loop is woken once until it has looked; of replies to what was asked together, by the last.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.errors import WireError
from xcpmem.xen.wire import MessageType

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Sequence

    from xcpmem.xen.wire import Message

CHANGED_PATHS_MAX: Final = 16384
"""Changed paths kept apart; with more of them the consumer must look at everything anyway."""

_WATCH_EVENT: Final = int(MessageType.WATCH_EVENT)


class Delivery(NamedTuple):
    """All messages that have come by one moment: to pyxs's router one packet, hence pyxs's names."""

    messages: Sequence[Message]
    op: int = -1
    rq_id: int = -1


@dataclass(frozen=True, slots=True)
class Events:
    """What changed since the last look.

    Args:
        paths: changed paths, as xenstored named them.
        resync: paths may be missing (the connection was lost, or there were too many): look at everything.
    """

    paths: frozenset[str] = frozenset()
    resync: bool = False

    def __bool__(self) -> bool:
        return self.resync or bool(self.paths)

    def __or__(self, others: Events) -> Events:
        """Put what changed later to it."""
        return Events(self.paths | others.paths, self.resync or others.resync)


class ChangedPaths:
    """A bounded set of changed paths that knows when it lost count.

    Args:
        limit: how many paths are kept apart, at least 1.
    """

    __slots__ = ("_limit", "_paths", "_resync")

    def __init__(self, limit: int = CHANGED_PATHS_MAX) -> None:
        self._limit = limit
        self._paths: set[str] = set()
        self._resync = False

    def add(self, path: str) -> None:
        """Remember a changed path."""
        if not self._resync:
            self._paths.add(path)
            self._stay_bounded()

    def merge(self, events: Events) -> None:
        """Remember what another set has gathered."""
        self._resync = self._resync or events.resync
        self._paths |= events.paths
        self._stay_bounded()

    def take(self) -> Events:
        """Return what has gathered and start anew."""
        events = Events(frozenset(self._paths), self._resync)
        self._paths.clear()
        self._resync = False
        return events

    def _stay_bounded(self) -> None:
        if len(self._paths) > self._limit:
            self._resync = True
        if self._resync:
            self._paths.clear()


@dataclass(frozen=True, slots=True)
class Mail:
    """One emptying of the mailbox.

    Args:
        replies: in the order they came.
        events: changed paths.
        end: why the reader has ended, None while it reads.
    """

    replies: tuple[Message, ...]
    events: Events
    end: str | None


class Mailbox:
    """Takes mail in the reader thread and hands it over in the loop.

    To pyxs's router it is both the variables that wait for replies (``pop``) and whichever it finds there
    (``set``), so that whatever comes gets here.

    Args:
        loop: where the mail is wanted.
        on_mail: called in the loop when there is some; it calls `take`.
        heeds: whether a change of a path is mail; asked in the reader thread, lest others wake the loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_mail: Callable[[], None],
        heeds: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._loop = loop
        self._on_mail = on_mail
        self._heeds = heeds
        self._lock = threading.Lock()
        self._replies: list[Message] = []
        self._missing: dict[int, set[int]] = {}
        self._changed = ChangedPaths()
        self._end: str | None = None
        self._told = False

    def pop(self, _request_id: int, _default: None) -> Mailbox:
        """Wait for everything: pyxs looks up here who waits for a packet."""
        return self

    def expect(self, request_ids: Collection[int]) -> None:
        """Know that requests are sent together: nobody can do anything with a part of the replies."""
        missing = set(request_ids)
        with self._lock:
            self._missing.update(dict.fromkeys(request_ids, missing))

    def set(self, delivery: Delivery) -> None:
        """Take what has come; reader thread.

        Raises:
            WireError: a reply to nothing that was asked, or a watch event without path and token.
        """
        with self._lock:
            for message in delivery.messages:
                if message.type == _WATCH_EVENT:
                    if self._heeds(path := _changed_path(message)):
                        self._changed.add(path)
                        self._tell()
                elif self._take_reply(message):
                    self._tell()

    def end(self, reason: str) -> None:
        """Take the news that nothing will come any more; reader thread, its last act."""
        with self._lock:
            self._end = reason
            self._tell()

    def take(self) -> Mail:
        """Empty the mailbox; loop."""
        with self._lock:
            mail = Mail(tuple(self._replies), self._changed.take(), self._end)
            self._replies.clear()
            self._told = False
        return mail

    def _take_reply(self, reply: Message) -> bool:
        """Take a reply; tell whether it was the last to what was asked together."""
        missing = self._missing.pop(reply.request_id, None)
        if missing is None:
            raise WireError(f"a reply with the number {reply.request_id}, which nothing has that was asked")
        self._replies.append(reply)
        missing.discard(reply.request_id)
        return not missing

    def _tell(self) -> None:
        if self._told or self._loop.is_closed():
            return
        self._told = True
        self._loop.call_soon_threadsafe(self._on_mail)


class Batch:
    """Gathers the replies to requests that were sent together.

    Args:
        size: number of requests, at least 1.
        complete: resolved when the last reply is there.
    """

    __slots__ = ("_replies", "_size", "complete")

    def __init__(self, size: int, complete: asyncio.Future[None]) -> None:
        self.complete = complete
        self._size = size
        self._replies: dict[int, Message] = {}

    @property
    def replies(self) -> list[Message]:
        """The replies that are there, in the requests' order."""
        return [reply for _, reply in sorted(self._replies.items())]

    def put(self, index: int, reply: Message) -> None:
        """Take the reply to the request at ``index``; a caller who has left does not mind."""
        self._replies[index] = reply
        if len(self._replies) == self._size and not self.complete.done():
            self.complete.set_result(None)

    def fail(self, error: Exception) -> None:
        """Wake the caller with an error, if there still is one."""
        if not self.complete.done():
            self.complete.set_exception(error)


def _changed_path(event: Message) -> str:
    path, *token = event.strings or (b"",)
    if not token:
        raise WireError("a watch event without path and token")
    return path.decode("ascii", "backslashreplace")
