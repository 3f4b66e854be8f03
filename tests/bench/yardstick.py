"""How fast the machine runs Python: a fixed piece of work, so that reports of two machines can be compared.

Goals in milliseconds name no machine. What this takes now beside what it took in a former report says how
much of a difference is the machine's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.rig import Rig

NAME: Final = "yardstick: 20,000 small objects made, kept and summed up"
OBJECTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Item:
    number: int
    size_kib: int


def figures(rig: Rig) -> Iterator[Figure]:
    """Measure the yardstick."""
    yield Figure(NAME, "ms", rig.in_turns({NAME: measure_ms})[NAME])


def measure_ms() -> float:
    """Do the work; tell the CPU time that it took, milliseconds."""
    started_ns = time.process_time_ns()
    items = {number: _Item(number, number % 4096) for number in range(OBJECTS)}
    total_kib = sum(item.size_kib for item in items.values() if item.number & 1)
    names = [f"{item.number}/{total_kib - item.size_kib}" for item in items.values()]
    "".join(names).split("/")
    return (time.process_time_ns() - started_ns) / 1e6
