"""What calls are answered with: heads to the byte, and long bodies that are copied nowhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.test_utils import make_mocked_request

from xcpmem.api.responses import PIECE_BYTES, ApiResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import HttpVersion


class Taker:
    """The part of aiohttp's writer that an answer needs; keeps what it is given."""

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.is_ended = False

    async def write(self, piece: bytes | memoryview) -> None:
        assert not self.is_ended
        self.pieces.append(piece)

    async def write_eof(self, piece: bytes = b"") -> None:
        if piece:
            await self.write(piece)
        self.is_ended = True


async def sent(
    parts: Sequence[bytes], version: HttpVersion = HttpVersion11, *, is_kept: bool = True
) -> Taker:
    """Send an answer on a connection that is kept, or is not."""
    taker = Taker()
    request = make_mocked_request(
        "POST", "/", version=version, closing=not is_kept, writer=cast("Any", taker)
    )
    response = ApiResponse(parts, "text/xml")
    await response.prepare(request)
    await response.write_eof()
    assert taker.is_ended
    assert response.keep_alive == is_kept
    return taker


@pytest.mark.parametrize(
    ("version", "is_kept", "connection"),
    [
        (HttpVersion11, True, "keep-alive"),
        (HttpVersion11, False, "close"),
        (HttpVersion10, False, "close"),
    ],
)
async def test_short_answer_goes_out_at_once_with_a_head_to_the_byte(
    version: HttpVersion, is_kept: bool, connection: str
) -> None:
    (whole,) = (await sent((b"<a>", b"x", b"</a>"), version, is_kept=is_kept)).pieces
    text = re.sub(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", "Date: now", bytes(whole).decode())
    assert text == (
        f"HTTP/1.{version.minor} 200 OK\r\n"
        "Server: xcpmem\r\n"
        "Cache-Control: no-cache, no-store\r\n"
        "Access-Control-Allow-Origin: *\r\n"
        "Access-Control-Allow-Headers: X-Requested-With\r\n"
        "Content-Type: text/xml\r\n"
        f"Connection: {connection}\r\n"
        "Content-Length: 8\r\n"
        "Date: now\r\n"
        "\r\n"
        "<a>x</a>"
    )


async def test_long_answer_is_sent_in_pieces_of_the_very_bytes_it_was_made_of() -> None:
    parts = (b"<a>", bytes(range(256)) * (PIECE_BYTES // 100), b"</a>")
    head, *pieces = (await sent(parts)).pieces
    assert f"\r\nContent-Length: {sum(map(len, parts))}\r\n" in bytes(head).decode()
    assert b"".join(pieces) == b"".join(parts)
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert len(views) == len(pieces)
    assert {id(view.obj) for view in views} == {id(part) for part in parts}
    assert max(map(len, views)) == PIECE_BYTES
