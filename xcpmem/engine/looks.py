"""When to look again: soon where something moves, rarely where only free memory is awaited."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from xcpmem.engine.belief import LOOK_GAP_S, RETRY_LOOK_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xcpmem.engine.belief import Caution
    from xcpmem.engine.draft import Draft
    from xcpmem.engine.model import MemoryRequest
    from xcpmem.engine.parties import Party

LOOK_SOONEST_S: Final = 0.02
LOOK_LATEST_S: Final = 0.1
"""Bounds of the time between two looks while something moves; the ring reacts within 100 ms."""

LOOKS_PER_WAIT: Final = 4
"""Within a caller's whole wait at least: guests owe from the second look on, and are blamed after half of
it."""


def enough_kib(
    free_kib: int,
    torn_kib: int,
    draft: Draft,
    waiting: Sequence[tuple[MemoryRequest, int]],
    restless: Iterable[tuple[Party, int]],
) -> int | None:
    """Say with how much free memory the first who waits can be served.

    Args:
        free_kib: of the look.
        torn_kib: of the look: what it counts as free beyond doubt is so much less, if negative.
        draft: with what is granted and asked back.
        waiting: requests by arrival, with what is kept for each.
        restless: parties that are not where they are to be, with their targets, KiB.

    Returns:
        KiB; None where nobody waits, others want to grow meanwhile, or free memory tells nothing.
    """
    if not waiting or any(target_kib > party.domain.actual_kib for party, target_kib in restless):
        return None
    (_, goal_kib), *_ = waiting
    free_then_kib = free_kib + min(0, torn_kib) + goal_kib - draft.spare_kib
    return free_then_kib if free_then_kib > free_kib else None


def looks_s(moving: Sequence[Party], draft: Draft, caution: Caution, *, is_watched: bool) -> list[float]:
    """Say when to look at those that move: when each may have arrived, but at all again and again.

    Where the ring is woken as soon as there is enough for who waits, it is time when all may have arrived, or
    one has used up its patience; or when what passes unseen would no longer count.
    """
    gaps_kib = [abs(draft.target_kib(party.domain) - party.domain.actual_kib) for party in moving]
    rates_kib_s = [party.belief.rate_kib_s for party in moving]
    arrivals_s = [gap / rate if rate else inf for gap, rate in zip(gaps_kib, rates_kib_s, strict=True)]
    if not is_watched or not moving:
        return [min(LOOK_LATEST_S, max(LOOK_SOONEST_S, arrival_s)) for arrival_s in arrivals_s]
    late_s = min(party.belief.patience_s(caution) - party.belief.waited_s for party in moving)
    return [min(LOOK_GAP_S, max(LOOK_LATEST_S, min(late_s, max(arrivals_s))))]


def retries_s(stuck: Iterable[Party]) -> list[float]:
    """Say when each stuck guest is worth another look."""
    least_s, most_s = RETRY_LOOK_S
    return [min(max(party.belief.waited_s, least_s), most_s) for party in stuck]
