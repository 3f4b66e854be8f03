from __future__ import annotations

import pytest

from tests.builders import MIB, PROPORTIONAL, a_claim
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.engine.policy import Snapshot
from xcpmem.engine.proportional import share
from xcpmem.errors import InvalidValue


def test_share_gives_everyone_the_same_proportion() -> None:
    assert share(9000, [a_claim(1000, 5000), a_claim(2000, 10000)]) == [3000, 6000]


def test_share_gives_dynamic_min_when_there_is_too_little_even_for_that() -> None:
    assert share(100, [a_claim(1000, 5000), a_claim(2000, 10000)]) == [1000, 2000]


def test_share_gives_dynamic_max_when_there_is_more_than_enough() -> None:
    assert share(99999, [a_claim(1000, 5000), a_claim(2000, 10000)]) == [5000, 10000]


def test_share_gives_the_pinned_their_pin() -> None:
    assert share(5000, [a_claim(700, 700), a_claim(0, 10000)]) == [700, 4300]


def test_share_gives_all_the_pinned_their_pin_when_nobody_else_is_there() -> None:
    assert share(5000, [a_claim(700, 700), a_claim(900, 900)]) == [700, 900]


def test_share_rounds_down() -> None:
    assert share(100, [a_claim(0, 100), a_claim(0, 100), a_claim(0, 100)]) == [33, 33, 33]


def test_share_of_nobody_is_nothing() -> None:
    assert share(100, []) == []


def test_share_of_one_that_cannot_grow_goes_to_others() -> None:
    assert share(6000, [a_claim(0, 4000, high_kib=1000), a_claim(0, 8000)]) == [1000, 5000]


def test_share_of_one_that_cannot_shrink_is_taken_from_others() -> None:
    assert share(6000, [a_claim(0, 4000, low_kib=3000), a_claim(0, 8000)]) == [3000, 3000]


def test_share_counts_everyones_part_from_dynamic_min_not_from_where_it_stopped() -> None:
    assert share(6000, [a_claim(0, 4000, low_kib=1000), a_claim(0, 8000)]) == [2000, 4000]


def test_share_settles_those_who_lack_before_those_who_exceed_when_they_weigh_more() -> None:
    claims = [a_claim(0, 100, low_kib=90), a_claim(0, 100, high_kib=40), a_claim(0, 100)]
    assert share(150, claims) == [90, 30, 30]


def test_share_settles_those_who_exceed_before_those_who_lack_when_they_weigh_more() -> None:
    claims = [a_claim(0, 100, low_kib=60), a_claim(0, 100, high_kib=10), a_claim(0, 100)]
    assert share(150, claims) == [70, 10, 70]


def test_share_settles_again_whom_the_others_leave_push_past_a_limit() -> None:
    claims = [a_claim(0, 100, high_kib=10), a_claim(0, 100, high_kib=60), a_claim(0, 100)]
    assert share(150, claims) == [10, 60, 80]


def test_share_lets_one_stand_above_its_range_when_it_cannot_get_lower() -> None:
    assert share(300, [a_claim(0, 100, low_kib=200, high_kib=200), a_claim(0, 400)]) == [200, 100]


def test_share_takes_a_newcomers_own_minimum_into_account() -> None:
    peer, newcomer = a_claim(1000 * MIB, 3000 * MIB), a_claim(1000 * MIB, 3000 * MIB)
    assert share(3000 * MIB, [peer, newcomer]) == [1500 * MIB, 1500 * MIB]


def test_policy_is_found_by_its_name() -> None:
    assert find_policy("proportional").name == "proportional"
    assert list(POLICIES) == ["proportional", "shares", "pressure"]


def test_policy_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidValue) as refused:
        find_policy("fair")
    assert refused.value.params == ("policy", "fair")


def test_proportional_policy_divides_by_the_formula() -> None:
    claims = [a_claim(1000, 5000), a_claim(2000, 10000)]
    division, state = PROPORTIONAL.plan(Snapshot(0.0, 9000, claims), {})
    assert division.goals_kib == share(9000, claims)
    assert state == {}
