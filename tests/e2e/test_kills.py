"""kill -9 between two actions: a few of the kills that ``python -m tests.kills`` does by the thousand."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kills import kill_again_and_again

KILLS = 8
STEP = 9
"""From one boundary to the next that is tried; all boundaries are for the recorded run."""


async def test_daemon_killed_at_any_action_loses_nothing_and_its_successor_ends_the_story_the_same() -> None:
    with TemporaryDirectory(prefix="xk-") as name:
        tally = await kill_again_and_again(Path(name), KILLS, seed=1, step=STEP)
    assert tally.kills >= KILLS
    assert tally.boundaries > 4 * STEP
    assert tally.worst_kib <= 0
    assert tally.unlike == ()
