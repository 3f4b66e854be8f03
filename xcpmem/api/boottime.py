"""What was free when the host booted: the figure that xapi places VMs by, and that must outlive us.

squeezed keeps it in a file that is wiped at each boot of the host. Measured again with VMs running it would
be too small until the next boot, so whoever finds the file believes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_DIRECTORY_MODE: Final = 0o700
_FILE_BYTES_MOST: Final = 64
_DIGITS_MOST: Final = 19


class BootMemory:
    """The figure, and the file that squeezed and we share.

    Args:
        path: of the file, decimal bytes; None: there is none to share.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def bytes(self, counted: int) -> int:
        """Tell what was free at boot.

        Args:
            counted: what we know ourselves, bytes; written to the file if there is none yet and it is known.

        Returns:
            Bytes, 0 if nobody knows.
        """
        if self._path is None:
            return counted
        kept = self._read(self._path)
        if kept is not None:
            return kept
        if counted > 0:
            self._write(self._path, counted)
        return counted

    def _read(self, path: Path) -> int | None:
        try:
            with path.open("rb") as file:
                text = file.read(_FILE_BYTES_MOST).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read: %s", path, error.strerror)
            return None
        if not text.isdecimal() or len(text) > _DIGITS_MOST:
            _log.warning("%s holds %r, which is no size in bytes", path, text)
            return None
        return int(text)

    def _write(self, path: Path, size: int) -> None:
        try:
            path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.new")
            draft.write_text(f"{size}\n", encoding="ascii")
            draft.replace(path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", path, error.strerror)
