"""A thousand slow clients against a real daemon: when the last is dropped, and how long others wait.

``python -m tests.bench.slow`` prints one line; it takes as long as the slow clients are suffered, half a
minute at most.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Final

from tests.bench.load import make_request

CLIENTS: Final = 1000
FILES: Final = 4096
PAUSE_S: Final = 0.1
LONGEST_S: Final = 60.0
CALL: Final = make_request(
    "/", b"<methodCall><methodName>system.listMethods</methodName><params/></methodCall>"
).replace(b"Host: bench", b"Host: bench\r\nConnection: close")
STARTS: Final = (
    b"",
    b"P",
    b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n",
)
"""Silent; stuck in the first line; dripping its headers; dripping its body."""


async def hold_on(port: int, start: bytes) -> None:
    """Connect, and say a letter each second until the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        writer.write(start)
        while True:
            try:
                async with asyncio.timeout(1):
                    await reader.read()
                break
            except TimeoutError:
                if len(start) > 1:
                    writer.write(b"x")
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def ask(port: int) -> float:
    """Make one call on a connection of its own; the seconds it took."""
    started_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CALL)
    answer = await reader.read()
    took_s = time.monotonic() - started_s
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"a good client was answered {answer[:40]!r}")
    writer.close()
    await writer.wait_closed()
    return took_s


async def hold_on_together(port: int) -> None:
    """Have all the slow clients hold on."""
    async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(hold_on(port, STARTS[number % len(STARTS)]))


async def measure(port: int) -> str:
    """Let the slow ones hold on, in a process of their own so that nobody waits for them; say how it went."""
    started_s = time.monotonic()
    slow = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.slow", str(port))
    held = asyncio.create_task(slow.wait())
    waits_s = []
    while not held.done():
        waits_s.append(await ask(port))
        await asyncio.wait((held,), timeout=PAUSE_S)
    if held.result():
        raise RuntimeError("the slow clients were not dropped in time")
    waits_s.sort()
    return (
        f"{CLIENTS} slow clients: the last was dropped after {time.monotonic() - started_s:.1f} s; "
        f"{len(waits_s)} calls meanwhile: median {waits_s[len(waits_s) // 2] * 1000:.1f} ms, "
        f"worst {waits_s[-1] * 1000:.1f} ms"
    )


def main() -> int:
    """Start a daemon, measure, end it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    if sys.argv[1:]:
        asyncio.run(hold_on_together(int(sys.argv[1])))
        return 0
    with TemporaryDirectory() as folder:
        words = ("-m", "xcpmem.daemon", "--scenario", "quiet", "--listen", "127.0.0.1:0")
        with subprocess.Popen(
            [sys.executable, *words, "--state-dir", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as daemon:
            try:
                ready = daemon.stdout.readline() if daemon.stdout else ""
                port = int(ready.split("url=")[1].split()[0].rpartition(":")[2])
                sys.stdout.write(f"{asyncio.run(measure(port))}\n")
            finally:
                daemon.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
