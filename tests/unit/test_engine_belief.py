from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import CAUTION, MIB, a_domain
from xcpmem.engine.belief import (
    LOOK_GAP_S,
    OFFSET_ERROR_MOST_KIB,
    PATIENCE_MOST_S,
    Belief,
    Beliefs,
    balloon_state,
    direction_of,
    learn,
)
from xcpmem.engine.model import BalloonState, DynamicRange, Lifecycle
from xcpmem.engine.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xcpmem.engine.model import DomainState

GUEST = a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB)


def seen(actual_kib: int, *, asked_kib: int, offset_kib: int | None = 0) -> DomainState:
    """The guest at a size, told a target."""
    return replace(GUEST, actual_kib=actual_kib, target_kib=asked_kib, offset_kib=offset_kib)


def watched(*looks: DomainState, belief: Belief | None = None, every_s: float = 1.0) -> Belief:
    """What is believed after looks that are so far apart."""
    for look in looks:
        belief = learn(belief, look, every_s, CAUTION)
    assert belief is not None
    return belief


def stands(
    actual_kib: int, *, asked_kib: int, looks: int = 8, offset_kib: int | None = 0
) -> Iterable[DomainState]:
    """The guest standing still for some looks."""
    return [seen(actual_kib, asked_kib=asked_kib, offset_kib=offset_kib)] * looks


def moving_down(actual_kib: int, *, asked_kib: int, looks: int = 2) -> Iterable[DomainState]:
    """The guest giving back 100 MiB from look to look."""
    return [seen(actual_kib - 100 * MIB * n, asked_kib=asked_kib) for n in range(1, looks + 1)]


def test_guest_within_its_inaccuracy_is_at_its_target() -> None:
    assert direction_of(seen(1004, asked_kib=1000), CAUTION) == 0
    assert direction_of(seen(996, asked_kib=1000), CAUTION) == 0


def test_guest_beyond_its_inaccuracy_has_to_move() -> None:
    assert direction_of(seen(1005, asked_kib=1000), CAUTION) == -1
    assert direction_of(seen(995, asked_kib=1000), CAUTION) == 1


def test_resting_guest_costs_no_new_belief() -> None:
    belief = watched(seen(2000, asked_kib=2000))
    assert learn(belief, seen(2000, asked_kib=2000), 10.0, CAUTION) is belief


def test_guest_that_stops_shrinking_has_a_floor_once_patience_is_over() -> None:
    assert watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=6)).floor_kib is None
    belief = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=7))
    assert belief.gave_up(CAUTION)
    assert belief.floor_kib == 2000 * MIB
    assert belief.ceiling_kib is None


def test_guest_that_stops_growing_has_a_ceiling_once_patience_is_over() -> None:
    belief = watched(*stands(2000 * MIB, asked_kib=3000 * MIB, looks=7))
    assert belief.gave_up(CAUTION)
    assert belief.ceiling_kib == 2000 * MIB
    assert belief.floor_kib is None


def test_new_ask_has_its_own_patience_after_a_long_rest() -> None:
    rested = watched(*stands(2000 * MIB, asked_kib=2000 * MIB, looks=50))
    belief = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=6), belief=rested)
    assert not belief.gave_up(CAUTION)


def test_guest_is_in_debt_once_it_had_its_patience_though_it_moves() -> None:
    moving = list(moving_down(2000 * MIB, asked_kib=1000 * MIB, looks=7))
    assert not watched(*moving[:5]).is_in_debt(CAUTION, wait_s=60.0)
    assert watched(*moving).is_in_debt(CAUTION, wait_s=60.0)


def test_guest_of_a_hasty_caller_is_in_debt_after_half_of_the_wait() -> None:
    asked = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=3))
    assert asked.is_in_debt(CAUTION, wait_s=4.0)
    assert not asked.is_in_debt(CAUTION, wait_s=5.0)


def test_guest_that_is_asked_for_more_is_in_debt_only_for_what_it_was_asked_for_first() -> None:
    first = list(moving_down(2000 * MIB, asked_kib=1500 * MIB, looks=4))
    second = list(moving_down(1600 * MIB, asked_kib=1000 * MIB, looks=3))
    assert not watched(*first, *second).is_in_debt(CAUTION, wait_s=60.0)
    slow = [seen(1990 * MIB - n, asked_kib=1500 * MIB - n * 10 * MIB) for n in range(8)]
    assert watched(*slow).is_in_debt(CAUTION, wait_s=60.0)


def test_guest_that_is_asked_to_grow_or_is_where_it_was_asked_to_be_is_not_in_debt() -> None:
    growing = watched(*stands(2000 * MIB, asked_kib=3000 * MIB, looks=9))
    assert not growing.is_in_debt(CAUTION, wait_s=60.0)
    arrived = watched(
        seen(1000 * MIB, asked_kib=1000 * MIB), belief=watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    )
    assert not arrived.is_in_debt(CAUTION, wait_s=60.0)


def test_ask_that_is_eased_is_met_when_the_easier_one_is() -> None:
    eased = watched(
        *stands(2000 * MIB, asked_kib=1000 * MIB, looks=3),
        seen(1900 * MIB, asked_kib=1800 * MIB),
        seen(1800 * MIB + 8, asked_kib=1800 * MIB),
        seen(1800 * MIB + 4, asked_kib=1000 * MIB),
    )
    assert (eased.due_kib, eased.due_s) == (1000 * MIB, 0.0)


def test_guest_that_is_asked_the_other_way_has_a_new_patience_and_stays_away_from_its_target() -> None:
    asked = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=5))
    turned = watched(seen(2000 * MIB, asked_kib=3000 * MIB), belief=asked)
    assert (turned.direction, turned.waited_s, turned.away_s) == (1, 0.0, asked.away_s + 1.0)


def test_guest_whose_wait_is_long_past_is_believed_again_when_it_moves_beyond_its_floor() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    moving = learn(stuck, seen(1900 * MIB, asked_kib=1000 * MIB), 1.0, CAUTION)
    assert moving.floor_kib is None
    assert not moving.gave_up(CAUTION)


def test_guest_is_believed_again_when_it_grows_beyond_its_ceiling() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=3000 * MIB))
    moving = learn(stuck, seen(2100 * MIB, asked_kib=3000 * MIB), 1.0, CAUTION)
    assert moving.ceiling_kib is None


def test_floor_is_kept_while_a_guest_moves_above_it() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    grown = watched(seen(2500 * MIB, asked_kib=2500 * MIB), belief=stuck)
    shrinking = watched(
        seen(2500 * MIB, asked_kib=1500 * MIB), seen(2300 * MIB, asked_kib=1500 * MIB), belief=grown
    )
    assert shrinking.floor_kib == 2000 * MIB


def test_ceiling_is_kept_while_a_guest_moves_below_it() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=3000 * MIB))
    shrunk = watched(seen(1500 * MIB, asked_kib=1500 * MIB), belief=stuck)
    growing = watched(
        seen(1500 * MIB, asked_kib=2500 * MIB), seen(1700 * MIB, asked_kib=2500 * MIB), belief=shrunk
    )
    assert growing.ceiling_kib == 2000 * MIB


def test_floor_is_forgotten_when_a_guest_rests_below_it() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    assert watched(seen(1999 * MIB, asked_kib=1999 * MIB), belief=stuck).floor_kib is None


def test_ceiling_is_forgotten_when_a_guest_rests_above_it() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=3000 * MIB))
    assert watched(seen(2001 * MIB, asked_kib=2001 * MIB), belief=stuck).ceiling_kib is None


def test_crumbs_are_no_progress() -> None:
    crumbs = [seen(2000 * MIB - 16 * look, asked_kib=1000 * MIB) for look in range(9)]
    assert watched(*crumbs).gave_up(CAUTION)


def test_small_step_is_progress_in_a_small_ask() -> None:
    crumbs = [seen(2000 - 16 * look, asked_kib=1000) for look in range(9)]
    assert not watched(*crumbs).gave_up(CAUTION)


def test_rate_is_what_was_seen() -> None:
    belief = watched(
        seen(2000 * MIB, asked_kib=1000 * MIB), seen(1800 * MIB, asked_kib=1000 * MIB), every_s=0.5
    )
    assert belief.rate_kib_s == pytest.approx(400 * MIB)


def test_rate_is_kept_when_two_looks_come_at_the_same_time() -> None:
    belief = watched(
        seen(2000 * MIB, asked_kib=1000 * MIB), seen(1800 * MIB, asked_kib=1000 * MIB), every_s=0.0
    )
    assert belief.rate_kib_s == 0.0


def test_patience_grows_with_the_pauses_that_ended() -> None:
    paused = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=11))
    moved_on = learn(paused, seen(1900 * MIB, asked_kib=1000 * MIB), 1.0, CAUTION)
    assert moved_on.pause_s == 10.0
    assert moved_on.patience_s(CAUTION) == 15.0


def test_patience_has_an_end() -> None:
    assert Belief("u", DynamicRange(0, 1), pause_s=500.0).patience_s(CAUTION) == PATIENCE_MOST_S


def test_unseen_time_condemns_nobody() -> None:
    asked = watched(seen(2000 * MIB, asked_kib=1000 * MIB))
    belief = learn(asked, seen(2000 * MIB, asked_kib=1000 * MIB), 3600.0, CAUTION)
    assert not belief.gave_up(CAUTION)
    assert (belief.waited_s, belief.away_s) == (LOOK_GAP_S, LOOK_GAP_S)


def test_unseen_time_condemns_nobody_who_turns_round() -> None:
    asked = watched(seen(2000 * MIB, asked_kib=1000 * MIB))
    belief = learn(asked, seen(2000 * MIB, asked_kib=3000 * MIB), 3600.0, CAUTION)
    assert belief.away_s == LOOK_GAP_S


def test_time_away_counts_the_rarer_looks_at_a_guest_past_its_patience() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=8))
    later = learn(stuck, seen(2000 * MIB, asked_kib=1000 * MIB), stuck.waited_s, CAUTION)
    assert later.away_s == stuck.away_s + stuck.waited_s


def test_clock_that_steps_back_takes_nothing_away() -> None:
    moving = [seen(2000 * MIB, asked_kib=1000 * MIB)]
    beliefs = Beliefs().learn(moving, 100.0, CAUTION).learn(moving, 101.0, CAUTION)
    assert beliefs.learn(moving, 50.0, CAUTION).by_domid[1].waited_s == beliefs.by_domid[1].waited_s


def test_first_look_of_all_counts_no_time() -> None:
    beliefs = Beliefs().learn([seen(2000 * MIB, asked_kib=1000 * MIB)], 1e6, CAUTION)
    assert beliefs.by_domid[1].waited_s == 0.0


def test_domain_that_is_gone_is_forgotten() -> None:
    beliefs = Beliefs().learn([GUEST], 0.0, CAUTION)
    assert not beliefs.learn([], 1.0, CAUTION).by_domid


def test_domid_of_another_vm_starts_without_a_past() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    reborn = replace(seen(2000 * MIB, asked_kib=2000 * MIB), uuid="another")
    assert learn(stuck, reborn, 1.0, CAUTION) == Belief("another", GUEST.dynamic_range, mark_kib=2000 * MIB)


def test_guest_meets_its_floor_within_its_inaccuracy() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    assert stuck.meets_floor(2000 * MIB + 4, CAUTION)
    assert not stuck.meets_floor(2000 * MIB + 5, CAUTION)


def test_guest_meets_its_ceiling_within_its_inaccuracy() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=3000 * MIB))
    assert stuck.meets_ceiling(2000 * MIB - 4, CAUTION)
    assert not stuck.meets_ceiling(2000 * MIB - 5, CAUTION)


def test_new_range_earns_a_fresh_start() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=1000 * MIB))
    widened = replace(seen(2000 * MIB, asked_kib=1500 * MIB), dynamic_range=DynamicRange(0, 3000 * MIB))
    belief = learn(stuck, widened, 1.0, CAUTION)
    assert (belief.floor_kib, belief.waited_s, belief.away_s) == (None, 0.0, 0.0)


def test_paused_domain_is_waited_for_without_a_clock() -> None:
    asked = watched(*stands(2000 * MIB, asked_kib=1000 * MIB, looks=5))
    paused = replace(seen(2000 * MIB, asked_kib=1000 * MIB), lifecycle=Lifecycle.PAUSED)
    belief = watched(paused, paused, belief=asked)
    assert (belief.direction, belief.waited_s, belief.away_s) == (0, 0.0, 0.0)


def test_it_is_known_how_long_a_domain_has_been_paused() -> None:
    paused = replace(seen(2000 * MIB, asked_kib=2000 * MIB), lifecycle=Lifecycle.PAUSED)
    belief = watched(paused, paused, paused)
    assert belief.halted_s == 3.0
    assert watched(seen(2000 * MIB, asked_kib=2000 * MIB), belief=belief).halted_s == 0.0


def test_it_is_known_how_long_a_guest_took_to_begin() -> None:
    waiting = stands(2000 * MIB, asked_kib=1000 * MIB, looks=4)
    begun = watched(*waiting, *moving_down(2000 * MIB, asked_kib=1000 * MIB))
    assert begun.delay_s == 3.0


def test_driver_at_work_is_given_more_time() -> None:
    looks = [replace(look, balloon_active=True) for look in stands(2000 * MIB, asked_kib=1000 * MIB)]
    assert not watched(*looks).gave_up(CAUTION)
    assert watched(*looks).patience_s(CAUTION) == PATIENCE_MOST_S
    idle = [replace(look, balloon_active=False) for look in looks]
    assert watched(*idle).gave_up(CAUTION)


def test_guest_that_reports_is_known_to_have_an_agent() -> None:
    silent = seen(2000 * MIB, asked_kib=2000 * MIB)
    speaking = replace(silent, sample=Sample(seen_s=0.0, period_s=60.0, used_kib=1000 * MIB))
    belief = watched(silent, speaking)
    assert belief.has_agent
    assert not watched(silent, belief=belief).has_agent


def test_domain_without_a_driver_is_not_waited_for() -> None:
    belief = watched(*[replace(look, can_balloon=False) for look in stands(2000 * MIB, asked_kib=1000 * MIB)])
    assert not belief.gave_up(CAUTION)


def test_unmeasured_guest_counts_how_long_it_stands_still() -> None:
    belief = watched(*stands(2000, asked_kib=1900, offset_kib=None, looks=4))
    assert (belief.waited_s, belief.direction) == (4.0, 0)


def test_unmeasured_guest_begins_anew_when_it_moves() -> None:
    belief = watched(
        *stands(2000, asked_kib=1900, offset_kib=None, looks=4), seen(1990, asked_kib=1900, offset_kib=None)
    )
    assert belief.waited_s == 0.0


def shrunk_to(target_kib: int, stops_kib: int, belief: Belief | None = None) -> Belief:
    """A guest with a measured offset that is asked down, moves, and is given up short of its target."""
    begins_kib = belief.mark_kib if belief else 2000 * MIB
    belief = watched(seen(begins_kib, asked_kib=target_kib, offset_kib=68 * MIB), belief=belief)
    stops = seen(stops_kib, asked_kib=target_kib, offset_kib=68 * MIB)
    belief = watched(stops, belief=belief)
    while not belief.gave_up(CAUTION):
        belief = watched(stops, belief=belief)
    return belief


def test_offset_is_suspected_when_two_targets_are_missed_by_the_same_distance() -> None:
    once = shrunk_to(1500 * MIB, 1501 * MIB)
    assert (once.missed, once.offset_error_kib) == ((1500 * MIB, MIB), 0)
    twice = shrunk_to(1400 * MIB, 1401 * MIB, once)
    assert (twice.missed, twice.offset_error_kib) == (None, MIB)


def test_offset_is_not_suspected_for_missing_the_same_target_twice() -> None:
    once = shrunk_to(1500 * MIB, 1501 * MIB)
    assert shrunk_to(1500 * MIB, 1501 * MIB, once).offset_error_kib == 0


def test_offset_is_not_suspected_when_a_guest_stops_at_the_same_size() -> None:
    once = shrunk_to(1500 * MIB, 1501 * MIB)
    limited = shrunk_to(1490 * MIB, 1501 * MIB, once)
    assert (limited.missed, limited.offset_error_kib) == ((1490 * MIB, 11 * MIB), 0)


def test_offset_is_not_suspected_when_a_guest_stops_far_from_its_target() -> None:
    assert shrunk_to(1000 * MIB, 1000 * MIB + OFFSET_ERROR_MOST_KIB + 4).missed is None


def test_suspicion_ends_when_a_target_is_met() -> None:
    suspected = shrunk_to(1400 * MIB, 1401 * MIB, shrunk_to(1500 * MIB, 1501 * MIB))
    met = learn(suspected, seen(1400 * MIB, asked_kib=1400 * MIB, offset_kib=69 * MIB), 1.0, CAUTION)
    assert met.offset_error_kib == 0


@pytest.mark.parametrize(
    ("looks", "state"),
    [
        ([seen(2000, asked_kib=2000)], BalloonState.AT_TARGET),
        ([seen(2000, asked_kib=1000)], BalloonState.MOVING),
        (stands(2000 * MIB, asked_kib=1000 * MIB), BalloonState.STUCK),
        (stands(2000 * MIB, asked_kib=3000 * MIB), BalloonState.AT_LIMIT),
        (
            [seen(2500 * MIB, asked_kib=1000 * MIB), *stands(2000 * MIB, asked_kib=1000 * MIB)],
            BalloonState.AT_LIMIT,
        ),
        ([replace(GUEST, can_balloon=False)], BalloonState.NO_BALLOON),
    ],
)
def test_balloon_state_is_told_from_what_was_seen(looks: list[DomainState], state: BalloonState) -> None:
    assert balloon_state(watched(*looks), looks[-1], CAUTION) is state


def test_guest_at_its_ceiling_is_at_a_limit_even_if_it_is_asked_no_further() -> None:
    stuck = watched(*stands(2000 * MIB, asked_kib=3000 * MIB))
    resting = seen(2000 * MIB, asked_kib=2000 * MIB)
    assert balloon_state(learn(stuck, resting, 1.0, CAUTION), resting, CAUTION) is BalloonState.AT_LIMIT


def test_guest_that_arrives_within_one_look_shows_how_long_it_had_paused() -> None:
    late = a_domain(1000 * MIB, 4000 * MIB, 2000 * MIB, target_kib=2001 * MIB)
    belief = learn(None, late, 0.0, CAUTION)
    for _ in range(60):
        belief = learn(belief, late, 0.1, CAUTION)
    assert belief.ceiling_kib == 2000 * MIB
    belief = learn(belief, replace(late, actual_kib=2001 * MIB), 0.1, CAUTION)
    assert belief.ceiling_kib is None
    assert belief.patience_s(CAUTION) > 6
