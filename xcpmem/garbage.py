"""How much work Python's garbage collector makes for itself; it holds everybody up while it works."""

from __future__ import annotations

import gc
from typing import Final

YOUNG_MOST: Final = 10_000
"""So many objects that may hold others are made before the new ones are gone through. A turn lists all
domains many times over, and by its end most of what it made is no more."""


def spare() -> None:
    """Let it work, but leave out what is there by now: a daemon that serves keeps it for good.

    Nothing is collected before: of 170,000 objects that a start makes 41 are garbage.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_MOST)
    gc.enable()
