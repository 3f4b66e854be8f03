"""``top`` and progress bars in a real terminal: tmux, at 80 columns, resized, piped, and without colours."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.programs import Daemon, workshop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 60.0
CLIENT = f"{shlex.quote(sys.executable)} -m xcpmem"


class Screen:
    """One terminal in a tmux server of its own.

    Args:
        folder: for the sockets of the tmux servers.
        environment: for what runs in it.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._tmux: tuple[str, ...] = ()
        self.environment = environment

    def run(self, command: str, *, columns: int = 80, rows: int = 24, **more: str) -> None:
        """Run a command; what it leaves on the screen stays until `close`."""
        socket = self._folder / f"tmux-{time.monotonic_ns()}"
        self._tmux = ("tmux", "-S", str(socket), "-f", "/dev/null")
        environment = {**self.environment, **more}
        env = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
        shown = f"env {env} sh -c {shlex.quote(f'{command}; echo ended with $?; cat')}"
        self._do("new-session", "-d", "-x", str(columns), "-y", str(rows), shown)

    def keys(self, *keys: str) -> None:
        self._do("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._do("resize-window", "-x", str(columns), "-y", str(rows))

    def text(self, *, with_colours: bool = False) -> str:
        return self._do("capture-pane", "-p", *(["-e"] if with_colours else []))

    def until(self, pattern: str, *, with_colours: bool = False) -> str:
        """Wait until the screen shows something."""
        deadline_s = time.monotonic() + WAIT_S
        while not re.search(pattern, text := self.text(with_colours=with_colours), re.MULTILINE):
            assert time.monotonic() < deadline_s, f"no {pattern!r} in:\n{text}"
            os.sched_yield()
        return text

    def close(self) -> None:
        subprocess.run((*self._tmux, "kill-server"), check=False, capture_output=True)

    def _do(self, *words: str) -> str:
        run = subprocess.run((*self._tmux, *words), check=True, capture_output=True, text=True, timeout=30)
        return run.stdout


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with workshop() as shop:
        yield shop.daemon()


@pytest.fixture
def screen(daemon: Daemon, tmp_path: Path) -> Iterator[Screen]:
    opened = Screen(
        tmp_path, {"XCPMEM_SOCKET": str(daemon.socket), "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}
    )
    yield opened
    opened.close()


def set_most(screen: Screen, vm: str, size: str) -> None:
    """Set a VM's dynamic-max, without the terminal."""
    words = ("vm-memory-dynamic-range-set", f"vm={vm}", "min=1GiB", f"max={size}")
    environment = os.environ | screen.environment
    subprocess.run((sys.executable, "-m", "xcpmem", *words), check=True, env=environment, timeout=60)


def test_top_fits_eighty_columns_and_is_drawn_anew_in_place(screen: Screen) -> None:
    screen.run(f"{CLIENT} top interval=0.2")
    first = screen.until(r"^guest-4 .*\[#+.*\].* gets")
    assert max(map(len, first.splitlines())) <= 80
    turn = re.search(r"turn (\d+)", first)
    assert turn is not None
    assert first.count("guest-1") == 1
    assert screen.text().splitlines()[0].startswith("xcpmem ")


def test_top_moves_with_the_host(screen: Screen) -> None:
    screen.run(f"{CLIENT} top interval=0.2")
    screen.until(r"^guest-2 +3 GiB +3 GiB")
    set_most(screen, "guest-2", "2GiB")
    screen.until(r"^guest-2 +2 GiB +2 GiB")
    set_most(screen, "guest-2", "3GiB")
    screen.until(r"^guest-2 +3 GiB +3 GiB")


def test_top_follows_the_size_of_the_terminal(screen: Screen) -> None:
    screen.run(f"{CLIENT} top interval=30")
    screen.until("^guest-4")
    screen.resize(64, 8)
    text = screen.until(r"^VMs 1 to 2 of 5")
    assert max(map(len, text.splitlines())) <= 64


def test_top_gives_the_terminal_back_on_q(screen: Screen) -> None:
    screen.run(f"{CLIENT} top")
    screen.until("^guest-4")
    screen.keys("s")
    screen.keys("q")
    text = screen.until("^ended with 0")
    assert "guest-4" not in text


def test_top_uses_colours_but_not_where_they_are_not_wanted(screen: Screen) -> None:
    screen.run(f"{CLIENT} top")
    assert "\x1b[32m" in screen.until("guest-4", with_colours=True)
    screen.keys("q")
    screen.until("^ended with 0")
    screen.close()
    screen.run(f"{CLIENT} top", NO_COLOR="1")
    assert not re.search(r"\x1b\[(\d+;)*3[0-9]", screen.until("guest-4", with_colours=True))


def test_top_piped_is_one_plain_picture(screen: Screen) -> None:
    screen.run(f"{CLIENT} top | cat -v", columns=200)
    text = screen.until("^ended with 0")
    assert "^[" not in text
    assert text.count("guest-4") == 1


def test_top_keeps_the_old_picture_and_says_so_when_the_daemon_is_gone(tmp_path: Path) -> None:
    with workshop() as shop:
        daemon = shop.daemon()
        screen = Screen(tmp_path, {"XCPMEM_SOCKET": str(daemon.socket), "HOME": str(tmp_path)})
        screen.run(f"{CLIENT} top interval=0.2")
        screen.until("^guest-4")
        daemon.kill()
        text = screen.until(r"^OLD: no answer for \d+ s: ")
        assert "guest-4" in text
        screen.keys("q")
        screen.until("^ended with 0")
        screen.close()


def test_wait_shows_a_bar_that_grows(screen: Screen) -> None:
    command = f"{CLIENT} vm-memory-dynamic-range-set vm=guest-3 min=1GiB max=1GiB && {CLIENT}"
    screen.run(f"{command} vm-memory-target-wait vm=guest-3")
    text = screen.until(r"^guest-3 \[#*\.*\] +\d+ % \S+ GiB of 1 GiB")
    assert max(map(len, text.splitlines())) <= 80
    ended = screen.until("^ended with 0")
    assert "guest-3 [########################] 100 % " in ended
    screen.close()
    screen.run(f"{CLIENT} vm-memory-dynamic-range-set vm=guest-3 min=1GiB max=3GiB")
    screen.until("^ended with 0")


def test_bar_is_for_terminals_alone(screen: Screen) -> None:
    command = f"{CLIENT} vm-memory-dynamic-range-set vm=guest-4 min=1GiB max=1GiB && {CLIENT}"
    screen.run(f"{command} vm-memory-target-wait vm=guest-4 2>&1 | cat -v")
    assert "%" not in screen.until("^ended with 0")
