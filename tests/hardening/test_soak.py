"""Hours of churn on virtual time; weeks of it are for ``python -m tests.soak churn``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak import churn

if TYPE_CHECKING:
    from pathlib import Path

DAYS = 0.5


async def test_nobody_is_over_promised_and_nothing_is_left_behind_by_hours_of_churn(tmp_path: Path) -> None:
    tally = await churn(tmp_path, DAYS, seed=3)
    assert tally.events > 50 * DAYS
    assert tally.granted > 10 * DAYS
    assert tally.end.tasks <= tally.warm.tasks
    assert tally.end.files <= tally.warm.files
