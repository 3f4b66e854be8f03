from __future__ import annotations

from dataclasses import replace

from tests.builders import a_domain, a_host
from xcpmem.engine.draft import Draft
from xcpmem.engine.model import RecordReservation, Reservation, SetMaxmem, SetTarget


def test_shrinking_lowers_the_target_before_maxmem() -> None:
    domain = a_domain(1000, 3000, 2000)
    draft = Draft(a_host(domain))
    draft.shrink(domain, 1500)
    draft.cap(domain, 1500)
    assert draft.actions == [SetTarget(1, 1500), SetMaxmem(1, 1500)]
    assert (draft.target_kib(domain), draft.maxmem_kib(domain)) == (1500, 1500)


def test_shrinking_makes_nothing_spare_before_the_guest_has_given_it() -> None:
    domain = a_domain(1000, 3000, 2000)
    draft = Draft(a_host(domain))
    draft.shrink(domain, 1500)
    draft.cap(domain, 1500)
    assert draft.spare_kib == 0


def test_shrinking_frees_what_a_guest_did_not_take_yet() -> None:
    growing = a_domain(1000, 3000, 2000, target_kib=2800)
    draft = Draft(a_host(growing, free_kib=800))
    assert draft.spare_kib == 0
    draft.shrink(growing, 2100)
    draft.cap(growing, 2100)
    assert draft.spare_kib == 700


def test_shrinking_leaves_growth_to_others() -> None:
    domain = a_domain(1000, 3000, 2000, maxmem_kib=2700)
    draft = Draft(a_host(domain))
    draft.shrink(domain, 2500)
    draft.cap(domain, 2500)
    assert draft.actions == []


def test_shrinking_lowers_a_maxmem_that_a_dead_daemon_left_high() -> None:
    domain = a_domain(1000, 3000, 2000, maxmem_kib=2700)
    draft = Draft(a_host(domain, free_kib=700))
    draft.cap(domain, 2000)
    assert draft.actions == [SetMaxmem(1, 2000)]
    assert draft.spare_kib == 700


def test_shrinking_keeps_a_maxmem_that_is_to_be_kept() -> None:
    domain = a_domain(2000, 2000, 2000, maxmem_kib=2700)
    draft = Draft(a_host(domain))
    draft.cap(domain, 2000, keeps_maxmem=True)
    assert draft.actions == []


def test_shrinking_does_not_touch_who_is_where_it_should_be() -> None:
    domain = a_domain(1000, 3000, 2000)
    draft = Draft(a_host(domain))
    draft.shrink(domain, 2000)
    draft.cap(domain, 2000)
    assert draft.actions == []


def test_growing_raises_maxmem_before_the_target() -> None:
    domain = a_domain(1000, 3000, 2000)
    draft = Draft(a_host(domain, free_kib=500))
    draft.grow([(domain, 2500)], kept_kib=0)
    assert draft.actions == [SetMaxmem(1, 2500), SetTarget(1, 2500)]
    assert draft.spare_kib == 0


def test_growing_allows_everybody_more_before_anybody_is_told() -> None:
    first, second = a_domain(1000, 3000, 2000, domid=1), a_domain(1000, 3000, 2000, domid=2)
    draft = Draft(a_host(first, second, free_kib=1000))
    draft.grow([(first, 2500), (second, 2500)], kept_kib=0)
    assert draft.actions == [SetMaxmem(1, 2500), SetMaxmem(2, 2500), SetTarget(1, 2500), SetTarget(2, 2500)]


def test_growing_into_what_a_guest_may_take_already_costs_nothing() -> None:
    domain = a_domain(1000, 3000, 2000, maxmem_kib=2600)
    draft = Draft(a_host(domain, free_kib=600))
    draft.grow([(domain, 2500)], kept_kib=0)
    assert draft.actions == [SetTarget(1, 2500)]
    assert draft.spare_kib == 0


def test_growing_mends_a_maxmem_below_the_target() -> None:
    domain = a_domain(1000, 3000, 2000, target_kib=2500, maxmem_kib=2000)
    draft = Draft(a_host(domain, free_kib=500))
    draft.grow([(domain, 2500)], kept_kib=0)
    assert draft.actions == [SetMaxmem(1, 2500)]


def test_growing_stops_where_spare_memory_ends() -> None:
    first, second = a_domain(0, 4000, 1000, domid=1), a_domain(0, 4000, 1000, domid=2)
    draft = Draft(a_host(first, second, free_kib=1500))
    draft.grow([(first, 3000), (second, 2000)], kept_kib=0)
    assert draft.target_kib(first) == 2000
    assert draft.target_kib(second) == 1500
    assert draft.spare_kib == 0


def test_growing_leaves_what_is_kept_for_others() -> None:
    domain = a_domain(0, 4000, 1000)
    draft = Draft(a_host(domain, free_kib=1500))
    draft.grow([(domain, 3000)], kept_kib=500)
    assert draft.target_kib(domain) == 2000


def test_growing_waits_when_nothing_is_spare() -> None:
    domain = a_domain(0, 4000, 1000)
    draft = Draft(a_host(domain, free_kib=1500))
    draft.grow([(domain, 3000)], kept_kib=1500)
    assert draft.actions == []


def test_growing_waits_for_a_portion_that_is_worth_a_write() -> None:
    domain = a_domain(0, 4000, 1000)
    draft = Draft(a_host(domain, free_kib=124))
    draft.grow([(domain, 3000)], kept_kib=0)
    assert draft.actions == []
    draft = Draft(a_host(domain, free_kib=125))
    draft.grow([(domain, 3000)], kept_kib=0)
    assert draft.target_kib(domain) == 1125


def test_growing_waits_until_a_domain_below_its_minimum_can_be_given_that() -> None:
    domain = a_domain(2000, 4000, 1000)
    draft = Draft(a_host(domain, free_kib=999))
    draft.grow([(domain, 3000)], kept_kib=0)
    assert draft.actions == []


def test_growing_gives_a_domain_below_its_minimum_more_than_its_part() -> None:
    needy, rich = a_domain(2000, 4000, 1000, domid=1), a_domain(0, 99000, 9000, domid=2)
    draft = Draft(a_host(needy, rich, free_kib=1000))
    draft.grow([(needy, 2500), (rich, 90000)], kept_kib=0)
    assert draft.target_kib(needy) == 2000
    assert draft.target_kib(rich) == 9000


def test_growing_takes_nothing_from_who_is_to_shrink() -> None:
    domain = a_domain(0, 4000, 2000)
    draft = Draft(a_host(domain, free_kib=500))
    draft.grow([(domain, 1500)], kept_kib=0)
    assert draft.actions == []


def test_growing_regardless_promises_what_is_not_there() -> None:
    growing, shrinking = a_domain(0, 4000, 1000, domid=1), a_domain(0, 4000, 2000, domid=2)
    draft = Draft(a_host(growing, shrinking))
    draft.grow_regardless([(growing, 3000), (shrinking, 1000)])
    assert draft.actions == [SetMaxmem(1, 3000), SetTarget(1, 3000)]
    assert draft.spare_kib == -2000


def test_reserving_sets_spare_memory_aside() -> None:
    draft = Draft(a_host(free_kib=500))
    draft.reserve(Reservation("r1", "owner", 300))
    assert draft.actions == [RecordReservation(Reservation("r1", "owner", 300))]
    assert draft.spare_kib == 200


def test_what_others_took_from_a_promise_is_taken_back_at_once() -> None:
    growing = a_domain(1000, 3000, 2000, target_kib=2800)
    draft = Draft(a_host(growing, free_kib=300))
    assert draft.excess_kib == 500
    draft.revoke([growing])
    assert draft.actions == [SetTarget(1, 2300), SetMaxmem(1, 2300)]
    assert (draft.excess_kib, draft.spare_kib) == (0, 0)


def test_each_gives_back_its_part_of_what_it_did_not_take_and_all_hear_of_it_first() -> None:
    first = a_domain(1000, 3000, 2000, domid=1, target_kib=2600)
    second = a_domain(1000, 3000, 2000, domid=2, target_kib=2200)
    draft = Draft(a_host(first, second, free_kib=400))
    draft.revoke([first, second])
    assert draft.actions == [SetTarget(1, 2300), SetTarget(2, 2100), SetMaxmem(1, 2300), SetMaxmem(2, 2100)]


def test_what_a_guest_holds_or_needs_for_its_minimum_is_not_taken_back() -> None:
    shrinking = a_domain(1000, 3000, 2500, domid=1, target_kib=1500)
    needy = a_domain(1000, 3000, 800, domid=2, target_kib=1300)
    draft = Draft(a_host(shrinking, needy, free_kib=100))
    draft.revoke([shrinking, needy])
    assert draft.actions == [SetTarget(2, 1000), SetMaxmem(2, 1000)]
    assert draft.excess_kib == 100


def test_a_maxmem_above_the_target_is_taken_back_without_a_word_to_the_guest() -> None:
    domain = a_domain(1000, 3000, 2000, maxmem_kib=2700)
    draft = Draft(a_host(domain, free_kib=100))
    draft.revoke([domain])
    assert draft.actions == [SetMaxmem(1, 2100)]


def test_what_a_guest_took_while_the_look_was_read_is_no_reason_to_take_anything_back() -> None:
    growing = a_domain(1000, 3000, 2000, target_kib=2800)
    host = a_host(growing, free_kib=800)
    torn = replace(host, free_kib=500, others_kib=0)
    draft = Draft(torn)
    draft.revoke([growing])
    assert (torn.torn_kib, draft.spare_kib, draft.excess_kib, draft.actions) == (300, -300, 0, [])
    known = Draft(replace(torn, others_kib=300))
    assert (known.excess_kib, known.spare_kib) == (300, -300)


def test_a_promise_into_the_slush_or_onto_what_is_being_scrubbed_stands() -> None:
    growing = a_domain(1000, 3000, 2000, target_kib=2800)
    draft = Draft(a_host(growing, free_kib=500, scrub_kib=300, slush_kib=400))
    draft.revoke([growing])
    assert (draft.spare_kib, draft.excess_kib, draft.actions) == (-700, 0, [])
