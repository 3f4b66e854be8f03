"""Hours of churn on virtual time; weeks of it are for ``python -m tests.soak churn``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak import churn

if TYPE_CHECKING:
    from pathlib import Path

DAYS = 0.1
EVENTS = 20
SPARE = 2


async def test_nobody_is_over_promised_and_nothing_is_left_behind_by_hours_of_churn(tmp_path: Path) -> None:
    tally = await churn(tmp_path, DAYS, events=EVENTS, seed=3)
    assert tally.events >= EVENTS
    assert tally.granted > 1
    # Twenty events that left something each would be more than a timer that happens to run.
    assert tally.end.tasks <= tally.warm.tasks + SPARE
    assert tally.end.files <= tally.warm.files + SPARE
