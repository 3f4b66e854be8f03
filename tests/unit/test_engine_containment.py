from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import a_claim
from xcpmem.engine.containment import FAILURES_MOST, SET_ASIDE_S, PolicyMemory, divide, find_fault
from xcpmem.engine.parameters import Parameters
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import ChosenPolicy, Claim, Division, Snapshot
from xcpmem.engine.proportional import share

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.policy import State

CLAIMS = [a_claim(100, 500)._replace(domid=1, uuid="a"), a_claim(0, 500)._replace(domid=2, uuid="b")]


@dataclass(frozen=True)
class Scripted:
    """A policy that answers what a test tells it to."""

    answer: Callable[[Snapshot, State], Any]
    name: str = "scripted"
    about: str = "for tests"
    parameters: type[Parameters] = Parameters

    def plan(self, snapshot: Snapshot, state: State, parameters: Parameters) -> tuple[Division, State]:
        answered: tuple[Division, State] = self.answer(snapshot, state)
        return answered


def scripted(answer: Callable[[Snapshot, State], Any]) -> ChosenPolicy:
    return ChosenPolicy(Scripted(answer), Parameters())


def crash(snapshot: Snapshot, state: State) -> Any:
    raise ZeroDivisionError("so it goes")


def seen(now_s: float = 0.0, budget_kib: int = 600, claims: list[Claim] | None = None) -> Snapshot:
    return Snapshot(now_s, budget_kib, CLAIMS if claims is None else claims)


def test_good_plan_is_followed_and_its_state_kept() -> None:
    policy = scripted(lambda _, state: (Division([250, 350]), {"turn": state.get("turn", 0) + 1}))
    division, memory = divide(policy, seen(), PolicyMemory())
    assert division.goals_kib == [250, 350]
    division, memory = divide(policy, seen(), memory)
    assert memory.state == {"turn": 2}
    assert (memory.failures, memory.trouble, memory.failures_total) == (0, "", 0)


def test_policy_that_writes_its_answers_into_the_same_list_changes_none_it_gave_before() -> None:
    goals_kib, notes = [250, 350], {1: "first"}
    policy = scripted(lambda *_: (Division(goals_kib, notes), {}))
    division, memory = divide(policy, seen(), PolicyMemory())
    goals_kib[:] = [350, 250]
    notes[1] = "second"
    assert division.goals_kib == [250, 350]
    assert division.notes[1] == "first"
    assert memory.last[1] == [250, 350]


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (crash, "ZeroDivisionError: so it goes"),
        (lambda *_: None, "TypeError: cannot unpack non-iterable NoneType object"),
        (lambda *_: (Division([100]), {}), "1 goals for 2 claims"),
        (lambda *_: (Division([99, 0]), {}), "domain 1: 99 KiB is not within 100 to 500 KiB"),
        (lambda *_: (Division([100, 501]), {}), "domain 2: 501 KiB is not within 0 to 500 KiB"),
        (lambda *_: (Division([100.5, 0]), {}), "domain 1: 100.5 is not a whole number of KiB"),  # type: ignore[list-item]
        (lambda *_: (Division([500, 500]), {}), "1000 KiB given away of 600 KiB"),
        (lambda *_: (Division([100, 0], {1: 5}), {}), "domain 1: its reason 5 is no text"),  # type: ignore[dict-item]
        (lambda *_: (Division([100, 0], look_again_s=-1.0), {}), "look again after -1.0 s"),
        (lambda *_: (Division([100, 0]), None), "the state None is no mapping"),
    ],
)
def test_bad_answer_is_named_and_xcps_rule_decides(
    answer: Callable[[Snapshot, State], Any], trouble: str
) -> None:
    division, memory = divide(scripted(answer), seen(), PolicyMemory())
    assert list(division.goals_kib) == share(600, CLAIMS)
    assert memory.trouble == trouble
    assert (memory.failures, memory.failures_total, memory.is_set_aside) == (1, 1, False)


def good_until(end_s: float) -> ChosenPolicy:
    def answer(snapshot: Snapshot, state: State) -> Any:
        return (Division([250, 350]), {}) if snapshot.now_s < end_s else crash(snapshot, state)

    return scripted(answer)


def test_policy_without_reasons_is_named_as_the_reason() -> None:
    policy = scripted(lambda *_: (Division([250, 350], {2: "asked nicely"}), {}))
    division, _ = divide(policy, seen(), PolicyMemory())
    assert {domid: str(note) for domid, note in division.notes.items()} == {
        1: "is given so much by the policy scripted",
        2: "asked nicely",
    }
    division, _ = divide(find_policy("proportional"), seen(), PolicyMemory())
    assert division.notes == {}


def test_last_good_plan_stays_while_it_fits() -> None:
    policy = good_until(1.0)
    _, memory = divide(policy, seen(0.0), PolicyMemory())
    division, memory = divide(policy, seen(1.0), memory)
    assert list(division.goals_kib) == [250, 350]
    division, memory = divide(policy, seen(2.0, budget_kib=599), memory)
    assert list(division.goals_kib) == share(599, CLAIMS)
    assert memory.failures == 2


def test_last_good_plan_does_not_fit_a_newcomer() -> None:
    policy, claims = good_until(1.0), [*CLAIMS, a_claim(0, 500)._replace(domid=3, uuid="c")]
    _, memory = divide(policy, seen(0.0), PolicyMemory())
    division, _ = divide(policy, seen(1.0, claims=claims), memory)
    assert list(division.goals_kib) == share(600, claims)


def test_good_plan_ends_the_count() -> None:
    policy = scripted(
        lambda now, state: (Division([100, 0]), {}) if now.now_s in {0.0, 2.0} else crash(now, state)
    )
    memory = PolicyMemory()
    for now_s in (0.0, 1.0, 2.0, 3.0):
        _, memory = divide(policy, seen(now_s), memory)
    assert (memory.failures, memory.failures_total) == (1, 2)


def test_policy_that_fails_three_times_in_a_row_is_set_aside_and_tried_again_later() -> None:
    policy, memory = good_until(1.0), PolicyMemory()
    for now_s in range(1 + FAILURES_MOST):
        division, memory = divide(policy, seen(float(now_s)), memory)
    assert memory.is_set_aside
    assert list(division.goals_kib) == share(600, CLAIMS)
    until_s = FAILURES_MOST + SET_ASIDE_S
    division, memory = divide(policy, seen(until_s - 1), memory)
    assert (division.look_again_s, memory.failures_total) == (1.0, FAILURES_MOST)
    again = replace(policy, policy=good_until(1e6).policy)
    _, memory = divide(again, seen(until_s), replace(memory, policy=again))
    assert (memory.is_set_aside, memory.failures, memory.trouble) == (False, 0, "")


def test_another_choice_starts_afresh() -> None:
    _, memory = divide(scripted(crash), seen(), PolicyMemory())
    _, memory = divide(good_until(1.0), seen(), memory)
    assert (memory.failures, memory.trouble, memory.failures_total) == (0, "", 1)


def test_no_fault_in_a_plan_that_gives_everybody_the_least_when_there_is_less() -> None:
    assert find_fault(Division([100, 0]), seen(budget_kib=50)) == ""
