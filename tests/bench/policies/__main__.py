"""The suite of policies as a command: ``python -m tests.bench.policies``; tables, verdicts, losing cells.

``make bench`` runs the same on all held-out seeds and shows the marks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench.policies.cases import CASES, make_case
from tests.bench.policies.columns import COLUMNS
from tests.bench.policies.kills import figures_of_kills
from tests.bench.policies.marks import PRESSURE, PROPORTIONAL, SHARES
from tests.bench.policies.runs import cores, run_all
from tests.bench.policies.seeds import HELD_OUT, QUICK, TUNING
from tests.bench.policies.strangers import FRESH, STRANGERS
from tests.bench.policies.sweeps import rows_of_sweeps, sweep
from tests.bench.policies.verdicts import STATIC_SPLIT, losses_of, marks_of, safety_of, strangers_of, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.figures import Figure

REPORT: Final = Path("build/policies.json")
SEEDS: Final = {"held-out": HELD_OUT, "tuning": TUNING, "quick": QUICK}
STRANGERS_COLUMNS: Final = (PROPORTIONAL, "qmemman", SHARES, PRESSURE, STATIC_SPLIT, "fair oracle", "oracle")
SWEEP_SEEDS: Final = 10
TABLES: Final = (
    "stall_pct",
    "p99_pct",
    "worst_guest_pct",
    "progress_jain",
    "churn",
    "useful",
    "regrets",
    "refaults_per_s",
    "target_writes_per_h",
    "reversals_per_h",
    "settled_s",
    "mean_wait_s",
    "longest_wait_s",
    "false_refusals",
)


def main() -> int:
    """Run what is asked for; 1 if a mark was missed."""
    arguments = _arguments()
    started_s = time.monotonic()
    if arguments.strangers:
        return _strangers(arguments.processes)
    seeds = _seeds(arguments.seeds)
    cases = arguments.case or list(CASES)
    columns = {name: COLUMNS[name] for name in COLUMNS if not arguments.column or name in arguments.column}
    results = run_all(cases, columns, seeds, processes=arguments.processes)
    _say(f"{len(seeds)} seeds ({arguments.seeds}); mean and 95 % interval; each peer is a re-implementation")
    _say("of its published rule, not the program\n")
    for figure in TABLES:
        _say(table_of(results, cases, list(columns), figure))
    missed = 0
    if not arguments.column:
        kills = figures_of_kills(make_case("burst", seeds[0]))
        for found in (*marks_of(results, cases), *safety_of(results), *kills):
            missed += _judge(found)
        losses = losses_of(results, cases)
        _say(f"\n{len(losses)} cells are lost to a peer:")
        _say("".join(f"  {loss.text}\n" for loss in losses))
    if arguments.sweeps:
        _say("swept constants: pressure with our agent / the best peer, which is named where it is better")
        swept = sweep(seeds[:SWEEP_SEEDS], cases, processes=arguments.processes)
        for row in rows_of_sweeps(swept, cases):
            _say(row)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "seeds": list(seeds),
        "figures": {f"{case}/{column}": found for (case, column), found in results.items()},
    }
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _say(f"{time.monotonic() - started_s:.0f} s; all figures of all seeds in {arguments.json}")
    return 1 if missed else 0


def _strangers(processes: int) -> int:
    """Run the workloads that came after the policies; 1 if `pressure` does on one what nobody may expect."""
    columns = {name: COLUMNS[name] for name in STRANGERS_COLUMNS}
    results = run_all(list(STRANGERS), columns, FRESH, processes=processes)
    for figure in ("stall_pct", "wronged_pct", "worst_guest_pct", "reversals_per_h", "moved_pct_per_10min"):
        _say(table_of(results, list(STRANGERS), list(columns), figure))
    return sum(_judge(found) for found in (*strangers_of(results), *safety_of(results))) > 0


def _judge(found: Figure) -> bool:
    """Say how a figure stands to its goal; whether it misses it."""
    goal = "" if found.goal is None else found.goal.text
    _say(f"{found.verdict:4}  {found.name}: {found.value:.3g} {found.unit} ({found.spread}), goal {goal}")
    return found.verdict == "miss"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _seeds(text: str) -> Sequence[int]:
    return SEEDS[text] if text in SEEDS else tuple(int(word) for word in text.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.policies", description="Compare policies and peers on twelve workloads."
    )
    parser.add_argument(
        "--seeds",
        default="held-out",
        help="held-out, tuning, quick, or numbers with commas between [held-out]",
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="a workload; may be repeated")
    parser.add_argument("--column", action="append", choices=list(COLUMNS), help="who; may be repeated")
    parser.add_argument(
        "--strangers", action="store_true", help="five other workloads, on seeds of their own"
    )
    parser.add_argument("--sweeps", action="store_true", help="also sweep the model's constants")
    parser.add_argument(
        "--processes", type=int, default=cores(), help="so many at a time [one for each core]"
    )
    parser.add_argument("--json", type=Path, default=REPORT, help=f"where the report goes [{REPORT}]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
