from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.builders import CAUTION, MIB, a_claim, a_domain, a_host, a_request, uuid_of
from xcpmem.engine.belief import Belief
from xcpmem.engine.draft import Draft
from xcpmem.engine.model import Granted, RecordReservation, Refused, Reservation
from xcpmem.engine.parties import Party
from xcpmem.engine.requests import admit, grant
from xcpmem.errors import DomainsUncooperative, NotEnoughMemory
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from xcpmem.engine.model import MemoryRequest, Verdict

FREE = (a_domain(1000, 3000, domid=1), a_claim(1000, 3000))
LIMITED = (a_domain(1000, 3000, domid=2), a_claim(1000, 3000, low_kib=1800))
DOMAIN_ZERO = (a_domain(1000, 3000, domid=0), a_claim(1000, 3000, low_kib=1800))


def refusal(verdict: Verdict) -> tuple[type, tuple[str, ...]]:
    """What the client is told."""
    assert isinstance(verdict, Refused)
    return type(verdict.error), verdict.error.params


def test_admit_lets_a_request_wait_that_fits_with_everyone_at_the_least() -> None:
    verdicts: list[Verdict] = []
    assert admit([a_request(500)], 1500, [FREE], verdicts) == [a_request(500)]
    assert verdicts == []


def test_admit_refuses_what_does_not_fit_with_needed_and_available_in_bytes() -> None:
    verdicts: list[Verdict] = []
    assert admit([a_request(501)], 1500, [FREE], verdicts) == []
    assert [refusal(verdict) for verdict in verdicts] == [
        (NotEnoughMemory, (str(kib_to_bytes(501)), str(kib_to_bytes(500))))
    ]


def test_admit_serves_an_earlier_request_before_a_later_one() -> None:
    verdicts: list[Verdict] = []
    first, second = a_request(400, name="r1"), a_request(200, name="r2")
    assert admit([first, second], 1500, [FREE], verdicts) == [first]
    assert refusal(verdicts[0]) == (NotEnoughMemory, (str(kib_to_bytes(200)), str(kib_to_bytes(100))))


def test_admit_lets_a_later_request_pass_one_that_is_impossible() -> None:
    verdicts: list[Verdict] = []
    first, second = a_request(600, name="r1"), a_request(500, name="r2")
    assert admit([first, second], 1500, [FREE], verdicts) == [second]
    assert [verdict.request_id for verdict in verdicts] == ["r1"]


def test_admit_blames_the_guests_that_could_give_enough_if_they_did() -> None:
    verdicts: list[Verdict] = []
    admit([a_request(600)], 2800, [FREE, LIMITED], verdicts)
    assert refusal(verdicts[0]) == (DomainsUncooperative, ("2",))


def test_admit_blames_nobody_for_what_would_not_fit_anyway() -> None:
    verdicts: list[Verdict] = []
    admit([a_request(801)], 2800, [FREE, LIMITED], verdicts)
    assert refusal(verdicts[0])[0] is NotEnoughMemory


def test_admit_never_blames_domain_zero_alone() -> None:
    verdicts: list[Verdict] = []
    admit([a_request(600)], 2800, [FREE, DOMAIN_ZERO], verdicts)
    assert refusal(verdicts[0])[0] is NotEnoughMemory


def test_admit_blames_domain_zero_with_others() -> None:
    verdicts: list[Verdict] = []
    admit([a_request(600)], 3700, [DOMAIN_ZERO, LIMITED], verdicts)
    assert refusal(verdicts[0]) == (DomainsUncooperative, ("0", "2"))


def test_admit_says_nothing_is_available_when_less_than_nothing_is() -> None:
    verdicts: list[Verdict] = []
    admit([a_request(600)], 300, [FREE], verdicts)
    assert refusal(verdicts[0])[1][1] == "0"


def debtor(domid: int, *, asked_s: float) -> Party:
    """A guest that was asked so long ago to shrink, and has not yet."""
    domain, claim = a_domain(1000, 3000, domid=domid, target_kib=1000), a_claim(1000, 3000)
    belief = Belief(domain.uuid, domain.dynamic_range, direction=-1, due_kib=1000, due_s=asked_s)
    return Party(domain, belief, claim, probe_kib=0, keeps_maxmem=False)


def granted(
    *requests: MemoryRequest,
    goals_kib: list[int],
    draft: Draft,
    coming: bool = True,
    now_s: float = 0.0,
    owing: tuple[Party, ...] = (),
) -> tuple[list[tuple[MemoryRequest, int]], list[Verdict]]:
    verdicts: list[Verdict] = []
    waiting = grant(
        requests,
        goals_kib,
        draft,
        now_s=now_s,
        coming=coming,
        owing=owing,
        caution=CAUTION,
        verdicts=verdicts,
    )
    return waiting, verdicts


def test_grant_gives_the_goal_once_it_is_spare() -> None:
    draft = Draft(a_host(free_kib=900))
    waiting, verdicts = granted(a_request(100, 1000), goals_kib=[700], draft=draft)
    assert waiting == []
    assert verdicts == [Granted("r1", 700)]
    assert draft.actions == [RecordReservation(Reservation("r1", "owner", 700))]


def test_grant_passes_on_which_vm_is_to_be_started() -> None:
    draft = Draft(a_host(free_kib=900))
    granted(a_request(700, vm_uuid=uuid_of(9)), goals_kib=[700], draft=draft)
    assert draft.actions == [RecordReservation(Reservation("r1", "owner", 700, vm_uuid=uuid_of(9)))]


def test_grant_lets_a_request_wait_while_memory_is_coming() -> None:
    draft = Draft(a_host(free_kib=600))
    waiting, verdicts = granted(a_request(100, 1000), goals_kib=[700], draft=draft)
    assert waiting == [(a_request(100, 1000), 700)]
    assert (verdicts, draft.actions) == ([], [])


def test_grant_gives_what_is_there_when_no_more_is_coming() -> None:
    draft = Draft(a_host(free_kib=600))
    waiting, verdicts = granted(a_request(100, 1000), goals_kib=[700], draft=draft, coming=False)
    assert (waiting, verdicts) == ([], [Granted("r1", 600)])


def test_grant_gives_what_is_there_at_the_deadline() -> None:
    draft = Draft(a_host(free_kib=600))
    _, verdicts = granted(a_request(100, 1000), goals_kib=[700], draft=draft, now_s=60.0)
    assert verdicts == [Granted("r1", 600)]


def test_grant_refuses_at_the_deadline_and_blames_those_who_were_asked_in_time() -> None:
    draft, owing = Draft(a_host(free_kib=600)), (debtor(1, asked_s=0.1), debtor(2, asked_s=59.0))
    waiting, verdicts = granted(a_request(650, 1000), goals_kib=[700], draft=draft, now_s=60.0, owing=owing)
    assert waiting == []
    assert refusal(verdicts[0]) == (DomainsUncooperative, ("2",))


def test_grant_blames_nobody_who_had_no_time() -> None:
    draft, owing = Draft(a_host(free_kib=600)), (debtor(1, asked_s=0.1),)
    _, verdicts = granted(a_request(650), goals_kib=[650], draft=draft, now_s=60.0, owing=owing)
    assert refusal(verdicts[0]) == (NotEnoughMemory, (str(kib_to_bytes(650)), str(kib_to_bytes(600))))


def test_grant_blames_a_guest_that_had_all_the_time_of_a_hasty_caller() -> None:
    draft, owing = Draft(a_host(free_kib=600)), (debtor(2, asked_s=0.2),)
    hasty = replace(a_request(650, deadline_s=0.25), wait_s=0.25)
    _, verdicts = granted(hasty, goals_kib=[650], draft=draft, now_s=0.25, owing=owing)
    assert refusal(verdicts[0]) == (DomainsUncooperative, ("2",))


def test_grant_keeps_spare_memory_for_an_earlier_request_that_waits() -> None:
    draft = Draft(a_host(free_kib=600))
    first, second = a_request(700, name="r1"), a_request(100, name="r2")
    waiting, verdicts = granted(first, second, goals_kib=[700, 100], draft=draft)
    assert waiting == [(first, 700), (second, 100)]
    assert verdicts == []


def test_grant_lets_a_later_request_have_what_an_earlier_one_leaves() -> None:
    draft = Draft(a_host(free_kib=600 * MIB))
    first, second = a_request(500 * MIB, name="r1"), a_request(100 * MIB, name="r2")
    waiting, verdicts = granted(first, second, goals_kib=[500 * MIB, 100 * MIB], draft=draft)
    assert waiting == []
    assert verdicts == [Granted("r1", 500 * MIB), Granted("r2", 100 * MIB)]
