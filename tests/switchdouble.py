"""A double of xapi's message switch, from the description of its protocol: queues, logins, redelivery.

The real one is not packaged. Messages lie in their queue until they are acknowledged; whoever asks without
``from`` is given all of them again, newest first, as the real one does.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class _Queue:
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    following: int = 0


class SwitchDouble:
    """Serves on a Unix socket; clients of the queues are played by `request`.

    Args:
        path: of the socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queues: dict[str, _Queue] = {}
        self.logins: list[str] = []
        self.responses: list[tuple[str, int, Any]] = []
        self.acknowledged: list[int] = []
        self.lost_responses = 0
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._is_stopped = False

    async def start(self) -> None:
        """Listen."""
        self._is_stopped = False
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Go away with all connections; the queues stay."""
        assert self._server is not None
        self._server.close()
        self._is_stopped = True
        async with self._changed:
            self._changed.notify_all()
        for writer in self._connections.values():
            writer.close()
        await asyncio.gather(*self._connections)
        self.path.unlink(missing_ok=True)

    async def request(self, queue: str, method: str, *params: object, reply: str = "xenopsd-xc:2345") -> int:
        """Put a request into a queue, as a client does; return its number."""
        payload = json.dumps({"method": method, "params": list(params), "id": 0})
        async with self._changed:
            target = self.queues.setdefault(queue, _Queue())
            number = target.following
            target.following += 1
            target.messages[number] = {"payload": payload, "kind": ["Request", reply]}
            self._changed.notify_all()
        return number

    async def response(self, number: int) -> Any:
        """Wait for the response to a request; its ``result``, or its ``error``."""
        async with self._changed:
            await self._changed.wait_for(lambda: any(n == number for _, n, _ in self.responses))
        answer = next(answer for _, n, answer in self.responses if n == number)
        return answer["result"] if answer["error"] is None else answer["error"]

    async def acknowledgement(self, number: int) -> None:
        """Wait until a request is acknowledged."""
        async with self._changed:
            await self._changed.wait_for(lambda: number in self.acknowledged)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        is_logged_in = False
        with suppress(OSError, EOFError):
            while not self._is_stopped:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *lines = head.split("\r\n")
                method, path, _ = line.split(" ")
                headers = dict(each.split(": ", 1) for each in lines if each)
                body = await reader.readexactly(int(headers["content-length"]))
                words = [unquote(word) for word in path.split("/")[1:]]
                if words[0] == "login":
                    is_logged_in = True
                    self.logins.append(words[1])
                    answer: bytes | None = b""
                elif is_logged_in:
                    answer = await self._answer(method, words, body)
                else:
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 14\r\n\r\nPlease log in.")
                    continue
                if answer is None:
                    break
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
                await writer.drain()
        writer.close()
        self._connections.pop(task, None)

    async def _answer(self, method: str, words: list[str], body: bytes) -> bytes | None:
        match method, words:
            case "GET", ["persistent", name]:
                self.queues.setdefault(name, _Queue())
                return name.encode()
            case "POST", ["transfer"]:
                return await self._transfer(json.loads(body))
            case "POST", ["response", reply, queue, number]:
                return await self._take_response(reply, queue, int(number), body)
            case "GET", ["ack", queue, number]:
                async with self._changed:
                    self.queues[queue].messages.pop(int(number), None)
                    self.acknowledged.append(int(number))
                    self._changed.notify_all()
                return b""
        raise AssertionError(f"{method} {words}")

    async def _take_response(self, reply: str, queue: str, number: int, body: bytes) -> bytes | None:
        async with self._changed:
            self.responses.append((reply, number, json.loads(body)))
            self._changed.notify_all()
        if self.lost_responses:
            self.lost_responses -= 1
            return None
        return json.dumps([[queue, number]]).encode()

    async def _transfer(self, asked: dict[str, Any]) -> bytes:
        after = int(asked.get("from", "-1"))

        def newer() -> list[tuple[str, int]]:
            return [
                (name, number)
                for name in asked["queues"]
                for number in sorted(self.queues[name].messages, reverse=True)
                if number > after
            ]

        async with self._changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(asked["timeout"]):
                    await self._changed.wait_for(lambda: newer() or self._is_stopped)
            found = newer()
            rows = [[[name, number], self.queues[name].messages[number]] for name, number in found]
        following = max((number for _, number in found), default=after)
        return json.dumps({"messages": rows, "next": str(following)}).encode()
