"""Bodies of answers: short ones as bytes, long ones from the bytes that are there already, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from aiohttp.payload import Payload

from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.abc import AbstractStreamWriter

PIECE_BYTES: Final = kib_to_bytes(256)
"""So much of a long body is handed to the socket at once; the next when the client has taken it."""


def make_body(parts: Sequence[bytes]) -> bytes | Payload:
    """Make the body of an answer out of its parts, in their order."""
    return b"".join(parts) if sum(map(len, parts)) <= PIECE_BYTES else _Parts(parts)


class _Parts(Payload):
    """A body that no client gets a copy of its own of, however slowly it reads.

    Args:
        parts: one after the other.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(parts)
        self._parts = parts
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> NoReturn:
        """Refuse: it is for whoever receives it to read."""
        raise TypeError(f"a body is no text: {encoding}, {errors}")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send everything."""
        for part in self._parts:
            view = memoryview(part)
            for start in range(0, len(part), PIECE_BYTES):
                await writer.write(view[start : start + PIECE_BYTES])
