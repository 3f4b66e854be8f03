"""Section ``engine``: the cases in which squeezed was measured, each a file in ``tests/scenario``.

Virtual time, so the figures depend on nothing but the files; squeezed's own come from a replay of its
rules on the same cases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.bench.figures import Figure, Goal
from tests.scenario.runs import answer, call, guest, overshoot_kib, scenario, target_writes
from xcpmem.simulation import Simulation
from xcpmem.units import KIB_PER_MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE: Final = Goal(most=0.1)
"""Seconds in which the ring answers what needs no guest."""

OWN_TIME: Final = Goal(most=1.1)
"""Of the time that the guests themselves need."""

NOTHING: Final = Goal(most=0)

INACCURACY_KIB: Final = 4
"""How far the scenarios' guests stop from a target; they may be that far above it."""


def figures() -> Iterator[Figure]:
    """Act everything out and give the figures, case by case."""
    for make in (
        _newcomers,
        _exact_guests,
        _impossible,
        _ceiling,
        _late_starter,
        _grower,
        _known_stuck,
        _eight_requests,
        _vm_stops,
        _cooperative,
    ):
        yield from make()


def _newcomers() -> Iterator[Figure]:
    for case, name, fair_mib, squeezed in (
        ("x1", "x1_newcomer", 1500, "2000 MiB"),
        ("x2", "x2_newcomer_of_five", 2400, "2600 MiB"),
    ):
        goal = Goal(least=fair_mib * 0.995, most=fair_mib * 1.005)
        granted_mib = call(answer(name))["value"][1] / KIB_PER_MIB
        yield _figure(f"{case} newcomer's share", "MiB", granted_mib, goal, squeezed)


def _exact_guests() -> Iterator[Figure]:
    result = answer("w30_exact")
    granted = call(result)
    took_s, own_s = granted["took_s"], 1500 / 500
    end_s = granted["at_s"] + took_s
    later = sum(at_s > end_s for at_s, _, _ in target_writes(result))
    yield _figure("W30 wait, of the guest's own time", "", took_s / own_s, OWN_TIME, "never ends")
    yield _figure("W30 target changes after the grant", "", later, NOTHING, "never ends")


def _impossible() -> Iterator[Figure]:
    result = answer("x3_impossible")
    squeezed = "4 s, then repeated for 70 s"
    yield _figure("x3 time to refuse the impossible", "s", call(result)["took_s"], AT_ONCE, squeezed)
    changes = result["totals"]["target_changes"]
    yield _figure("x3 target changes", "", changes, NOTHING, "everybody squeezed to dynamic-min")


def _ceiling() -> Iterator[Figure]:
    result = answer("x4_ceiling")
    settled_s = result["totals"]["settled_at_s"]
    later = sum(at_s > 30 for at_s, _, _ in target_writes(result))
    yield _figure("x4 settled with a guest at its ceiling", "s", settled_s, Goal(most=30), "never")
    yield _figure(
        "x4 target changes after 30 s", "", later, NOTHING, "750 MiB to and fro every 18 s, for ever"
    )


def _late_starter() -> Iterator[Figure]:
    held_mib = guest(answer("x5_late_starter"), 2)["actual_kib"] / KIB_PER_MIB
    goal = Goal(least=3000 * 0.995)
    yield _figure("x5 what the late starter gets", "MiB", held_mib, goal, "1000 MiB: declared stuck, refused")


def _grower() -> Iterator[Figure]:
    above_kib = overshoot_kib(answer("x6_grower"), 1)
    goal = Goal(most=INACCURACY_KIB)
    yield _figure("x6 most above the newest target", "KiB", above_kib, goal, "113664 KiB (5000 for 4889 MiB)")


def _known_stuck() -> Iterator[Figure]:
    later_s = max(each["took_s"] for each in answer("x7_known_stuck")["calls"][1:])
    yield _figure("x7 later calls beside a stuck guest", "s", later_s, AT_ONCE, "6 s each")


def _eight_requests() -> Iterator[Figure]:
    given = scenario("eight_requests")
    together_s = max(each["took_s"] for each in answer("eight_requests")["calls"])
    alone = [call(Simulation(replace(given, script=(line,))).run())["took_s"] for line in given.script]
    ratio = together_s / max(alone)
    squeezed = f"{sum(alone) / max(alone):.3g}: one after the other"
    yield _figure("8 requests at once, of the longest alone", "", ratio, OWN_TIME, squeezed)


def _vm_stops() -> Iterator[Figure]:
    (line,) = scenario("vm_stops").script
    told = [at_s for at_s, _, _ in target_writes(answer("vm_stops")) if at_s >= line.at_s]
    late_s = max(told) - line.at_s
    yield _figure("VM stops: all others told after", "s", late_s, AT_ONCE, "0 to 10 s")


def _cooperative() -> Iterator[Figure]:
    for guests, rate_mib_s, squeezed_s in ((4, 512, 3), (16, 512, 1), (64, 256, 1)):
        own_s = 4096 / (guests * rate_mib_s)
        ratio = call(answer(f"cooperative_{guests}"))["took_s"] / own_s
        squeezed = f"{squeezed_s / own_s:.3g}: {squeezed_s} s"
        yield _figure(f"4 GiB freed by {guests} guests, of their own time", "", ratio, OWN_TIME, squeezed)


def _figure(name: str, unit: str, value: float, goal: Goal, squeezed: str) -> Figure:
    return Figure(name, unit, (value,), goal, (("squeezed", squeezed),))
