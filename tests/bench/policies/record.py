"""What is written down during a run, and the figures that are made of it (the study's 9.7).

All figures are those of the guests, not of what a policy believes of them. Sizes KiB, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING, Final

from tests.bench.policies.cases import SETTLED_S
from tests.bench.policies.rig import STEP_S, weighted_share
from xcpmem.units import mib_to_kib
from xcpmem.xen.workload import FAULT_US

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.policies.cases import Case
    from tests.bench.policies.rig import Seat
    from xcpmem.xen.workload import Need

MILLION: Final = 10**6
HOUR_S: Final = 3600.0
REVERSAL_KIB: Final = mib_to_kib(16)
PLACED_S: Final = 60.0
"""What moves before is the first placement, which no change of needs asks for: it is not in ``churn``."""

TEN_MINUTES_S: Final = 600.0

CALM_PPM: Final = 50_000
CALM_S: Final = 10.0
"""A guest has recovered from a step when it has lost less than 5 % for 10 s."""

REGRET_S: Final = 30.0
REGRET_PPM: Final = 10_000

READ_BACK_S: Final = FAULT_US / MILLION
"""A page that was dropped and is wanted again costs its guest so long."""

DEAD_BAND_KIB: Final = mib_to_kib(8)
DEAD_BAND_SHARE: Final = 100
"""A plan may be so far from the ideal (the study's 9.5), or by the guest's size over this."""


@dataclass(slots=True)
class _Course:
    """What became of one guest."""

    family: str
    weight: int
    dynamic_min_kib: int
    lost_ppm: int = 0
    steps: int = 0
    target_kib: int = -1
    target_kib_steps: int = 0
    direction: int = 0
    shrunk_s: float = -1e9
    was_calm: bool = True
    below_since_s: float = nan
    turned_kib: int = 0


@dataclass(slots=True)
class Record:
    """One run's notes."""

    from_s: float = 0.0
    settles_s: float = SETTLED_S
    courses: dict[int, _Course] = field(default_factory=dict)
    lost_slices: list[int] = field(default_factory=list)
    slices: int = 0
    lost_with_dead_balloon_ppm: int = 0
    wronged_ppm: int = 0
    target_changes: int = 0
    moved_kib: int = 0
    moved_late_kib: int = 0
    placed_kib: int = 0
    useful_kib: int = 0
    needs_kib: int = 0
    reversals: int = 0
    largest_reversal: float = 0.0
    late_guest_s: float = 0.0
    waits_s: dict[int, float | None] = field(default_factory=dict)
    regrets: int = 0
    bound_violations: int = 0
    conservation_violations: int = 0
    overcommit_kib: int = 0
    below_slush_s: float = 0.0
    entitlement_violations: int = 0
    settled_s: float = 0.0
    hurt_s: float = nan
    _needs: dict[int, int] = field(default_factory=dict)
    _entitled: dict[int, int] = field(default_factory=dict)
    _entitled_for: tuple[object, ...] = ()

    def note_need(self, now_s: float, seat: Seat, need: Need) -> None:
        """A guest's need changes."""
        before_kib = self._needs.get(seat.number)
        if before_kib is not None and now_s >= max(self.from_s, PLACED_S):
            self.needs_kib += abs(need.whole_kib - before_kib)
        self._needs[seat.number] = need.whole_kib

    def note_move(self, now_s: float, seat: Seat, by_kib: int) -> None:
        """A balloon moves; the guest has its old size still."""
        if now_s >= max(self.from_s, PLACED_S):
            self.placed_kib += abs(by_kib)
        if now_s >= self.from_s:
            self.moved_kib += abs(by_kib)
            if by_kib > 0:
                self.useful_kib += max(0, min(by_kib, seat.need.whole_kib - seat.size_kib))
        if now_s >= self.settles_s:
            self.moved_late_kib += abs(by_kib)

    @property
    def refused(self) -> frozenset[int]:
        """The numbers of the guests that never started."""
        return frozenset(number for number, wait_s in self.waits_s.items() if wait_s is None)

    def note_start(self, number: int, wait_s: float | None) -> None:
        """A guest starts after so long, or never."""
        self.waits_s[number] = wait_s

    def note_plan(
        self, now_s: float, seats: Sequence[Seat], targets: Mapping[int, int], budget_kib: int
    ) -> None:
        """Somebody decided."""
        goals_kib = {seat.number: targets.get(seat.number, seat.goal_kib) for seat in seats}
        least_kib = sum(seat.min_kib for seat in seats)
        if sum(goals_kib.values()) > max(budget_kib, least_kib):
            self.conservation_violations += 1
        entitled = self._entitlements(seats, budget_kib)
        for seat in seats:
            goal_kib = goals_kib[seat.number]
            if not seat.min_kib <= goal_kib <= seat.max_kib:
                self.bound_violations += 1
            self._note_entitlement(seat, goal_kib, entitled[seat.number])
            self._note_target(now_s, seat, goal_kib)

    def note_step(self, now_s: float, seats: Sequence[Seat], case: Case) -> None:
        """Half a second has passed, with everybody as they are."""
        held_kib = 0
        for seat in seats:
            held_kib += seat.size_kib
            lost_ppm = (seat.lost_before_ppm + seat.comfort.lost_ppm) // 2
            seat.lost += lost_ppm * int(STEP_S * MILLION)
            course = self._course(seat)
            if now_s >= self.from_s:
                course.steps += 1
                course.lost_ppm += lost_ppm
                course.target_kib_steps += seat.size_kib
                self.slices += 1
                if not seat.guest.grows_kib_s:
                    self.lost_with_dead_balloon_ppm += lost_ppm
                if seat.need.whole_kib <= self._entitled.get(seat.number, 0):
                    self.wronged_ppm += lost_ppm
                if lost_ppm:
                    self.lost_slices.append(lost_ppm)
            if lost_ppm > REGRET_PPM and course.was_calm and now_s - course.shrunk_s <= REGRET_S:
                self.regrets += 1
                course.shrunk_s = -1e9
            course.was_calm = lost_ppm <= REGRET_PPM
            if case.step_s and now_s >= case.step_s and lost_ppm >= CALM_PPM:
                self.hurt_s = now_s + STEP_S - case.step_s
        self.overcommit_kib = max(self.overcommit_kib, held_kib - case.budget_kib)
        if held_kib > case.budget_kib:
            self.below_slush_s += STEP_S
        if case.is_constant and now_s >= self.settles_s:
            self.late_guest_s += STEP_S * len(seats)

    def _course(self, seat: Seat) -> _Course:
        course = self.courses.get(seat.number)
        if course is None:
            guest = seat.guest
            course = _Course(guest.family, guest.weight, guest.dynamic_min_kib)
            course.target_kib = course.turned_kib = seat.goal_kib
            self.courses[seat.number] = course
        return course

    def _entitlements(self, seats: Sequence[Seat], budget_kib: int) -> Mapping[int, int]:
        key = (budget_kib, tuple(seat.number for seat in seats))
        if key != self._entitled_for:
            shares_kib = weighted_share(budget_kib, [seat.guest for seat in seats])
            self._entitled = dict(zip((seat.number for seat in seats), shares_kib, strict=True))
            self._entitled_for = key
        return self._entitled

    def _note_entitlement(self, seat: Seat, goal_kib: int, entitled_kib: int) -> None:
        """Compare with what it said that it needs; a guest that says nothing is entitled to its share."""
        said = seat.sample
        needs_kib = entitled_kib if said is None else said.used_kib + said.swapped_kib
        floor_kib = min(needs_kib, entitled_kib)
        if goal_kib < floor_kib - max(DEAD_BAND_KIB, floor_kib // DEAD_BAND_SHARE):
            self.entitlement_violations += 1

    def _note_target(self, now_s: float, seat: Seat, goal_kib: int) -> None:
        course = self._course(seat)
        change_kib = goal_kib - course.target_kib
        if change_kib == 0:
            return
        if now_s >= self.from_s:
            self.target_changes += 1
        if abs(change_kib) * 100 > course.target_kib:
            self.settled_s = now_s
        if change_kib < 0:
            course.shrunk_s = now_s
        # a direction counts once the target is so far from where it turned
        far_kib = goal_kib - course.turned_kib
        if course.direction * far_kib >= 0:
            if abs(far_kib) >= REVERSAL_KIB:
                course.direction = 1 if far_kib > 0 else -1
                course.turned_kib = goal_kib
        elif abs(far_kib) >= REVERSAL_KIB:
            if now_s >= self.settles_s:
                self.reversals += 1
                self.largest_reversal = max(self.largest_reversal, abs(far_kib) / course.turned_kib)
            course.direction = -course.direction
            course.turned_kib = goal_kib
        course.target_kib = goal_kib


def figures_of(record: Record, case: Case) -> dict[str, float]:
    """Make the figures of one run.

    Returns:
        By name; figures that mean nothing for the case are absent. Names end with their unit: ``_pct``,
        ``_s``, ``_kib``, ``_per_h``; others are ratios and counts. What counts refaults and writes of targets
        counts them for each guest: pages a second, and times an hour. (In the guest model only pages that are
        touched all the time are read again, within seconds: refaults are time lost in another unit.) Guests
        hold what the slush leaves: ``below_slush_s`` is for how long they held more. Of all that moves, half
        is given and half taken: ``useful`` is at most about a half. ``wronged_pct`` is lost by guests that
        need no more than their shares.
    """
    courses = [course for course in record.courses.values() if course.steps]
    means = [course.lost_ppm / course.steps / MILLION for course in courses]
    steps = sum(course.steps for course in courses)
    slices = sorted(record.lost_slices, reverse=True)
    beyond = record.slices // 100
    figures = {
        "stall_pct": 100 * sum(course.lost_ppm for course in courses) / steps / MILLION,
        "p99_pct": 100 * slices[beyond] / MILLION if beyond < len(slices) else 0.0,
        "wronged_pct": 100 * record.wronged_ppm / steps / MILLION,
        "worst_guest_pct": 100 * max(means),
        "progress_jain": jain([1 - mean for mean in means]),
        "refaults_per_s": sum(course.lost_ppm for course in courses) / steps / MILLION / READ_BACK_S,
        "target_writes_per_h": record.target_changes * HOUR_S / (steps * STEP_S),
        "moved_gib_per_h": record.moved_kib / 2**20 * HOUR_S / (case.duration_s - case.from_s),
        "regrets": float(record.regrets),
        "bound_violations": float(record.bound_violations + record.conservation_violations),
        "overcommit_kib": float(record.overcommit_kib),
        "below_slush_s": record.below_slush_s,
        "entitlement_violations": float(record.entitlement_violations),
    }
    if record.lost_with_dead_balloon_ppm:
        figures["dead_balloons_pct"] = 100 * record.lost_with_dead_balloon_ppm / steps / MILLION
    if record.needs_kib:
        figures["churn"] = record.placed_kib / record.needs_kib
    if record.moved_kib:
        figures["useful"] = record.useful_kib / record.moved_kib
    if case.is_constant:
        guest_h = max(record.late_guest_s, STEP_S) / HOUR_S
        figures["reversals_per_h"] = record.reversals / guest_h
        figures["largest_reversal_pct"] = 100 * record.largest_reversal
        late_s = max(case.duration_s - record.settles_s, STEP_S)
        figures["moved_pct_per_10min"] = (
            100 * record.moved_late_kib / case.budget_kib * TEN_MINUTES_S / late_s
        )
        figures["settled_s"] = record.settled_s
    if case.step_s:
        figures["recovery_s"] = recovery_s(record, case)
    if case.name == "osmix":
        linux, windows = (_family_mean(courses, family) for family in ("linux", "windows"))
        figures["os_gap_points"] = 100 * abs(linux - windows)
    if record.waits_s:
        granted = [wait_s for wait_s in record.waits_s.values() if wait_s is not None]
        figures["started_pct"] = 100 * sum(wait_s <= CALM_S for wait_s in granted) / len(record.waits_s)
        figures["refused_pct"] = 100 * (1 - len(granted) / len(record.waits_s))
        figures["longest_wait_s"] = max(granted, default=WAITED_IN_VAIN_S)
        figures["mean_wait_s"] = sum(granted) / len(granted) if granted else WAITED_IN_VAIN_S
    if case.name == "overload":
        figures["weighted_jain"] = jain(
            [
                (course.target_kib_steps / course.steps - course.dynamic_min_kib) / course.weight
                for course in courses
            ]
        )
    return figures


WAITED_IN_VAIN_S: Final = 60.0


def jain(values: Sequence[float]) -> float:
    """Compute Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 for equals, 1/n if one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def recovery_s(record: Record, case: Case) -> float:
    """Tell how long after the step somebody last lost 5 %; what was never calm again never recovered."""
    hurt_s = record.hurt_s
    if not isfinite(hurt_s):
        return 0.0
    return hurt_s


def _family_mean(courses: Sequence[_Course], family: str) -> float:
    lost = [course.lost_ppm / course.steps / MILLION for course in courses if course.family == family]
    return sum(lost) / len(lost)
