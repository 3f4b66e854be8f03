"""Power cuts: what was acknowledged is there afterwards, what was not is there as a whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.powercut import cut_again_and_again

if TYPE_CHECKING:
    from pathlib import Path


async def test_power_cut_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    tally = await cut_again_and_again(tmp_path, saves=40, images=4, seed=7)
    assert tally.lost == ()
    assert tally.checkpoints > 5
    assert 0 < tally.newer < tally.images == 160
