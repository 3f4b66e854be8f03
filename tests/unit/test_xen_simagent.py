"""The agents of simulated guests: when they speak, and what they know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from xcpmem.specs import AgentKind, AgentSpec
from xcpmem.xen.simagent import HEARTBEAT_S, SimAgent
from xcpmem.xen.workload import Appetite, Need

if TYPE_CHECKING:
    from xcpmem.engine.sample import Sample

GIB: Final = 1024**2
FAR_US: Final = 10**12
EVENTS: Final = AgentSpec(kind=AgentKind.EVENTS)


def spoken(
    agent: SimAgent, until_s: float, size_kib: int, *changes: tuple[float, int]
) -> list[tuple[float, Sample]]:
    """Let an agent live beside an appetite for hot memory, and list what it says and when."""
    times_us = [round(at_s * 10**6) for at_s, _ in changes]
    appetite = Appetite(times_us, [Need(kib) for _, kib in changes])
    said = []
    while agent.looks_next_us is not None and agent.looks_next_us <= until_s * 10**6:
        now_us = agent.looks_next_us
        change_us = appetite.next_change_us(now_us)
        if agent.look(
            now_us,
            size_kib=size_kib,
            anon_kib=appetite.need(now_us).anon_kib,
            comfort=appetite.comfort(now_us, size_kib),
            stall_us=appetite.count(now_us, size_kib),
            rest_us=FAR_US if change_us is None else change_us,
        ):
            assert agent.sample is not None
            said.append((now_us / 10**6, agent.sample))
    return said


def test_nobody_who_is_silent_ever_looks() -> None:
    agent = SimAgent(AgentSpec(), 0)
    assert agent.looks_next_us is None
    agent.wake(0)
    assert agent.looks_next_us is None


def test_a_stock_agent_speaks_from_time_to_time_and_knows_only_what_is_available() -> None:
    agent = SimAgent(AgentSpec(kind=AgentKind.MEMINFO, period_s=60.0), 0)
    said = spoken(agent, 130, 2 * GIB, (0, GIB), (70, 3 * GIB))
    assert [at_s for at_s, _ in said] == [0, 60, 120]
    first, last = said[0][1], said[-1][1]
    assert (first.used_kib, first.is_censored, first.period_s) == (GIB, False, 60.0)
    assert (last.used_kib, last.swapped_kib, last.stall_us, last.is_censored) == (2 * GIB, 0, None, True)
    assert agent.avail_kib == 0


def test_an_agent_of_events_at_rest_only_beats() -> None:
    said = spoken(SimAgent(EVENTS, 0), 35, 2 * GIB, (0, GIB))
    assert [at_s for at_s, _ in said] == [0, 10, 20, 30]
    assert {sample.period_s for _, sample in said} == {HEARTBEAT_S}


def test_an_agent_of_events_speaks_as_soon_as_the_need_moves() -> None:
    said = spoken(SimAgent(EVENTS, 0), 16, 2 * GIB, (0, GIB), (5.03, GIB + 50_000))
    assert [at_s for at_s, _ in said] == [0, 5.03, 15.03]
    assert said[1][1].used_kib == GIB + 50_000


def test_an_agent_of_events_says_nothing_of_trifles() -> None:
    said = spoken(SimAgent(EVENTS, 0), 9, 2 * GIB, (0, GIB), (5, GIB + 16_000))
    assert [at_s for at_s, _ in said] == [0]


def test_an_agent_of_events_that_lacks_memory_speaks_each_second_of_what_it_lost() -> None:
    said = spoken(SimAgent(EVENTS, 0), 4, GIB, (0, 2 * GIB))
    assert [at_s for at_s, _ in said] == [0, 1, 2, 3, 4]
    last = said[-1][1]
    assert (last.used_kib, last.swapped_kib, last.is_censored) == (GIB, GIB, False)
    assert last.stall_us == pytest.approx(4e6 * 20 / 21, abs=10)
    assert last.refault_kib == pytest.approx(4e6 * 20 / 21 / 100 * 4, abs=10)


def test_two_changes_within_a_second_are_said_one_second_apart() -> None:
    said = spoken(SimAgent(EVENTS, 0), 9, 4 * GIB, (0, GIB), (5, 2 * GIB), (5.5, 3 * GIB))
    assert [(at_s, sample.used_kib) for at_s, sample in said[1:]] == [(5, 2 * GIB), (6, 3 * GIB)]


def test_an_agent_that_is_woken_looks_soon_but_not_twice_a_second() -> None:
    agent = SimAgent(EVENTS, 0)
    spoken(agent, 0, GIB, (0, 1000))
    assert agent.looks_next_us == 10_000_000
    agent.wake(300_000)
    assert agent.looks_next_us == 1_000_000
    spoken(agent, 5, GIB, (0, 1000))
    agent.wake(6_000_000)
    assert agent.looks_next_us == 6_100_000
