"""Policies that are not in force, run on the ring's looks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from tests.builders import CAUTION, MIB, PROPORTIONAL, a_domain, a_host, a_request, uuid_of
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.containment import PolicyMemory
from xcpmem.engine.model import HostState, Wishes
from xcpmem.engine.parameters import Parameters
from xcpmem.engine.planner import plan
from xcpmem.engine.policies import POLICIES, find_policy
from xcpmem.engine.policy import ChosenPolicy
from xcpmem.engine.sample import Sample
from xcpmem.engine.shadow import take_snapshot, what_would
from xcpmem.policybook import PolicyChoices
from xcpmem.shadows import GAP_S, REST, Shadows

IDLE: Final = replace(
    a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB, domid=1), sample=Sample(0.0, 10.0, 500 * MIB)
)
BUSY: Final = replace(
    a_domain(1000 * MIB, 3000 * MIB, 2000 * MIB, domid=2), sample=Sample(0.0, 10.0, 2500 * MIB)
)
HOST: Final = a_host(IDLE, BUSY)


def beliefs_about(host: HostState) -> Beliefs:
    return plan(host, Wishes(), Beliefs(), 0.0, PROPORTIONAL).beliefs


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_what_another_policy_would_do_is_told_for_every_domain() -> None:
    snapshot = take_snapshot(HOST, Wishes(), beliefs_about(HOST), 0.0, CAUTION)
    fair = what_would(find_policy("proportional"), snapshot, PolicyMemory())
    taxed = what_would(find_policy("shares"), snapshot, PolicyMemory())
    assert sum(fair.targets_kib.values()) == 4000 * MIB - 2 * CAUTION.inaccuracy_kib
    assert taxed.targets_kib[1] < fair.targets_kib[1]
    assert taxed.targets_kib[2] > fair.targets_kib[2]
    assert "idle and taxed" in str(taxed.notes[1])


def test_what_a_policy_would_do_is_what_it_does_once_it_is_in_force() -> None:
    thought = plan(HOST, Wishes(), Beliefs(), 0.0, find_policy("shares"))
    snapshot = take_snapshot(HOST, Wishes(), beliefs_about(HOST), 0.0, CAUTION)
    would = what_would(find_policy("shares"), snapshot, PolicyMemory())
    assert {domid: reason.goal_kib for domid, reason in thought.reasons.items()} == would.targets_kib


def test_weights_count_in_the_shadow_as_well() -> None:
    wishes = Wishes(weights={uuid_of(1): 9000})
    snapshot = take_snapshot(HOST, wishes, beliefs_about(HOST), 0.0, CAUTION)
    untaxed = what_would(find_policy("shares", {"idle_tax_percent": 0}), snapshot, PolicyMemory())
    assert untaxed.targets_kib[1] == 2800 * MIB - 8 * 9 // 10 - 1


def test_all_but_the_policy_in_force_are_run() -> None:
    shadows = Shadows(PolicyChoices().shadows, CAUTION, Clock())
    shadows.follow("pressure", HOST, Wishes(), beliefs_about(HOST), 0.0)
    assert list(shadows.plans) == ["proportional", "shares"]


def test_shadow_has_the_parameters_that_the_settings_give_it() -> None:
    choices = PolicyChoices(shadow_parameters={"shares": {"idle_tax_percent": 0}})
    shadows = Shadows(choices.shadows, CAUTION, Clock())
    shadows.follow("proportional", HOST, Wishes(), beliefs_about(HOST), 0.0)
    snapshot = take_snapshot(HOST, Wishes(), beliefs_about(HOST), 0.0, CAUTION)
    untaxed = what_would(find_policy("shares", {"idle_tax_percent": 0}), snapshot, PolicyMemory())
    taxed = what_would(find_policy("shares"), snapshot, PolicyMemory())
    assert shadows.plans["shares"].targets_kib == untaxed.targets_kib != taxed.targets_kib


def test_policy_that_comes_into_force_is_no_shadow_any_more() -> None:
    clock = Clock()
    shadows = Shadows(PolicyChoices().shadows, CAUTION, clock)
    shadows.follow("pressure", HOST, Wishes(), beliefs_about(HOST), 0.0)
    shadows.follow("shares", HOST, Wishes(), beliefs_about(HOST), 0.0)
    assert list(shadows.plans) == ["proportional"]
    clock.now_s += GAP_S
    shadows.follow("shares", HOST, Wishes(), beliefs_about(HOST), 1.0)
    assert set(shadows.plans) == {"proportional", "pressure"}


def test_shadows_wait_while_anybody_waits_for_memory() -> None:
    shadows = Shadows(PolicyChoices().shadows, CAUTION, Clock())
    waiting = Wishes(requests=(a_request(MIB),))
    shadows.follow("proportional", HOST, waiting, beliefs_about(HOST), 0.0)
    assert shadows.plans == {}


def test_shadows_keep_to_their_part_of_the_time() -> None:
    clock = Clock()

    @dataclass(frozen=True)
    class Slow:
        name: str = "slow"
        about: str = "takes its time"
        parameters: Any = Parameters

        def plan(self, snapshot: Any, state: Any, _: Any) -> Any:
            clock.now_s += 10.0
            return POLICIES["proportional"].plan(snapshot, state, None)

    shadows = Shadows({"slow": ChosenPolicy(Slow(), Parameters())}, CAUTION, clock)
    beliefs = beliefs_about(HOST)
    shadows.follow("proportional", HOST, Wishes(), beliefs, 0.0)
    assert clock.now_s == 10.0
    clock.now_s += 10.0 * REST - 0.1
    shadows.follow("proportional", HOST, Wishes(), beliefs, 0.0)
    assert clock.now_s == 10.0 + 10.0 * REST - 0.1
    clock.now_s += 0.2
    shadows.follow("proportional", HOST, Wishes(), beliefs, 0.0)
    assert clock.now_s > 10.0 * (REST + 2)


def test_shadow_that_errs_says_so_and_harms_nobody() -> None:
    @dataclass(frozen=True)
    class Broken:
        name: str = "broken"
        about: str = "breaks"
        parameters: Any = Parameters

        def plan(self, *_: Any) -> Any:
            raise KeyError("x")

    shadows = Shadows({"broken": ChosenPolicy(Broken(), Parameters())}, CAUTION, Clock())
    shadows.follow("proportional", HOST, Wishes(), beliefs_about(HOST), 0.0)
    assert shadows.plans["broken"].trouble == "KeyError: 'x'"
    assert sum(shadows.plans["broken"].targets_kib.values()) <= 4000 * MIB
