"""The seeds: those that policies may be tuned on, and those that judge them."""

from __future__ import annotations

from typing import Final

TUNING: Final = tuple(range(1, 11))
"""For whoever changes a policy or a constant."""

HELD_OUT: Final = tuple(range(1001, 1013))
"""For the table, and for nothing else: look at them after a decision, never for one."""

QUICK: Final = HELD_OUT[:2]
"""For a look in passing; too few for an interval that means anything."""
