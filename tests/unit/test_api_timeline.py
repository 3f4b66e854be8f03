"""The last hour: what is kept of host and VMs, for how long, and which decisions are marked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.builders import a_domain, a_host, uuid_of
from xcpmem.api.timeline import SLOT_S, SLOTS, Timeline
from xcpmem.engine.model import (
    BalloonState,
    DeleteReservation,
    RecordReservation,
    Reservation,
    SetMaxmem,
    SetTarget,
    TransferReservation,
)
from xcpmem.engine.reasons import Motive, Reason
from xcpmem.errors import DriverTimeout
from xcpmem.report import CycleReport, Failure
from xcpmem.units import mib_to_bytes, mib_to_kib
from xcpmem.xen.driver import Look

if TYPE_CHECKING:
    from xcpmem.engine.model import Action, DomainState

MIB = mib_to_kib(1)
EPOCH_S = 1_700_000_000.0


def a_report(
    at_s: float, *domains: DomainState, actions: tuple[Action, ...] = (), **more: Any
) -> CycleReport:
    reasons = {
        d.domid: Reason(BalloonState.MOVING, Motive.PINNED, 0, 0, d.actual_kib, d.dynamic_range)
        for d in domains
    }
    look = Look(a_host(*domains, free_kib=100 * MIB))
    return CycleReport(1, EPOCH_S + at_s, at_s, look, reasons=reasons, actions=actions, **more)


def holding(mib: int, domid: int = 1) -> DomainState:
    return a_domain(actual_kib=mib * MIB, target_kib=1000 * MIB, domid=domid)


def a_timeline(*reports: CycleReport) -> Timeline:
    timeline = Timeline(lambda uuid: f"vm {uuid[-1]}")
    for report in reports:
        timeline.observe_cycle(report)
    return timeline


def told(timeline: Timeline, vm_uuid: str | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(timeline.document(vm_uuid))
    return document


def actual(timeline: Timeline, domid: int = 1) -> list[int | None]:
    """What a VM held at each slot, MiB."""
    column = told(timeline, uuid_of(domid))["actual_bytes"]
    return [None if size is None else size // mib_to_bytes(1) for size in column]


def test_there_is_nothing_before_the_first_look() -> None:
    assert told(a_timeline()) == {"times_s": [], "decisions": [], "slot_s": SLOT_S}


def test_host_is_told_by_slots_of_which_the_last_report_counts() -> None:
    timeline = a_timeline(*(a_report(at_s, holding(mib)) for at_s, mib in ((0, 1500), (9, 1400), (12, 1300))))
    document = told(timeline)
    assert document["times_s"] == [EPOCH_S, EPOCH_S + 12]
    assert document["held_bytes"] == [mib_to_bytes(1400), mib_to_bytes(1300)]
    assert document["target_bytes"] == [mib_to_bytes(1000)] * 2
    assert document["free_bytes"] == [mib_to_bytes(100)] * 2
    assert document["total_bytes"] == [mib_to_bytes(1500), mib_to_bytes(1400)]
    assert document["reserved_bytes"] == [0, 0]


def test_vm_is_told_by_itself_with_its_range() -> None:
    document = told(a_timeline(a_report(0, holding(1500), holding(2000, domid=2))), uuid_of(2))
    assert document["actual_bytes"] == [mib_to_bytes(2000)]
    assert document["target_bytes"] == [mib_to_bytes(1000)]
    assert document["dynamic_min_bytes"] == [mib_to_bytes(1000)]
    assert document["dynamic_max_bytes"] == [mib_to_bytes(3000)]


def test_slots_without_a_report_are_as_the_one_before() -> None:
    timeline = a_timeline(a_report(0, holding(1500)), a_report(35, holding(1200)))
    assert actual(timeline) == [1500, 1500, 1500, 1200]


def test_reading_changes_nothing() -> None:
    timeline = a_timeline(a_report(0, holding(1500)))
    assert actual(timeline) == [1500]
    timeline.observe_cycle(a_report(5, holding(1400)))
    assert actual(timeline) == [1400]
    timeline.observe_cycle(a_report(15, holding(1300)))
    assert actual(timeline) == [1400, 1300]


def test_vm_is_absent_before_it_comes_and_after_it_goes() -> None:
    timeline = a_timeline(
        a_report(0, holding(1500)),
        a_report(10, holding(1500), holding(2000, domid=2)),
        a_report(20, holding(1500)),
        a_report(30, holding(1500)),
    )
    assert actual(timeline, 2) == [None, 2000, None, None]
    assert actual(timeline, 9) == [None] * 4


def test_time_in_which_the_host_could_not_be_seen_is_a_gap() -> None:
    blind = a_report(0, holding(1500), failures=(Failure.of(None, DriverTimeout("no answer")),))
    timeline = a_timeline(a_report(0, holding(1500)), blind, a_report(40, holding(1200)))
    assert actual(timeline) == [1500, None, None, None, 1200]
    assert told(timeline)["held_bytes"][1:4] == [None] * 3


def test_an_hour_is_kept_and_no_more() -> None:
    timeline = a_timeline(*(a_report(n * SLOT_S, holding(1000 + n)) for n in range(2 * SLOTS)))
    kept = actual(timeline)
    assert len(kept) == SLOTS
    assert kept[0] == 1000 + SLOTS
    assert kept[-1] == 1000 + 2 * SLOTS - 1
    assert told(timeline)["times_s"][0] == EPOCH_S + SLOTS * SLOT_S


def test_vm_that_went_more_than_an_hour_ago_is_forgotten() -> None:
    timeline = a_timeline(
        a_report(0, holding(1500), holding(2000, domid=2)),
        *(a_report(n * SLOT_S, holding(1500)) for n in range(1, SLOTS + 3)),
    )
    assert set(timeline._vms) == {uuid_of(1)}


def test_what_stays_the_same_takes_no_room() -> None:
    timeline = a_timeline(*(a_report(n * SLOT_S, holding(1500)) for n in range(SLOTS)))
    assert len(timeline._vms[uuid_of(1)]._cells) == 5
    assert actual(timeline) == [1500] * SLOTS


def test_change_of_a_target_is_told_once_for_a_slot_with_its_reason() -> None:
    timeline = a_timeline(
        a_report(12, holding(1500), actions=(SetMaxmem(1, 1), SetTarget(1, 900 * MIB))),
        a_report(14, holding(1500), actions=(SetTarget(1, 800 * MIB),)),
    )
    assert told(timeline)["decisions"] == [
        {
            "time_s": EPOCH_S + 12,
            "targets": [
                {
                    "vm_uuid": uuid_of(1),
                    "name_label": "vm 1",
                    "before_bytes": mib_to_bytes(1000),
                    "after_bytes": mib_to_bytes(800),
                    "reason": "is pinned: dynamic-min = dynamic-max = 1000 MiB",
                }
            ],
            "further_targets": 0,
            "notes": [],
        }
    ]


def test_decisions_on_one_vm_are_told_with_it() -> None:
    domains = (holding(1500), holding(1500, domid=2))
    timeline = a_timeline(
        a_report(0, *domains, actions=(SetTarget(1, 900 * MIB),)),
        a_report(10, *domains, actions=(SetTarget(2, 900 * MIB),)),
    )
    (decision,) = told(timeline, uuid_of(2))["decisions"]
    assert decision["time_s"] == EPOCH_S + 10
    assert [target["vm_uuid"] for target in decision["targets"]] == [uuid_of(2)]


def test_of_many_changes_at_once_some_are_told_and_the_rest_counted() -> None:
    domains = [holding(1500, domid=n) for n in range(1, 21)]
    timeline = a_timeline(a_report(0, *domains, actions=tuple(SetTarget(d.domid, 1) for d in domains)))
    (decision,) = told(timeline)["decisions"]
    assert (len(decision["targets"]), decision["further_targets"]) == (8, 12)
    (decision,) = told(timeline, uuid_of(20))["decisions"]
    assert (decision["targets"], decision["further_targets"]) == ([], 1)


def test_what_was_done_for_reservations_is_noted() -> None:
    reservation = Reservation("r1", "toolstack", 512 * MIB)
    actions = (
        RecordReservation(reservation),
        TransferReservation(reservation, 5),
        DeleteReservation(reservation),
    )
    (decision,) = told(a_timeline(a_report(0, holding(1500), actions=actions)))["decisions"]
    assert decision["notes"] == [
        "512 MiB set aside for vm k",
        "512 MiB given to domain 5, which is being built",
        "512 MiB that was set aside given back",
    ]


def test_decisions_older_than_an_hour_are_forgotten() -> None:
    timeline = a_timeline(
        a_report(0, holding(1500), actions=(SetTarget(1, 900 * MIB),)),
        a_report(SLOTS * SLOT_S, holding(1500)),
    )
    assert told(timeline)["decisions"] == []
