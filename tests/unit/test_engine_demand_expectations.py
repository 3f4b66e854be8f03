"""What ``pressure`` expects of guests beyond what they say: crests, boosts without contest, vain growth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xcpmem.engine.demand import Demand, DemandParameters, follow, is_believed, needs_of
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import Claim, Snapshot
from xcpmem.engine.sample import Sample

if TYPE_CHECKING:
    from xcpmem.engine.policy import State

MIB: Final = 1024
GIB: Final = 1024 * MIB
PARAMETERS: Final = DemandParameters()
SAID: Final = Sample(seen_s=0.0, period_s=10.0, used_kib=GIB, stall_us=0)
CLAIM: Final = Claim(0, 8 * GIB, 0, 8 * GIB, 1, "a", 2 * GIB, 2 * GIB)


def heard(*samples: Sample, claim: Claim = CLAIM, is_contended: bool = True) -> Demand:
    """Follow a guest through its samples, of which the first is at time 0."""
    demand = follow(None, claim, samples[0], PARAMETERS)
    for sample in samples[1:]:
        demand = follow(demand, claim, sample, PARAMETERS, is_contended=is_contended)
    return demand


def at(seen_s: float, used_kib: int, stall_us: int = 0) -> Sample:
    return replace(SAID, seen_s=seen_s, used_kib=used_kib, stall_us=stall_us)


def test_nobody_is_left_without_any_cache() -> None:
    needs = needs_of(heard(SAID), CLAIM, SAID, PARAMETERS)
    assert needs.used_kib == GIB + 64 * MIB


def test_a_guest_whose_use_begins_to_rise_is_expected_to_need_what_it_needed_before() -> None:
    burst = (at(0, GIB), at(10, 4 * GIB), at(20, GIB), at(300, GIB))
    resting, rising = at(310, GIB), at(310, GIB + 200 * MIB)
    calm = needs_of(heard(*burst, resting), CLAIM, resting, PARAMETERS)
    risen = needs_of(heard(*burst, rising), CLAIM, rising, PARAMETERS)
    assert calm.peak_kib == calm.boost_kib
    assert risen.peak_kib > 3 * GIB
    assert risen.boost_kib < 2 * GIB


def test_a_rise_that_stops_is_not_waited_for() -> None:
    burst = (at(0, GIB), at(10, 4 * GIB), at(20, GIB), at(300, GIB), at(310, GIB + 200 * MIB))
    later = at(321, GIB + 200 * MIB)
    needs = needs_of(heard(*burst, later), CLAIM, later, PARAMETERS)
    assert needs.peak_kib == needs.boost_kib


def test_a_boost_fades_only_while_somebody_lacks_memory() -> None:
    stalled = (at(0, GIB), at(10, GIB, 5_000_000), at(20, GIB, 5_000_000))
    late = at(2000, GIB, 5_000_000)
    boosted = heard(*stalled).boost_kib
    assert boosted > GIB
    assert heard(*stalled, late, is_contended=False).boost_kib == boosted
    assert heard(*stalled, late).boost_kib < boosted // 10


def extra_kib(*samples: Sample) -> int:
    """What stalls are worth to a guest at its last sample, while nobody lacks memory."""
    needs = needs_of(heard(*samples, is_contended=False), CLAIM, samples[-1], PARAMETERS)
    return needs.boost_kib - needs.room_kib


def test_a_boost_that_most_of_the_memory_in_use_called_for_goes_with_the_use() -> None:
    """A kernel that wastes a tenth of its memory does so of much memory and of little."""
    full = 1800 * MIB
    burst = (at(0, full), at(10, full, 5_000_000))
    resting, again = at(20, full // 2, 5_000_000), at(30, full, 5_000_000)
    assert extra_kib(*burst) > 400 * MIB
    assert extra_kib(*burst, resting) == extra_kib(*burst) // 2
    assert extra_kib(*burst, resting, again) == extra_kib(*burst)


def test_a_boost_for_a_cache_stays_when_the_use_falls() -> None:
    stalled = (at(0, GIB), at(10, GIB, 5_000_000))
    resting = at(20, GIB // 2, 5_000_000)
    assert extra_kib(*stalled, resting) == extra_kib(*stalled) > GIB


def test_who_stalls_is_not_entitled_to_less_than_who_does_not() -> None:
    slight = replace(PARAMETERS, sure_room_percent=50.0)
    for stall_us in (0, 5_000_000):
        samples = (at(0, 1900 * MIB), at(10, 1900 * MIB, stall_us))
        demand = heard(*samples)._replace(boost_kib=2 * MIB if stall_us else 0)
        assert needs_of(demand, CLAIM, samples[-1], slight).need_kib >= 1900 * MIB * 3 // 2 + 64 * MIB


def censored(seen_s: float, size_kib: int) -> tuple[Sample, Claim]:
    """What an agent says that calls only free memory available, of a guest of that size."""
    said = Sample(seen_s=seen_s, period_s=60.0, used_kib=size_kib * 97 // 100, is_censored=True)
    return said, CLAIM._replace(target_kib=size_kib, actual_kib=size_kib)


def test_a_guest_that_grows_in_vain_is_not_believed_for_a_while() -> None:
    demand = None
    for turn, size_kib in enumerate((2 * GIB, 3 * GIB, 4 * GIB)):
        sample, claim = censored(60.0 * turn, size_kib)
        demand = follow(demand, claim, sample, PARAMETERS)
        assert is_believed(demand) == (turn < 2)
    sample, claim = censored(120 + PARAMETERS.doubt_s, 2 * GIB)
    assert is_believed(follow(demand, claim, sample, PARAMETERS))


def test_who_is_never_satisfied_is_tried_less_and_less_often() -> None:
    """Else each trial gives it memory of others, for ever, and takes it back again."""
    demand, believed, trials = None, True, 0
    for minute in range(3 * 24 * 60):
        grown = believed and minute % 2
        sample, claim = censored(60.0 * minute, 3 * GIB if grown else 2 * GIB)
        demand = follow(demand, claim, sample, PARAMETERS)
        trials += is_believed(demand) and not believed
        believed = is_believed(demand)
    assert 3 <= trials <= 7


def test_doubts_are_over_as_soon_as_a_guest_has_something_available_of_its_own() -> None:
    demand = None
    for turn, size_kib in enumerate((2 * GIB, 3 * GIB, 4 * GIB)):
        sample, claim = censored(60.0 * turn, size_kib)
        demand = follow(demand, claim, sample, PARAMETERS)
    content = Sample(seen_s=180.0, period_s=60.0, used_kib=GIB)
    demand = follow(demand, CLAIM._replace(actual_kib=4 * GIB), content, PARAMETERS)
    assert is_believed(demand)
    assert demand.doubts == 0


def test_growth_that_shows_what_a_guest_needs_is_not_in_vain() -> None:
    first, claim = censored(0.0, 2 * GIB)
    demand = follow(None, claim, first, PARAMETERS)
    second, claim = censored(60.0, 3 * GIB)
    demand = follow(demand, claim, second, PARAMETERS)
    content = Sample(seen_s=120.0, period_s=60.0, used_kib=3 * GIB)
    demand = follow(demand, CLAIM._replace(actual_kib=4 * GIB), content, PARAMETERS)
    assert (demand.vain, is_believed(demand)) == (0, True)


def test_a_guest_that_once_had_memory_available_is_believed_when_it_has_none() -> None:
    content = Sample(seen_s=0.0, period_s=60.0, used_kib=GIB)
    demand = follow(None, CLAIM, content, PARAMETERS)
    for turn, size_kib in enumerate((2 * GIB, 3 * GIB, 4 * GIB, 5 * GIB), start=1):
        sample, claim = censored(60.0 * turn, size_kib)
        demand = follow(demand, claim, sample, PARAMETERS)
    assert is_believed(demand)


def test_what_a_guest_was_just_given_does_not_make_it_credible() -> None:
    sample, claim = censored(0.0, 2 * GIB)
    demand = follow(None, claim, sample, PARAMETERS)
    free = Sample(seen_s=60.0, period_s=60.0, used_kib=2 * GIB)
    assert not follow(demand, CLAIM._replace(actual_kib=3 * GIB), free, PARAMETERS).is_credible
    assert follow(demand, claim, free, PARAMETERS).is_credible


def test_a_guest_that_is_not_believed_has_its_entitlement_like_a_silent_one() -> None:
    policy, goals_kib = find_policy("pressure"), [2 * GIB, 2 * GIB]
    state: State = {}
    for turn in range(40):
        claims = []
        for number, size_kib in enumerate(goals_kib):
            sample = censored(60.0 * turn, size_kib)[0] if number else at(60.0 * turn, GIB)
            claims.append(
                CLAIM._replace(
                    domid=number + 1,
                    uuid=str(number),
                    target_kib=size_kib,
                    actual_kib=size_kib,
                    sample=sample,
                )
            )
        division, state = policy.plan(Snapshot(60.0 * turn, 6 * GIB, claims), state)
        goals_kib = list(division.goals_kib)
        if 4 < turn < 30:
            assert goals_kib[1] == 3 * GIB


def test_shares_remembers_where_a_guest_was_hurt_while_it_uses_about_the_same() -> None:
    policy = find_policy("shares")
    state: State = {}
    remembered = []
    for turn, (regret_kib, used_kib) in enumerate(
        [(3 * GIB, GIB), (0, GIB), (0, GIB + 50 * MIB), (0, 2 * GIB), (0, GIB)]
    ):
        at_s = 10.0 * turn
        hurt = CLAIM._replace(sample=at(at_s, used_kib), regret_kib=regret_kib)
        hog = CLAIM._replace(domid=2, uuid="b", sample=at(at_s, 8 * GIB))
        _, state = policy.plan(Snapshot(at_s, 8 * GIB, [hurt, hog]), state)
        remembered.append("a" in state["floors"])
    assert remembered == [True, True, True, False, False]
