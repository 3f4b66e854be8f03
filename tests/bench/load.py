"""A client that costs little: the same bytes over kept connections, answers counted and not understood."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.rig import cpu_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.rig import Times

DEADLINE_S: Final = 60.0
READ_BYTES: Final = 1 << 20
"""Read ahead at most so much: more would only move the copying."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


def make_request(path: str, body: bytes) -> bytes:
    """Write a POST of HTTP/1.1 that leaves the connection open."""
    return f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Cost(NamedTuple):
    """What a call cost, on average: milliseconds until its answer was there, and of the server's CPU."""

    took_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Many calls.

    Args:
        port: of the server, on 127.0.0.1.
        pid: of the server's process.
        request: as `make_request` writes it.
        calls: of all connections together.
        connections: so many at once, each with one request under way.
        prepare: done before each call, and not counted; blocks, hence for one connection only.
    """

    port: int
    pid: int
    request: bytes
    calls: int
    connections: int = 1
    prepare: Callable[[], None] | None = None

    def measure(self) -> Cost:
        """Make the calls; give what one of them cost."""
        return asyncio.run(self._run())

    async def _run(self) -> Cost:
        started_s, started_cpu_ms = time.perf_counter(), cpu_ms(self.pid)
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._repeat()) for _ in range(self.connections)]
        took_s, spent_ms = time.perf_counter() - started_s, cpu_ms(self.pid) - started_cpu_ms
        aside = [task.result() for task in tasks]
        return Cost(
            (took_s * 1000 - sum(cost.took_ms for cost in aside)) / self.calls,
            (spent_ms - sum(cost.cpu_ms for cost in aside)) / self.calls,
        )

    async def _repeat(self) -> Cost:
        """Make one connection's part of the calls; give what their preparation cost."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=READ_BYTES)
        aside_s = aside_cpu_ms = 0.0
        try:
            for _ in range(self.calls // self.connections):
                if self.prepare is not None:
                    started_s, started_cpu_ms = time.perf_counter(), cpu_ms(self.pid)
                    self.prepare()
                    aside_s += time.perf_counter() - started_s
                    aside_cpu_ms += cpu_ms(self.pid) - started_cpu_ms
                writer.write(self.request)
                await read_answer(reader)
        finally:
            writer.close()
            await writer.wait_closed()
        return Cost(aside_s * 1000, aside_cpu_ms)


def took(costs: Mapping[str, Sequence[Cost]]) -> Times:
    """Give the times alone."""
    return {name: tuple(cost.took_ms for cost in each) for name, each in costs.items()}


def cpu(costs: Mapping[str, Sequence[Cost]]) -> Times:
    """Give the servers' CPU times alone."""
    return {name: tuple(cost.cpu_ms for cost in each) for name, each in costs.items()}


def ask(port: int, request: bytes) -> bytes:
    """Send a request once and return the answer's body."""
    return asyncio.run(_ask(port, request))


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(request)
            return await read_answer(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read a whole answer; its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise ValueError(f"not an answer: {head!r}")
    return await reader.readexactly(int(length[1]))
