"""What peers and policies stand between: what costs nothing, and what nobody can do better.

There are two oracles. One knows no promises: it takes from whoever can spare it, and lets whom it cannot
help starve. The other knows as much, and keeps what `pressure` and the study's invariants I9 and I12 promise:
what it loses is, but for a hair, what every rule must lose that keeps them too. Sizes KiB, times seconds.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Final

from tests.bench.policies.cases import Voice
from tests.bench.policies.peers import Peer, named
from tests.bench.policies.rig import weighted_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.policies.rig import Seat


class StaticSplit(Peer):
    """No ballooning: everybody has for ever what all that run at the same time could have together.

    Args:
        starts_kib: what guests that start later need at the most at one time.
    """

    name = "static split"

    def __init__(self, starts_kib: int = 0) -> None:
        self._starts_kib = starts_kib
        self._is_done = False

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Divide once."""
        if self._is_done:
            return None
        self._is_done = True
        whole_kib = budget_kib - self._starts_kib
        return named(seats, weighted_share(whole_kib, [seat.guest for seat in seats]))


class Oracle(Peer):
    """Nobody's rule: it knows what each guest needs now and in the next half minute.

    What everybody will need is given if it fits; else what they need now; else, since the first page that
    lacks hurts most, guests are served whole, the smallest first, and the others wait at their minimum.
    """

    name = "oracle"

    AHEAD_S: Final = 30.0

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()

    def decide(self, now_s: float, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int] | None:
        """Decide whenever what it knows changes."""
        now_kib = [_clamped(seat, seat.need.whole_kib) for seat in seats]
        later_kib = [_clamped(seat, self._coming_kib(seat, now_s)) for seat in seats]
        seen = (budget_kib, tuple(now_kib), tuple(later_kib), tuple(seat.number for seat in seats))
        if seen == self._seen:
            return None
        self._seen = seen
        return self._divide(seats, now_kib, later_kib, budget_kib)

    def _divide(
        self, seats: Sequence[Seat], now_kib: Sequence[int], later_kib: Sequence[int], budget_kib: int
    ) -> dict[int, int]:
        return self._served(seats, now_kib, later_kib, budget_kib, [seat.min_kib for seat in seats])

    def _served(
        self,
        seats: Sequence[Seat],
        now_kib: Sequence[int],
        later_kib: Sequence[int],
        budget_kib: int,
        floors_kib: Sequence[int],
    ) -> dict[int, int]:
        if sum(later_kib) <= budget_kib:
            return self._spread(seats, later_kib, budget_kib)
        if sum(now_kib) <= budget_kib:
            return self._ahead(seats, now_kib, later_kib, budget_kib)
        left_kib = budget_kib - sum(floors_kib)
        sizes_kib = {}
        for need_kib, floor_kib, seat in sorted(
            zip(now_kib, floors_kib, seats, strict=True), key=lambda each: each[0]
        ):
            more_kib = min(need_kib - floor_kib, max(0, left_kib))
            sizes_kib[seat.number] = floor_kib + more_kib
            left_kib -= more_kib
        return sizes_kib

    def _coming_kib(self, seat: Seat, now_s: float) -> int:
        turns = seat.guest.turns
        coming = [turn.need.whole_kib for turn in turns[seat.turn :] if turn.at_s <= now_s + self.AHEAD_S]
        return max([seat.need.whole_kib, *coming])

    @staticmethod
    def _spread(seats: Sequence[Seat], needs_kib: Sequence[int], budget_kib: int) -> dict[int, int]:
        """Hand out what is left by the room that each has, but ask nobody to move who has enough."""
        sizes_kib = {
            seat.number: max(need_kib, min(seat.size_kib, seat.max_kib))
            for seat, need_kib in zip(seats, needs_kib, strict=True)
        }
        excess_kib = sum(sizes_kib.values()) - budget_kib
        if excess_kib > 0:
            surplus = {
                seat.number: sizes_kib[seat.number] - need_kib
                for seat, need_kib in zip(seats, needs_kib, strict=True)
            }
            whole_kib = sum(surplus.values())
            for number, surplus_kib in surplus.items():
                sizes_kib[number] -= -(-excess_kib * surplus_kib // whole_kib)
        return sizes_kib

    @staticmethod
    def _ahead(
        seats: Sequence[Seat], now_kib: Sequence[int], later_kib: Sequence[int], budget_kib: int
    ) -> dict[int, int]:
        """Give what is needed now, and of what comes as much as there is."""
        left_kib = budget_kib - sum(now_kib)
        missing_kib = sum(later_kib) - sum(now_kib)
        return {
            seat.number: need_kib + left_kib * (coming_kib - need_kib) // missing_kib
            for seat, need_kib, coming_kib in zip(seats, now_kib, later_kib, strict=True)
        }


class FairOracle(Oracle):
    """An oracle that keeps promises: whoever needs it has its share, and whose need nobody says has no less.

    Nobody is given less than what it needs, up to its weighted share. A guest without an agent stands at that
    share; one whose agent calls all its cache used has no less, since nobody could know that it needs less.
    """

    name = "fair oracle"

    def _divide(
        self, seats: Sequence[Seat], now_kib: Sequence[int], later_kib: Sequence[int], budget_kib: int
    ) -> dict[int, int]:
        shares_kib = weighted_share(budget_kib, [seat.guest for seat in seats])
        speaks = [seat.guest.voice is not Voice.SILENT for seat in seats]
        mute = {
            seat.number: share_kib
            for seat, share_kib, speaking in zip(seats, shares_kib, speaks, strict=True)
            if not speaking
        }
        heard = list(compress(seats, speaks))
        shares = list(compress(shares_kib, speaks))
        now, later = (
            [
                max(need_kib, share_kib) if seat.guest.voice is Voice.OLD else need_kib
                for seat, need_kib, share_kib in zip(heard, compress(needs_kib, speaks), shares, strict=True)
            ]
            for needs_kib in (now_kib, later_kib)
        )
        floors_kib = [min(need_kib, share_kib) for need_kib, share_kib in zip(now, shares, strict=True)]
        return mute | self._served(heard, now, later, budget_kib - sum(mute.values()), floors_kib)


def _clamped(seat: Seat, size_kib: int) -> int:
    return min(max(size_kib, seat.min_kib), seat.max_kib)
