"""What a turn takes over from the last one: nothing but effort."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import CAUTION, MIB, PROPORTIONAL, a_domain, a_host, a_request
from xcpmem.engine.belief import Beliefs, Caution
from xcpmem.engine.model import DynamicRange, Wishes
from xcpmem.engine.planner import PlannerSettings, plan
from xcpmem.engine.policies import find_policy
from xcpmem.engine.thought import Recollection
from xcpmem.scenario import load_scenario
from xcpmem.specs import MICROSECONDS_PER_SECOND, microseconds
from xcpmem.xen.simhost import SimHost

if TYPE_CHECKING:
    from xcpmem.engine.model import HostState

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
    return Wishes(weights={host.domains[1].uuid: 3000} if turn > 50 else {})


@pytest.mark.parametrize("policy", ["proportional", "shares", "pressure"])
def test_turns_decide_the_same_whether_they_remember_or_not(policy: str) -> None:
    host, chosen = SimHost(load_scenario("default")), find_policy(policy)
    beliefs, seen = Beliefs(), None
    reused = 0
    for turn in range(70):
        seen = with_the_same_objects(host.observe().host, seen)
        now_s, wishes = host.now_us / MICROSECONDS_PER_SECOND, wishes_at(turn, seen)
        thought = plan(seen, wishes, beliefs, now_s, chosen)
        afresh = plan(seen, wishes, replace(beliefs, recollection=Recollection()), now_s, chosen)
        before = beliefs.recollection.thoughts
        reused += sum(before.get(n) is each for n, each in thought.beliefs.recollection.thoughts.items())
        assert thought == afresh
        beliefs = thought.beliefs
        for action in thought.actions:
            host.apply(action)
        host.advance_to(host.now_us + microseconds(0.3))
    assert reused > 70


def test_domains_at_rest_are_thought_of_once() -> None:
    host = a_host(*RESTING)
    first = plan(host, Wishes(), Beliefs(), 0.0, PROPORTIONAL)
    again = plan(host, Wishes(), first.beliefs, 1.0, PROPORTIONAL)
    assert all(again.reasons[domid] is first.reasons[domid] for domid in (1, 2, 3))
    shrunk = replace(RESTING[0], actual_kib=1900 * MIB)
    moved = replace(host, domains=(shrunk, *RESTING[1:]), free_kib=host.free_kib + 100 * MIB)
    later = plan(moved, Wishes(), again.beliefs, 2.0, PROPORTIONAL)
    assert [later.reasons[domid] is first.reasons[domid] for domid in (1, 2, 3)] == [False, True, True]


def test_thoughts_by_other_thresholds_are_not_taken_over() -> None:
    host = a_host(a_domain(actual_kib=2000 * MIB - 100, target_kib=2000 * MIB))
    lax = PlannerSettings(caution=Caution(inaccuracy_kib=200))
    first = plan(host, Wishes(), Beliefs(), 0.0, PROPORTIONAL, settings=lax)
    strict = plan(host, Wishes(), first.beliefs, 1.0, PROPORTIONAL, settings=PlannerSettings(caution=CAUTION))
    assert (first.beliefs.by_domid[1].direction, strict.beliefs.by_domid[1].direction) == (0, 1)
