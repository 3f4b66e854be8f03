"""Who asked for what lately: kept until the ring decides something, which then happened on their wish."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY: Final = 64
"""So many wishes are remembered, the newest."""

STALE_S: Final = 10.0
"""A wish on which nothing was decided for so long changed nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """A call that may make the ring decide something.

    Args:
        asked_at_s: monotonic seconds.
        user: who called.
        text: what for, in a few words.
    """

    asked_at_s: float
    user: str
    text: str

    def __str__(self) -> str:
        return f"{self.user} asked for {self.text}"


class Wishbook:
    """The wishes that no decision has taken up yet.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wishes: deque[Wish] = deque(maxlen=CAPACITY)

    def note(self, user: str, text: str) -> Wish:
        """Note that somebody asks for something."""
        wish = Wish(self._clock(), user, text)
        self._wishes.append(wish)
        return wish

    def forget(self, wish: Wish) -> None:
        """Strike out a wish that was refused as it stood."""
        if wish in self._wishes:
            self._wishes.remove(wish)

    def take(self) -> tuple[Wish, ...]:
        """Hand out the fresh wishes, and forget all."""
        oldest_s = self._clock() - STALE_S
        fresh = tuple(wish for wish in self._wishes if wish.asked_at_s >= oldest_s)
        self._wishes.clear()
        return fresh
