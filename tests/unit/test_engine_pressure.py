"""The policy ``pressure``: who is served first, what stalls bring, and in which words it says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.builders import MIB
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import Claim, Division, Snapshot, State
from xcpmem.engine.sample import Sample
from xcpmem.engine.waterfill import entitlements

NO_STATE: Final[State] = {}


@dataclass
class Guest:
    """One guest of 0 to 4000 MiB; it holds what it is given."""

    used_mib: int | None
    weight: int = 1000
    held_mib: int = 2000
    stall_us: float = 0.0
    swapped_mib: int = 0


@dataclass
class Host:
    """Guests under the policy, second by second."""

    guests: list[Guest]
    budget_mib: int
    parameters: dict[str, object] = field(default_factory=dict)
    now_s: float = 0.0
    state: State = field(default_factory=dict)

    def claims(self) -> list[Claim]:
        return [
            Claim(
                *(0, 4000 * MIB, 0, 4000 * MIB, domid, f"vm{domid}"),
                target_kib=guest.held_mib * MIB,
                actual_kib=guest.held_mib * MIB,
                weight=guest.weight,
                sample=None
                if guest.used_mib is None
                else Sample(
                    self.now_s,
                    10.0,
                    guest.used_mib * MIB,
                    swapped_kib=guest.swapped_mib * MIB,
                    stall_us=int(guest.stall_us),
                ),
            )
            for domid, guest in enumerate(self.guests, 1)
        ]

    def turn(self, after_s: float = 1.0, **stalls: float) -> Division:
        """Let time pass, in which guests (``g1``, …) stall for a part of it, and carry out the next plan."""
        self.now_s += after_s
        for name, part in stalls.items():
            self.guests[int(name[1:]) - 1].stall_us += part * after_s * 1e6
        snapshot = Snapshot(self.now_s, self.budget_mib * MIB, self.claims())
        policy = find_policy("pressure", {"room_percent": 20, "room_kib": 64 * MIB, **self.parameters})
        division, self.state = policy.plan(snapshot, self.state)
        for guest, goal in zip(self.guests, division.goals_kib, strict=True):
            guest.held_mib = goal // MIB
        return division

    def held(self) -> list[int]:
        return [guest.held_mib for guest in self.guests]

    def shares(self) -> list[int]:
        return [share // MIB for share in entitlements(self.budget_mib * MIB, self.claims())]


def test_guest_that_needs_more_gets_it_at_once_from_those_who_do_not() -> None:
    host = Host([Guest(3000, held_mib=2000), Guest(500, held_mib=2300)], 4500)
    host.turn()
    needed = 3000 * 12 // 10 + 64
    assert host.held()[0] >= needed
    assert host.held()[1] < 2300


def test_with_enough_for_all_needs_nobody_is_asked_below_its_own() -> None:
    host = Host([Guest(2000), Guest(500)], 4000)
    for _ in range(30):
        host.turn(10.0)
        assert host.held()[0] >= 2000 * 1.2 + 64
        assert host.held()[1] >= 500 * 1.2 + 64


def test_in_scarcity_nobody_in_need_has_less_than_its_share() -> None:
    host = Host([Guest(3500), Guest(3500), Guest(200)], 6000)
    host.turn()
    assert host.held()[2] == 200 * 12 // 10 + 64
    for held, share in list(zip(host.held(), host.shares(), strict=True))[:2]:
        assert held >= share


def test_in_scarcity_weights_decide() -> None:
    host = Host([Guest(4000, weight=3000), Guest(4000)], 4000)
    host.turn()
    assert host.held() == [3000, 1000]


def test_what_is_on_swap_is_needed_too() -> None:
    host = Host([Guest(1500, swapped_mib=1000), Guest(300)], 4000)
    host.turn()
    assert host.held()[0] >= 2500 * 1.2 + 64


def test_silent_guest_has_its_share_whatever_the_others_say() -> None:
    host = Host([Guest(3900), Guest(None), Guest(100)], 6000)
    for _ in range(5):
        host.turn(10.0)
        assert host.held()[1] == host.shares()[1] == 2000


def test_start_reserve_stays_free_where_nobody_needs_it() -> None:
    host = Host([Guest(500), Guest(500)], 4000, {"reserve_percent": 2.0})
    host.turn()
    assert 4000 - sum(host.held()) >= 40


def test_stalls_that_the_use_does_not_explain_bring_more() -> None:
    host = Host([Guest(500, held_mib=1000), Guest(500, held_mib=1000)], 4000)
    host.turn()
    before = host.held()[0]
    for _ in range(4):
        host.turn(1.0, g1=0.1)
    assert host.held()[0] > before * 1.05


def test_stalls_of_a_moment_bring_nothing() -> None:
    host = Host([Guest(500, held_mib=1000), Guest(500, held_mib=1000)], 4000)
    host.turn()
    before = host.state["guests"]["vm1"]
    host.turn(1.0, g1=0.1)
    assert host.state["guests"]["vm1"][7] == before[7] == 0


def test_boost_of_a_liar_takes_no_more_than_its_share_from_those_in_need() -> None:
    host = Host([Guest(3900), Guest(3900), Guest(3900)], 6000)
    for _ in range(20):
        host.turn(1.0, g1=1.0)
        assert all(held >= share - 1 for held, share in zip(host.held(), host.shares(), strict=True))


@pytest.mark.parametrize("unit", ["vm", "range"])
def test_unit_of_shares_can_be_chosen(unit: str) -> None:
    host = Host([Guest(4000), Guest(4000)], 4000, {"unit": unit})
    host.turn()
    assert host.held() == [2000, 2000]


def test_notes_say_in_words_why() -> None:
    host = Host([Guest(1000), Guest(None)], 4000)
    division = host.turn()
    assert str(division.notes[1]) == (
        "needs 1.234 GiB (uses 1000 MiB, 264 MiB room) and has what nobody else needs as cache"
    )
    assert str(division.notes[2]) == "says nothing of its memory and has exactly its share"


def test_note_of_a_guest_that_stalls_says_how_much() -> None:
    host = Host([Guest(500, held_mib=1000), Guest(3000, held_mib=3000)], 4000)
    host.turn()
    for _ in range(4):
        division = host.turn(1.0, g1=0.1)
    assert "since it stalled for memory: now 10 % of the time)" in str(division.notes[1])


def test_note_of_a_guest_in_scarcity_names_its_share() -> None:
    host = Host([Guest(3900), Guest(3900)], 4000)
    division = host.turn()
    assert str(division.notes[1]).endswith(
        "more than there is for it, it has at least its share of 1.953 GiB"
    )
