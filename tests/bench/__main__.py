"""The suite as a command: measures, prints a table, writes a report. Started by ``make bench``.

No figure fails it: a miss is shown as such, and whoever changes the code decides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import api, engine, planning
from tests.bench.figures import HEADINGS, rows
from tests.bench.policies import section
from xcpmem import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.bench.figures import Figure

SECTIONS: Final[Mapping[str, Callable[[int], Iterable[Figure]]]] = {
    "engine": lambda _: engine.figures(),
    "planning": planning.figures,
    "api": api.figures,
    "policies": lambda _: section.figures(),
}
REPORT: Final = Path("build/bench.json")
ROUNDS: Final = 5


def main() -> int:
    """Measure what is asked for; return 0."""
    arguments = _arguments()
    measured: dict[str, list[Figure]] = {}
    for name in arguments.only or SECTIONS:
        started_s = time.monotonic()
        measured[name] = list(SECTIONS[name](arguments.rounds))
        _print_section(f"{name} ({time.monotonic() - started_s:.0f} s)", measured[name])
    report = {
        "xcpmem": __version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "rounds": arguments.rounds,
        "sections": {name: [figure.as_json() for figure in figures] for name, figures in measured.items()},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    verdicts = [figure.verdict for figures in measured.values() for figure in figures]
    sys.stdout.write(
        f"{verdicts.count('pass')} goals reached, {verdicts.count('miss')} missed; "
        f"report in {arguments.json}\n"
    )
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure xcpmem beside its peers."
    )
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="a section; may be repeated")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"medians of so many [{ROUNDS}]")
    parser.add_argument("--json", type=Path, default=REPORT, help=f"where the report goes [{REPORT}]")
    return parser.parse_args()


def _print_section(title: str, figures: list[Figure]) -> None:
    table = [HEADINGS, *rows(figures)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    sys.stdout.write("\n".join([title, "", *(line.rstrip() for line in lines), "", ""]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
