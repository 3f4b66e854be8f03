from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import MIB, a_domain, a_host, a_request, uuid_of
from xcpmem.engine.model import (
    BalloonState,
    DynamicRange,
    Lifecycle,
    MemoryRequest,
    Reservation,
)
from xcpmem.engine.reasons import Motive, Reason
from xcpmem.errors import InvalidValue

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState


def test_dynamic_range_refuses_a_negative_minimum() -> None:
    with pytest.raises(InvalidValue) as refused:
        DynamicRange(-1, 10)
    assert refused.value.params == ("dynamic_min_kib", "-1")


def test_dynamic_range_refuses_a_maximum_below_its_minimum() -> None:
    with pytest.raises(InvalidValue) as refused:
        DynamicRange(11, 10)
    assert refused.value.params == ("dynamic_max_kib", "10")


def test_dynamic_range_may_be_pinned() -> None:
    assert DynamicRange(10, 10).min_kib == DynamicRange(10, 10).max_kib


def test_reservation_refuses_a_negative_size() -> None:
    with pytest.raises(InvalidValue) as refused:
        Reservation("r1", "owner", -4)
    assert refused.value.params == ("size_kib", "-4")


def test_request_refuses_a_negative_minimum() -> None:
    with pytest.raises(InvalidValue) as refused:
        MemoryRequest("r1", "owner", -4, 4, 1, 60.0)
    assert refused.value.params == ("min_kib", "-4")


def test_request_refuses_a_maximum_below_its_minimum() -> None:
    with pytest.raises(InvalidValue) as refused:
        a_request(5, 4)
    assert refused.value.params == ("max_kib", "4")


def test_domain_holds_what_it_may_still_take() -> None:
    assert a_domain(actual_kib=1000, target_kib=1000, maxmem_kib=1500).held_kib == 1500


def test_domain_holds_its_pages_when_maxmem_was_lowered_below_them() -> None:
    assert a_domain(actual_kib=1500, target_kib=1000, maxmem_kib=1000).held_kib == 1500


def test_domain_holds_its_whole_promise_while_it_is_being_built() -> None:
    half_built = a_domain(
        0, 2000, 600, maxmem_kib=600, lifecycle=Lifecycle.BUILDING, initial_reservation_kib=2000
    )
    assert half_built.held_kib == 2000


def test_domain_holds_no_more_than_it_took_once_it_is_built() -> None:
    assert a_domain(0, 2000, 600, maxmem_kib=600, initial_reservation_kib=2000).held_kib == 600


def test_reservation_is_for_the_domain_it_was_transferred_to() -> None:
    assert Reservation("r1", "owner", 5, domid=7).is_for(a_domain(domid=7))
    assert not Reservation("r1", "owner", 5, domid=7).is_for(a_domain(domid=8))


def test_reservation_is_for_the_domain_of_the_vm_that_it_names() -> None:
    assert Reservation("r1", "owner", 5, vm_uuid=uuid_of(7)).is_for(a_domain(domid=7))
    assert not Reservation("r1", "owner", 5, vm_uuid=uuid_of(7)).is_for(a_domain(domid=8))


def test_reservation_that_names_nobody_is_for_no_domain() -> None:
    assert not Reservation("r1", "owner", 5).is_for(a_domain(domid=7, uuid=""))


def test_host_counts_reservations_that_wait_for_their_domain() -> None:
    waiting = (Reservation("r1", "owner", 300), Reservation("r2", "owner", 40, domid=9))
    assert a_host(a_domain(), reservations=waiting).reserved_kib == 340


def test_host_counts_a_transferred_reservation_with_its_domain_only() -> None:
    building = a_domain(
        0, 500, 100, domid=9, maxmem_kib=500, lifecycle=Lifecycle.BUILDING, initial_reservation_kib=500
    )
    host = a_host(building, free_kib=1000, reservations=(Reservation("r1", "owner", 500, domid=9),))
    assert (host.reserved_kib, host.spare_kib) == (0, 600)


def test_host_counts_a_named_vms_reservation_with_its_domain_only() -> None:
    building = a_domain(
        0, 500, 100, domid=9, maxmem_kib=0, lifecycle=Lifecycle.BUILDING, initial_reservation_kib=500
    )
    host = a_host(
        building, free_kib=1000, reservations=(Reservation("r1", "owner", 500, vm_uuid=uuid_of(9)),)
    )
    assert (host.reserved_kib, host.spare_kib) == (0, 600)


def test_changes_between_two_looks_are_the_domains_that_come_as_other_objects() -> None:
    first, second, third = (a_domain(domid=domid) for domid in (1, 2, 3))
    before, moved = a_host(first, second, third), replace(second, actual_kib=5)
    assert a_host(first, second, third).changes_since(before) == []
    assert a_host(first, moved, third).changes_since(before) == [moved]


@pytest.mark.parametrize(
    "others",
    [
        (a_domain(domid=1),),
        (a_domain(domid=1), a_domain(domid=3)),
        (a_domain(domid=1), a_domain(domid=2, uuid=uuid_of(7))),
        (a_domain(domid=1), a_domain(domid=2, lifecycle=Lifecycle.DYING)),
    ],
)
def test_looks_at_other_domains_are_not_compared(others: tuple[DomainState, ...]) -> None:
    assert a_host(*others).changes_since(a_host(a_domain(domid=1), a_domain(domid=2))) is None


def test_host_without_reservations_has_nothing_reserved() -> None:
    assert a_host(a_domain()).reserved_kib == 0


def test_spare_memory_is_free_and_neither_slush_nor_reserved_nor_promised() -> None:
    host = a_host(
        a_domain(actual_kib=1000, maxmem_kib=1300),
        free_kib=5000,
        scrub_kib=400,
        slush_kib=700,
        reservations=(Reservation("r1", "owner", 50),),
    )
    assert host.spare_kib == 5000 - 700 - 50 - 300


def test_spare_memory_is_negative_when_the_slush_is_being_eaten() -> None:
    assert a_host(free_kib=100, slush_kib=700).spare_kib == -600


def test_common_memory_is_all_that_is_free_or_held_by_domains() -> None:
    assert a_host(a_domain(actual_kib=1000), free_kib=50, scrub_kib=7).common_kib == 1057


def test_common_memory_is_known_better_than_seen_while_guests_move() -> None:
    host = replace(a_host(a_domain(actual_kib=1000), free_kib=50), total_kib=1100, others_kib=90)
    assert host.common_kib == 1010


def test_spare_memory_leaves_out_what_a_guest_took_after_the_free_pages_were_counted() -> None:
    grew = a_domain(actual_kib=1040, target_kib=1100, maxmem_kib=1100)
    host = replace(a_host(grew, free_kib=200), total_kib=1200, others_kib=0)
    assert host.spare_kib == 100


def test_spare_memory_waits_for_the_free_pages_that_a_guest_gave_after_they_were_counted() -> None:
    shrank = a_domain(actual_kib=960, target_kib=900, maxmem_kib=900)
    host = replace(a_host(shrank, free_kib=200), total_kib=1200, others_kib=0)
    assert host.spare_kib == 200


def a_reason(motive: Motive, *, goal_kib: int = 2000 * MIB, high_kib: int = 3000 * MIB) -> Reason:
    return Reason(
        state=BalloonState.AT_TARGET,
        motive=motive,
        goal_kib=goal_kib,
        target_kib=1500 * MIB,
        actual_kib=1700 * MIB,
        dynamic_range=DynamicRange(1000 * MIB, high_kib),
    )


@pytest.mark.parametrize(
    ("motive", "sentence"),
    [
        (Motive.SHARE, "gets its share: 1.953 GiB, 50.0 % of the way from 1000 MiB to 2.93 GiB"),
        (Motive.ALL, "gets dynamic-max 2.93 GiB: there is enough for everyone"),
        (Motive.PINNED, "is pinned: dynamic-min = dynamic-max = 1000 MiB"),
        (Motive.MINIMUM, "is at dynamic-min 1000 MiB: all above it is needed elsewhere"),
        (
            Motive.WAITS,
            "is to get 1.953 GiB and waits until others have given back enough; holds 1.66 GiB",
        ),
        (
            Motive.FLOOR,
            (
                "was asked to shrink to 1.465 GiB and stopped at 1.66 GiB; "
                "its share is taken from others until it moves"
            ),
        ),
        (
            Motive.CEILING,
            "was asked to grow and stopped at 1.66 GiB; its share goes to others until it moves",
        ),
        (Motive.NO_DRIVER, "has no balloon driver: holds 1.66 GiB whatever is asked"),
        (Motive.LEFT_ALONE, "is left alone for now and holds 1.66 GiB"),
    ],
)
def test_reason_says_what_decided(motive: Motive, sentence: str) -> None:
    assert a_reason(motive).text == sentence


def test_reason_of_a_pinned_domain_is_nought_per_cent_of_the_way() -> None:
    assert " 0.0 % of the way" in a_reason(Motive.SHARE, goal_kib=1000 * MIB, high_kib=1000 * MIB).text
