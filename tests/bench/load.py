"""A client that costs little: the same bytes over kept connections, answers counted and not understood."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S: Final = 60.0
READ_BYTES: Final = 1 << 20
"""Read ahead at most so much: more would only move the copying."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


def make_request(path: str, body: bytes) -> bytes:
    """Write a POST of HTTP/1.1 that leaves the connection open."""
    return f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Many calls.

    Args:
        port: of the server, on 127.0.0.1.
        request: as `make_request` writes it.
        calls: of all connections together.
        connections: so many at once, each with one request under way.
        prepare: done before each call, and not timed; blocks, hence for one connection only.
    """

    port: int
    request: bytes
    calls: int
    connections: int = 1
    prepare: Callable[[], None] | None = None

    def time_ms(self) -> float:
        """Make the calls; return the time that they took together, by their number, milliseconds."""
        return asyncio.run(self._run()) * 1000 / self.calls

    async def _run(self) -> float:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat()) for _ in range(self.connections)]
        return sum(task.result() for task in tasks) / self.connections

    async def _repeat(self) -> float:
        """Make one connection's part of the calls; return the time they took, seconds."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=READ_BYTES)
        took_s = 0.0
        try:
            for _ in range(self.calls // self.connections):
                if self.prepare is not None:
                    self.prepare()
                started_s = time.perf_counter()
                writer.write(self.request)
                await _read_answer(reader)
                took_s += time.perf_counter() - started_s
        finally:
            writer.close()
            await writer.wait_closed()
        return took_s


def ask(port: int, request: bytes) -> bytes:
    """Send a request once and return the answer's body."""
    return asyncio.run(_ask(port, request))


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(request)
            return await _read_answer(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise ValueError(f"not an answer: {head!r}")
    return await reader.readexactly(int(length[1]))
