"""Shrinks that hurt: seen, remembered, and counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pytest

from tests.builders import MIB, a_domain, uuid_of
from xcpmem.engine.regret import DOUBLINGS_MOST, HOLD_S, WINDOW_S, Watch, watch
from xcpmem.engine.sample import Sample

HIGH: Final = 3000 * MIB
LOW: Final = 2000 * MIB


@dataclass
class Story:
    """One guest, told look by look."""

    watched: Watch | None = None
    stall_us: float = 0.0
    now_s: float = 0.0
    target_kib: int = HIGH

    def look(self, after_s: float, *, target_kib: int | None = None, stall: float = 0.0) -> Watch:
        """Let time pass in which the guest stalls for a part of it, then hear it; a new target comes last."""
        self.now_s += after_s
        self.stall_us += stall * after_s * 1e6
        sample = Sample(self.now_s, 10.0, 1000 * MIB, stall_us=int(self.stall_us))
        seen = replace(a_domain(actual_kib=self.target_kib), sample=sample)
        if target_kib is not None:
            self.watched = watch(self.watched, seen, self.now_s)
            self.target_kib = target_kib
            seen = replace(seen, target_kib=target_kib)
        self.watched = watch(self.watched, seen, self.now_s)
        assert self.watched is not None
        return self.watched


def a_shrunk_guest(*, stalls_before: float = 0.0) -> Story:
    story = Story()
    story.look(0.0)
    story.look(5.0, stall=stalls_before)
    story.look(1.0, target_kib=LOW, stall=stalls_before)
    return story


def test_stalls_soon_after_a_shrink_are_put_down_to_it() -> None:
    watched = a_shrunk_guest().look(5.0, stall=0.05)
    assert watched.regrets == 1
    assert watched.regret_at(11.0 + HOLD_S - 0.1) == HIGH
    assert watched.regret_at(11.0 + HOLD_S) == 0


@pytest.mark.parametrize(
    ("after_s", "stall", "stalls_before"),
    [(5.0, 0.009, 0.0), (5.0, 0.05, 0.06), (WINDOW_S + 1, 0.05, 0.0)],
)
def test_stalls_that_are_small_or_old_or_late_are_not(
    after_s: float, stall: float, stalls_before: float
) -> None:
    watched = a_shrunk_guest(stalls_before=stalls_before).look(after_s, stall=stall)
    assert (watched.regrets, watched.regret_kib) == (0, 0)


def test_growing_guest_regrets_nothing() -> None:
    story = a_shrunk_guest()
    story.look(1.0, target_kib=HIGH)
    assert story.look(5.0, stall=0.5).regrets == 0


def test_first_of_several_steps_is_undone() -> None:
    story = a_shrunk_guest()
    story.look(5.0, target_kib=LOW - 100 * MIB)
    story.look(5.0, target_kib=LOW - 200 * MIB)
    assert story.look(2.0, stall=0.1).regret_kib == HIGH


def test_hold_off_doubles_each_time_in_a_row_up_to_a_bound() -> None:
    story = a_shrunk_guest()
    holds = []
    for _ in range(DOUBLINGS_MOST + 2):
        watched = story.look(5.0, stall=0.1)
        holds.append(watched.until_s - story.now_s)
        story.look(1.0, target_kib=HIGH)
        story.look(1.0, target_kib=LOW)
    longest_s = HOLD_S * 2**DOUBLINGS_MOST
    assert holds == [*(HOLD_S * 2**n for n in range(DOUBLINGS_MOST + 1)), longest_s]


def test_shrink_that_is_survived_ends_the_row() -> None:
    story = a_shrunk_guest()
    story.look(5.0, stall=0.1)
    story.look(1.0, target_kib=HIGH)
    story.look(1.0, target_kib=LOW)
    story.look(WINDOW_S + 5)
    story.look(1.0, target_kib=HIGH)
    story.look(1.0, target_kib=LOW)
    watched = story.look(5.0, stall=0.1)
    assert watched.until_s - story.now_s == HOLD_S
    assert watched.regrets == 2


def test_silent_guest_is_not_watched() -> None:
    assert watch(None, a_domain(), 0.0) is None


def test_another_vm_of_the_same_number_starts_afresh() -> None:
    watched = a_shrunk_guest().look(5.0, stall=0.1)
    other = replace(a_domain(uuid=uuid_of(7)), sample=Sample(12.0, 10.0, 0, stall_us=0))
    after = watch(watched, other, 12.0)
    assert after is not None
    assert (after.uuid, after.regret_kib) == (uuid_of(7), 0)


def test_resting_guest_costs_nothing() -> None:
    story = a_shrunk_guest()
    seen = replace(
        a_domain(actual_kib=LOW), sample=Sample(story.now_s, 10.0, 1000 * MIB, stall_us=int(story.stall_us))
    )
    assert watch(story.watched, seen, story.now_s + 1) is story.watched


def test_reboot_that_starts_the_count_anew_is_no_stall() -> None:
    story = a_shrunk_guest()
    story.stall_us = -5e6 + 5e6
    assert story.look(5.0).stall == 0.0
