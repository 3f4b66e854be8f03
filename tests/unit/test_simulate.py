"""``xcpmem simulate``: calls, kills, starts and the shape of the answer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from xcpmem import script
from xcpmem.engine.model import Action, HostState, SetMaxmem, SetTarget, SetUncooperative, Wishes
from xcpmem.engine.planner import Plan, plan
from xcpmem.scenario import Scenario, load_scenario, parse_scenario
from xcpmem.script import ScriptCall
from xcpmem.simulate import format_answer, run, simulate_main
from xcpmem.simulation import Simulation
from xcpmem.specs import BalloonSpec, GuestSpec, HostSpec, LoadPoint

if TYPE_CHECKING:
    from pathlib import Path

    from xcpmem.engine.belief import Beliefs
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.simdaemon import Planner

EXACT = BalloonSpec(rate_kib_s=1000, inaccuracy_kib=0)


def peer(domid: int, **facts: Any) -> GuestSpec:
    """An exact guest of 1000 to 9000 KiB at 5000, moving 1000 KiB/s."""
    values: dict[str, Any] = {
        "dynamic_min_kib": 1000,
        "dynamic_max_kib": 9000,
        "target_kib": 5000,
        "balloon": EXACT,
    }
    return GuestSpec(domid=domid, **(values | facts))


def scene(*calls: tuple[float, script.Call], guests: tuple[GuestSpec, ...] = (), **facts: Any) -> Scenario:
    """A host without slush where nothing is free."""
    values: dict[str, Any] = {
        "host": HostSpec(free_kib=0, slush_kib=0),
        "guests": guests,
        "script": tuple(ScriptCall(at_s, call) for at_s, call in calls),
    }
    return Scenario(**(values | facts))


def outcomes(scenario: Scenario) -> list[tuple[bool, Any, Any]]:
    """Of each call: whether it went well, its error or value, and how long it took."""
    return [
        (call["ok"], call["value"] if call["ok"] else call["error"], call["took_s"])
        for call in run(scenario)["calls"]
    ]


RESERVE = script.ReserveMemory(size_kib=2000, as_name="vm")


def test_the_answer_has_the_contracts_keys_in_a_stable_order() -> None:
    answer = run(scene((1.0, RESERVE), guests=(peer(1), peer(2))), trace=True)
    assert list(answer) == ["name", "seed", "policy", "calls", "final", "totals", "trace"]
    assert list(answer["calls"][0]) == ["at_s", "call", "ok", "error", "value", "took_s"]
    assert list(answer["final"]) == ["free_kib", "guests"]
    assert list(answer["final"]["guests"]) == ["1", "2"]
    assert list(answer["final"]["guests"]["1"]) == ["target_kib", "actual_kib", "maxmem_kib", "state"]
    assert list(answer["totals"]) == [
        "moved_kib",
        "target_changes",
        "overcommit_kib",
        "min_free_kib",
        "settled_at_s",
        "stall_s",
    ]
    assert "trace" not in run(scene())


def test_the_answer_is_byte_identical_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "scene.toml"
    path.write_text(
        "[[guest]]\ndomid = 1\ndynamic_min_kib = 100000\ndynamic_max_kib = 900000\n"
        "balloon = { period_s = 0.7, rate_kib_s = 12345.6 }\n"
        "[[script]]\nat_s = 0.35\ncall = 'reserve_memory_range'\nargs = { min_kib = 1, max_kib = 500000 }\n"
    )
    program = "import sys; from xcpmem.simulate import simulate_main; sys.exit(simulate_main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, str(path), "--json", "--trace"]
    first, second = (subprocess.run(command, capture_output=True, check=True, timeout=60) for _ in range(2))
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["calls"][0]["ok"]


def test_a_request_is_granted_when_its_memory_is_free() -> None:
    ((ok, value, took_s),) = outcomes(scene((1.0, RESERVE), guests=(peer(1), peer(2))))
    assert ok
    assert isinstance(value, str)
    assert took_s == pytest.approx(1.0, abs=0.2)


def test_a_range_is_answered_with_id_and_size() -> None:
    answer = run(
        scene((1.0, script.ReserveMemoryRange(min_kib=1000, max_kib=9000)), guests=(peer(1), peer(2)))
    )
    reservation_id, granted_kib = answer["calls"][0]["value"]
    assert granted_kib == pytest.approx(10000 / 3, abs=10)
    assert answer["final"]["free_kib"] >= granted_kib
    assert len(reservation_id) == 36


def test_a_range_upside_down_is_the_callers_fault() -> None:
    ((ok, error, took_s),) = outcomes(scene((1.0, script.ReserveMemoryRange(min_kib=9, max_kib=1))))
    assert (ok, error, took_s) == (False, ["INVALID_VALUE", "max_kib", "1"], 0.0)


def test_reservation_ids_depend_on_the_seed_and_the_place_in_the_script_alone() -> None:
    def ids(seed: int) -> list[Any]:
        calls = ((1.0, RESERVE), (2.0, RESERVE))
        return [
            value for _, value, _ in outcomes(scene(*calls, guests=(peer(1), peer(2), peer(3)), seed=seed))
        ]

    assert ids(1) == ids(1)
    assert len({*ids(1), *ids(2)}) == 4


def test_calls_at_the_same_time_are_solved_together_and_one_that_waits_holds_up_no_other() -> None:
    found = outcomes(
        scene(
            (1.0, RESERVE),
            (1.0, script.GetHostReservedMemory()),
            (1.5, script.GetHostInitialFreeMemory()),
            guests=(peer(1), peer(2)),
        )
    )
    assert found[0][2] > 0.5
    assert found[1:] == [(True, 0, 0.0), (True, 10000 * 1024, 0.0)]


def test_calls_are_listed_in_file_order_whatever_their_time() -> None:
    answer = run(scene((2.0, script.GetDiagnostics()), (1.0, script.GetHostReservedMemory())))
    assert [call["call"] for call in answer["calls"]] == ["get_diagnostics", "get_host_reserved_memory"]


def test_calls_at_one_instant_are_made_in_file_order() -> None:
    found = outcomes(
        scene(
            (1.0, RESERVE),
            (9.0, script.DeleteReservation(reservation="vm")),
            (9.0, script.TransferReservation(reservation="vm", domid=1)),
            guests=(peer(1), peer(2)),
        )
    )
    assert found[2] == (False, ["UNKNOWN_RESERVATION", "vm"], 0.0)


def test_a_request_that_nobody_can_meet_in_time_ends_after_60_s() -> None:
    creeping = peer(1, balloon=BalloonSpec(rate_kib_s=20, inaccuracy_kib=0))
    ((ok, error, took_s),) = outcomes(scene((1.0, RESERVE), guests=(creeping,)))
    assert (ok, error) == (False, ["VMS_FAILED_TO_COOPERATE", "1"])
    assert took_s == 60.0


def test_a_call_that_still_waits_at_the_end_breaks_the_run() -> None:
    creeping = peer(1, balloon=BalloonSpec(rate_kib_s=20, inaccuracy_kib=0))
    simulation = Simulation(scene((1.0, RESERVE), guests=(creeping,), deadline_s=5.0))
    (call,) = simulation.run()["calls"]
    assert (call["ok"], call["error"][0], call["took_s"]) == (False, "INTERNAL_ERROR", 4.0)
    assert simulation.broken == ["call 0 (reserve_memory) never ended"]


def test_a_call_after_the_end_of_the_run_is_not_made_and_breaks_the_run() -> None:
    lines = ((5.0, script.Shutdown(domid=1)), (5.5, script.Shutdown(domid=2)))
    simulation = Simulation(scene(*lines, guests=(peer(1), peer(2)), deadline_s=5.0))
    answer = simulation.run()
    made, late = answer["calls"]
    assert made["ok"]
    assert (late["at_s"], late["ok"], late["took_s"]) == (5.5, False, 0.0)
    assert late["error"] == ["INTERNAL_ERROR", "the run ended before its time"]
    assert list(answer["final"]["guests"]) == ["2"]
    assert simulation.broken == ["call 1 (shutdown) was never made: at_s 5.5 s is after deadline_s 5 s"]


def test_a_reservation_goes_to_a_domain_and_can_be_asked_for() -> None:
    answer = run(
        scene(
            (1.0, script.QueryReservation(domid=1)),
            (1.0, RESERVE),
            (9.0, script.TransferReservation(reservation="vm", domid=1)),
            (9.0, script.QueryReservation(domid=1)),
            (9.0, script.DeleteReservation(domid=1)),
            (9.0, script.TransferReservation(reservation="vm", domid=1)),
            (9.0, script.DeleteReservation(reservation="vm")),
            guests=(peer(1), peer(2)),
        )
    )
    calls = answer["calls"]
    assert calls[0]["error"] == ["NO_RESERVATION", "1"]
    assert [call["ok"] for call in calls] == [False, True, True, True, True, False, True]
    assert calls[3]["value"] == calls[1]["value"]
    assert answer["totals"]["overcommit_kib"] == 0


def after_a_transfer(*questions: script.Call) -> list[Any]:
    """What is answered, value or error, once ``vm`` was reserved and given to domain 1, and ``free`` kept."""
    answer = run(
        scene(
            (1.0, script.ReserveMemory(size_kib=2000, as_name="vm")),
            (1.0, script.ReserveMemory(size_kib=1000, as_name="free")),
            (9.0, script.TransferReservation(reservation="vm", domid=1)),
            *((9.0, question) for question in questions),
            guests=(peer(1), peer(2), peer(3)),
        )
    )
    ids = {answer["calls"][0]["value"]: "id of vm", answer["calls"][1]["value"]: "id of free"}
    return [
        ids.get(call["value"], call["value"]) if call["ok"] else call["error"] for call in answer["calls"][3:]
    ]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"domid": 1}, "id of vm"),
        ({"reservation": "vm"}, "id of vm"),
        ({"reservation": "vm", "domid": 1}, "id of vm"),
        ({"domid": 2}, ["NO_RESERVATION", "2"]),
        ({"reservation": "vm", "domid": 2}, ["NO_RESERVATION", "2"]),
        ({"reservation": "free", "domid": 1}, ["NO_RESERVATION", "1"]),
        ({"reservation": "free"}, ["NO_RESERVATION", "free"]),
        ({"reservation": "no"}, ["UNKNOWN_RESERVATION", "no"]),
        ({"reservation": "vm", "domid": 9}, ["INVALID_VALUE", "domid", "9"]),
    ],
)
def test_a_domains_reservation_is_asked_for_by_its_name_by_the_domain_or_by_both(
    question: dict[str, Any], answer: object
) -> None:
    assert after_a_transfer(script.QueryReservation(**question)) == [answer]


@pytest.mark.parametrize(
    ("deletion", "answer", "afterwards"),
    [
        ({"domid": 1}, None, ["UNKNOWN_RESERVATION", "vm"]),
        ({"reservation": "vm"}, None, ["UNKNOWN_RESERVATION", "vm"]),
        ({"reservation": "vm", "domid": 1}, None, ["UNKNOWN_RESERVATION", "vm"]),
        ({"reservation": "vm", "domid": 2}, ["NO_RESERVATION", "2"], None),
        ({"domid": 2}, None, None),
    ],
)
def test_a_reservation_is_deleted_by_its_name_by_its_domain_or_by_both(
    deletion: dict[str, Any], answer: object, afterwards: object
) -> None:
    transfer_again = script.TransferReservation(reservation="vm", domid=1)
    outcome = after_a_transfer(script.DeleteReservation(**deletion), transfer_again)
    assert outcome == [answer, afterwards]


def test_a_reservation_that_no_domain_has_is_deleted_whatever_domain_is_named() -> None:
    deleted, asked = after_a_transfer(
        script.DeleteReservation(reservation="free", domid=2), script.QueryReservation(reservation="free")
    )
    assert (deleted, asked) == (None, ["UNKNOWN_RESERVATION", "free"])


def test_memory_that_a_domain_was_given_is_given_once() -> None:
    reserve = script.ReserveMemory(size_kib=4000, as_name="vm")
    answer = run(
        scene(
            (1.0, reserve),
            (9.0, script.TransferReservation(reservation="vm", domid=1)),
            (30.0, script.TransferReservation(reservation="vm", domid=1)),
            (30.0, script.TransferReservation(reservation="vm", domid=2)),
            guests=(peer(1, dynamic_max_kib=2000, target_kib=2000), peer(2), peer(3)),
        )
    )
    assert [call["error"] for call in answer["calls"]] == [None, None, None, ["UNKNOWN_RESERVATION", "vm"]]
    assert answer["totals"]["overcommit_kib"] == 0


def test_memory_that_a_domain_was_given_is_free_when_it_ends() -> None:
    answer = run(
        scene(
            (1.0, RESERVE),
            (9.0, script.TransferReservation(reservation="vm", domid=1)),
            (20.0, script.Shutdown(domid=1)),
            (21.0, script.ReserveMemoryRange(min_kib=1000, max_kib=9000, as_name="all")),
            guests=(peer(1), peer(2, dynamic_max_kib=5000)),
        )
    )
    assert answer["calls"][3]["value"][1] == pytest.approx(1000 + 8000 * 2 / 3, abs=8)
    assert answer["totals"]["overcommit_kib"] == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (script.TransferReservation(reservation="vm", domid=9), ["INVALID_VALUE", "domid", "9"]),
        (script.TransferReservation(reservation="no", domid=1), ["UNKNOWN_RESERVATION", "no"]),
        (script.QueryReservation(domid=9), ["INVALID_VALUE", "domid", "9"]),
        (script.SetDynamicRange(domid=9, min_kib=1, max_kib=2), ["INVALID_VALUE", "domid", "9"]),
        (script.SetDynamicRange(domid=1, min_kib=2, max_kib=1), ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]),
        (script.SetPolicy(name="chaos"), ["INVALID_VALUE", "policy", "chaos"]),
        (script.SetPolicy(name="proportional", parameters={"x": 1}), ["INVALID_VALUE", "x", "1"]),
        (script.SetBalloon(domid=9, changes={"stuck": True}), ["INVALID_VALUE", "domid", "9"]),
        (script.Shutdown(domid=9), ["INVALID_VALUE", "domid", "9"]),
        (script.TakeMemory(size_kib=10**9), ["INVALID_VALUE", "size_kib", "1000000000"]),
        (script.Start(guest=peer(1)), ["INVALID_VALUE", "domid", "1"]),
    ],
)
def test_a_call_that_cannot_be_is_refused_at_once(call: script.Call, error: list[str]) -> None:
    found = outcomes(scene((1.0, RESERVE), (9.0, call), guests=(peer(1), peer(2))))
    assert found[1] == (False, error, 0.0)


def test_static_max_follows_dynamic_max_unless_it_is_given() -> None:
    wider = script.SetDynamicRange(domid=1, min_kib=1000, max_kib=12000)
    free, fixed = peer(1), peer(1, static_max_kib=9000)
    assert outcomes(scene((1.0, wider), guests=(free,))) == [(True, None, 0.0)]
    assert outcomes(scene((1.0, wider), guests=(fixed,))) == [
        (False, ["MEMORY_CONSTRAINT_VIOLATION_ORDER"], 0.0)
    ]


def test_a_reservation_without_a_name_is_not_meant_by_any() -> None:
    unnamed = script.ReserveMemory(size_kib=100)
    answer = run(scene((1.0, unnamed), (5.0, script.DeleteReservation(domid=1)), guests=(peer(1), peer(2))))
    assert answer["final"]["free_kib"] >= 100


def test_deleting_an_unknown_reservation_is_no_error() -> None:
    assert outcomes(scene((1.0, script.DeleteReservation(reservation="no")))) == [(True, None, 0.0)]


def test_the_size_of_domain_zero_is_what_nobody_else_has() -> None:
    ((_, value, _),) = outcomes(
        scene((1.0, script.GetDomainZeroPolicy()), host=HostSpec(total_kib=500, free_kib=100))
    )
    assert value == ["Fixed_size", 400 * 1024]


def test_what_was_free_before_the_guests_is_all_that_they_and_domain_zero_have() -> None:
    answers = outcomes(
        scene(
            (1.0, script.GetHostInitialFreeMemory()),
            (2.0, script.TakeMemory(size_kib=50)),
            (3.0, script.GetHostInitialFreeMemory()),
            host=HostSpec(total_kib=20000, free_kib=100),
            guests=(peer(1), peer(2)),
        )
    )
    assert [value for _, value, _ in answers] == [20000 * 1024, None, 20000 * 1024]


ZERO = peer(0, dynamic_min_kib=4000)
"""Domain 0 as one of the guests."""


def test_domain_zero_is_balanced_where_it_is_one_of_the_guests() -> None:
    answer = run(scene((1.0, RESERVE), guests=(ZERO, peer(1))))
    share = (10000 - 2000 - 5000) / (5000 + 8000)
    assert list(answer["final"]["guests"]) == ["0", "1"]
    assert answer["final"]["guests"]["0"]["actual_kib"] == pytest.approx(4000 + share * 5000, abs=10)
    assert answer["calls"][0]["ok"]


def test_domain_zero_among_the_guests_has_a_range_and_what_nobody_has_is_xens() -> None:
    answers = outcomes(
        scene(
            (1.0, script.GetDomainZeroPolicy()),
            (1.0, script.GetHostInitialFreeMemory()),
            (1.0, script.SetDynamicRange(domid=0, min_kib=4500, max_kib=4500)),
            (9.0, script.GetDomainZeroPolicy()),
            host=HostSpec(total_kib=11000, free_kib=0, slush_kib=0),
            guests=(ZERO, peer(1)),
        )
    )
    assert [value for _, value, _ in answers] == [
        ["Auto_balloon", [4000 * 1024, 9000 * 1024]],
        10000 * 1024,
        None,
        ["Fixed_size", 4500 * 1024],
    ]


def test_domain_zero_is_not_shut_down() -> None:
    answer = run(scene((1.0, script.Shutdown(domid=0)), guests=(ZERO, peer(1))))
    assert answer["calls"][0]["error"] == ["INVALID_VALUE", "domid", "0"]
    assert list(answer["final"]["guests"]) == ["0", "1"]


def test_domain_zero_is_not_blamed_alone() -> None:
    stuck = peer(0, balloon=replace(EXACT, stuck=True))
    answer = run(scene((1.0, RESERVE), guests=(stuck,)))
    assert answer["calls"][0]["error"][0] == "HOST_NOT_ENOUGH_FREE_MEMORY"


def test_diagnostics_tell_why_each_guest_has_its_target() -> None:
    ((_, value, _),) = outcomes(scene((1.0, script.GetDiagnostics()), guests=(peer(1), peer(2))))
    assert list(json.loads(value)) == ["1", "2"]


def test_a_balance_ends_when_the_host_is_stable() -> None:
    found = outcomes(
        scene(
            (1.0, script.BalanceMemory()),
            (2.0, script.SetDynamicRange(domid=1, min_kib=1000, max_kib=2000)),
            (2.0, script.BalanceMemory()),
            guests=(peer(1), peer(2)),
        )
    )
    assert found[0] == (True, None, 0.0)
    assert 3.0 <= found[2][2] <= 4.0


def test_a_balance_ends_well_after_60_s_at_the_latest() -> None:
    creeping = peer(1, balloon=BalloonSpec(rate_kib_s=20, inaccuracy_kib=0))
    found = outcomes(
        scene(
            (1.0, script.SetDynamicRange(domid=1, min_kib=1000, max_kib=1500)),
            (1.0, script.BalanceMemory()),
            guests=(creeping,),
        )
    )
    assert found[1] == (True, None, 60.0)


def test_a_started_guest_appears_with_what_was_granted() -> None:
    answer = run(scene((1.0, script.Start(guest=peer(3))), guests=(peer(1), peer(2))))
    (call,) = answer["calls"]
    assert call["ok"]
    newcomer = answer["final"]["guests"]["3"]
    assert call["value"] == pytest.approx(10000 / 3, abs=20)
    assert newcomer["actual_kib"] == pytest.approx(10000 / 3, abs=20)
    assert answer["totals"]["overcommit_kib"] == 0
    assert answer["totals"]["min_free_kib"] == 0


def test_a_guest_that_cannot_fit_is_not_started() -> None:
    big = peer(3, dynamic_min_kib=9000)
    answer = run(scene((1.0, script.Start(guest=big)), guests=(peer(1), peer(2))))
    assert answer["calls"][0]["error"][0] == "HOST_NOT_ENOUGH_FREE_MEMORY"
    assert list(answer["final"]["guests"]) == ["1", "2"]
    assert answer["totals"]["target_changes"] == 0


def test_of_two_starts_of_one_domid_the_second_fails_and_keeps_nothing() -> None:
    start = script.Start(guest=peer(3))
    answer = run(scene((1.0, start), (1.0, start), guests=(peer(1), peer(2))))
    assert sorted(call["ok"] for call in answer["calls"]) == [False, True]
    assert answer["final"]["free_kib"] <= 64


def test_a_guest_that_is_shut_down_is_absent_and_its_memory_goes_to_others() -> None:
    answer = run(scene((1.0, script.Shutdown(domid=2)), guests=(peer(1), peer(2))))
    assert list(answer["final"]["guests"]) == ["1"]
    assert answer["final"]["guests"]["1"]["actual_kib"] == 9000


def test_a_domid_can_be_used_again() -> None:
    answer = run(
        scene((1.0, script.Shutdown(domid=2)), (20.0, script.Start(guest=peer(2))), guests=(peer(1), peer(2)))
    )
    assert [call["ok"] for call in answer["calls"]] == [True, True]
    assert answer["final"]["guests"]["2"]["actual_kib"] == pytest.approx(5000, abs=40)


def test_a_killed_daemon_loses_the_calls_that_wait() -> None:
    found = outcomes(
        scene(
            (1.0, RESERVE),
            (1.0, script.BalanceMemory()),
            (1.2, script.KillDaemon()),
            guests=(peer(1), peer(2)),
        )
    )
    lost = (False, ["INTERNAL_ERROR", "connection lost"], 0.2)
    assert found == [lost, lost, (True, None, 0.0)]


def test_calls_made_while_the_daemon_is_down_wait_for_it() -> None:
    found = outcomes(
        scene(
            (1.0, script.KillDaemon(down_s=5.0)),
            (2.0, script.GetHostReservedMemory()),
            (2.0, script.TakeMemory(size_kib=10)),
            (3.0, RESERVE),
            guests=(peer(1), peer(2)),
            host=HostSpec(free_kib=100, slush_kib=0),
        )
    )
    assert [took_s for _, _, took_s in found[:3]] == [0.0, 4.0, 0.0]
    assert found[3][0]
    assert found[3][2] == pytest.approx(4.0, abs=0.2)


def test_reservations_and_ranges_outlive_a_kill() -> None:
    answer = run(
        scene(
            (1.0, RESERVE),
            (5.0, script.SetDynamicRange(domid=1, min_kib=1000, max_kib=1500)),
            (5.0, script.KillDaemon(down_s=1.0)),
            (30.0, script.DeleteReservation(reservation="vm")),
            guests=(peer(1), peer(2)),
        )
    )
    assert [call["ok"] for call in answer["calls"]] == [True] * 4
    gamma = (10000 - 2000) / (500 + 8000)
    assert answer["final"]["guests"]["1"]["actual_kib"] == pytest.approx(1000 + gamma * 500, abs=10)
    assert answer["final"]["guests"]["2"]["actual_kib"] == pytest.approx(1000 + gamma * 8000, abs=40)
    assert answer["totals"]["overcommit_kib"] == 0


def test_a_daemon_that_is_down_at_the_end_says_nothing_of_states() -> None:
    answer = run(
        scene(
            (1.0, script.KillDaemon(down_s=1000.0)),
            (2.0, script.SetBalloon(domid=1, changes={"feature": False})),
            guests=(peer(1), peer(2)),
        )
    )
    assert [guest["state"] for guest in answer["final"]["guests"].values()] == ["no_balloon", "at_target"]


def test_a_changed_balloon_moves_as_it_is_told_from_then_on() -> None:
    answer = run(
        scene(
            (1.0, script.SetBalloon(domid=1, changes={"stuck": True})),
            (2.0, RESERVE),
            guests=(peer(1), peer(2)),
        )
    )
    assert answer["calls"][1]["ok"]
    assert answer["final"]["guests"]["1"]["actual_kib"] == 5000
    assert answer["final"]["guests"]["1"]["state"] == "stuck"


def test_a_step_so_small_that_nothing_is_skipped_changes_nothing_but_the_grain() -> None:
    coarse = scene((1.0, RESERVE), guests=(peer(1), peer(2)), tick_s=0.1)
    fine = run(replace(coarse, tick_s=0.01))
    assert fine["final"] == run(coarse)["final"]
    assert fine["totals"]["target_changes"] == run(coarse)["totals"]["target_changes"]


def test_an_idle_day_costs_little() -> None:
    answer = run(scene(guests=(peer(1), peer(2)), tick_s=0.001, deadline_s=86400.0))
    assert answer["totals"]["settled_at_s"] == 0.0


def test_stall_is_counted_with_a_load_only() -> None:
    hungry = peer(1, load=(LoadPoint(10.0, 9000), LoadPoint(15.0, 100)))
    stall_s = run(scene(guests=(hungry, peer(2))))["totals"]["stall_s"]
    slower = 40 * (9000 - 5000) / 9000
    assert stall_s == pytest.approx(5.0 * slower / (1 + slower), abs=1e-4)
    assert run(scene(guests=(peer(1), peer(2))))["totals"]["stall_s"] == 0.0


LATE_GROWER = peer(1, target_kib=1000, balloon=replace(EXACT, delay_s=10.0))
"""Told to grow by all that is free, and takes none of it for 10 s."""


def takes_what_was_promised(*others: tuple[float, script.Call]) -> Scenario:
    """Somebody takes 5000 KiB a second after a guest was told to grow by all that was free but a page."""
    take = (1.0, script.TakeMemory(size_kib=5000))
    return scene(*others, take, guests=(LATE_GROWER,), host=HostSpec(free_kib=8000, slush_kib=0))


def test_memory_that_is_taken_from_a_promise_is_no_fault_of_the_daemon_that_takes_the_promise_back() -> None:
    simulation = Simulation(takes_what_was_promised(), trace=True)
    answer = simulation.run()
    promised = {entry["t_s"]: entry["guests"]["1"]["maxmem_kib"] for entry in answer["trace"][:2]}
    assert promised == {0.0: 8996, 1.0: 3996}
    assert answer["totals"]["overcommit_kib"] == 0
    assert simulation.broken == []


def test_memory_that_is_taken_from_a_promise_while_the_daemon_is_down_breaks_the_run() -> None:
    simulation = Simulation(takes_what_was_promised((0.5, script.KillDaemon(down_s=2.0))))
    assert simulation.run()["totals"]["overcommit_kib"] == 4996
    assert simulation.broken == ["over-committed by 4996 KiB"]


def test_a_daemon_that_dies_and_starts_at_the_instant_takes_the_promise_back() -> None:
    assert run(takes_what_was_promised((1.0, script.KillDaemon())))["totals"]["overcommit_kib"] == 0


def test_a_promise_that_the_daemon_leaves_standing_breaks_the_run() -> None:
    def idle(host: HostState, wishes: Wishes, beliefs: Beliefs, now_s: float, policy: ChosenPolicy) -> Plan:
        good = plan(host, wishes, beliefs, now_s, policy)
        return replace(good, actions=good.actions if now_s < 1.0 else ())

    simulation = Simulation(takes_what_was_promised(), planner=idle)
    assert simulation.run()["totals"]["overcommit_kib"] == 4996
    assert simulation.broken == ["over-committed by 4996 KiB"]


def test_a_promise_that_stands_at_the_end_of_the_run_breaks_it() -> None:
    scenario = replace(takes_what_was_promised((1.0, script.KillDaemon(down_s=9.0))), deadline_s=1.0)
    assert run(scenario)["totals"]["overcommit_kib"] == 4996


def test_memory_that_the_file_promises_twice_is_promised_once_after_the_first_turn() -> None:
    greedy = peer(1, target_kib=5000, actual_kib=1000)
    answer = run(scene(guests=(greedy,)))
    assert answer["final"]["guests"]["1"]["maxmem_kib"] == 1000
    assert answer["totals"]["overcommit_kib"] == 0


def with_actions(*extra: Action) -> Planner:
    """A planner that thinks well and then adds something."""

    def rogue(host: HostState, wishes: Wishes, beliefs: Beliefs, now_s: float, policy: ChosenPolicy) -> Plan:
        good = plan(host, wishes, beliefs, now_s, policy)
        return replace(good, actions=good.actions + extra)

    return rogue


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (SetTarget(1, 5001), "INVALID_VALUE(target_kib, 5001)"),
        (SetTarget(1, 999), "INVALID_VALUE(target_kib, 999)"),
        (SetMaxmem(1, 4000), "INVALID_VALUE(maxmem_kib, 4000)"),
        (SetMaxmem(9, 4000), "domain 9 does not exist"),
    ],
)
def test_an_action_that_must_not_be_breaks_the_run(action: Action, said: str) -> None:
    simulation = Simulation(scene(guests=(peer(1), peer(2)), deadline_s=1.0), planner=with_actions(action))
    simulation.run()
    assert simulation.broken[0].startswith("at 0.0 s: Set")
    assert said in simulation.broken[0]


def test_memory_that_the_daemon_promises_twice_breaks_the_run_however_short_it_lasts() -> None:
    planner = with_actions(SetMaxmem(1, 5007), SetMaxmem(1, 5000))
    simulation = Simulation(scene(guests=(peer(1), peer(2)), deadline_s=1.0), planner=planner)
    assert simulation.run()["totals"]["overcommit_kib"] == 7
    assert simulation.broken[-1] == "over-committed by 7 KiB"


def test_a_planner_that_contradicts_itself_breaks_the_run() -> None:
    planner = with_actions(SetUncooperative(1, True), SetUncooperative(1, False))
    simulation = Simulation(scene(guests=(peer(1),), deadline_s=1.0), planner=planner)
    simulation.run()
    assert simulation.broken[0] == "at 0.0 s: the ring does not come to rest"


def test_a_guest_far_outside_its_range_may_be_led_back_in_steps() -> None:
    outside = peer(1, target_kib=500)
    planner = with_actions(SetMaxmem(1, 700), SetTarget(1, 700))
    simulation = Simulation(
        scene(guests=(outside,), host=HostSpec(free_kib=200, slush_kib=0), deadline_s=0.0), planner=planner
    )
    assert simulation.run()["final"]["guests"]["1"]["target_kib"] == 700
    assert simulation.broken == ["at 0.0 s: the ring does not come to rest"]


def test_a_daemon_killed_while_it_is_down_starts_when_the_last_kill_says() -> None:
    found = outcomes(
        scene(
            (1.0, script.KillDaemon(down_s=2.0)),
            (2.0, script.KillDaemon(down_s=5.0)),
            (2.5, script.GetHostReservedMemory()),
        )
    )
    assert found[2] == (True, 0, 4.5)


def test_a_thousand_guests_are_simulated_in_seconds() -> None:
    fleet = load_scenario("fleet:1000")
    line = ScriptCall(1.0, script.ReserveMemory(size_kib=64 * 2**20))
    (call,) = run(replace(fleet, script=(line,)))["calls"]
    assert call["ok"]


FILE = """
name = "demo"
[[guest]]
domid = 1
dynamic_min_kib = 100000
dynamic_max_kib = 900000
[[script]]
at_s = 1
call = "reserve_memory_range"
args = { min_kib = 1000, max_kib = 200000 }
[[script]]
at_s = 2
call = "transfer_reservation_to_domain"
args = { reservation = "no", domid = 1 }
[[script]]
at_s = 3
call = "start"
args = { guest = { domid = 2, dynamic_min_kib = 1024, dynamic_max_kib = 1024 } }
[[script]]
at_s = 3
call = "get_host_reserved_memory"
"""


def test_the_command_prints_a_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(FILE)
    assert simulate_main([str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("demo (policy proportional, seed 1)\n")
    assert "UNKNOWN_RESERVATION[no]" in printed.out
    assert "over-committed by 0 KiB" in printed.out
    assert "1 MiB" in printed.out


def test_the_command_prints_json_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(FILE)
    assert simulate_main([str(path), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == run(parse_scenario(FILE, where="", name="demo"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nmae = 1", "bad.toml: nmae: is not a key here\n"),
        (
            "policy = 'chaos'",
            "bad.toml: policy: there is no policy 'chaos'; there are: proportional, shares, pressure\n",
        ),
    ],
)
def test_the_command_refuses_a_bad_file_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    assert simulate_main([str(path), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("xcpmem simulate: ")
    assert printed.err.endswith(said)
    assert printed.err.count("\n") == 1


def test_the_command_refuses_a_bad_option() -> None:
    with pytest.raises(SystemExit) as caught:
        simulate_main(["--nonsense"])
    assert caught.value.code == 2


def test_the_command_fails_when_an_invariant_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(
        "[host]\nfree_kib = 0\n[[guest]]\ndomid = 1\ndynamic_min_kib = 1000\ndynamic_max_kib = 9000\n"
        "actual_kib = 1000\n[[script]]\nat_s = 0\ncall = 'kill_daemon'\nargs = { down_s = 1 }"
    )
    assert simulate_main([str(path), "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["totals"]["overcommit_kib"] == 8000
    assert printed.err == "xcpmem simulate: over-committed by 8000 KiB\n"


def test_an_empty_host_has_a_table_too() -> None:
    assert "free 0 KiB" in format_answer(run(scene()))
