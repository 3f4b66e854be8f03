"""The suite as a command: measures, prints tables, writes a report. Started by ``make bench``.

No figure fails it: a miss is shown as such, and whoever changes the code decides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import (
    calls,
    comparison,
    engine,
    events,
    looks,
    memory,
    planning,
    reads,
    records,
    ring,
    scrapes,
    starts,
    yardstick,
)
from tests.bench.figures import HEADINGS, Curve, Figure, curve_rows, rows
from tests.bench.plot import draw
from tests.bench.policies import section
from tests.bench.rig import ROUNDS, Rig
from xcpmem import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MACHINE: Final = "machine"
"""Measured whatever is asked for: without it times of two reports cannot be compared."""

SECTIONS: Final[Mapping[str, Callable[[Rig], Iterable[Figure | Curve]]]] = {
    MACHINE: yardstick.figures,
    "engine": lambda _: engine.figures(),
    "planning": planning.figures,
    "looks": looks.figures,
    "reads": reads.figures,
    "ring": ring.figures,
    "calls": calls.figures,
    "records": records.figures,
    "events": events.figures,
    "scrapes": scrapes.figures,
    "starts": starts.figures,
    "memory": memory.figures,
    "policies": lambda _: section.figures(),
}
REPORT: Final = Path("build/bench.json")


def main() -> int:
    """Measure what is asked for; return 0."""
    arguments = _arguments()
    former = json.loads(arguments.compare.read_text(encoding="utf-8")) if arguments.compare else None
    for folder in filter(None, (arguments.json.parent, arguments.profile)):
        folder.mkdir(parents=True, exist_ok=True)
    rig = Rig(arguments.rounds, arguments.profile)
    figures: dict[str, list[Figure]] = {}
    curves: dict[str, list[Curve]] = {}
    for name in dict.fromkeys([MACHINE, *(arguments.only or SECTIONS)]):
        started_s = time.monotonic()
        with rig.profiled(f"section-{name}"):
            measured = list(SECTIONS[name](rig))
        figures[name] = [each for each in measured if isinstance(each, Figure)]
        curves[name] = [each for each in measured if isinstance(each, Curve)]
        _tell(f"\n{name} ({time.monotonic() - started_s:.0f} s)\n\n")
        _tell(_table([HEADINGS, *rows(figures[name])]))
        for curve in curves[name]:
            _tell(f"\n{_table(curve_rows(curve))}{curve.bound}\n")
    if former is not None:
        _tell(f"\nbeside {arguments.compare}, xcpmem {former['xcpmem']}, Python {former['python']}\n\n")
        _tell(_table([comparison.HEADINGS, *comparison.compare(figures, former)]))
    _write_report(arguments.json, rig, figures, curves)
    verdicts = [figure.verdict for each in figures.values() for figure in each]
    _tell(
        f"\n{verdicts.count('pass')} goals reached, {verdicts.count('miss')} missed; "
        f"report in {arguments.json}\n"
    )
    if rig.profiles is not None:
        _tell(f"profiles in {rig.profiles}; being profiled takes time, so these figures are no figures\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure xcpmem beside its peers."
    )
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="a section; may be repeated")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"medians of so many [{ROUNDS}]")
    parser.add_argument(
        "--json", type=Path, default=REPORT, help=f"where the report goes, its plots beside it [{REPORT}]"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="a former report: what got better or worse"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="where profiles of daemons and sections go, each with a text of its top functions",
    )
    return parser.parse_args()


def _write_report(
    path: Path, rig: Rig, figures: Mapping[str, Sequence[Figure]], curves: Mapping[str, Sequence[Curve]]
) -> None:
    report = {
        "xcpmem": __version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "rounds": rig.rounds,
        "is_profiled": rig.profiles is not None,
        "sections": {name: [figure.as_json() for figure in each] for name, each in figures.items()},
        "curves": {name: [curve.as_json() for curve in each] for name, each in curves.items()},
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for curve in (curve for each in curves.values() for curve in each):
        file_name = re.sub(r"\W+", "-", curve.name).lower()
        path.with_name(f"{path.stem}-{file_name}.svg").write_text(draw(curve), encoding="utf-8")


def _table(cells: Sequence[Sequence[str]]) -> str:
    """Write a table as Markdown has it, which people can read as it stands."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:], ""])


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
