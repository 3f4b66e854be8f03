"""Section ``ring``: what a daemon of 1,000 guests costs while some or all move, and while nothing happens.

The simulated host runs in a process of its own, so that only the daemon counts: looks, thoughts, records,
metrics, journal, and the policies that are not in force, each of its threads.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench import watched
from tests.bench.figures import Curve, Figure, Goal
from tests.bench.rig import cpu_ms, wait_for_rest
from tests.e2e.clients import logged_in
from tests.e2e.programs import workshop
from xcpmem.units import kib_to_bytes, mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.bench.rig import Rig
    from tests.e2e.programs import Daemon

SIZE: Final = 1000
SIZES: Final = (100, SIZE, 3000)
MOVING_PART: Final = 10
"""One guest in so many moves."""
SLOW_KIB_S: Final = 64
"""So slowly that it still moves when all is measured."""
RANGE_MIB: Final = (64, 256)
FREE_MIB: Final = 1024
NARROW_MIB: Final = 200

TURN_MS: Final = Goal(most=10.0)
HELD_UP_MS: Final = Goal(most=20.0)
IDLE_PERCENT: Final = Goal(most=1.0)

MOVE_S: Final = 2.0
"""One round of turns."""
POLL_S: Final = 0.5
"""Between two scrapes, so that they do not count."""
TURN_MOST_S: Final = 60.0
IDLE_S: Final = 62.0
"""Two looks for safety's sake, one each half minute, are in it."""

_CYCLES: Final = re.compile(r'^xcpmem_cycles_total\{result="ok"\} ([0-9.]+)$', re.MULTILINE)


class _Moving(NamedTuple):
    """Of each round: CPU time of a turn, and the longest time that the loop was held up; milliseconds."""

    turn_ms: tuple[float, ...]
    held_up_ms: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Sequence[_Moving]) -> _Moving:
        """Put rounds together."""
        return cls(*(tuple(value for each in rounds for value in each[which]) for which in (0, 1)))


def figures(rig: Rig) -> Iterator[Figure | Curve]:
    """Measure a daemon at rest, then moving."""
    line: dict[int, tuple[float, ...]] = {}
    for size in SIZES:
        with _watched_daemon(rig, size, slow=size // MOVING_PART) as (daemon, file):
            if size == SIZE:
                yield from _idle(daemon, file)
            moving = _some_moving(rig, daemon, file, size)
        line[size] = moving.turn_ms
        if size == SIZE:
            name = f"{size // MOVING_PART} of {size} guests moving"
            yield Figure(f"one turn, {name}", "ms", moving.turn_ms, TURN_MS)
            yield Figure(f"loop held up at most, {name}", "ms", moving.held_up_ms, HELD_UP_MS)
    with _watched_daemon(rig, SIZE, slow=SIZE) as (daemon, file):
        yield from _all_moving(rig, daemon, file)
    yield Curve(
        f"one turn, one guest in {MOVING_PART} moving",
        "ms of CPU",
        "guests",
        {"xcpmem": line},
        "Bounded by reading Xen's list and by one pass of the planner over all guests.",
    )


def _idle(daemon: Daemon, file: Path) -> Iterator[Figure]:
    wait_for_rest(daemon.process.pid)
    watched.read(daemon, file)
    before_ms, started_s = cpu_ms(daemon.process.pid), time.monotonic()
    time.sleep(IDLE_S)
    spent_ms, passed_s = cpu_ms(daemon.process.pid) - before_ms, time.monotonic() - started_s
    wakeups = watched.read(daemon, file).wakeups
    name = f"idle, {SIZE} obedient guests, no clients"
    yield Figure(f"{name}: of a core", "%", (spent_ms / passed_s / 10,), IDLE_PERCENT)
    yield Figure(f"{name}: wake-ups a minute", "", (wakeups * 60 / passed_s,))


def _some_moving(rig: Rig, daemon: Daemon, file: Path, size: int) -> _Moving:
    """Narrow the ranges of the slow guests, and count while they give."""
    with logged_in(daemon) as api:
        records = api.call("VM.get_all_records").items()
        slow = sorted((int(record["domid"]), ref) for ref, record in records if int(record["domid"]) > 0)
        low, high = (str(kib_to_bytes(mib_to_kib(mib))) for mib in (RANGE_MIB[0], NARROW_MIB))
        for _, ref in slow[: size // MOVING_PART]:
            api.call("VM.set_memory_dynamic_range", ref, low, high)
    _round(daemon, file)
    return _Moving.of([_round(daemon, file) for _ in range(rig.rounds)])


def _all_moving(rig: Rig, daemon: Daemon, file: Path) -> Iterator[Figure]:
    """Start a VM so large that every guest has to give, and count while they do."""
    size = str(kib_to_bytes(mib_to_kib(FREE_MIB + SIZE * (RANGE_MIB[1] - NARROW_MIB))))
    limits = ("static_min", "dynamic_min", "dynamic_max", "static_max")
    with logged_in(daemon) as api:
        vm = api.call("VM.create", {"name_label": "large"} | {f"memory_{name}": size for name in limits})
        watched.read(daemon, file)
        turn = _cycles(daemon)
        api.call("Async.VM.start", vm, False, False)
        _wait_for_turn(daemon, turn + 2)  # the one in which all are asked may have begun before the call
        asked = watched.read(daemon, file)
        moving = _Moving.of([_round(daemon, file) for _ in range(rig.rounds)])
    name = f"all {SIZE} guests moving"
    yield Figure(
        f"loop held up at most, all {SIZE} guests asked to move", "ms", (asked.longest_ms,), HELD_UP_MS
    )
    yield Figure(f"loop held up at most, {name}", "ms", moving.held_up_ms, HELD_UP_MS)
    yield Figure(f"one turn, {name}", "ms", moving.turn_ms)


def _round(daemon: Daemon, file: Path) -> _Moving:
    """Count for a while what turns cost, and how long they hold up the loop."""
    before = _cycles(daemon)
    watched.read(daemon, file)
    before_ms = cpu_ms(daemon.process.pid)
    time.sleep(MOVE_S)
    turns = _wait_for_turn(daemon, before + 1) - before
    spent_ms, busy = cpu_ms(daemon.process.pid) - before_ms, watched.read(daemon, file)
    return _Moving((spent_ms / turns,), (busy.longest_ms,))


def _wait_for_turn(daemon: Daemon, number: int) -> int:
    """Wait until so many turns have been gone round, at most `TURN_MOST_S`; give how many there are."""
    deadline_s = time.monotonic() + TURN_MOST_S
    while (turns := _cycles(daemon)) < number:
        assert time.monotonic() < deadline_s, f"no turn {number} within {TURN_MOST_S:g} s"
        time.sleep(POLL_S)
    return turns


def _cycles(daemon: Daemon) -> int:
    found = _CYCLES.search(daemon.fetch("/metrics"))
    assert found, "no cycles in /metrics"
    return int(float(found[1]))


@contextmanager
def _watched_daemon(rig: Rig, size: int, *, slow: int) -> Iterator[tuple[Daemon, Path]]:
    """Have a daemon with a watch on its loop, attached to a host in a process of its own."""
    with workshop() as shop:
        scenario, file = shop.write("fleet.toml", _fleet(size, slow)), shop.folder / "busy.json"
        host = shop.simhost(scenario)
        under = ("-m", "tests.bench.watched", str(file))
        with rig.daemon(
            shop, f"ring-{size}-{slow}", "--host", str(host), scenario=scenario, under=under
        ) as daemon:
            yield daemon, file


def _fleet(size: int, slow: int) -> str:
    """Write a host of small guests, the first ones slow."""
    low_kib, high_kib = map(mib_to_kib, RANGE_MIB)
    lines = ["[host]", f"free_kib = {mib_to_kib(FREE_MIB)}"]
    for domid in range(1, size + 1):
        rate_kib_s = SLOW_KIB_S if domid <= slow else mib_to_kib(1024)
        lines += ["[[guest]]", f"domid = {domid}", f"dynamic_min_kib = {low_kib}"]
        lines += [f"dynamic_max_kib = {high_kib}", "vcpus = 2"]
        lines += [f"balloon = {{ rate_kib_s = {rate_kib_s}, inaccuracy_kib = 0 }}"]
    return "\n".join(lines)
