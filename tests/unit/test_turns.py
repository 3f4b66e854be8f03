"""What a turn makes anew while a few of many guests move: as much as moves, counted on virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest

from xcpmem.chronicle import Chronicle
from xcpmem.controller import Controller
from xcpmem.journal import Question, open_journal
from xcpmem.narration import Narrator
from xcpmem.scenario import Scenario
from xcpmem.service import Service
from xcpmem.specs import MICROSECONDS_PER_SECOND, BalloonSpec, GuestSpec, HostSpec
from xcpmem.store import Store
from xcpmem.units import kib_to_bytes, mib_to_kib
from xcpmem.wishbook import Wishbook
from xcpmem.xen.simhost import SimHost
from xcpmem.xen.virtual import VirtualDriver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xcpmem.report import CycleReport
    from xcpmem.vm import Vm

GUESTS, SLOW = 40, 4
TURNS = 30
LOW_KIB, HIGH_KIB, NARROW_KIB = mib_to_kib(64), mib_to_kib(256), mib_to_kib(200)
SLOW_DOMIDS = frozenset(range(1, SLOW + 1))


class Turn(NamedTuple):
    """A report, and the VMs as they are then."""

    report: CycleReport
    vms: Mapping[str, Vm]


class Story(NamedTuple):
    """Turns in a row, in which the slow guests give memory back and nothing is asked of anybody.

    Args:
        turns: all of them.
        kept: numbers of the turns that the journal of decisions has, before them too.
    """

    turns: list[Turn]
    kept: set[int]


def a_fleet() -> SimHost:
    """Guests that hold their dynamic-max; the first ones give back a page in a sixteenth of a second."""
    guests = tuple(
        GuestSpec(
            domid=domid,
            dynamic_min_kib=LOW_KIB,
            dynamic_max_kib=HIGH_KIB,
            balloon=BalloonSpec(rate_kib_s=64 if domid in SLOW_DOMIDS else mib_to_kib(1024)),
        )
        for domid in range(1, GUESTS + 1)
    )
    host = HostSpec(free_kib=mib_to_kib(64), slush_kib=0)
    return SimHost(Scenario(name="fleet", host=host, guests=guests))


@pytest.fixture
async def story(tmp_path: Path) -> Story:
    host = a_fleet()

    def clock() -> float:
        return host.now_us / MICROSECONDS_PER_SECOND

    controller = Controller(VirtualDriver(host), clock=clock, wall=clock)
    service = Service(Store(tmp_path), controller, clock=clock)
    await service.start()
    journal = open_journal(tmp_path, rows=1000, size_kib=100_000)
    assert journal is not None
    controller.subscribe(Chronicle(Narrator(clock=clock), Wishbook(clock), journal).absorb)
    turns, is_told = list[Turn](), asyncio.Event()

    def note(report: CycleReport) -> None:
        if report.actions:
            turns.clear()
        turns.append(Turn(report, dict(service.vms())))
        if len(turns) > TURNS:
            is_told.set()

    ring = asyncio.create_task(controller.run())
    async with asyncio.timeout(60):
        await controller.next_report(0, 60)
        slow = [uuid for uuid, vm in service.vms().items() if vm.domid in SLOW_DOMIDS]
        sizes = kib_to_bytes(LOW_KIB), kib_to_bytes(NARROW_KIB)
        await asyncio.gather(*(service.set_memory_dynamic_range(uuid, *sizes) for uuid in slow))
        controller.subscribe(note)
        await is_told.wait()
    await controller.close()
    await ring
    kept = {entry["turn"] for entry in await journal.read(Question())}
    await service.close()
    await journal.close()
    return Story(turns[1:], kept)


def anew(after: Mapping[int, object], before: Mapping[int, object]) -> set[int]:
    """Of which domains something else is there than before, by identity."""
    assert after.keys() == before.keys()
    return {domid for domid, thing in after.items() if thing is not before[domid]}


def test_turn_thinks_anew_of_those_that_move_and_of_nobody_else(story: Story) -> None:
    for before, after in pairwise(turn.report for turn in story.turns):
        assert anew(after.reasons, before.reasons) <= SLOW_DOMIDS
        assert anew(after.beliefs, before.beliefs) <= SLOW_DOMIDS
        now, then = (each.stance.beliefs.recollection for each in (after, before))
        assert anew(now.thoughts, then.thoughts) <= SLOW_DOMIDS
        assert now.restless == SLOW_DOMIDS
        assert sum(a is not b for a, b in zip(now.parties, then.parties, strict=True)) <= SLOW


def test_turn_shows_those_vms_anew_that_moved(story: Story) -> None:
    for before, after in pairwise(story.turns):
        changed = {uuid for uuid, vm in after.vms.items() if vm is not before.vms[uuid]}
        changes = after.report.look.host.changes_since(before.report.look.host)
        assert changes is not None
        assert changed == {domain.uuid for domain in changes}
        assert {domain.domid for domain in changes} <= SLOW_DOMIDS
    held_kib = [turn.report.look.host.domains[0].actual_kib for turn in story.turns]
    assert held_kib[0] > held_kib[-1]


def test_turn_in_which_guests_only_move_on_is_no_decision_to_be_kept(story: Story) -> None:
    assert story.kept
    assert story.kept.isdisjoint(turn.report.number for turn in story.turns)
