"""One connection to xapi's message switch: HTTP/1.1, kept alive, on a Unix socket.

Whoever has logged in on a connection may use it until it closes, so requests are never moved to another one,
which is what an HTTP client with a pool of connections would do.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from xcpmem.errors import SwitchLost

if TYPE_CHECKING:
    from typing import Self

CALL_S: Final = 10.0
"""The switch answers within this time, beside what it was asked to wait for."""

BODY_BYTES_MOST: Final = 16 * 2**20
"""An answer is no longer than this: a few thousand messages."""

_HEAD_BYTES_MOST: Final = 2**16
_EVERYTHING: Final = "-1"


@dataclass(frozen=True, slots=True)
class Message:
    """A request that lies in a queue.

    Args:
        queue: where.
        number: its place in the queue, from 0.
        reply_queue: where its answer belongs.
        payload: the request itself, text of the caller's.
    """

    queue: str
    number: int
    reply_queue: str
    payload: str


class SwitchConnection:
    """The operations of the switch that a server of a queue needs; one at a time.

    All raise SwitchLost when there is no proper answer in time; the connection is then of no more use.

    Args:
        reader: of the connection.
        writer: of the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: str, token: str) -> Self:
        """Connect and log in.

        Args:
            path: of the switch's socket.
            token: names the program and its process; connections with the same one share transient queues.
        """
        try:
            async with asyncio.timeout(CALL_S):
                reader, writer = await asyncio.open_unix_connection(path, limit=_HEAD_BYTES_MOST)
        except (OSError, TimeoutError) as error:
            raise SwitchLost(f"no message switch at {path}: {error or 'it does not answer'}") from error
        connection = cls(reader, writer)
        try:
            await connection._call("GET", f"/login/{_name(token)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def create_queue(self, name: str) -> None:
        """Make sure that a persistent queue exists."""
        await self._call("GET", f"/persistent/{_name(name)}")

    async def receive(
        self, queue: str, after: str | None, timeout_s: float
    ) -> tuple[list[Message], str | None]:
        """Wait for messages.

        Args:
            queue: to look in.
            after: what this returned before; None: all that were not acknowledged.
            timeout_s: how long to wait, seconds.

        Returns:
            The requests, oldest first, and what to ask with next.
        """
        asked: dict[str, object] = {"timeout": timeout_s, "queues": [queue]}
        if after is not None:
            asked = {"from": after} | asked
        body = await self._call("POST", "/transfer", json.dumps(asked).encode(), timeout_s)
        try:
            answer = json.loads(body)
            messages = [message for row in answer["messages"] if (message := _message(row)) is not None]
            following = str(answer["next"])
        except (ValueError, LookupError, TypeError) as error:
            raise SwitchLost("the message switch sent no list of messages") from error
        messages.sort(key=lambda message: message.number)
        return messages, following if following != _EVERYTHING else after

    async def respond(self, message: Message, payload: bytes) -> None:
        """Send the answer to a message; one whose caller is gone is dropped by the switch."""
        path = f"/response/{_name(message.reply_queue)}/{_name(message.queue)}/{message.number}"
        await self._call("POST", path, payload)

    async def acknowledge(self, message: Message) -> None:
        """Let a message be forgotten."""
        await self._call("GET", f"/ack/{_name(message.queue)}/{message.number}")

    async def _call(self, method: str, path: str, body: bytes = b"", wait_s: float = 0.0) -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: xcpmem\r\n"
            f"content-length: {len(body)}\r\nconnection: keep-alive\r\n\r\n"
        )
        try:
            async with asyncio.timeout(wait_s + CALL_S):
                self._writer.write(head.encode("ascii") + body)
                await self._writer.drain()
                return await self._read_answer(f"{method} {path}")
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise SwitchLost(f"{method} {path}: {error or type(error).__name__}") from error
        except TimeoutError:
            raise SwitchLost(f"{method} {path}: no answer within {wait_s + CALL_S:g} s") from None

    async def _read_answer(self, asked: str) -> bytes:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        _, status, *_ = status_line.split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._read_chunks()
        else:
            body = await self._read_exactly(int(headers.get("content-length", "0")))
        if int(status) != HTTPStatus.OK:
            raise SwitchLost(f"{asked}: {status} {body[:200].decode('utf-8', 'replace')}")
        return body

    async def _read_chunks(self) -> bytes:
        body = b""
        while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await self._read_exactly(size)
            await self._reader.readuntil(b"\r\n")
            if len(body) > BODY_BYTES_MOST:
                raise ValueError("an answer without end")
        await self._reader.readuntil(b"\r\n")
        return body

    async def _read_exactly(self, size: int) -> bytes:
        if not 0 <= size <= BODY_BYTES_MOST:
            raise ValueError(f"an answer of {size} bytes")
        return await self._reader.readexactly(size)


def _name(name: str) -> str:
    return quote(name, safe="")


def _message(row: Any) -> Message | None:
    """Read one row of an answer; None for what is no request.

    Raises:
        LookupError, TypeError, ValueError: it is no row.
    """
    (queue, number), content = row
    kind, reply_queue, *_ = content["kind"]
    if kind != "Request" or not isinstance(reply_queue, str):
        return None
    return Message(str(queue), int(number), reply_queue, str(content["payload"]))
