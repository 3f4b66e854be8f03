"""``xcpmem top``: who has what memory and why, drawn anew in place; one plain picture when nobody watches."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from xcpmem.client_settings import UsageAsked, read_settings
from xcpmem.errors import CommandError
from xcpmem.picture import Order, Size, View, draw
from xcpmem.statelink import StateLink

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

PERIOD_S: Final = 1.0
"""Between two looks, unless ``interval=`` says otherwise."""

PERIODS_S: Final = (0.2, 3600.0)

_USAGE: Final = """\
Usage: xcpmem top [-s server|socket] [-p port] [-u user] [-pw password | -pwf file] [interval=SECONDS]

Shows who has what memory and why, and draws it anew every second. Piped into something, it prints one picture
and ends.

  q quit    s sort by name, size, state    up, down, page up, page down, home  scroll

Colours are left out where NO_COLOR is set or TERM is dumb. The daemon is found as by every other command.
"""
_PIPED_COLUMNS: Final = 120
_UP, _DOWN, _PAGE_UP, _PAGE_DOWN, _HOME = b"\x1b[A", b"\x1b[B", b"\x1b[5~", b"\x1b[6~", b"\x1b[H"
_ENTER_SCREEN: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, no cursor, and lines that are too long are cut."""

_LEAVE_SCREEN: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_ORDERS: Final = tuple(Order)


def top_main(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run the command.

    Args:
        argv: the words after ``top``.
        environment: the process's.

    Returns:
        0 when the user has seen enough, 1 if the daemon cannot be asked.
    """
    try:
        settings = read_settings(["top", *argv], environment)
        period_s = _read_period(settings.words[1:])
    except UsageAsked:
        sys.stderr.write(_USAGE)
        return 0
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return _run(StateLink(settings, environment), period_s, environment)


def _run(link: StateLink, period_s: float, environment: Mapping[str, str]) -> int:
    """Show the daemon's state until the user quits, or once if nobody watches; return the exit code."""
    try:
        state = link.fetch()
        if sys.stdout.isatty() and sys.stdin.isatty():
            is_coloured = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
            with _terminal() as terminal:
                _Show(link, terminal, state, period_s, is_coloured=is_coloured).run()
        else:
            sys.stdout.write("".join(f"{line}\n" for line in draw(state, View(Size(_PIPED_COLUMNS)))))
    except (OSError, CommandError) as error:
        sys.stderr.write(f"xcpmem top: {getattr(error, 'strerror', None) or error}\n")
        return 1
    except KeyboardInterrupt:
        return 0  # by the keyboard or SIGTERM: the user has seen enough
    finally:
        link.close()
    return 0


def _read_period(words: Sequence[str]) -> float:
    period_s = PERIOD_S
    for word in words:
        key, _, text = word.partition("=")
        if key != "interval":
            raise CommandError(f"xcpmem top knows no '{word}'; see xcpmem top --help")
        try:
            period_s = float(text)
        except ValueError:
            period_s = -1.0
        least_s, most_s = PERIODS_S
        if not least_s <= period_s <= most_s:
            raise CommandError(f"interval: expected seconds from {least_s:g} to {most_s:g}, got '{text}'")
    return period_s


class _Terminal:
    """The screen and the keys.

    Args:
        resized: a descriptor that can be read once the terminal has another size.
    """

    def __init__(self, resized: int) -> None:
        self._resized = resized

    def size(self) -> Size:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        return Size(columns or 80, rows or 24)

    def show(self, lines: Sequence[str]) -> None:
        """Replace the picture without clearing the screen first, so that nothing flickers."""
        text = "\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"
        sys.stdout.write(text)
        sys.stdout.flush()

    def wait(self, timeout_s: float) -> bytes | None:
        """Wait for a key.

        Returns:
            Its bytes; none at all if the terminal was resized; None when the time is over.
        """
        keyboard = sys.stdin.fileno()
        ready, _, _ = select.select([keyboard, self._resized], [], [], timeout_s)
        if self._resized in ready:
            os.read(self._resized, 512)
            return b""
        return os.read(keyboard, 32) or b"q" if ready else None


@contextmanager
def _terminal() -> Iterator[_Terminal]:
    """Take the terminal over, and give it back as it was whatever happens."""
    import termios  # noqa: PLC0415 - only a terminal needs it
    import tty  # noqa: PLC0415 - only a terminal needs it

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt),
    }
    try:
        tty.setcbreak(keyboard)
        sys.stdout.write(_ENTER_SCREEN)
        yield _Terminal(reader)
    finally:
        sys.stdout.write(_LEAVE_SCREEN)
        sys.stdout.flush()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Show:
    """What is on the screen, and what keys make of it.

    Args:
        link: to the daemon.
        terminal: to draw on.
        state: the first one.
        period_s: between two looks.
        is_coloured: whether colours may be used.
    """

    def __init__(
        self,
        link: StateLink,
        terminal: _Terminal,
        state: dict[str, Any],
        period_s: float,
        *,
        is_coloured: bool,
    ) -> None:
        self._link = link
        self._terminal = terminal
        self._state = state
        self._period_s = period_s
        self._view = View(terminal.size(), is_coloured)
        self._seen_s = time.monotonic()

    def run(self) -> None:
        """Draw and look again until the user quits."""
        due_s = self._seen_s + self._period_s
        while True:
            self._view = replace(self._view, size=self._terminal.size())
            self._terminal.show(draw(self._state, self._view))
            key = self._terminal.wait(max(0.0, due_s - time.monotonic()))
            if key is None:
                self._look()
                due_s = time.monotonic() + self._period_s
            elif key in {b"q", b"Q", b"\x04"}:
                return
            else:
                self._obey(key)

    def _look(self) -> None:
        """Ask again; a daemon that does not answer leaves the old picture, with its age on it."""
        try:
            self._state = self._link.fetch()
        except (OSError, CommandError) as error:
            age_s = time.monotonic() - self._seen_s
            why = getattr(error, "strerror", None) or error
            self._view = replace(self._view, complaint=f"OLD: no answer for {age_s:.0f} s: {why}")
        else:
            self._seen_s = time.monotonic()
            self._view = replace(self._view, complaint="")

    def _obey(self, key: bytes) -> None:
        view = self._view
        page = max(1, (view.size.rows or 0) // 2)
        steps = {_UP: -1, b"k": -1, _DOWN: 1, b"j": 1, _PAGE_UP: -page, _PAGE_DOWN: page}
        if key in {b"s", b"S"}:
            following = _ORDERS[(_ORDERS.index(view.order) + 1) % len(_ORDERS)]
            self._view = replace(view, order=following, first=0)
        elif key == _HOME:
            self._view = replace(view, first=0)
        elif key in steps:
            most = max(0, len(self._state["vms"]) - page)
            self._view = replace(view, first=min(most, max(0, view.first + steps[key])))
