"""What was begun and whose end nobody has noted yet: ``audit.pending`` of the state dir.

A change is made durable by others, and its line in the audit trail follows; a daemon that is killed in
between would leave a change that nobody answers for. So each change is noted here before it is made and
struck out when its line is in the trail. What the file still holds at the next start was cut short.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME: Final = "audit.pending"
FILE_BYTES: Final = mib_to_bytes(1)
_MODE: Final = 0o600


class Intents:
    """The file; every method may raise OSError, and the next call begins anew with a disk that refused.

    Args:
        folder: where the file is.
        file_bytes: how large it may grow before what was struck out is dropped from it.
    """

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self._path = folder / FILE_NAME
        self._file_bytes = file_bytes
        self._open: dict[int, bytes] = {}
        self._last = 0
        self._descriptor: int | None = None
        self._written_bytes = 0

    def load(self) -> tuple[str, ...]:
        """Give what an earlier daemon had begun and not struck out, in its order; `forget` drops it."""
        if not self._path.exists():
            return ()
        left: dict[int, str] = {}
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            number, _, text = line.partition(" ")
            if text:
                left[_number(number)] = text
            else:
                left.pop(_number(number), None)
        left.pop(0, None)
        return tuple(left.values())

    def forget(self) -> None:
        """Empty the file, once all that it held stands elsewhere."""
        if self._descriptor is not None or self._path.exists():
            os.truncate(self._open_file(), 0)
            self._written_bytes = 0

    def begin(self, text: str) -> int:
        """Note something that is about to be done.

        Args:
            text: one line of it.

        Returns:
            Its number, for `end`.
        """
        self._last += 1
        line = f"{self._last} {text}\n".encode()
        self._append(line)
        self._open[self._last] = line
        return self._last

    def end(self, number: int) -> None:
        """Strike out what was done, or what was refused; an unknown number is passed over."""
        if self._open.pop(number, None) is None:
            return
        if not self._open:
            self.forget()
        elif self._written_bytes < self._file_bytes:
            self._append(f"{number}\n".encode())
        else:
            self._rewrite()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        written = os.write(self._open_file(), data)
        self._written_bytes += written
        if written < len(data):
            raise OSError(f"{written} of {len(data)} bytes written")

    def _rewrite(self) -> None:
        """Put a file in place that holds nothing but what is open; a kill leaves one or the other."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(b"".join(self._open.values()))
        fresh.chmod(_MODE)
        self.close()
        fresh.rename(self._path)

    def _open_file(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, _MODE)
            self._written_bytes = os.fstat(self._descriptor).st_size
        return self._descriptor


def _number(text: str) -> int:
    """Read a number; 0, which is nobody's, for what a full disk cut short."""
    return int(text) if text.isdecimal() and text.isascii() else 0
