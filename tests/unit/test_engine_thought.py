"""What a turn takes over from the last one: nothing but effort."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import CAUTION, MIB, PROPORTIONAL, a_domain, a_host, a_request
from tests.scenario.runs import scenario
from xcpmem.engine.belief import Beliefs, Caution
from xcpmem.engine.model import DynamicRange, SetTarget, Wishes
from xcpmem.engine.planner import PlannerSettings, deliberate, plan
from xcpmem.engine.policies import find_policy
from xcpmem.engine.sample import Sample
from xcpmem.engine.steps import AT_ONCE
from xcpmem.engine.thought import Recollection
from xcpmem.scenario import load_scenario
from xcpmem.specs import MICROSECONDS_PER_SECOND, microseconds
from xcpmem.xen.simhost import SimHost

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState, HostState

RESTING = [a_domain(1000 * MIB, 2000 * MIB, domid=domid) for domid in (1, 2, 3)]


def with_the_same_objects(host: HostState, before: HostState | None) -> HostState:
    """A look as a driver gives it: of what has not changed, the very same objects."""
    if before is None:
        return host
    known = {domain.domid: domain for domain in before.domains}
    domains = [
        old if (old := known.get(new.domid)) == new and old.sample is new.sample else new
        for new in host.domains
    ]
    return replace(host, domains=tuple(domains))


def wishes_at(turn: int, host: HostState) -> Wishes:
    """Somebody's range is narrowed for a while, then memory is asked for."""
    if 5 <= turn < 15:
        return Wishes(ranges={host.domains[0].uuid: DynamicRange(1024 * MIB, 1500 * MIB)})
    if 20 <= turn < 40:
        return Wishes(requests=(a_request(512 * MIB, 8192 * MIB, deadline_s=1e6),))
    if 44 <= turn < 47:
        return Wishes(left_alone=frozenset({host.domains[-1].domid}))
    return Wishes(weights={host.domains[1].uuid: 3000} if turn > 50 else {})


@pytest.mark.parametrize(
    "story", ["default", "hog_and_idle", "late_beyond_patience", "x4_ceiling", "x7_known_stuck"]
)
@pytest.mark.parametrize("policy", ["proportional", "shares", "pressure"])
def test_turns_decide_the_same_whether_they_remember_or_not(policy: str, story: str) -> None:
    told = load_scenario(story) if story == "default" else scenario(story)
    host, chosen = SimHost(told), find_policy(policy)
    beliefs, seen = Beliefs(), None
    reused = 0
    for turn in range(70):
        seen = with_the_same_objects(host.observe().host, seen)
        now_s, wishes = host.now_us / MICROSECONDS_PER_SECOND, wishes_at(turn, seen)
        thought = plan(seen, wishes, beliefs, now_s, chosen)
        afresh = plan(seen, wishes, replace(beliefs, recollection=Recollection()), now_s, chosen)
        before = beliefs.recollection.thoughts
        reused += sum(before.get(n) is each for n, each in thought.beliefs.recollection.thoughts.items())
        assert replace(thought, verdicts=()) == replace(afresh, verdicts=())
        assert repr(thought.verdicts) == repr(afresh.verdicts)  # errors are equal to themselves only
        beliefs = thought.beliefs
        for action in thought.actions:
            host.apply(action)
        host.advance_to(host.now_us + microseconds(0.3))
    assert reused


def test_domains_at_rest_are_thought_of_once() -> None:
    host = a_host(*RESTING)
    first = plan(host, Wishes(), Beliefs(), 0.0, PROPORTIONAL)
    again = plan(host, Wishes(), first.beliefs, 1.0, PROPORTIONAL)
    assert all(again.reasons[domid] is first.reasons[domid] for domid in (1, 2, 3))
    shrunk = replace(RESTING[0], actual_kib=1900 * MIB)
    moved = replace(host, domains=(shrunk, *RESTING[1:]), free_kib=host.free_kib + 100 * MIB)
    later = plan(moved, Wishes(), again.beliefs, 2.0, PROPORTIONAL)
    assert [later.reasons[domid] is first.reasons[domid] for domid in (1, 2, 3)] == [False, True, True]


def test_domain_that_rests_is_awake_again_once_it_comes_as_another() -> None:
    first = plan(a_host(*RESTING), Wishes(), Beliefs(), 0.0, PROPORTIONAL)
    again = plan(a_host(*RESTING), Wishes(), first.beliefs, 1.0, PROPORTIONAL)
    moved = replace(RESTING[1], actual_kib=1900 * MIB)
    recollection = again.beliefs.recollection
    assert recollection.awake(RESTING, CAUTION) == []
    assert recollection.awake([RESTING[0], moved, RESTING[2]], CAUTION) == [moved]
    assert recollection.awake(RESTING, Caution(patience_s=1.0)) == RESTING


@pytest.mark.parametrize(
    "wakeful",
    [
        replace(RESTING[0], sample=Sample(seen_s=0.0, period_s=60.0, used_kib=1000 * MIB)),
        replace(RESTING[0], uncooperative=True),
        replace(RESTING[0], offset_kib=None),
        replace(RESTING[0], actual_kib=1900 * MIB),
        replace(RESTING[0], maxmem_kib=2100 * MIB),
        replace(RESTING[0], can_balloon=False),
    ],
)
def test_domain_of_which_something_may_be_learned_or_is_to_be_done_never_rests(wakeful: DomainState) -> None:
    beliefs = Beliefs()
    for now_s in (0.0, 1.0, 2.0):
        beliefs = plan(a_host(wakeful), Wishes(), beliefs, now_s, PROPORTIONAL).beliefs
        assert beliefs.recollection.awake([wakeful], CAUTION) == [wakeful]


def test_domain_that_rests_is_not_touched_while_it_is_left_alone() -> None:
    host = a_host(*RESTING)
    first = plan(host, Wishes(), Beliefs(), 0.0, PROPORTIONAL)
    wishes = Wishes(requests=(a_request(512 * MIB),), left_alone=frozenset({2}))
    later = plan(host, wishes, first.beliefs, 1.0, PROPORTIONAL)
    assert {action.domid for action in later.actions if isinstance(action, SetTarget)} == {1, 3}


def test_thoughts_by_other_thresholds_are_not_taken_over() -> None:
    host = a_host(a_domain(actual_kib=2000 * MIB - 100, target_kib=2000 * MIB))
    lax = PlannerSettings(caution=Caution(inaccuracy_kib=200))
    first = plan(host, Wishes(), Beliefs(), 0.0, PROPORTIONAL, settings=lax)
    strict = plan(host, Wishes(), first.beliefs, 1.0, PROPORTIONAL, settings=PlannerSettings(caution=CAUTION))
    assert (first.beliefs.by_domid[1].direction, strict.beliefs.by_domid[1].direction) == (0, 1)


def test_crowd_that_moves_is_thought_of_in_portions_and_decided_as_at_one_go() -> None:
    def steps_of(guests: int) -> int:
        domains = [a_domain(1000 * MIB, 2000 * MIB, domid=domid) for domid in range(1, guests + 1)]
        wishes = Wishes(requests=(a_request(guests * 500 * MIB),))
        *steps, thought = deliberate(a_host(*domains), wishes, Beliefs(), 0.0, PROPORTIONAL)
        assert steps == [None] * len(steps)
        assert thought == plan(a_host(*domains), wishes, Beliefs(), 0.0, PROPORTIONAL)
        assert len(thought.actions) == 2 * guests
        return len(steps)

    learning_taking_part_asking_capping_thinking = 5
    assert steps_of(3 * AT_ONCE) - steps_of(AT_ONCE) == 2 * learning_taking_part_asking_capping_thinking
