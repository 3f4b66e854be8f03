"""What is told of the ring's turns: each is told of a host that is in the state it speaks of."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.builders import MIB, a_domain, a_host, a_request, uuid_of, wanting
from xcpmem.engine.belief import Belief, Beliefs
from xcpmem.engine.forecast import Stance
from xcpmem.engine.model import (
    DeleteReservation,
    DynamicRange,
    Granted,
    RecordReservation,
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
from xcpmem.sentences import Sentence
from xcpmem.xen.driver import Look

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState, HostState

GIB = 1024 * MIB
NAMES = {uuid_of(1): "web", uuid_of(2): "db"}


class Story:
    """A ring whose looks are given by hand; the plans are the planner's own.

    A second passes between two looks.
    """

    def __init__(self) -> None:
        self.users = {"session-7": "ann"}
        self.narrator = Narrator(
            lambda uuid: NAMES.get(uuid, ""), lambda owner: self.users.get(owner, ""), lambda: self.clock_s
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
            beliefs=thought.beliefs.by_domid,
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
    texts = story.texts(a_host(moved, free_kib=512 * MIB))
    assert "web moves again and holds 2.5 GiB, its target is 3 GiB" in texts


def deaf_story(story: Story, wishes: Wishes) -> list[Sentence]:
    """A guest that stays where it is, whatever it is asked."""
    deaf = a_domain(GIB, 3 * GIB, actual_kib=3 * GIB, target_kib=2 * GIB)
    return [sentence for _ in range(12) for sentence in story.turn(rest(deaf), wishes)]


def test_deaf_guest_with_a_new_range_is_tried_again_and_moves_only_when_it_is_seen_to(story: Story) -> None:
    story.turn(rest())
    deaf_story(story, wanting(a_request(GIB)))
    narrowed = wanting(d1=DynamicRange(GIB, 2 * GIB))
    told = [sentence for sentence in deaf_story(story, narrowed) if sentence.kind not in {"range", "goal"}]
    assert [(sentence.kind, sentence.level) for sentence in told] == [
        ("retried", logging.INFO),
        ("stuck", logging.WARNING),
    ]
    assert told[0].text == "web is tried again: it still holds 3 GiB and is told to hold 2 GiB"
    woken = a_domain(GIB, 2 * GIB, actual_kib=3 * GIB - 64 * MIB, target_kib=2 * GIB)
    moves, *_ = story.turn(a_host(woken, free_kib=64 * MIB), narrowed)
    assert (moves.kind, moves.fields["actual_kib"]) == ("moves", 3 * GIB - 64 * MIB)


def test_guest_that_moves_after_it_was_tried_again_is_told_to_move(story: Story) -> None:
    story.turn(rest())
    deaf_story(story, wanting(a_request(GIB)))
    narrowed = wanting(d1=DynamicRange(GIB, 2 * GIB))
    deaf = a_domain(GIB, 3 * GIB, actual_kib=3 * GIB, target_kib=2 * GIB)
    assert "retried" in [sentence.kind for sentence in story.turn(rest(deaf), narrowed)]
    woken = a_domain(GIB, 2 * GIB, actual_kib=2560 * MIB, target_kib=2 * GIB)
    told = story.turn(a_host(woken, free_kib=512 * MIB), narrowed)
    assert [sentence.kind for sentence in told] == ["moves"]


def test_deaf_guest_of_which_nothing_is_asked_any_more_is_not_told_to_move(story: Story) -> None:
    story.turn(rest())
    deaf_story(story, wanting(a_request(GIB)))
    pinned = wanting(d1=DynamicRange(3 * GIB, 3 * GIB))
    told = [each for each in story.turn(rest(), pinned) if each.kind not in {"range", "goal"}]
    assert [sentence.kind for sentence in told] == ["eased"]
    assert told[0].text == "web did not move and need not: it holds 3 GiB, its target is 3 GiB"
    assert story.turn(rest(), pinned) == []


def test_guest_that_grows_no_further_is_no_warning(story: Story) -> None:
    small = a_domain(GIB, 3 * GIB, actual_kib=GIB, target_kib=2 * GIB, maxmem_kib=2 * GIB)
    told = [sentence for _ in range(12) for sentence in story.turn(a_host(small, free_kib=2 * GIB))]
    (limit,) = [sentence for sentence in told if sentence.kind == "at_limit"]
    assert limit.level == logging.INFO
    assert limit.text == (
        "web takes no more than 1 GiB, though it was told to hold 2 GiB; others get the rest"
    )
    trimmed = a_domain(GIB, 3 * GIB, actual_kib=GIB, target_kib=GIB + MIB, maxmem_kib=GIB + MIB)
    told = [sentence for _ in range(30) for sentence in story.turn(a_host(trimmed, free_kib=2 * GIB))]
    flagged = [sentence for sentence in told if sentence.kind == "uncooperative"]
    assert {sentence.level for sentence in flagged} == {logging.INFO}
    assert flagged[0].text.startswith("web holds 1 GiB, its target is 1.001 GiB: off it for ")


def test_guest_that_left_its_limit_and_is_back_is_told_of_without_a_figure_that_nobody_offered(
    story: Story,
) -> None:
    def small(actual_kib: int, target_kib: int) -> HostState:
        domain = a_domain(GIB // 2, 3 * GIB, actual_kib, target_kib=target_kib, maxmem_kib=target_kib)
        return a_host(domain, free_kib=2 * GIB)

    for _ in range(12):
        story.turn(small(GIB, 2 * GIB))
    story.turn(small(GIB, GIB // 2))
    story.turn(small(GIB // 2, GIB // 2))
    (limit,) = [each for each in story.turn(small(GIB, GIB + MIB)) if each.kind == "at_limit"]
    assert limit.text == "web takes no more than 1 GiB, as before; others get the rest"


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
    beliefs = {1: Belief(uuid_of(1), DynamicRange(GIB, 3 * GIB), away_s=20.5)}
    late = a_domain(GIB, 3 * GIB, actual_kib=3 * GIB, target_kib=2 * GIB)
    told = story.turn(
        rest(late), actions=actions, verdicts=(Granted("r1", GIB),), stance=policy, beliefs=beliefs
    )
    assert [sentence.text for sentence in told if sentence.kind != "goal"] == [
        "memory is divided by policy shares now, not proportional",
        "web holds 3 GiB, its target is 2 GiB: off it for 20.5 s by now, it is marked as uncooperative",
        "domain 5 is being built with the 1 GiB that were set aside for it",
        "freed the 1 GiB that were set aside for ann (session session-7)",
    ]
    (flagged,) = [sentence for sentence in told if sentence.kind == "uncooperative"]
    assert flagged.level == logging.WARNING
    assert flagged.fields.items() >= {"actual_kib": 3 * GIB, "target_kib": 2 * GIB, "away_s": 20.5}.items()
    (lowered,) = story.turn(rest(), actions=(SetUncooperative(1, False),), stance=policy)
    assert lowered.level == logging.INFO
    assert lowered.text == ("web holds 3 GiB, its target is 3 GiB: it is no longer marked as uncooperative")


def test_memory_is_freed_for_the_user_for_whom_it_was_set_aside_though_the_session_is_over(
    story: Story,
) -> None:
    story.turn(rest())
    reservation = Reservation("r1", "session-7", GIB)
    told = story.texts(rest(), actions=(RecordReservation(reservation),))
    assert told == ["set aside 1 GiB for ann (session session-7)"]
    story.users.clear()
    told = story.texts(rest(), actions=(DeleteReservation(reservation),))
    assert told == ["freed the 1 GiB that were set aside for ann (session session-7)"]


def test_name_of_whom_memory_was_set_aside_for_is_kept_as_long_as_the_reservation(story: Story) -> None:
    story.turn(rest())
    reservation = Reservation("r1", "session-7", GIB)
    story.turn(rest(), actions=(RecordReservation(reservation),))
    story.turn(a_host(a_domain(GIB, 3 * GIB), reservations=(reservation,)))
    assert story.narrator._beneficiaries == {"r1": "ann (session session-7)"}
    story.turn(rest())
    assert story.narrator._beneficiaries == {}


def test_memory_for_a_vm_is_told_as_set_aside_once_and_freed_when_the_vm_is_there(story: Story) -> None:
    story.turn(rest())
    reservation = Reservation("r1", "session-7", GIB, vm_uuid=uuid_of(2))
    told = story.texts(rest(), actions=(RecordReservation(reservation),))
    assert told == ["set aside 1 GiB for db, which is to start"]
    held = a_host(a_domain(GIB, 3 * GIB), reservations=(reservation,), free_kib=GIB)
    assert story.texts(held, actions=(RecordReservation(replace(reservation, domid=2)),)) == []
    told = story.texts(rest(), actions=(DeleteReservation(reservation),))
    assert told == ["freed the 1 GiB that were set aside for db"]


def test_observer_tells_what_would_be(story: Story) -> None:
    story.turn(rest(), observes=True)
    (goal,) = [
        each for each in story.turn(rest(), wanting(a_request(GIB)), observes=True) if each.kind == "goal"
    ]
    assert goal.text.startswith("web would hold 2 GiB instead of 3 GiB: it gets its share")


def test_observer_tells_targets_that_others_set_and_not_its_own(story: Story) -> None:
    deaf = a_domain(GIB, 3 * GIB, actual_kib=3 * GIB, target_kib=2 * GIB)
    told = [sentence for _ in range(12) for sentence in story.turn(rest(deaf), observes=True)]
    (stuck,) = [sentence for sentence in told if sentence.kind == "stuck"]
    assert "told to hold 2 GiB and stopped at 3 GiB; others would have to give in its place" in stuck.text
    woken = a_domain(GIB, 3 * GIB, actual_kib=2560 * MIB, target_kib=2 * GIB)
    told = story.turn(a_host(woken, free_kib=512 * MIB), observes=True)
    (moves,) = [sentence for sentence in told if sentence.kind == "moves"]
    assert moves.text == "web moves again and holds 2.5 GiB, its target is 2 GiB"


def test_kind_that_no_guide_explains_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="no kind of sentence: gossip"):
        Sentence(logging.INFO, "they say", (), "gossip")
