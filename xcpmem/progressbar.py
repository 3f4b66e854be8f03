"""Progress in one line that is drawn over itself: for the server's commands and for the local tools."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S: Final = 1.0
"""What takes no longer shows no bar."""

COLUMNS: Final = 79
"""So wide is a line: one less than the narrowest usual terminal, so that it never wraps."""

_BAR: Final = 24
_TITLE: Final = 26
_REDRAW_S: Final = 0.1


def bar_line(title: str, fraction: float | None, note: str) -> str:
    """Write the line, padded to `COLUMNS` so that it covers the one before.

    Args:
        title: what goes on.
        fraction: how much of it is done, 0 to 1; None: nobody knows, the bar is left out.
        note: figures, or how long it has taken so far.
    """
    name = title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}~"
    if fraction is None:
        text = f"{name} {note}"
    else:
        part = min(1.0, max(0.0, fraction))
        done = int(part * _BAR)
        text = f"{name} [{'#' * done}{'.' * (_BAR - done)}] {part * 100:3.0f} % {note}"
    return text[:COLUMNS].ljust(COLUMNS)


class Progress:
    """Shows on a terminal how far a local tool is; elsewhere it is silent.

    Args:
        title: what goes on.
        stream: standard error if None.
        clock: monotonic seconds.
    """

    def __init__(
        self, title: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title = title
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_seen = self._stream.isatty()
        self._due_s = clock() + PATIENCE_S
        self._is_drawn = False

    def show(self, fraction: float, note: str = "") -> None:
        """Tell how far it is; cheap enough to be called often."""
        if self._is_seen and self._clock() >= self._due_s:
            self._due_s = self._clock() + _REDRAW_S
            self._is_drawn = True
            self._stream.write(f"\r{bar_line(self._title, fraction, note)}")
            self._stream.flush()

    def end(self) -> None:
        """Wipe the line."""
        if self._is_drawn:
            self._stream.write(f"\r{' ' * COLUMNS}\r")
            self._stream.flush()
