"""What must be reached before anybody may say that a policy is better than every peer (the study's 9.7).

Committed before any policy was tuned. A mark is on the mean over the held-out seeds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.bench.figures import Goal

PRESSURE: Final = "pressure, agent+"
SHARES: Final = "shares, agent+"
PROPORTIONAL: Final = "proportional"


class Mark(NamedTuple):
    """One line of the table of marks.

    Args:
        case: the workload.
        figure: which figure of it.
        goal: what its mean over the seeds must be.
        column: whose.
    """

    case: str
    figure: str
    goal: Goal
    column: str = PRESSURE


def _most(case: str, figure: str, most: float, column: str = PRESSURE) -> Mark:
    return Mark(case, figure, Goal(most=most), column)


MARKS: Final = (
    _most("burst", "stall_pct", 0.12),
    _most("cache", "stall_pct", 0.15),
    _most("steady", "stall_pct", 0.10),
    _most("phase", "stall_pct", 1.05),
    _most("osmix", "stall_pct", 0.60),
    _most("slow", "stall_pct", 3.8),
    _most("stuck", "stall_pct", 2.75),
    _most("big", "stall_pct", 12.2),
    _most("osmix", "os_gap_points", 0.3),
    _most("step", "recovery_s", 8.5),
    _most("burst", "churn", 1.1),
    _most("phase", "churn", 1.1),
    _most("steady", "reversals_per_h", 2),
    _most("cache", "reversals_per_h", 2),
    _most("steady", "largest_reversal_pct", 5),
    _most("cache", "largest_reversal_pct", 5),
    _most("steady", "moved_pct_per_10min", 1),
    _most("cache", "moved_pct_per_10min", 1),
    Mark("admission", "started_pct", Goal(least=100)),
    _most("admission", "mean_wait_s", 1.4),
    Mark("overload", "weighted_jain", Goal(least=0.97)),
    Mark("overload", "weighted_jain", Goal(least=0.99), SHARES),
    *(
        _most(case, figure, 0, column)
        for column in (PROPORTIONAL, SHARES)
        for case in ("steady", "cache")
        for figure in ("reversals_per_h", "moved_pct_per_10min")
    ),
)
"""All of the study's marks that this suite can measure; plan time is in section ``planning``."""

NEVER: Final = ("bound_violations", "overcommit_kib", "below_slush_s")
"""Figures of ours that must be 0 in every single run, not in the mean."""

ENTITLED: Final = ("entitlement_violations",)
"""Likewise for ``pressure``: nobody who needs memory is planned less than its weighted entitlement."""
