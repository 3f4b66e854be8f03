"""Whether whoever called is still there to be answered.

A call that changes something is carried to its end though its client hangs up. One that only waits is of use
to nobody then: it ends with the connection, and gives back its place and the events that it would have taken.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from xcpmem.errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


def _always() -> bool:
    return True


def _never() -> bool:
    return False


class Presence:
    """What is known of the other end of a connection while its calls wait.

    Args:
        is_seen: whether it would be noticed if the client hung up. It is not while nothing is read, because
            the client has sent more than is taken on; nobody who waits for an answer does that.
    """

    __slots__ = ("_is_seen", "_waits", "has_ended")

    def __init__(self, is_seen: Callable[[], bool] = _always) -> None:
        self._is_seen = is_seen
        self.has_ended = False
        """Whether the client has gone."""
        self._waits: set[asyncio.Future[Any]] = set()

    def watch(self, wait: asyncio.Future[Any]) -> None:
        """Have whoever awaits this get ConnectionLost when the client has gone, or can no longer be seen."""
        self._waits.add(wait)
        self.look()

    def forget(self, wait: asyncio.Future[Any]) -> None:
        """Leave a future that is awaited no more alone."""
        self._waits.discard(wait)

    def look(self) -> None:
        """End what waits if the client is not seen."""
        if self._waits and not self._is_seen():
            for wait in self._waits:
                if not wait.done():
                    wait.set_exception(ConnectionLost())

    def require(self) -> None:
        """Raise ConnectionLost if the client is not seen."""
        if not self._is_seen():
            raise ConnectionLost

    def end(self) -> None:
        """Know that the client has gone."""
        self._is_seen = _never
        self.has_ended = True
        self.look()

    async def keep(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Carry out what may be broken off, as long as the client is seen.

        Raises:
            ConnectionLost: it was broken off.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        working = asyncio.ensure_future(work)
        working.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        self.watch(ended)
        try:
            await ended
            return working.result()
        finally:
            self.forget(ended)
            working.cancel()
