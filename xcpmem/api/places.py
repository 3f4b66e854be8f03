"""How much is taken on at once, and that no one source takes it all.

A call holds a place from the moment its body is asked for to its answer, waiting ones included. The last few
places are never given to a source that holds all the others, nor any to a full house; callers are told to
come again. The owner on the Unix socket needs no place. The bodies that sources without a session may have
under way are bounded in bytes as well, so that strangers cannot fill the memory.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xcpmem.api.sessions import Peer


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """How much.

    Args:
        calls: so many requests may be under way, waiting ones included.
        kept: so many of them are kept for other sources than the one that holds all the rest.
        stranger_bytes: of bodies that are being read from sources without a session, together.
    """

    calls: int = 1024
    kept: int = 16
    stranger_bytes: int = mib_to_bytes(16)


class Places:
    """All places.

    Args:
        limits: how many.
        has_session: whether a source has an open session.
    """

    def __init__(
        self, limits: PlaceLimits | None = None, has_session: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._limits = limits or PlaceLimits()
        self._has_session = has_session
        self._taken: dict[str, int] = {}
        self._held = 0
        self._stranger_bytes = 0

    def __len__(self) -> int:
        return self._held

    def is_free(self, peer: Peer, body_bytes: int) -> bool:
        """Tell whether there is a place for one more call.

        Args:
            peer: who calls.
            body_bytes: how long its body is going to be.
        """
        if peer.is_trusted:
            return True
        limits, source = self._limits, peer.source
        if self._stranger_bytes + body_bytes > limits.stranger_bytes and not self._has_session(source):
            return False
        own_most = limits.calls - limits.kept
        return self._held < limits.calls and self._taken.get(source, 0) < own_most

    def taken(self, peer: Peer) -> _Place:
        """Hold a place as long as a ``with`` lasts."""
        return _Place(self, "" if peer.is_trusted else peer.source)

    def hold(self, source: str) -> None:
        """Count a place as held."""
        self._held += 1
        self._taken[source] = self._taken.get(source, 0) + 1

    def give_back(self, source: str) -> None:
        """Count it as held no more."""
        self._held -= 1
        self._taken[source] -= 1
        if not self._taken[source]:
            del self._taken[source]

    @contextmanager
    def reading(self, peer: Peer, body_bytes: int) -> Iterator[None]:
        """Count a body while it is being read, if it is a stranger's."""
        counted = 0 if peer.is_trusted or self._has_session(peer.source) else body_bytes
        self._stranger_bytes += counted
        try:
            yield
        finally:
            self._stranger_bytes -= counted


class _Place:
    """A place that is held; every call has one, and a generator would cost it three times as much."""

    __slots__ = ("_places", "_source")

    def __init__(self, places: Places, source: str) -> None:
        self._places = places
        self._source = source

    def __enter__(self) -> None:
        if self._source:
            self._places.hold(self._source)

    def __exit__(self, *_: object) -> None:
        if self._source:
            self._places.give_back(self._source)
