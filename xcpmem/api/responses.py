"""What calls are answered with: a head that is known beforehand, and a body that may be long.

Of the head only the length and the time are new for each answer, so it is written as bytes: aiohttp would
make headers of texts, look through them for what is missing, and check and write each of them again. Bodies
are sent from the bytes that are there already: short ones with the head, long ones piece by piece.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import HttpVersion

PIECE_BYTES: Final = kib_to_bytes(256)
"""So much of a long body is handed to the socket at once; the next when the client has taken it."""

API_HEADERS: Final[Mapping[str, str]] = {
    "Server": "xcpmem",
    "Cache-Control": "no-cache, no-store",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "X-Requested-With",
}


class ApiResponse(web.StreamResponse):
    """An answer to a call, whose status is always 200.

    Args:
        parts: of the body, one after the other.
        content_type: as it is to stand in the head.
    """

    def __init__(self, parts: Sequence[bytes], content_type: str) -> None:
        super().__init__()
        self._parts = parts
        self._of_type = content_type
        self._is_kept = False

    @property
    def keep_alive(self) -> bool:
        """Whether the connection goes on."""
        return self._is_kept

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send everything."""
        self._is_kept = request.keep_alive
        writer, size = request.writer, sum(map(len, self._parts))
        head = b"%b%d\r\nDate: %b\r\n\r\n" % (
            _head(request.version, self._of_type, is_kept=self._is_kept),
            size,
            _date(int(time.time())),
        )
        if size <= PIECE_BYTES:
            await writer.write_eof(b"".join((head, *self._parts)))
            return
        await writer.write(head)
        for part in self._parts:
            view = memoryview(part)
            for start in range(0, len(part), PIECE_BYTES):
                await writer.write(view[start : start + PIECE_BYTES])
        await writer.write_eof()

    async def write_eof(self, data: Any = b"") -> None:
        """Send no more."""


@cache
def _head(version: HttpVersion, content_type: str, *, is_kept: bool) -> bytes:
    """Write the head, up to the body's length."""
    headers = {
        **API_HEADERS,
        "Content-Type": content_type,
        "Connection": "keep-alive" if is_kept else "close",
    }
    lines = (
        f"HTTP/{version.major}.{version.minor} 200 OK",
        *(f"{name}: {headers[name]}" for name in headers),
    )
    return "\r\n".join((*lines, "Content-Length: ")).encode()


@lru_cache(1)
def _date(now_s: int) -> bytes:
    return formatdate(now_s, usegmt=True).encode()
