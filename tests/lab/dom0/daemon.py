"""The daemon under test: started, killed, paused and stopped as a process of dom0's."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from tests.lab.dom0.report import CheckError, require

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_DEADLINE_S: Final = 180
PAGE_DEADLINE_S: Final = 30
# The contract says 5 s; everything is many times slower under emulation.
STOP_DEADLINE_S: Final = 30
LOG_TAIL_LINES: Final = 40
LOG_LEVELS: Final = Path("/opt/lab/log-levels")

# Not squeezed's own path: there, xcpmemd would take whoever answers for squeezed.
SQUEEZED_SOCKET: Final = "/run/lab/squeezed"

_READY: Final = re.compile(r"xcpmemd ready url=(\S+) socket=(\S+) state=(\S+)")


class Daemon:
    """One xcpmemd with a state directory that outlives its processes.

    Args:
        directory: An existing directory for the state and the daemon's log.
        listen: HOST:PORT to listen on.
    """

    def __init__(self, directory: Path, listen: str) -> None:
        self._state = directory / "state"
        self._log = directory / "xcpmemd.log"
        self._listen = listen
        self._process: subprocess.Popen[bytes] | None = None
        self._broken: str | None = None
        self._told_lines = 0
        self.url = ""

    @property
    def is_running(self) -> bool:
        """Whether a process lives that said it was ready."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> float:
        """Start it and wait until it says that it serves; return the seconds that took.

        Raises:
            CheckError: It ended or stayed silent. It is not tried again: later starts fail at once.
        """
        if self._broken:
            raise CheckError(self._broken)
        began = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-X", "faulthandler", "-m", "xcpmem.daemon", "--driver", "xen"),
                    *("--state-dir", str(self._state), "--listen", self._listen),
                    *("--squeezed-socket", SQUEEZED_SOCKET),
                ],
                env=os.environ | {"XCPMEM_LOG": LOG_LEVELS.read_text()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        line = first_line(self._process.stdout, READY_DEADLINE_S)
        ready = _READY.fullmatch(line)
        if ready is None:
            # With faulthandler an abort leaves in the log where each thread was.
            self._process.send_signal(signal.SIGABRT)
            self._process.wait(STOP_DEADLINE_S)
            self._broken = f"the daemon did not get ready within {READY_DEADLINE_S} s, it said {line!r}"
            raise CheckError(self._broken)
        self.url = ready[1]
        return time.perf_counter() - began

    def kill(self) -> None:
        """End it as by `kill -9`."""
        process = self._started()
        process.kill()
        process.wait()

    def stop(self) -> float:
        """Ask it to end by SIGTERM; return the seconds it took to end with exit code 0."""
        process = self._started()
        began = time.perf_counter()
        process.terminate()
        try:
            code = process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise CheckError(f"the daemon did not end within {STOP_DEADLINE_S} s of SIGTERM") from error
        require(code == 0, f"the daemon ended with exit code {code} after SIGTERM")
        return time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep it from doing anything for a while, without ending it."""
        process = self._started()
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def page(self, path: str) -> tuple[int, str]:
        """The status and text of a page that it serves."""
        with urllib.request.urlopen(self.url + path, timeout=PAGE_DEADLINE_S) as answer:  # noqa: S310 - our own
            return answer.status, answer.read().decode()

    def root_password(self) -> str:
        """The password that it made for root at its first start."""
        return (self._state / "root.password").read_text().strip()

    def news(self) -> str:
        """The last lines of what it logged since this was asked before."""
        if not self._log.exists():
            return ""
        lines = self._log.read_text(errors="replace").splitlines()
        news, self._told_lines = lines[self._told_lines :], len(lines)
        return "\n".join(news[-LOG_TAIL_LINES:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise CheckError("the daemon was never started")
        return self._process


def first_line(stream: IO[bytes], deadline_s: float) -> str:
    """The first line of a stream; what there is of it if the stream ends or the time is over."""
    deadline = time.perf_counter() + deadline_s
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while b"\n" not in text and selector.select(max(0.0, deadline - time.perf_counter())):
            chunk = os.read(stream.fileno(), 4096)
            if not chunk:
                break
            text += chunk
    return text.partition(b"\n")[0].decode(errors="replace")
