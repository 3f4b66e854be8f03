"""Serving squeezed's queue on the message switch, exactly once over everything that may be cut short.

The switch delivers at least once: what was not acknowledged comes again to whoever serves the queue next.
What a call that must not be repeated came to is therefore remembered before it is answered, and forgotten
once the switch has taken the acknowledgement; a reservation is made under a name that the message itself
gives, so that the one that was made and never answered is found again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import TYPE_CHECKING, Final, NoReturn

from xcpmem.api.squeezed import REMEMBERED, call_name
from xcpmem.api.squeezed_wire import answer_json, method_of_json
from xcpmem.api.switch import SwitchConnection
from xcpmem.errors import HostError, SwitchLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.answers import Answers
    from xcpmem.api.squeezed import SqueezedCalls
    from xcpmem.api.switch import Message

QUEUE: Final = "org.xen.xapi.memory"
"""squeezed's queue."""

TRANSFER_S: Final = 30.0
"""One wait for messages (squeezed's own)."""

BACKOFF_S: Final = (0.1, 5.0)
"""First and longest wait before connecting again; doubles in between."""

UNDER_WAY_MOST: Final = 64
"""As many messages are worked on at a time; later ones wait in the switch."""

_log = logging.getLogger(__name__)


class SwitchServer:
    """Takes messages from the queue, answers and acknowledges them.

    Args:
        path: of the switch's socket.
        calls: carries them out.
        answers: what was answered to messages that may come again.
        epoch: differs after each boot of the host, when the switch counts from 0 again.
        sleep: waits between attempts to connect, seconds.
        jitter: a number from 0 to 1 that spreads those attempts.
    """

    def __init__(
        self,
        path: str,
        calls: SqueezedCalls,
        answers: Answers,
        *,
        epoch: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._path = path
        self._calls = calls
        self._answers = answers
        self._epoch = epoch
        self._sleep = sleep
        self._jitter = jitter
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(UNDER_WAY_MOST)
        self._replies: asyncio.Queue[tuple[str, Message, bytes]] = asyncio.Queue(UNDER_WAY_MOST)
        self._tasks: list[asyncio.Task[NoReturn]] = []
        self.is_connected = False

    def start(self) -> None:
        """Begin to serve; a switch that is not there yet is waited for."""
        loops = {"switch messages": self._receive, "switch replies": self._reply}
        self._tasks = [
            asyncio.create_task(self._persist(serve, name), name=name) for name, serve in loops.items()
        ]

    async def close(self) -> None:
        """Stop; what was not answered comes to the next who serves the queue."""
        tasks = [*self._tasks, *self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _persist(self, serve: Callable[[SwitchConnection], Awaitable[NoReturn]], name: str) -> NoReturn:
        """Serve over one connection after the other."""
        backoff_s = BACKOFF_S[0]
        while True:
            try:
                connection = await SwitchConnection.open(self._path, f"xcpmem:{os.getpid()}")
                backoff_s = BACKOFF_S[0]
                try:
                    await serve(connection)
                finally:
                    connection.close()
            except SwitchLost as error:
                _log.warning("%s: %s; connecting again in %.1f s", name, error, backoff_s)
            self.is_connected = False
            await self._sleep(backoff_s * (1 + self._jitter()) / 2)
            backoff_s = min(2 * backoff_s, BACKOFF_S[1])

    async def _receive(self, connection: SwitchConnection) -> NoReturn:
        await connection.create_queue(QUEUE)
        self.is_connected = True
        # All that was not acknowledged, at each new connection: a switch that lost its state counts anew.
        after: str | None = None
        while True:
            messages, after = await connection.receive(QUEUE, after, TRANSFER_S)
            for message in messages:
                await self._take(message)

    async def _take(self, message: Message) -> None:
        name = call_name(
            self._epoch, message.queue, str(message.number), message.reply_queue, message.payload
        )
        if name in self._under_way:
            return
        await self._room.acquire()
        task = asyncio.create_task(self._work(name, message), name=f"{message.queue} {message.number}")
        self._under_way[name] = task

    async def _work(self, name: str, message: Message) -> None:
        """Find the answer to a message; it stays under way until the switch has acknowledged it."""
        body = message.payload.encode("utf-8", "surrogateescape")
        known = self._answers.find(name)
        if known is not None:
            await self._replies.put((name, message, known.encode()))
            return
        answer = await answer_json(self._calls, body, name=name)
        if method_of_json(body) in REMEMBERED:
            await self._remember(name, answer)
        await self._replies.put((name, message, answer))

    async def _remember(self, name: str, answer: bytes) -> None:
        try:
            await self._answers.keep(name, answer.decode())
        except HostError as error:
            # Answered all the same: a caller that never hears blocks its VM's queue for ever.
            _log.warning("an answer is not remembered, the call may be carried out twice: %s", error)

    async def _reply(self, connection: SwitchConnection) -> NoReturn:
        while True:
            name, message, answer = await self._replies.get()
            try:
                await connection.respond(message, answer)
                await connection.acknowledge(message)
            except BaseException:
                # There is room: no more are under way than the queue holds, and this is one of them.
                self._replies.put_nowait((name, message, answer))
                raise
            self._under_way.pop(name, None)
            self._room.release()
            try:
                await self._answers.forget(name)
            except HostError as error:
                _log.warning("an answer that is no longer needed is still remembered: %s", error)
