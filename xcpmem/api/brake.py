"""What slows down whoever guesses passwords, without locking out whoever knows one.

A *guess* is one comparison of a password. Each source (an address, an IPv6 network of one subscriber, or a
user of the Unix socket) has a small allowance of guesses that fills up again slowly; a right password takes
nothing from it. Those who find it empty wait, and the latest comes first: whoever knows the password gets
past a heap of earlier guesses. A user whose password many sources guess at is protected by a delay of a few
seconds, which sources where that user has logged in before are spared. Nobody is ever told more than that
user and password do not fit.

The figures: three guesses a second and two in reserve make at most five in any second.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from xcpmem.users import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")

COMPARED_AT_ONCE: Final = 2
"""A comparison may take 0.2 s of a processor and 32 MiB: no more than two of them at the same time."""


@dataclass(frozen=True, slots=True)
class BrakeLimits:
    """How hard it brakes.

    Args:
        guesses_per_s: of one source, in the long run.
        reserve: so many more at once.
        waiting: guesses of one source that may wait; above, the one that has waited longest counts as wrong.
        user_delay_s: added for each recent wrong guess at the same user from anywhere.
        longest_user_delay_s: ... but never more than this.
        forget_s: a wrong guess at a user is forgotten after so many seconds.
        remembered: sources and users that are kept in mind; those longest unheard of are forgotten.
    """

    guesses_per_s: float = 3.0
    reserve: int = 2
    waiting: int = 32
    user_delay_s: float = 0.1
    longest_user_delay_s: float = 5.0
    forget_s: float = 60.0
    remembered: int = 4096


@dataclass(slots=True, eq=False)
class _Source:
    """What is known of a source."""

    allowance: float
    filled_s: float
    waiting: deque[asyncio.Future[bool]] = field(default_factory=deque)
    pump: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Blame:
    """Wrong guesses at a user; they fade with time."""

    count: float
    counted_s: float


class GuessBrake:
    """Decides when a password may be compared.

    Args:
        monotonic_s: the clock, seconds, never set back.
        sleep: waits so many seconds.
        limits: how hard it brakes.
    """

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        limits: BrakeLimits | None = None,
    ) -> None:
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._limits = limits or BrakeLimits()
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._blames: OrderedDict[str, _Blame] = OrderedDict()
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._free = COMPARED_AT_ONCE
        self._queues: tuple[deque[asyncio.Future[None]], deque[asyncio.Future[None]]] = (deque(), deque())

    async def wait(self, source: str, uname: str) -> bool:
        """Wait until a guess is allowed.

        Returns:
            False if it never will be: too many others of the source came later.
        """
        if not await self._take(self._find(source)):
            return False
        delay_s = self._user_delay_s(uname)
        if delay_s and (source, uname) not in self._good:
            await self._sleep(delay_s)
        return True

    async def compare(self, source: str, uname: str, work: Callable[[], _T]) -> _T:
        """Compare a password off the loop; those who have logged in from there before come first.

        Args:
            source: as for `wait`.
            uname: as for `wait`.
            work: compares; must not raise. It cannot be broken off, so its place is not free before its end.
        """
        await self._enter(is_known=(source, uname) in self._good)
        comparing = asyncio.ensure_future(asyncio.to_thread(work))
        comparing.add_done_callback(lambda _: self._leave())
        return await asyncio.shield(comparing)

    def note_right(self, source: str, uname: str) -> None:
        """Give back what the guess took, and remember the user's place."""
        found = self._find(source)
        found.allowance = min(found.allowance + 1, self._limits.reserve)
        self._good[source, uname] = None
        self._good.move_to_end((source, uname))
        while len(self._good) > self._limits.remembered:
            self._good.popitem(last=False)
        self._serve(found)

    def note_wrong(self, uname: str) -> None:
        """Remember that somebody guessed wrong at a user."""
        name = uname[:LONGEST_NAME]
        self._blames[name] = _Blame(self._blame(uname) + 1, self._monotonic_s())
        self._blames.move_to_end(name)
        while len(self._blames) > self._limits.remembered:
            self._blames.popitem(last=False)

    def _blame(self, uname: str) -> float:
        """Count what is left of the wrong guesses at a user."""
        blame = self._blames.get(uname[:LONGEST_NAME])
        if blame is None:
            return 0.0
        return blame.count * max(0.0, 1.0 - (self._monotonic_s() - blame.counted_s) / self._limits.forget_s)

    def _user_delay_s(self, uname: str) -> float:
        return min(self._blame(uname) * self._limits.user_delay_s, self._limits.longest_user_delay_s)

    def _find(self, name: str) -> _Source:
        found = self._sources.get(name)
        if found is None:
            found = self._sources[name] = _Source(float(self._limits.reserve), self._monotonic_s())
            for other in list(self._sources)[: max(0, len(self._sources) - self._limits.remembered)]:
                if not self._sources[other].waiting:
                    del self._sources[other]
        self._sources.move_to_end(name)
        self._fill(found)
        return found

    def _fill(self, source: _Source) -> None:
        now_s = self._monotonic_s()
        source.allowance += (now_s - source.filled_s) * self._limits.guesses_per_s
        source.allowance = min(source.allowance, float(self._limits.reserve))
        source.filled_s = now_s

    async def _take(self, source: _Source) -> bool:
        """Take one guess off a source's allowance, now or when there is one."""
        if source.allowance >= 1 and not source.waiting:
            source.allowance -= 1
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        source.waiting.append(waiter)
        if len(source.waiting) > self._limits.waiting:
            oldest = source.waiting.popleft()
            if not oldest.done():
                oldest.set_result(False)
        if source.pump is None:
            source.pump = asyncio.create_task(self._pump(source))
        try:
            return await waiter
        finally:
            if waiter in source.waiting:
                source.waiting.remove(waiter)

    async def _pump(self, source: _Source) -> None:
        """Let those who wait go on, one for each guess that the source is allowed again."""
        try:
            while source.waiting:
                self._fill(source)
                if source.allowance < 1:
                    await self._sleep((1 - source.allowance) / self._limits.guesses_per_s)
                    # What was slept is what counts, whatever a coarse clock says.
                    source.allowance, source.filled_s = max(source.allowance, 1.0), self._monotonic_s()
                self._serve(source)
        finally:
            source.pump = None

    def _serve(self, source: _Source) -> None:
        while source.waiting and source.allowance >= 1:
            waiter = source.waiting.pop()
            if not waiter.done():
                source.allowance -= 1
                waiter.set_result(True)

    async def _enter(self, *, is_known: bool) -> None:
        if self._free:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues[not is_known]
        queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the place came at the same moment, and is somebody else's now
            raise

    def _leave(self) -> None:
        for queue in self._queues:
            while queue:
                place = queue.popleft()
                if not place.done():
                    place.set_result(None)
                    return
        self._free += 1
