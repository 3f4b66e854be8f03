"""Bodies of answers: what is long is sent from the bytes that are there, and copied nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from aiohttp.payload import Payload

from xcpmem.api.bodies import PIECE_BYTES, make_body

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter


class Taker:
    """The part of aiohttp's writer that a body needs; keeps what it is given."""

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []

    async def write(self, piece: memoryview) -> None:
        self.pieces.append(piece)


def test_short_answer_is_joined() -> None:
    assert make_body((b"<a>", b"x", b"</a>")) == b"<a>x</a>"


async def test_long_answer_is_sent_in_pieces_of_the_very_bytes_it_was_made_of() -> None:
    parts = (b"<a>", bytes(range(256)) * (PIECE_BYTES // 100), b"</a>")
    body = make_body(parts)
    assert isinstance(body, Payload)
    assert body.size == sum(map(len, parts))
    taker = Taker()
    await body.write(cast("AbstractStreamWriter", taker))
    assert b"".join(taker.pieces) == b"".join(parts)
    assert {id(piece.obj) for piece in taker.pieces} == {id(part) for part in parts}
    assert max(map(len, taker.pieces)) == PIECE_BYTES


def test_body_is_no_text() -> None:
    body = make_body((b"x" * (PIECE_BYTES + 1),))
    assert isinstance(body, Payload)
    with pytest.raises(TypeError, match="no text"):
        body.decode()
