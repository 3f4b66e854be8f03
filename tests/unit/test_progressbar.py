"""Progress in one line: on a terminal only, after a second only, and wiped in the end."""

from __future__ import annotations

from io import StringIO

import pytest

from xcpmem.progressbar import COLUMNS, Progress, bar_line


class Terminal(StringIO):
    """A stream to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("title", ["web", "a name that is far too long for the line it is in"])
@pytest.mark.parametrize("fraction", [None, -1.0, 0.0, 0.37, 1.0, 7.0])
def test_line_always_covers_the_one_before(title: str, fraction: float | None) -> None:
    assert len(bar_line(title, fraction, "1.5 GiB of 2 GiB")) == COLUMNS == 79


def test_line_shows_the_part_that_is_done_and_the_figures() -> None:
    assert bar_line("web", 0.5, "1 GiB of 2 GiB").rstrip() == (
        "web [############............]  50 % 1 GiB of 2 GiB"
    )


def test_line_without_a_known_part_has_no_bar() -> None:
    assert bar_line("starting web", None, "3 s").rstrip() == "starting web 3 s"


def test_quick_work_shows_nothing_and_long_work_is_wiped_in_the_end() -> None:
    now_s, stream = 0.0, Terminal()
    progress = Progress("simulating", stream, lambda: now_s)
    progress.show(0.1)
    assert stream.getvalue() == ""
    now_s = 1.1
    progress.show(0.2)
    progress.show(0.3)
    assert stream.getvalue().count("\r") == 1
    progress.end()
    assert stream.getvalue().endswith(f"\r{' ' * COLUMNS}\r")


def test_no_terminal_no_progress() -> None:
    now_s, stream = 0.0, StringIO()
    progress = Progress("simulating", stream, lambda: now_s)
    now_s = 5.0
    progress.show(0.5)
    progress.end()
    assert stream.getvalue() == ""
