"""The policy ``shares``: weights, idle tax, silence, and when it moves."""

from __future__ import annotations

from typing import Any, Final

from tests.builders import MIB
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import Claim, Division, Snapshot, State
from xcpmem.engine.proportional import share
from xcpmem.engine.sample import Sample

SHARES: Final = find_policy("shares")
NO_STATE: Final[State] = {}


def a_guest(
    domid: int, used_mib: int | None, *, seen_s: float = 0.0, weight: int = 1000, target_mib: int = 0
) -> Claim:
    sample = None if used_mib is None else Sample(seen_s, 60.0, used_mib * MIB)
    target_kib = target_mib * MIB
    return Claim(
        *(0, 4000 * MIB, 0, 4000 * MIB, domid, f"vm{domid}", target_kib, target_kib, weight),
        sample=sample,
    )


def plan(
    *claims: Claim, budget_mib: int = 4000, now_s: float = 0.0, state: State = NO_STATE, **parameters: object
) -> tuple[Division, State]:
    return find_policy("shares", parameters).plan(Snapshot(now_s, budget_mib * MIB, claims), state)


def goals_mib(division: Division) -> list[int]:
    return [goal // MIB for goal in division.goals_kib]


def test_idle_memory_goes_to_those_who_use_theirs() -> None:
    division, _ = plan(a_guest(1, 400), a_guest(2, 3200))
    assert goals_mib(division) == [1100, 2900]


def test_without_tax_the_use_does_not_matter() -> None:
    division, _ = plan(a_guest(1, 400), a_guest(2, 3200), idle_tax_percent=0)
    assert goals_mib(division) == [2000, 2000]


def test_weight_counts_where_nobody_is_idle() -> None:
    division, _ = plan(a_guest(1, 4000, weight=3000), a_guest(2, 4000))
    assert goals_mib(division) == [3000, 1000]


def test_silent_guest_has_its_share_and_the_others_divide_the_rest() -> None:
    claims = [a_guest(1, 100), a_guest(2, 3900), a_guest(3, None)]
    division, _ = plan(*claims, budget_mib=6000)
    assert division.goals_kib[2] == share(6000 * MIB, claims)[2]
    assert division.goals_kib[0] < 2000 * MIB < division.goals_kib[1]


def test_all_silent_is_xcps_rule() -> None:
    claims = [a_guest(1, None), a_guest(2, None)]
    assert list(plan(*claims)[0].goals_kib) == share(4000 * MIB, claims)


def test_use_is_believed_up_at_once_and_down_slowly() -> None:
    _, state = plan(a_guest(1, 3000, seen_s=0), a_guest(2, 1000, seen_s=0))
    _, state = plan(a_guest(1, 1000, seen_s=60), a_guest(2, 3000, seen_s=60), now_s=60.0, state=state)
    assert [mean / MIB for mean, _ in state["means"].values()] == [2700, 3000]
    _, again = plan(a_guest(1, 1000, seen_s=60), a_guest(2, 3000, seen_s=60), now_s=61.0, state=state)
    assert again["means"] == state["means"]


def test_small_changes_move_nobody() -> None:
    first, state = plan(a_guest(1, 1000), a_guest(2, 2600))
    second, _ = plan(a_guest(1, 1005, seen_s=60), a_guest(2, 2600, seen_s=60), now_s=60.0, state=state)
    assert list(second.goals_kib) == list(first.goals_kib)


def test_large_changes_wait_for_the_period() -> None:
    first, state = plan(a_guest(1, 1000), a_guest(2, 2600))
    hungry = a_guest(1, 2500, seen_s=2), a_guest(2, 2600, seen_s=2)
    second, state = plan(*hungry, now_s=2.0, state=state)
    assert (list(second.goals_kib), second.look_again_s) == (list(first.goals_kib), 3.0)
    third, _ = plan(*hungry, now_s=5.0, state=state)
    assert third.goals_kib[0] > first.goals_kib[0]


def test_newcomer_is_served_at_once() -> None:
    _, state = plan(a_guest(1, 1000), a_guest(2, 2600))
    second, _ = plan(a_guest(1, 1000), a_guest(2, 2600), a_guest(3, None), now_s=0.5, state=state)
    assert second.goals_kib[2] > 1000 * MIB
    assert sum(second.goals_kib) <= 4000 * MIB


def test_where_everybody_stands_well_enough_the_policy_begins_with_that() -> None:
    division, _ = plan(a_guest(1, 400, target_mib=1101), a_guest(2, 3200, target_mib=2896))
    assert goals_mib(division) == [1101, 2896]


def test_what_is_regretted_counts_as_used() -> None:
    taxed, _ = plan(a_guest(1, 400), a_guest(2, 3200))
    spared, _ = plan(a_guest(1, 400)._replace(regret_kib=1500 * MIB), a_guest(2, 3200))
    assert spared.goals_kib[0] >= 1500 * MIB > taxed.goals_kib[0]


def test_guest_that_was_hurt_is_told_to_be_wanted_larger_for_that() -> None:
    spared, _ = plan(a_guest(1, 400)._replace(regret_kib=1500 * MIB), a_guest(2, 3200))
    assert str(spared.notes[1]).startswith(
        "needs 500 MiB (uses 400 MiB, 25 % room) and was hurt below 1.465 GiB"
    )


def test_state_is_small_and_plain() -> None:
    state: Any = plan(a_guest(1, 400), a_guest(2, None))[1]
    assert set(state) == {"means", "floors", "goals", "budget_kib", "decided_s"}
    assert state["means"] == {"vm1": [400.0 * MIB, 0.0]}


def test_notes_say_in_words_why() -> None:
    division, _ = plan(a_guest(1, 400), a_guest(2, 3200), a_guest(3, None), budget_mib=6000)
    assert {domid: str(note) for domid, note in division.notes.items()} == {
        1: "needs 500 MiB (uses 400 MiB, 25 % room); 1.465 GiB of its share of 1.953 GiB are idle and taxed",
        2: "needs 3.906 GiB (uses 3.125 GiB, 25 % room); "
        "gets more than its share of 1.953 GiB, which others leave idle",
        3: "says nothing of its memory and has exactly its share",
    }
