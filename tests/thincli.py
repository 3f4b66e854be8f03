"""A client of `/cli` made from the protocol's description alone, as a stand-in for the `xe` binary.

Nothing of xcpmem is used: its frames are taken apart by their byte layout (reference of xapi's thin CLI,
version 0.2), so that what both clients agree on is not a mistake they share.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

GREETING = b"XenSource thin CLI protocol" + struct.pack("<II", 0, 2)
COMMAND = 9
DEADLINE_S = 20.0


@dataclass
class Ended:
    """How a command ended."""

    out: str = ""
    err: str = ""
    code: int = -1
    questions: list[str] = field(default_factory=list)


async def run(port: int, *words: str, username: str, password: str, typed: tuple[str, ...] = ()) -> Ended:
    """Run one command; ``typed`` are the lines of standard input."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = "\n".join([*words, f"username={username}", f"password={password}"]).encode()
    head = (
        "POST /cli HTTP/1.0\r\nUser-agent: xe-cli/Unix/0.2\r\noriginator: cli\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    lines = iter(typed)
    ended = Ended()
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(head.encode() + body)
            assert await reader.readexactly(len(GREETING)) == GREETING
            writer.write(GREETING)
            while ended.code < 0:
                (length,) = struct.unpack("<I", await reader.readexactly(4))
                _obey(await reader.readexactly(length), ended, writer, lines)
            assert await reader.read() == b""
    finally:
        writer.close()
        await writer.wait_closed()
    return ended


def _obey(frame: bytes, ended: Ended, writer: asyncio.StreamWriter, lines: Iterator[str]) -> None:
    kind, message = struct.unpack_from("<II", frame)
    assert kind == COMMAND
    rest = frame[8:]
    match message:
        case 0:  # Print
            ended.out += f"{_text(rest)[0]}\n"
        case 16:  # PrintStderr
            ended.err += _text(rest)[0]
        case 14:  # Error
            code, rest = _text(rest)
            (count,) = struct.unpack_from("<I", rest)
            rest = rest[4:]
            params = []
            for _ in range(count):
                param, rest = _text(rest)
                params.append(param)
            ended.err += f"Error code: {code}\nError parameters: {', '.join(params)}\n"
        case 3:  # Prompt
            ended.questions.append(ended.err)
            line = next(lines).encode()
            writer.write(struct.pack("<IIII", 12, 11, 7, len(line)) + line + struct.pack("<III", 8, 11, 8))
        case 4:  # Exit
            (ended.code,) = struct.unpack("<I", rest)
        case _:
            raise AssertionError(f"a message that no command needs: {message}")


def _text(data: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length].decode(), data[4 + length :]
