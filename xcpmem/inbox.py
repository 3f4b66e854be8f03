"""What callers wish, kept until a turn of the ring has an answer.

The controller hands it out: callers wait here, the ring takes from here. Everything lives in one event
loop, so nothing needs a lock. When the daemon ends, everyone who waits is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from xcpmem.engine.model import DeleteReservation, MemoryRequest, Reservation, Wishes
from xcpmem.engine.policy import DEFAULT_WEIGHT
from xcpmem.errors import ConnectionLost, InvalidValue, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xcpmem.engine.model import Action, DynamicRange, HostState

PENDING_MOST: Final = 1000
"""Requests and commands that may wait at a time; more are refused, so that memory stays bounded."""

COMMAND_S: Final = 60.0
"""So long a command waits for a turn that sees the host, seconds: as long as a reservation for guests."""


@dataclass(frozen=True, slots=True)
class Command:
    """A wish that one turn can fulfil, such as a reservation to transfer.

    Args:
        make: says for the host as it is which actions fulfil it, or raises what the caller is to hear.
        done: where the caller waits for the actions that were carried out.
        deadline_s: monotonic time at which waiting ends.
    """

    make: Callable[[HostState], tuple[Action, ...]]
    done: asyncio.Future[tuple[Action, ...]]
    deadline_s: float

    def answer(self, outcome: tuple[Action, ...] | XcpmemError) -> None:
        """Tell the caller what was done, or why it could not be."""
        if self.done.done():
            return
        if isinstance(outcome, XcpmemError):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


class Inbox:
    """Wishes of all callers.

    Args:
        wake: called when there is something new for the ring.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._ranges: dict[str, DynamicRange] = {}
        self._weights: dict[str, int] = {}
        self._requests: dict[str, tuple[MemoryRequest, asyncio.Future[Reservation]]] = {}
        self._commands: deque[Command] = deque()
        self._order = 0
        self._is_closed = False

    @property
    def requests(self) -> tuple[MemoryRequest, ...]:
        """The requests that wait, by arrival."""
        return tuple(request for request, _ in self._requests.values())

    def wishes(self, left_alone: frozenset[int]) -> Wishes:
        """Sum up for the planner; ``left_alone`` are domids not to be touched now."""
        return Wishes(dict(self._ranges), self.requests, left_alone, dict(self._weights))

    def set_range(self, uuid: str, dynamic_range: DynamicRange) -> None:
        """Wish a VM's dynamic range, KiB, from now on."""
        if self._ranges.get(uuid) != dynamic_range:
            self._ranges[uuid] = dynamic_range
            self._wake()

    def forget_range(self, uuid: str) -> None:
        """Wish nothing of a VM's range any more."""
        self._ranges.pop(uuid, None)

    def set_weight(self, uuid: str, weight: int) -> None:
        """Let a VM count so much under policies that weigh."""
        if self._weights.get(uuid, DEFAULT_WEIGHT) != weight:
            self._wake()
        if weight == DEFAULT_WEIGHT:
            self._weights.pop(uuid, None)
        else:
            self._weights[uuid] = weight

    async def reserve(
        self,
        owner: str,
        min_kib: int,
        max_kib: int,
        deadline_s: float,
        wait_s: float,
        *,
        vm_uuid: str = "",
        reservation_id: str = "",
    ) -> Reservation:
        """Wait ``wait_s`` for a reservation, to ``deadline_s`` by the monotonic clock; see `Controller`."""
        self._check_room()
        if reservation_id in self._requests:
            raise InvalidValue("reservation_id", reservation_id)
        self._order += 1
        request_id = reservation_id or str(uuid4())
        request = MemoryRequest(request_id, owner, min_kib, max_kib, self._order, deadline_s, vm_uuid, wait_s)
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._requests[request.request_id] = (request, future)
        self._wake()
        try:
            return await future
        finally:
            self._requests.pop(request.request_id, None)
            if future.cancelled():
                self._wake()

    async def command(
        self, make: Callable[[HostState], tuple[Action, ...]], deadline_s: float
    ) -> tuple[Action, ...]:
        """Wait until a turn has carried out what ``make`` says, or raised what it or the host raises.

        Args:
            make: see `Command`.
            deadline_s: where no turn comes to it until then, by the monotonic clock, it is not carried out.

        Returns:
            What was done.
        """
        self._check_room()
        future: asyncio.Future[tuple[Action, ...]] = asyncio.get_running_loop().create_future()
        self._commands.append(Command(make, future, deadline_s))
        self._wake()
        return await future

    @property
    def has_commands(self) -> bool:
        """Whether commands wait for a turn."""
        return bool(self._commands)

    def take_commands(self) -> Iterator[Command]:
        """Take the commands one by one, by arrival."""
        while self._commands:
            yield self._commands.popleft()

    def answer(self, request_id: str, answer: Reservation | XcpmemError) -> None:
        """Answer a request; a grant that nobody waits for any more is given back by the next turn."""
        _, future = self._requests.pop(request_id, (None, None))
        if future is not None and not future.done():
            if isinstance(answer, Reservation):
                future.set_result(answer)
            else:
                future.set_exception(answer)
        elif isinstance(answer, Reservation):
            unheard: asyncio.Future[tuple[Action, ...]] = asyncio.get_running_loop().create_future()
            unheard.add_done_callback(asyncio.Future.exception)
            self._commands.append(Command(lambda _: (DeleteReservation(answer),), unheard, inf))
            self._wake()

    def fail(self, error: Callable[[], XcpmemError], which: Callable[[MemoryRequest], bool]) -> None:
        """End the wait of the requests for which ``which`` holds."""
        for request, future in self._requests.values():
            if which(request) and not future.done():
                future.set_exception(error())

    def expire(self, error: XcpmemError, now_s: float) -> None:
        """End the waits that are over; whoever hears of it can rely on his command not being done later.

        Args:
            error: what keeps the ring from answering.
            now_s: monotonic seconds.
        """
        self.fail(lambda: error, lambda request: now_s >= request.deadline_s)
        overdue = [command for command in self._commands if now_s >= command.deadline_s]
        self._commands = deque(command for command in self._commands if now_s < command.deadline_s)
        for command in overdue:
            command.answer(error)

    def close(self) -> None:
        """Tell everyone who waits that the daemon ends, and whoever comes later."""
        self._is_closed = True
        self.fail(ConnectionLost, lambda _: True)
        for command in self.take_commands():
            command.answer(ConnectionLost())

    def _check_room(self) -> None:
        if self._is_closed:
            raise ConnectionLost
        if len(self._requests) + len(self._commands) >= PENDING_MOST:
            raise InvalidValue("requests waiting", PENDING_MOST)
