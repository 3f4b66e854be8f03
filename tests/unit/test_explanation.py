"""Explanations are true: each is asked for on a host that is in the state it speaks of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.builders import MIB
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.model import MemoryRequest, SetMaxmem, SetTarget, Wishes
from xcpmem.engine.planner import plan
from xcpmem.engine.policies import find_policy
from xcpmem.explanation import explain
from xcpmem.report import CycleReport
from xcpmem.scenario import Scenario
from xcpmem.specs import BalloonSpec, GuestSpec, HostSpec
from xcpmem.units import kib_to_bytes
from xcpmem.vm import Vm
from xcpmem.xen.simhost import SimHost

GIB = 1024 * MIB
SLUSH = 72 * MIB


def guest(domid: int = 1, *, low: int = GIB, high: int = 3 * GIB, **character: float) -> GuestSpec:
    balloon = BalloonSpec(rate_kib_s=GIB, **character)  # type: ignore[arg-type]
    return GuestSpec(domid=domid, dynamic_min_kib=low, dynamic_max_kib=high, target_kib=high, balloon=balloon)


def host_of(*guests: GuestSpec, free_kib: int = SLUSH) -> SimHost:
    return SimHost(Scenario(name="t", host=HostSpec(free_kib=free_kib, slush_kib=SLUSH), guests=guests))


def report_of(host: SimHost, *wanted_kib: int, seconds: int = 10) -> CycleReport:
    """Let the ring turn for a while with requests waiting that are never given up."""
    beliefs = Beliefs()
    requests = tuple(MemoryRequest(f"r{n}", "me", kib, kib, n, 1e9) for n, kib in enumerate(wanted_kib))
    for turn in range(seconds * 10):
        look = host.observe()
        thought = plan(look.host, Wishes(requests=requests), beliefs, turn / 10, find_policy("proportional"))
        beliefs = thought.beliefs
        for action in thought.actions:
            if isinstance(action, SetTarget | SetMaxmem):
                host.apply(action)
        host.step(0.1)
    return CycleReport(1, 0.0, 0.0, look, thought.reasons, thought.beliefs.by_domid, pending=requests)


def vm_of(host: SimHost, domid: int = 1) -> Vm:
    sizes = dict.fromkeys(("memory_static_max", "memory_dynamic_max"), kib_to_bytes(3 * GIB))
    return Vm(
        uuid=host.guests[domid].uuid,
        name_label="web1",
        memory_static_min=0,
        memory_dynamic_min=kib_to_bytes(GIB),
        memory_target=kib_to_bytes(GIB),
        **sizes,  # type: ignore[arg-type]
    )


def test_explanation_says_that_there_is_enough_for_everyone() -> None:
    host = host_of(guest())
    text = explain(vm_of(host), report_of(host))
    assert text.startswith("web1 (domain 1) holds 3 GiB, its target is 3 GiB: it gets dynamic-max 3 GiB")


def test_explanation_tells_how_the_guest_was_seen_to_behave() -> None:
    host = host_of(guest(delay_s=2.0, floor_kib=5 * GIB // 2), guest(2))
    text = explain(vm_of(host), report_of(host, 2 * GIB, seconds=20))
    assert "begins 1.9 s after it is asked" in text
    assert "has stopped shrinking at 2.5 GiB" in text


def test_explanation_names_the_share_and_who_waits() -> None:
    host = host_of(guest())
    text = explain(vm_of(host), report_of(host, GIB))
    assert "it gets its share: 2 GiB, 50.0 % of the way from 1 GiB to 3 GiB" in text
    assert "1 reservations of 1 GiB or more wait for memory" in text


def test_explanation_under_observation_tells_the_target_that_stands_and_the_one_that_would_be_told() -> None:
    host = host_of(guest())
    report = report_of(host, GIB, seconds=1)
    seen = replace(report.look.host.domains[0], target_kib=3 * GIB)
    look = replace(report.look, host=replace(report.look.host, domains=(seen,)))
    text = explain(vm_of(host), replace(report, look=look, observes=True))
    assert (
        "its target is 3 GiB; xcpmem only observes and would tell it to hold 2 GiB: it gets its share" in text
    )


def test_explanation_tells_the_target_that_could_not_be_written_as_yet_to_be_told() -> None:
    host = host_of(guest())
    look = host.observe()
    wishes = Wishes(requests=(MemoryRequest("r", "me", GIB, GIB, 1, 60.0),))
    thought = plan(look.host, wishes, Beliefs(), 0.0, find_policy("proportional"))
    failed = CycleReport(1, 0.0, 0.0, look, thought.reasons)
    assert "its target is 3 GiB; it is yet to be told to hold 2 GiB" in explain(vm_of(host), failed)
    done = replace(failed, actions=thought.actions)
    assert "its target is 2 GiB: it" in explain(vm_of(host), done)


def test_explanation_says_that_all_above_the_minimum_is_needed_elsewhere() -> None:
    host = host_of(guest())
    assert "is at dynamic-min 1 GiB" in explain(vm_of(host), report_of(host, 2 * GIB))


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ({"stuck": True}, "was asked to shrink to 2 GiB and stopped at 3 GiB"),
        ({"floor_kib": 2560 * MIB}, "and stopped at 2.5 GiB"),
        ({"feature": False}, "has no balloon driver: holds 3 GiB whatever is asked"),
    ],
)
def test_explanation_blames_the_guest_that_does_not_give(character: dict[str, int], expected: str) -> None:
    host = host_of(guest(**character), guest(2))
    assert expected in explain(vm_of(host), report_of(host, 2 * GIB))


def test_explanation_says_where_a_guest_stopped_growing() -> None:
    host = host_of(
        GuestSpec(
            domid=1,
            dynamic_min_kib=GIB,
            dynamic_max_kib=3 * GIB,
            target_kib=2 * GIB,
            balloon=BalloonSpec(ceiling_kib=2 * GIB),
        ),
        free_kib=2 * GIB,
    )
    assert "was asked to grow and stopped at 2 GiB" in explain(vm_of(host), report_of(host))


def test_explanation_says_that_a_vm_is_pinned() -> None:
    host = host_of(guest(low=3 * GIB))
    assert "is pinned: dynamic-min = dynamic-max = 3 GiB" in explain(vm_of(host), report_of(host))


def test_explanation_says_that_a_vm_is_suspended_and_what_it_held() -> None:
    vm = replace(vm_of(host_of(guest())), memory_suspended=2 << 30)
    assert explain(vm, None) == "web1 is suspended. When it is resumed it gets the 2 GiB that it held."


def test_explanation_says_that_a_vm_does_not_run() -> None:
    host = host_of(guest())
    expected = "web1 does not run. When it starts it gets 1 GiB to 3 GiB, as much as its share then is."
    assert explain(vm_of(host), None) == expected
