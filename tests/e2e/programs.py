"""Real processes of this project: started, waited for by what they say, ended, and asked how they fared."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 30.0
"""A process that says nothing for so long does not start; generous, for machines that are busy."""

END_S = 30.0
"""What has not ended so long after a signal does not end. The contract says 5 s; machines may be busy."""

DAEMON = ("-m", "xcpmem.daemon")
CLIENT = ("-m", "xcpmem")

READY = re.compile(r"xcpmemd ready url=(http://127\.0\.0\.1:\d+) socket=(\S+) state=(\S+)\n")


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment without anything that a person may have set for xe or xcpmem; bytecode is kept."""
    odd = ("XE_", "XCPMEM_", "PYTHONDONTWRITEBYTECODE")  # an installed package is compiled already
    kept = {key: value for key, value in os.environ.items() if not key.startswith(odd)}
    return {**kept, "HOME": str(home), **more}


class Program:
    """A running process whose standard error goes to a file.

    Args:
        words: its command line, after the interpreter.
        folder: its working directory and home; its log is kept there.
    """

    def __init__(self, words: tuple[str, ...], folder: Path) -> None:
        self._log = folder / f"{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                (sys.executable, *words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment(folder),
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def rss_bytes(self) -> int:
        """What it holds in memory; proc(5), statm: the second number, in pages."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def read_line(self) -> str:
        """Wait for a line on standard output."""
        assert self.process.stdout is not None
        descriptor, line = self.process.stdout.fileno(), b""
        deadline_s = time.monotonic() + START_S
        while not line.endswith(b"\n"):
            left_s = max(0.0, deadline_s - time.monotonic())
            readable, _, _ = select.select([descriptor], [], [], left_s)
            byte = os.read(descriptor, 1) if readable else b""
            assert byte, f"no line but {line!r}; the log says:\n{self.log}"
            line += byte
        return line.decode()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and wait for that; return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(END_S)

    def kill(self) -> None:
        """End it without a word, as the kernel does when memory is short."""
        self.process.kill()
        self.process.wait(END_S)

    def remaining_output(self) -> str:
        """What it printed after the lines that were read, once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Daemon(Program):
    """A running xcpmemd that serves.

    Args:
        folder: as for `Program`.
        options: of its command line.
        under: a program of Python's that runs it, such as a profiler.
    """

    def __init__(self, folder: Path, *options: str, under: tuple[str, ...] = ()) -> None:
        super().__init__((*under, *DAEMON, *options), folder)
        self.ready = self.read_line()
        match = READY.fullmatch(self.ready)
        assert match, self.ready
        self.url = match[1]
        self.socket = Path(match[2])
        self.state_dir = Path(match[3])
        self.port = int(self.url.rpartition(":")[2])
        self.store = self.state_dir / "xenstored.sock"
        """Its own simulated host's xenstored."""

    @property
    def password(self) -> str:
        return (self.state_dir / "root.password").read_text(encoding="ascii").strip()

    def fetch(self, path: str) -> str:
        """Get a page as a browser would."""
        with urlopen(self.url + path, timeout=START_S) as answer:  # noqa: S310 - our own daemon's URL
            return str(answer.read().decode())

    def series(self, name: str) -> dict[str, int]:
        """Read one metric as Prometheus would, by domid (empty for the host's own)."""
        return {
            sample.labels.get("domid", ""): int(sample.value)
            for family in text_string_to_metric_families(self.fetch("/metrics"))
            for sample in family.samples
            if sample.name == name
        }


_P = TypeVar("_P", bound=Program)


@dataclass(frozen=True)
class Ended:
    """What a process that has ended left behind."""

    status: int
    out: str
    err: str


class Workshop:
    """Starts processes in a folder of their own and lets none outlive the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def daemon(
        self, *options: str, scenario: str = "quiet", state: str = "d", under: tuple[str, ...] = ()
    ) -> Daemon:
        """Start a daemon on a free port and wait until it serves."""
        words = ("--scenario", scenario, "--state-dir", str(self.folder / state), "--listen", "127.0.0.1:0")
        return self.own_daemon(*words, *options, under=under)

    def own_daemon(self, *options: str, under: tuple[str, ...] = ()) -> Daemon:
        """Start a daemon with just these options and wait until it serves."""
        return self._own(Daemon(self.folder, *options, under=under))

    def simhost(self, scenario: str) -> Path:
        """Start a simulated host alone; return the socket of its xenstored."""
        path = self.folder / "host"
        program = self._own(
            Program((*CLIENT, "simhost", "--scenario", scenario, "--socket", str(path)), self.folder)
        )
        assert program.read_line().startswith("xcpmem simhost ready ")
        return path

    def start(self, *words: str) -> Program:
        """Start anything else of ours."""
        return self._own(Program(words, self.folder))

    def run(self, *words: str, text: str | None = None, **more: str) -> Ended:
        """Run a command to its end; ``more`` is added to its environment."""
        done = subprocess.run(
            (sys.executable, *words),
            input=text or "",
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
            cwd=self.folder,
            env=environment(self.folder, **more),
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str) -> str:
        """Put a file into the folder; return its path."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def _own(self, program: _P) -> _P:
        self._stack.callback(program.close)
        return program


@contextmanager
def workshop() -> Iterator[Workshop]:
    """A workshop in a folder with a short name: a socket's path may have 107 bytes at most."""
    with TemporaryDirectory(prefix="xe-") as name, ExitStack() as stack:
        yield Workshop(Path(name), stack)
