"""Bears daemons quickly: a small program that has everything loaded and forks for each.

What is born is a whole process that runs `xcpmem.daemon.main`, with nothing of this program in it. It reads a
JSON object a line, ``{"argv": [...], "out": FIFO, "log": FILE}``, and answers with the process id.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.e2e.programs import READY, START_S, environment

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence
    from pathlib import Path

LINE_BYTES_MOST: Final = 4096


@dataclass
class Newborn:
    """A daemon that serves.

    Args:
        pid: of its process.
        url: where it serves.
        password: root's.
    """

    pid: int
    url: str
    password: str
    is_killed: bool = False

    def kill(self) -> None:
        """End it without a word; once is enough."""
        if not self.is_killed:
            self.is_killed = True
            os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """The other end: starts the program and asks it for daemons.

    Args:
        folder: where everything lives.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._born = 0
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.nursery"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(folder, PYTHONPATH=os.pathsep.join(sys.path)),
        )

    def bear(self, *argv: str) -> Newborn:
        """Start a daemon and wait until it serves; AssertionError with its log if it does not."""
        self._born += 1
        out, log = self._folder / f"{self._born}.out", self._folder / "daemons.log"
        os.mkfifo(out)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"argv": argv, "out": str(out), "log": str(log)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        with out.open("rb") as heard:
            pid = int(self._process.stdout.readline())
            line = heard.readline(LINE_BYTES_MOST).decode()
        out.unlink()
        ready: re.Match[str] | None = READY.fullmatch(line)
        assert ready is not None, f"{line!r}; the log ends:\n{log.read_text()[-4000:]}"
        password = (self._folder / ready[3] / "root.password").read_text(encoding="ascii").strip()
        return Newborn(pid, ready[1], password)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(START_S)
        self._process.stdout.close()


def wait_for_end(pid: int) -> None:
    """Wait until a process that was killed is gone, with all that it held."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], START_S)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


def _bear(argv: Sequence[str], out: str, log: str) -> int:
    """Fork; the child runs the daemon and never returns."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(out, os.O_WRONLY), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    from xcpmem.daemon import main as run_daemon  # noqa: PLC0415 -- loaded before, by the parent

    status = 1
    try:
        status = run_daemon(argv)
    except BaseException:  # noqa: BLE001 -- nobody above may see it
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Serve orders until the end of standard input."""
    import xcpmem.assembly  # noqa: F401, PLC0415 -- loads everything that a daemon needs

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(f"{_bear(order['argv'], order['out'], order['log'])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
