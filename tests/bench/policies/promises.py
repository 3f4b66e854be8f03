"""The least that any rule can lose which keeps its promises: arithmetic on the workloads, without a rule.

    python -m tests.bench.policies.promises

Memory moves in no time here and everything is known in advance, so that what is lost is lost to the promises
alone. They are those of the study (9.2): a silent guest has exactly its share (I12); nobody has less than it
needs, up to its share (I9), which for one whose agent calls everything used is its whole share, since nothing
that it says tells how much less would do. A dead balloon holds for ever what it held.

Sizes KiB, times seconds.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.figures import Figure
from tests.bench.policies.cases import Voice, make_case
from tests.bench.policies.intervals import interval
from tests.bench.policies.marks import MARKS, PRESSURE
from tests.bench.policies.rig import weighted_share
from tests.bench.policies.seeds import HELD_OUT, TUNING
from xcpmem.xen.workload import Need, Slowness, comfort_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.policies.cases import Case, CaseGuest

BOUND_CASES: Final = ("osmix", "stuck")
"""Those whose marks lie below the bound on the held-out seeds."""

UNTUNED: Final = tuple(range(11, 71))
"""More seeds that nobody tuned on, to tell luck of a dozen from the workload."""


class Least(NamedTuple):
    """Mean stall that nobody can avoid, in percent of all guests' time, by why.

    Args:
        dead: of guests whose balloons are dead.
        silent: of silent guests.
        lacking: of all others, whenever they need more than the promises leave for them.
    """

    dead: float
    silent: float
    lacking: float

    @property
    def all_pct(self) -> float:
        """Together."""
        return self.dead + self.silent + self.lacking


class _Wish(NamedTuple):
    """What one guest has anyway, and what it would have to have to lose nothing."""

    need: Need
    floor_kib: int

    @property
    def missing_kib(self) -> int:
        """What swaps out unused costs nothing."""
        return max(0, self.need.hot_kib + self.need.cache_kib - self.floor_kib)

    def lost_ppm(self, more_kib: int = 0) -> int:
        """Tell what it loses with so much more."""
        return comfort_of(self.need, self.floor_kib + more_kib, Slowness()).lost_ppm


def least_of(case: Case, *, sees_old: bool = False) -> Least:
    """Compute what is lost in a case whoever decides; its guests must be there from beginning to end.

    Args:
        case: the workload.
        sees_old: whether it is known what a guest needs whose agent calls everything used.
    """
    shares_kib = weighted_share(case.budget_kib, case.guests)
    dead = silent = lacking = 0.0
    for lasts_s, needs in _pieces(case):
        left_kib = case.budget_kib
        wishes = []
        for guest, need, share_kib in zip(case.guests, needs, shares_kib, strict=True):
            is_stuck, is_silent = guest.grows_kib_s == 0, guest.voice is Voice.SILENT
            is_sure = is_stuck or is_silent or (guest.voice is Voice.OLD and not sees_old)
            wish = _Wish(need, share_kib if is_sure else min(need.whole_kib, share_kib))
            left_kib -= wish.floor_kib
            if is_stuck:
                dead += wish.lost_ppm() * lasts_s
            elif is_silent:
                silent += wish.lost_ppm() * lasts_s
            else:
                wishes.append(wish)
        lacking += _least_ppm(wishes, left_kib) * lasts_s
    whole = len(case.guests) * case.duration_s * 10**4
    return Least(dead / whole, silent / whole, lacking / whole)


def figures_of_promises(seeds: Sequence[int]) -> Iterator[Figure]:
    """Show the bounds of the two cases beside the marks."""
    for name in BOUND_CASES:
        least = [least_of(make_case(name, seed)) for seed in seeds]
        parts = tuple((word, f"{fmean(getattr(each, word) for each in least):.3g}") for word in Least._fields)
        lost_pct = fmean(each.all_pct for each in least)
        yield Figure(f"{name}: the least that the promises allow", "%", (lost_pct,), None, parts)


def main() -> int:
    """Print the bounds of the held-out seeds, and of others."""
    for name in BOUND_CASES:
        mark = next(m for m in MARKS if (m.case, m.figure, m.column) == (name, "stall_pct", PRESSURE))
        sys.stdout.write(f"{name}: mean stall, %, that no rule can avoid; the mark is {mark.goal.text}\n")
        for title, seeds in (("held-out", HELD_OUT), ("tuning", TUNING), ("11 to 70", UNTUNED)):
            least = [least_of(make_case(name, seed)) for seed in seeds]
            parts = ", ".join(
                f"{word} {fmean(getattr(each, word) for each in least):.3f}" for word in Least._fields
            )
            whole = interval([each.all_pct for each in least])
            seen_pct = fmean(least_of(make_case(name, seed), sees_old=True).all_pct for seed in seeds)
            sys.stdout.write(f"  {title:9} {whole.mean:.3f} ±{whole.half:.3f}  ({parts})")
            more = f"; {seen_pct:.3f} if the old agent said what its guest needs"
            sys.stdout.write(f"{more if seen_pct != whole.mean else ''}\n")
    return 0


def _pieces(case: Case) -> Iterator[tuple[float, list[Need]]]:
    """Cut a case where a need changes."""
    times = {turn.at_s for guest in case.guests for turn in guest.turns if turn.at_s < case.duration_s}
    cuts = sorted({*times, 0.0, case.duration_s})
    for begins_s, ends_s in pairwise(cuts):
        yield ends_s - begins_s, [_need_at(guest, begins_s) for guest in case.guests]


def _need_at(guest: CaseGuest, now_s: float) -> Need:
    return next((turn.need for turn in reversed(guest.turns) if turn.at_s <= now_s), Need(0))


def _least_ppm(wishes: Sequence[_Wish], left_kib: int) -> int:
    """Find the best use of what is left: some are served whole, one in part, and the others not at all.

    The first page that lacks costs most, so what is lost is concave in what is given: nothing else is best.
    """
    lacking = [wish for wish in wishes if wish.missing_kib]
    if sum(wish.missing_kib for wish in lacking) <= left_kib:
        return 0
    best_ppm = sum(wish.lost_ppm() for wish in lacking)
    for chosen in range(1 << len(lacking)):
        served = [wish for i, wish in enumerate(lacking) if chosen >> i & 1]
        rest_kib = left_kib - sum(wish.missing_kib for wish in served)
        if rest_kib < 0:
            continue
        others = [wish for i, wish in enumerate(lacking) if not chosen >> i & 1]
        gained_ppm = max(wish.lost_ppm() - wish.lost_ppm(min(rest_kib, wish.missing_kib)) for wish in others)
        best_ppm = min(best_ppm, sum(wish.lost_ppm() for wish in others) - gained_ppm)
    return best_ppm


if __name__ == "__main__":
    sys.exit(main())
