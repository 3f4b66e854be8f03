"""What sections measure with: rounds in turns, daemons that can be profiled, the CPU time of processes."""

from __future__ import annotations

import cProfile
import pstats
import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from tests.bench.figures import in_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.e2e.programs import Daemon, Workshop

ROUNDS: Final = 5
SIZES: Final = (10, 100, 1000, 10000)
"""At which curves of what needs no daemon are measured."""

FLEETS: Final = (10, 100, 1000, 3000)
"""The same for daemons: the simulated xenstored allows 16,384 watches, five for each domain."""

REST_S: Final = 0.05
REST_MS: Final = 0.5
REST_MOST_S: Final = 10.0

TOP_FUNCTIONS: Final = 30

T = TypeVar("T")

Times: TypeAlias = "Mapping[str, tuple[float, ...]]"
"""What was measured, round by round, by name."""


@dataclass(frozen=True, slots=True)
class Rig:
    """How a section is to measure.

    Args:
        rounds: medians of so many.
        profiles: the folder for profiles; None: nothing is profiled.
    """

    rounds: int = ROUNDS
    profiles: Path | None = None

    def in_turns(self, runs: Mapping[str, Callable[[], T]]) -> dict[str, tuple[T, ...]]:
        """Let all run in turns, so that what else the machine does hits them alike; a first round warms up.

        Args:
            runs: by name; each measures once and gives what it measured.

        Returns:
            By name, of each round.
        """
        values: dict[str, list[T]] = {name: [] for name in runs}
        for number in range(self.rounds + 1):
            for name, run in runs.items():
                value = run()
                if number:
                    values[name].append(value)
        return {name: tuple(each) for name, each in values.items()}

    @contextmanager
    def daemon(
        self,
        shop: Workshop,
        name: str,
        *options: str,
        scenario: str = "quiet",
        under: tuple[str, ...] = (),
    ) -> Iterator[Daemon]:
        """Have a daemon, with a profile of its life if profiles are wanted.

        Args:
            shop: where it runs.
            name: of the profile, and of its state's folder.
            options: of its command line.
            scenario: of its simulated host.
            under: a program of Python's that runs it.
        """
        if self.profiles is None:
            daemon = shop.daemon(*options, scenario=scenario, state=name, under=under)
            yield daemon
            daemon.end()
            return
        path = self.profiles / f"{name}.prof"
        profiler = ("-m", "cProfile", "-o", str(path.resolve()))
        daemon = shop.daemon(*options, scenario=scenario, state=name, under=(*profiler, *under))
        yield daemon
        daemon.end()
        write_top(path)

    @contextmanager
    def profiled(self, name: str) -> Iterator[None]:
        """Profile what this process does meanwhile, if profiles are wanted."""
        if self.profiles is None:
            yield
            return
        path = self.profiles / f"{name}.prof"
        with cProfile.Profile() as profile:
            yield
        profile.dump_stats(path)
        write_top(path)


def write_top(path: Path) -> None:
    """Write the functions that took the most, by their own time and by all of it, beside a profile."""
    with path.with_suffix(".txt").open("w", encoding="utf-8") as text:
        stats = pstats.Stats(str(path), stream=text)
        stats.sort_stats("tottime").print_stats(TOP_FUNCTIONS)
        stats.sort_stats("cumulative").print_stats(TOP_FUNCTIONS)


def cpu_ms(pid: int) -> float:
    """Tell the CPU time that a running process has used so far, all its threads together, milliseconds.

    The clock's number is made as ``clock_getcpuclockid(3)`` of Linux makes it.
    """
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


def wait_for_rest(pid: int) -> None:
    """Wait until a process has used no CPU time worth mentioning for a while; at most `REST_MOST_S`."""
    deadline_s = time.monotonic() + REST_MOST_S
    while time.monotonic() < deadline_s:
        before_ms = cpu_ms(pid)
        time.sleep(REST_S)
        if cpu_ms(pid) - before_ms < REST_MS:
            return


def beside(times: Times, unit: str, *names: str) -> tuple[tuple[str, str], ...]:
    """Write the medians of some of what was measured, as a `Figure` shows its peers."""
    return tuple((name, in_unit(median(times[name]), unit)) for name in names)
