"""What the runs say: figures beside their marks, tables, and every cell that is lost to a peer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.figures import Figure, Goal
from tests.bench.policies.intervals import interval
from tests.bench.policies.marks import ENTITLED, MARKS, NEVER, PRESSURE, PROPORTIONAL
from tests.bench.policies.runs import BOUNDS, PEERS, Results

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STATIC_SPLIT: Final = "static split"

UNITS: Final = {"pct": "%", "s": "s", "h": "/h", "points": "points", "10min": "%/10 min", "kib": "KiB"}

COMPARED: Final = {
    "stall_pct": 1,
    "p99_pct": 1,
    "worst_guest_pct": 1,
    "os_gap_points": 1,
    "recovery_s": 1,
    "mean_wait_s": 1,
    "started_pct": -1,
    "progress_jain": -1,
    "weighted_jain": -1,
}
"""Figures in which a peer may be better than we are: 1 where less is better, -1 where more is."""

COSTS: Final = ("churn", "moved_pct_per_10min", "reversals_per_h")
"""What movement costs; compared only with peers that stall no more, since who never moves pays nothing."""

MORE_IS_BETTER: Final = frozenset({"useful", *(figure for figure, sign in COMPARED.items() if sign < 0)})

SLACK: Final = 0.005
"""Cells are printed to two digits; who is better by less is not said to be."""


@dataclass(frozen=True, slots=True)
class MeanFigure(Figure):
    """A figure whose values are of independent seeds: its value is their mean, its spread a 95 % interval."""

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return interval(self.values).mean

    @property
    def spread(self) -> str:
        """The 95 % interval of the mean."""
        return f"±{interval(self.values).half:.2g}"


class Loss(NamedTuple):
    """A cell in which a peer is better than our ``pressure`` with our agent."""

    case: str
    figure: str
    peer: str
    ours: float
    theirs: float

    @property
    def text(self) -> str:
        """The same for people."""
        return f"{self.case}, {self.figure}: {self.ours:.2f}, {self.peer} {self.theirs:.2f}"


def marks_of(results: Results, cases: Sequence[str]) -> Iterator[Figure]:
    """Set the figures beside their marks."""
    for mark in MARKS:
        if mark.case in cases:
            values = results[mark.case, mark.column][mark.figure]
            yield MeanFigure(
                f"{mark.column}: {mark.case}, {_words(mark.figure)}",
                _unit(mark.figure),
                tuple(values),
                mark.goal,
                tuple(_beside(results, mark.case, mark.figure)),
            )


def safety_of(results: Results) -> Iterator[Figure]:
    """Count what must never happen, over all runs of ours."""
    ours = [(key, found) for key, found in results.items() if key[1] not in {**PEERS, **BOUNDS}]
    for figure in NEVER:
        worst = max((max(0.0, *found[figure]) for _, found in ours), default=0.0)
        yield Figure(f"all of ours: {_words(figure)}, the worst run", "", (worst,), Goal(most=0))
    for figure in ENTITLED:
        worst = max((max(found[figure]) for key, found in ours if key[1] == PRESSURE), default=0.0)
        yield Figure(f"{PRESSURE}: {_words(figure)}, the worst run", "", (worst,), Goal(most=0))


def stalls_of(results: Results, cases: Sequence[str]) -> Iterator[Figure]:
    """Show the mean stall of every case."""
    for case in cases:
        values = results[case, PRESSURE]["stall_pct"]
        yield MeanFigure(
            f"{PRESSURE}: {case}, all columns",
            "%",
            tuple(values),
            None,
            tuple(_beside(results, case, "stall_pct")),
        )


def strangers_of(results: Results) -> Iterator[Figure]:
    """Judge `pressure` on workloads that were made after it: what everybody may expect of any workload.

    But for chance, it loses no more than who moves nothing and than XCP's rule; and it comes to rest.
    """
    cases = list(dict.fromkeys(case for case, _ in results))
    for case, other in product(cases, (PROPORTIONAL, STATIC_SPLIT)):
        ours, theirs = (results[case, column]["stall_pct"] for column in (PRESSURE, other))
        more = tuple(mine - its for mine, its in zip(ours, theirs, strict=True))
        yield MeanFigure(
            f"{case}: stall beyond that of {other}", "points", more, Goal(most=interval(more).half)
        )
    for case in cases:
        values = tuple(results[case, PRESSURE]["reversals_per_h"])
        yield MeanFigure(f"{case}: reversals once needs stand still", "/h", values, Goal(most=2))


def losses_of(results: Results, cases: Sequence[str]) -> list[Loss]:
    """Find every cell in which a peer is better."""
    found = []
    for case in cases:
        ours = {figure: interval(values).mean for figure, values in results[case, PRESSURE].items()}
        for peer in PEERS:
            theirs = {figure: interval(values).mean for figure, values in results[case, peer].items()}
            figures = dict(COMPARED)
            if theirs["stall_pct"] <= ours["stall_pct"] + SLACK:
                figures |= dict.fromkeys(COSTS, 1)
            found += [
                Loss(case, figure, peer, ours[figure], theirs[figure])
                for figure, sign in figures.items()
                if figure in ours and figure in theirs and sign * (ours[figure] - theirs[figure]) > SLACK
            ]
    return found


def table_of(results: Results, cases: Sequence[str], columns: Sequence[str], figure: str) -> str:
    """Write one figure of all cases and columns as a table in Markdown, the best that can be had in bold."""
    lines = [f"| {_words(figure)} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for case in cases:
        cells = {
            column: interval(results[case, column][figure])
            for column in columns
            if figure in results[case, column]
        }
        if not cells:
            continue
        sign = -1 if figure in MORE_IS_BETTER else 1
        best = min((sign * cell.mean for column, cell in cells.items() if column not in BOUNDS), default=0.0)
        texts = []
        for column in columns:
            if column not in cells:
                texts.append("")
                continue
            text = cells[column].text
            is_best = column not in BOUNDS and sign * cells[column].mean <= best + SLACK
            texts.append(f"**{text}**" if is_best else text)
        lines.append(f"| {case} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _beside(results: Results, case: str, figure: str) -> Iterator[tuple[str, str]]:
    for column in (*PEERS, *BOUNDS):
        values = results.get((case, column), {}).get(figure)
        if values:
            yield column, f"{interval(values).mean:.3g}"


def _words(figure: str) -> str:
    words = figure.split("_")
    return " ".join(words[:-1] if words[-1] in UNITS else words).replace(" per", "")


def _unit(figure: str) -> str:
    return UNITS.get(figure.rsplit("_", 1)[-1], "")
