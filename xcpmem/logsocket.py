"""Log records as datagrams to a Unix socket that belongs to the system: the journal's, or syslog's.

Logging must never hold up the ring nor end the program: the socket does not block, and what it does not take
goes to standard error instead.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
"""Of systemd-journald; takes fields (systemd's Native Journal Protocol)."""

SYSLOG_SOCKET: Final = "/dev/log"

LARGEST: Final = 60_000
"""Bytes of one datagram at most: the kernel's limit is above, and longer texts are cut."""


class SocketHandler(logging.Handler):
    """Sends records to a socket.

    Args:
        path: of the socket; it is connected to when the first record comes, and again after an error.
        encode: makes the bytes of a record.
        fallback: takes what the socket does not.
    """

    def __init__(
        self, path: str, encode: Callable[[logging.LogRecord], bytes], fallback: logging.Handler
    ) -> None:
        super().__init__()
        self._path = path
        self._encode = encode
        self._fallback = fallback
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or hand it on."""
        try:
            data = self._encode(record)
        except Exception:  # noqa: BLE001 logging must not raise
            self.handleError(record)
            return
        for _ in range(2):  # the other end may have been restarted
            try:
                self._connected().send(data)
            except OSError:
                self._drop()
            else:
                return
        self._fallback.handle(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._drop()
        self._fallback.close()
        super().close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            opened = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            try:
                opened.connect(self._path)
            except OSError:
                opened.close()
                raise
            self._socket = opened
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def journal_entry(fields: dict[str, str]) -> bytes:
    r"""Write an entry of the journal.

    Args:
        fields: by name, A to Z, 0 to 9 and ``_``; values of several lines are framed by their length.

    Returns:
        At most `LARGEST` bytes; a value that does not fit is cut, and what comes after it left out.
    """
    entry = b""
    for name, text in fields.items():
        room = LARGEST - len(entry) - len(name) - 10
        if room <= 0:
            break
        value = text.encode("utf-8", "backslashreplace")[:room]
        if b"\n" in value:
            entry += name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return entry
