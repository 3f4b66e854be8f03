"""A program with a watch on its event loop: how often it wakes, and how long it is busy at a time.

``python -m tests.bench.watched FILE -m MODULE WORDS...`` runs a module as a program. At each SIGUSR1 it
writes to FILE, as JSON, what it counted since the last one, and counts anew.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import selectors
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

    from tests.e2e.programs import Program

WRITES_S: Final = 5.0
POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Busyness:
    """What a loop did between two readings.

    Args:
        wakeups: how often it woke.
        longest_ms: for how long, at most, it saw to nothing else; CPU time, so that it is not the machine's.
    """

    wakeups: int
    longest_ms: float


def read(program: Program, file: Path) -> Busyness:
    """Let a watched program write what it counted since the last reading."""
    file.unlink(missing_ok=True)
    program.process.send_signal(signal.SIGUSR1)
    deadline_s = time.monotonic() + WRITES_S
    while not file.exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"nothing was written to {file}")
        time.sleep(POLL_S)
    return Busyness(**json.loads(file.read_text(encoding="ascii")))


class WatchedSelector(selectors.DefaultSelector):
    """Counts how often the loop wakes, and times what it does until it waits again.

    Args:
        file: where `write` writes.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._wakeups = 0
        self._longest_s = 0.0
        self._woke_s = time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, as the loop asks."""
        self._longest_s = max(self._longest_s, time.thread_time() - self._woke_s)
        ready = super().select(timeout)
        self._wakeups += 1
        self._woke_s = time.thread_time()
        return ready

    def write(self, _number: int, _frame: FrameType | None) -> None:
        """Write what was counted, and count anew."""
        report = {"wakeups": self._wakeups, "longest_ms": self._longest_s * 1000}
        self._wakeups, self._longest_s = 0, 0.0
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(report), encoding="ascii")
        new.rename(self._file)


class _WatchedPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes loops that wait with a given selector."""

    def __init__(self, selector: WatchedSelector) -> None:
        super().__init__()
        self._selector = selector

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(self._selector)


def main() -> None:
    """Run the module."""
    _, file, _, module, *words = sys.argv
    selector = WatchedSelector(Path(file))
    signal.signal(signal.SIGUSR1, selector.write)
    asyncio.set_event_loop_policy(_WatchedPolicy(selector))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
