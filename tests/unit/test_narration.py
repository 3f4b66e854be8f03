"""What is told of the ring's turns: each is told of a host that is in the state it speaks of."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import MIB, a_domain, a_host, a_request, uuid_of, wanting
from xcpmem.engine.belief import Beliefs
from xcpmem.engine.forecast import Stance
from xcpmem.engine.model import (
    DeleteReservation,
    DynamicRange,
    Granted,
    Reservation,
    SetTarget,
    SetUncooperative,
    TransferReservation,
    Wishes,
)
from xcpmem.engine.planner import plan
from xcpmem.engine.policies import find_policy
from xcpmem.engine.steps import finish
from xcpmem.errors import DriverTimeout
from xcpmem.narration import Narrator
from xcpmem.report import CycleReport, Failure
from xcpmem.xen.driver import Look

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState, HostState
    from xcpmem.sentences import Sentence

GIB = 1024 * MIB
NAMES = {uuid_of(1): "web", uuid_of(2): "db"}


class Story:
    """A ring whose looks are given by hand; the plans are the planner's own.

    A second passes between two looks.
    """

    def __init__(self) -> None:
        users = {"session-7": "ann"}
        self.narrator = Narrator(
            lambda uuid: NAMES.get(uuid, ""), lambda owner: users.get(owner, ""), lambda: self.clock_s
        )
        self.clock_s = 0.0
        self.now_s = 0.0
        self.beliefs = Beliefs()

    def turn(self, host: HostState, wishes: Wishes | None = None, **more: object) -> list[Sentence]:
        self.now_s += 1
        wishes = wishes or Wishes()
        thought = plan(host, wishes, self.beliefs, self.now_s, find_policy("proportional"))
        self.beliefs = thought.beliefs
        answered = {verdict.request_id for verdict in thought.verdicts}
        report = CycleReport(
            number=1,
            time_s=self.now_s,
            monotonic_s=self.now_s,
            look=Look(host),
            reasons=thought.reasons,
            actions=thought.actions,
            pending=tuple(r for r in wishes.requests if r.request_id not in answered),
            wishes=wishes,
            verdicts=thought.verdicts,
        )
        return finish(self.narrator.tell(replace(report, **more)))  # type: ignore[arg-type]

    def texts(self, host: HostState, wishes: Wishes | None = None, **more: object) -> list[str]:
        return [sentence.text for sentence in self.turn(host, wishes, **more)]


@pytest.fixture
def story() -> Story:
    return Story()


def rest(*domains: DomainState) -> HostState:
    return a_host(*(domains or (a_domain(GIB, 3 * GIB),)))


def test_first_look_says_what_the_host_is_like_and_a_quiet_turn_nothing(story: Story) -> None:
    assert story.texts(rest()) == ["the host has 3 GiB: domains hold 3 GiB (1 of them), 0 KiB are free"]
    assert story.texts(rest()) == []


def test_new_goal_is_told_once_with_its_reason_and_figures(story: Story) -> None:
    story.turn(rest())
    (sentence,) = [each for each in story.turn(rest(), wanting(a_request(GIB))) if each.kind == "goal"]
    assert sentence.text == (
        "web is to hold 2 GiB instead of 3 GiB: "
        "it gets its share: 2 GiB, 50.0 % of the way from 1 GiB to 3 GiB"
    )
    assert sentence.level == logging.INFO
    assert sentence.fields["before_kib"] == 3 * GIB
    moving = a_domain(GIB, 3 * GIB, target_kib=2 * GIB, actual_kib=2560 * MIB, maxmem_kib=2 * GIB)
    assert story.turn(a_host(moving, free_kib=512 * MIB), wanting(a_request(GIB))) == []


def test_waiting_request_is_told_when_it_begins_to_wait_and_again_when_it_has_its_memory(
    story: Story,
) -> None:
    story.turn(rest())
    wishes = wanting(a_request(GIB, 2 * GIB))
    expected = "1 GiB to 2 GiB are wanted for owner, and wait until guests have given back enough"
    assert expected in story.texts(rest(), wishes)
    reduced = a_domain(GIB, 3 * GIB, actual_kib=GIB + 512 * MIB)
    texts = story.texts(a_host(reduced, free_kib=GIB + 512 * MIB), wishes)
    assert [text for text in texts if text.startswith("set aside 1.")]
    assert expected not in texts


def test_request_for_a_vm_names_the_vm(story: Story) -> None:
    story.turn(rest())
    wishes = wanting(a_request(GIB, vm_uuid=uuid_of(2)))
    assert any("1 GiB are wanted for db, which is to start" in text for text in story.texts(rest(), wishes))


def test_refusal_says_how_much_there_would_be(story: Story) -> None:
    story.turn(rest())
    (refused,) = story.turn(rest(), wanting(a_request(9 * GIB)))
    assert refused.level == logging.WARNING
    assert refused.text == (
        "refused 9 GiB for owner: with everyone at the least that it can hold, there are 2 GiB"
    )


def test_stuck_guest_is_told_once_and_blamed_and_told_again_when_it_moves(story: Story) -> None:
    story.turn(rest())
    asked = wanting(a_request(GIB))
    stuck = a_domain(GIB, 3 * GIB, actual_kib=3 * GIB, target_kib=2 * GIB)
    told = [sentence for _ in range(12) for sentence in story.turn(rest(stuck), asked)]
    (warning,) = [sentence for sentence in told if sentence.kind == "stuck"]
    assert warning.level == logging.WARNING
    assert warning.text.startswith("web does not give back what it was asked for: it was told to hold ")
    assert "and stopped at 3 GiB; others give in its place" in warning.text
    assert [sentence for sentence in told if sentence.kind == "goal" and "stopped" in sentence.text] == []
    (refused, *_) = [sentence for sentence in told if sentence.kind == "refused"]
    assert refused.text.endswith("these did not give back what they were asked for: web")
    moved = a_domain(GIB, 3 * GIB, actual_kib=2560 * MIB, target_kib=2 * GIB)
    assert "web moves again and holds 2.5 GiB" in story.texts(a_host(moved, free_kib=512 * MIB))


def test_guest_that_grows_no_further_is_no_warning(story: Story) -> None:
    small = a_domain(GIB, 3 * GIB, actual_kib=GIB, target_kib=2 * GIB, maxmem_kib=2 * GIB)
    told = [sentence for _ in range(12) for sentence in story.turn(a_host(small, free_kib=2 * GIB))]
    (limit,) = [sentence for sentence in told if sentence.kind == "at_limit"]
    assert limit.level == logging.INFO
    assert limit.text.startswith("web takes no more than 1 GiB")


def test_range_arrival_and_end_of_a_domain_are_told(story: Story) -> None:
    story.turn(rest())
    narrowed = wanting(d1=DynamicRange(GIB, 2 * GIB))
    assert "web may have 1 GiB to 2 GiB from now on" in story.texts(rest(), narrowed)
    both = rest(a_domain(GIB, 2 * GIB), a_domain(GIB, GIB, domid=2))
    assert "db is here as domain 2; it holds 1 GiB" in story.texts(both)
    assert "db (domain 2) is gone; its 1 GiB can go to others" in story.texts(rest(a_domain(GIB, 2 * GIB)))


def test_domain_without_a_driver_says_so_when_it_comes(story: Story) -> None:
    story.turn(rest())
    mute = rest(a_domain(GIB, 3 * GIB), a_domain(GIB, GIB, domid=9, can_balloon=False))
    assert "domain 9 is here as domain 9; it holds 1 GiB and has no balloon driver, so far" in story.texts(
        mute
    )


def test_many_changes_at_once_are_one_sentence_with_details_at_debug(story: Story) -> None:
    def crowd(target_kib: int) -> HostState:
        domains = [a_domain(GIB, 3 * GIB, domid=domid, target_kib=target_kib) for domid in range(1, 21)]
        return a_host(*domains)

    story.turn(crowd(3 * GIB))
    told = [s for s in story.turn(crowd(3 * GIB), wanting(a_request(20 * GIB))) if s.kind.startswith("goal")]
    assert told[0].text == "of 20 VMs 20 are to hold less, together 20 GiB"
    assert {sentence.level for sentence in told[1:]} == {logging.DEBUG}
    assert len(told) == 21


def test_blindness_is_told_once_then_after_minutes_as_an_error_and_its_end(story: Story) -> None:
    story.turn(rest())
    blind = (Failure.of(None, DriverTimeout("xenstored did not answer within 5 s")),)
    (first,) = story.turn(rest(), failures=blind)
    assert first.level == logging.WARNING
    assert first.text.startswith(
        "cannot see the host: xenstored did not answer within 5 s; every domain keeps"
    )
    assert story.turn(rest(), failures=blind) == []
    story.clock_s += 300
    (still,) = story.turn(rest(), failures=blind)
    assert still.level == logging.ERROR
    assert still.text.startswith("still, after 5 min, cannot see the host")
    story.clock_s += 2
    assert story.texts(rest()) == ["the host is seen again after 5 min"]


def test_failed_action_is_told_in_words(story: Story) -> None:
    story.turn(rest())
    failure = Failure.of(SetTarget(1, GIB), DriverTimeout("no answer within 5 s"))
    assert story.texts(rest(), failures=(failure,)) == [
        "could not set the target of domain 1 to 1 GiB: no answer within 5 s; it is tried again"
    ]


def test_flag_commands_and_policy_are_told(story: Story) -> None:
    story.turn(rest())
    reservation = Reservation("r1", "session-7", GIB)
    actions = (
        SetUncooperative(1, True),
        TransferReservation(reservation, 5),
        DeleteReservation(reservation),
    )
    policy = Stance(policy=find_policy("shares"))
    assert story.texts(rest(), actions=actions, verdicts=(Granted("r1", GIB),), stance=policy) == [
        "memory is divided by policy shares now, not proportional",
        "web has been off its target for too long and is marked as uncooperative",
        "domain 5 is being built with the 1 GiB that were set aside for it",
        "freed the 1 GiB that were set aside for ann (session session-7)",
    ]
    assert story.texts(rest(), actions=(SetUncooperative(1, False),), stance=policy) == [
        "web is at its target again and no longer marked as uncooperative"
    ]
