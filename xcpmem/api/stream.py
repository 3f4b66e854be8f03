"""``/api/v1/events``: states as they come, to any number of readers and each at its own speed.

A reader gets the whole state first, then what changed; one that missed a state gets the whole again, so that
a slow one is a burden to nobody. Nothing is made while nobody reads, and a state only once for all.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from xcpmem.api.state import State

HEARTBEAT_S: Final = 5.0
"""A reader hears something at least this often."""
GAP_S: Final = 0.25
"""Between two states that a reader gets: turns can follow each other in milliseconds."""


class StateMaker(Protocol):
    """Makes states; a `StateWriter`."""

    async def write(self, now_s: float) -> State:
        """Make the state of this moment, Unix time in seconds; never called twice at a time."""


class StateFeed:
    """Hands states out.

    Args:
        writer: makes them.
        heartbeat_s: see `HEARTBEAT_S`.
        gap_s: see `GAP_S`.
        wall: Unix time, seconds.
    """

    def __init__(
        self,
        writer: StateMaker,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        gap_s: float = GAP_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._heartbeat_s = heartbeat_s
        self._gap_s = gap_s
        self._wall = wall
        self._state: State | None = None
        self._making: asyncio.Task[State] | None = None
        self._is_outdated = True
        self._news = asyncio.Event()
        self._ended = asyncio.Event()

    def outdate(self, _: object = None) -> None:
        """Know that there is something new; to be subscribed to the controller and the service."""
        self._is_outdated = True
        self._news.set()

    def close(self) -> None:
        """End all streams, also those to come."""
        self._ended.set()
        self._news.set()

    async def latest(self) -> State:
        """Give the state of this moment; made at most once between two changes."""
        if self._making is not None:
            await asyncio.shield(self._making)  # it may have begun before the caller's own change
        if self._state is None or self._is_outdated:
            if self._making is None:
                self._making = asyncio.ensure_future(self._make())
            return await asyncio.shield(self._making)
        return self._state

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Give events in the form of the HTML standard, until the feed is closed.

        They are ``state`` first, then ``change``, or ``state`` again after a gap, and ``heartbeat`` when
        there was nothing else for a while.
        """
        serial = -1
        while not self._ended.is_set():
            state = await self.latest()
            if serial > 0 and state.serial == serial + 1:
                yield _event("change", state.changes)
            elif state.serial != serial:
                yield _event("state", state.document)
            else:
                yield _event("heartbeat", json.dumps({"time_s": round(self._wall(), 3)}).encode())
            serial = state.serial
            await _wait(self._ended, self._gap_s)
            if self._state is state and not self._is_outdated:
                await _wait(self._news, self._heartbeat_s)

    async def _make(self) -> State:
        self._is_outdated = False
        if not self._ended.is_set():
            self._news.clear()
        try:
            state = self._state = await self._writer.write(self._wall())
        except BaseException:
            self._is_outdated = True
            raise
        finally:
            self._making = None
        return state


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
