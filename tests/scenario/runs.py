"""Scenario files acted out, and what is read from their answers: for the tests here and for the benchmark."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from xcpmem.scenario import Scenario, load_scenario
from xcpmem.simulation import Simulation

FOLDER: Final = Path(__file__).parent
FILES: Final = sorted(path.stem for path in FOLDER.glob("*.toml"))

Answer: TypeAlias = dict[str, Any]


def scenario(name: str) -> Scenario:
    """Read the file of that name."""
    return load_scenario(str(FOLDER / f"{name}.toml"))


@cache
def answer(name: str) -> Answer:
    """Act a file out, with a trace; every invariant holds."""
    simulation = Simulation(scenario(name), trace=True)
    result = simulation.run()
    assert simulation.broken == []
    return result


def call(result: Answer, number: int = 0) -> dict[str, Any]:
    """What became of one line of the script."""
    found = result["calls"][number]
    assert isinstance(found, dict)
    return found


def guest(result: Answer, domid: int) -> dict[str, Any]:
    """Where a guest was at the end."""
    found = result["final"]["guests"][str(domid)]
    assert isinstance(found, dict)
    return found


def target_writes(result: Answer) -> list[tuple[float, int, int]]:
    """All targets that were set: when, to whom, how many KiB."""
    return [
        (instant["t_s"], action["domid"], action["target_kib"])
        for instant in result["trace"]
        for action in instant.get("actions", [])
        if action["action"] == "SetTarget"
    ]


def overshoot_kib(result: Answer, domid: int) -> int:
    """How far a guest was ever above the newest target that it was told, KiB; negative if never."""
    newest_kib, worst_kib = 0, -(2**62)
    for instant in result["trace"]:
        for action in instant.get("actions", []):
            if action["action"] == "SetTarget" and action["domid"] == domid:
                newest_kib = action["target_kib"]
        held = instant["guests"].get(str(domid))
        if newest_kib and held:
            worst_kib = max(worst_kib, held["actual_kib"] - newest_kib)
    return worst_kib
