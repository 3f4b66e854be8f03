"""Scenario files: what they mean, and what is refused with file, key and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xcpmem import script
from xcpmem.errors import ConfigError
from xcpmem.scenario import Scenario, load_scenario, parse_scenario
from xcpmem.script import ScriptCall
from xcpmem.specs import AgentKind, BalloonSpec, DomainType, GuestSpec, HostSpec, LoadPoint
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from pathlib import Path

GUEST = "[[guest]]\ndomid = 1\ndynamic_min_kib = 1000\ndynamic_max_kib = 3000\n"

EVERYTHING = """
name = "two guests, one deaf"
seed = 7
tick_s = 0.5
deadline_s = 60
policy = "proportional"
[host]
total_kib = 16777216
free_kib = 1000
slush_kib = 10
scrub_kib_s = 2.5
[[guest]]
domid = 2
uuid = "0f4b1a56-9d7c-4e0e-8a6e-2f6d5f0f8d11"
name_label = "two"
vcpus = 4
domain_type = "pv_in_pvh"
static_min_kib = 500
dynamic_min_kib = 1000
dynamic_max_kib = 3000
static_max_kib = 4000
target_kib = 2500
actual_kib = 2400
weight = 3
load = [[0, 524288], [30.5, 2097152]]
agent = { kind = "meminfo", period_s = 12 }
[guest.balloon]
rate_kib_s = 100
delay_s = 1.5
floor_kib = 200
ceiling_kib = 300
stuck = true
period_s = 2
inaccuracy_kib = 0
feature = false
[[guest]]
domid = 1
dynamic_min_kib = 1
dynamic_max_kib = 2
[[script]]
at_s = 1
call = "reserve_memory_range"
args = { min_kib = 1, max_kib = 2, as = "r1" }
[[script]]
at_s = 2
call = "balance_memory"
"""


def parse(text: str) -> Scenario:
    return parse_scenario(text, where="file.toml", name="file")


def script_line(call: str, args: str = "") -> str:
    return f'[[script]]\nat_s = 1\ncall = "{call}"\nargs = {{ {args} }}\n'


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_a_file_says_everything_there_is_to_say() -> None:
    scenario = parse(EVERYTHING)
    assert (scenario.name, scenario.seed, scenario.tick_s, scenario.deadline_s) == (
        "two guests, one deaf",
        7,
        0.5,
        60.0,
    )
    assert scenario.host == HostSpec(total_kib=16777216, free_kib=1000, slush_kib=10, scrub_kib_s=2.5)
    first, second = scenario.guests
    assert first.domid == 1
    assert second.balloon == BalloonSpec(
        rate_kib_s=100,
        delay_s=1.5,
        floor_kib=200,
        ceiling_kib=300,
        stuck=True,
        period_s=2,
        inaccuracy_kib=0,
        feature=False,
    )
    assert second.load == (LoadPoint(0.0, 524288), LoadPoint(30.5, 2097152))
    assert (second.agent.kind, second.agent.period_s) == (AgentKind.MEMINFO, 12.0)
    assert second.domain_type is DomainType.PV_IN_PVH
    assert scenario.uuid_of(second) == "0f4b1a56-9d7c-4e0e-8a6e-2f6d5f0f8d11"
    assert scenario.script == (
        ScriptCall(1.0, script.ReserveMemoryRange(min_kib=1, max_kib=2, as_name="r1")),
        ScriptCall(2.0, script.BalanceMemory()),
    )


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    scenario = parse(GUEST)
    assert scenario == Scenario(
        name="file",
        seed=1,
        tick_s=0.1,
        deadline_s=120.0,
        policy="proportional",
        host=HostSpec(total_kib=76728, free_kib=73728, slush_kib=73728, scrub_kib_s=0.0),
        guests=(
            GuestSpec(
                domid=1,
                dynamic_min_kib=1000,
                dynamic_max_kib=3000,
                static_min_kib=0,
                static_max_kib=3000,
                target_kib=3000,
                actual_kib=3000,
                weight=1,
                balloon=BalloonSpec(
                    rate_kib_s=524288,
                    delay_s=0,
                    floor_kib=0,
                    ceiling_kib=0,
                    stuck=False,
                    period_s=0,
                    inaccuracy_kib=4,
                    feature=True,
                ),
                vcpus=1,
                domain_type=DomainType.PVH,
                name_label="guest-1",
            ),
        ),
    )


def test_an_empty_file_is_an_empty_host() -> None:
    assert parse("").guests == ()


def test_a_target_is_what_actual_follows() -> None:
    (guest,) = parse(GUEST + "target_kib = 1200\n").guests
    assert (guest.actual_kib, guest.static_max_kib) == (1200, 3000)


def test_memory_that_nobody_accounts_for_is_others() -> None:
    assert parse("[host]\ntotal_kib = 100000\n" + GUEST).others_kib == 100000 - 73728 - 3000
    assert parse(GUEST).others_kib == 0


def test_uuids_depend_on_seed_and_domid_alone() -> None:
    uuids = {
        (seed, guest.domid): scenario.uuid_of(guest)
        for seed in (1, 2)
        for scenario in [parse(f"seed = {seed}\n" + GUEST + GUEST.replace("domid = 1", "domid = 2"))]
        for guest in scenario.guests
    }
    again = parse(GUEST + "vcpus = 7\n")
    assert len(set(uuids.values())) == 4
    assert again.uuid_of(again.guests[0]) == uuids[1, 1]


@pytest.mark.parametrize(
    ("call", "args", "expected"),
    [
        ("reserve_memory", 'size_kib = 5, as = "a"', script.ReserveMemory(size_kib=5, as_name="a")),
        ("reserve_memory", "size_kib = 5", script.ReserveMemory(size_kib=5)),
        ("reserve_memory_range", "min_kib = 9, max_kib = 2", script.ReserveMemoryRange(min_kib=9, max_kib=2)),
        (
            "transfer_reservation_to_domain",
            'reservation = "a", domid = 70000',
            script.TransferReservation(reservation="a", domid=70000),
        ),
        ("delete_reservation", 'reservation = "a"', script.DeleteReservation(reservation="a")),
        ("delete_reservation", "domid = 3", script.DeleteReservation(domid=3)),
        (
            "delete_reservation",
            'reservation = "a", domid = 3',
            script.DeleteReservation(reservation="a", domid=3),
        ),
        ("query_reservation_of_domain", "domid = 3", script.QueryReservation(domid=3)),
        ("query_reservation_of_domain", 'reservation = "a"', script.QueryReservation(reservation="a")),
        (
            "query_reservation_of_domain",
            'reservation = "a", domid = 3',
            script.QueryReservation(reservation="a", domid=3),
        ),
        ("get_host_reserved_memory", "", script.GetHostReservedMemory()),
        ("get_host_initial_free_memory", "", script.GetHostInitialFreeMemory()),
        ("get_domain_zero_policy", "", script.GetDomainZeroPolicy()),
        ("get_diagnostics", "", script.GetDiagnostics()),
        ("kill_daemon", "", script.KillDaemon(down_s=0.0)),
        ("kill_daemon", "down_s = 2", script.KillDaemon(down_s=2.0)),
        (
            "set_dynamic_range",
            "domid = 1, min_kib = 2, max_kib = 3",
            script.SetDynamicRange(domid=1, min_kib=2, max_kib=3),
        ),
        (
            "set_balloon",
            "domid = 1, stuck = true, delay_s = 2",
            script.SetBalloon(domid=1, changes={"stuck": True, "delay_s": 2.0}),
        ),
        (
            "set_policy",
            'name = "shares", tax = 0.75',
            script.SetPolicy(name="shares", parameters={"tax": 0.75}),
        ),
        ("take_memory", "size_kib = 9", script.TakeMemory(size_kib=9)),
        ("shutdown", "domid = 1", script.Shutdown(domid=1)),
        (
            "start",
            "guest = { domid = 3, dynamic_min_kib = 1, dynamic_max_kib = 2 }",
            script.Start(guest=GuestSpec(domid=3, dynamic_min_kib=1, dynamic_max_kib=2)),
        ),
    ],
)
def test_each_call_is_read_with_its_arguments(call: str, args: str, expected: script.Call) -> None:
    assert parse(script_line(call, args)).script == (ScriptCall(1.0, expected),)


UUID_LINE = "uuid = '0f4b1a56-9d7c-4e0e-8a6e-2f6d5f0f8d11'\n"

BAD_FILES = (
    ("no toml", "is not TOML"),
    ("nmae = 'x'", "nmae: is not a key here"),
    ("name = ''", "name: must be text"),
    ("seed = 1.5", "seed: must be a whole number"),
    ("seed = true", "seed: must be a whole number"),
    ("tick_s = 0", "tick_s: must be more than 0"),
    ("tick_s = nan", "tick_s: must be a number"),
    ("tick_s = -1", "tick_s: must be a number"),
    ("deadline_s = inf", "deadline_s: must be a number"),
    ("deadline_s = '120'", "deadline_s: must be a number"),
    ("host = 3", "host: must be a table"),
    ("[host]\nfree_kib = -1", "host.free_kib: must be a whole number"),
    ("[host]\nfree_kib = 1.5", "host.free_kib: must be a whole number"),
    ("[host]\nfree_mib = 1", "host.free_mib: is not a key here"),
    ("[host]\ntotal_kib = 5\nfree_kib = 6", "host.total_kib: 5 is below free + sum of actual 6"),
    ("guest = 1", "guest: must be a list"),
    ("guest = [1]", "guest[0]: must be a table"),
    ("guests = []", "guests: is not a key here"),
    ("[[guest]]\ndynamic_min_kib = 1\ndynamic_max_kib = 2", "guest[0].domid: is missing"),
    ("[[guest]]\ndomid = 1\ndynamic_max_kib = 2", "guest[0].dynamic_min_kib: is missing"),
    (GUEST.replace("domid = 1", "domid = -1"), "guest[0].domid: must be a whole number from 0"),
    (GUEST.replace("domid = 1", "domid = 32752"), "guest[0].domid: must be 0 to 32751"),
    (GUEST.replace("domid = 1", "domid = 1.0"), "guest[0].domid: must be a whole number"),
    (GUEST + GUEST, "domid: 1 is there twice"),
    (GUEST + "dynamic_min_kb = 3", "guest[0].dynamic_min_kb: is not a key here"),
    (
        GUEST.replace("3000", "999"),
        "guest[0].dynamic_max_kib: 999 is below dynamic_min_kib 1000",
    ),
    (GUEST + "static_max_kib = 2999", "guest[0].static_max_kib: 2999 is below dynamic_max_kib 3000"),
    (GUEST + "static_min_kib = 1001", "guest[0].dynamic_min_kib: 1000 is below static_min_kib 1001"),
    (GUEST + "has_static_max = true", "guest[0].has_static_max: is not a key here"),
    (GUEST + "weight = 0", "guest[0].weight: must be a whole number"),
    (GUEST + "vcpus = 0", "guest[0].vcpus: must be a whole number"),
    (GUEST + "uuid = 'x'", "guest[0].uuid: must be a uuid"),
    (
        GUEST + "uuid = '0F4B1A56-9d7c-4e0e-8a6e-2f6d5f0f8d11'",
        "guest[0].uuid: must be spelled 0f4b1a56-9d7c-4e0e-8a6e-2f6d5f0f8d11",
    ),
    (GUEST + UUID_LINE + GUEST.replace("domid = 1", "domid = 2") + UUID_LINE, "uuid: is there twice"),
    (GUEST + "domain_type = 'qemu'", "guest[0].domain_type: must be one of hvm, pv, pv_in_pvh, pvh"),
    (GUEST + "balloon = { rate = 1 }", "guest[0].balloon.rate: is not a key here"),
    (GUEST + "balloon = { stuck = 1 }", "guest[0].balloon.stuck: must be true or false"),
    (GUEST + "balloon = { rate_kib_s = nan }", "guest[0].balloon.rate_kib_s: must be a number"),
    (GUEST + "agent = { kind = 'x' }", "guest[0].agent.kind: must be one of none, meminfo, events"),
    (GUEST + "agent = { kind = [] }", "guest[0].agent.kind: must be one of"),
    (GUEST + "agent = { kind = 'meminfo', period_s = 0 }", "guest[0].agent.period_s: must be more"),
    (GUEST + "load = [[0]]", "guest[0].load[0]: must be [time, KiB], or [time, KiB, cache KiB, cold KiB]"),
    (GUEST + "load = [[0, 1, 2, 3, 4]]", "guest[0].load[0]: must be [time, KiB], or [time, KiB, cache KiB"),
    (GUEST + "load = [[0, 1, -2]]", "guest[0].load[0]: must be a whole number from 0 to"),
    (GUEST + "load = [[0, -4]]", "guest[0].load[0]: must be a whole number"),
    (GUEST + "load = [[1, 4], [1, 5]]", "guest[0].load: times must rise"),
    ("script = {}", "script: must be a list"),
    ("script = [3]", "script[0]: must be a table"),
    ("[[script]]\ncall = 'balance_memory'", "script[0].at_s: is missing"),
    ("[[script]]\nat_s = 1", "script[0].call: is missing"),
    ("[[script]]\nat_s = -1\ncall = 'balance_memory'", "script[0].at_s: must be a number"),
    ("[[script]]\nat_s = 1\ncall = 'login'", "script[0].call: must be one of reserve_memory,"),
    ("[[script]]\nat_s = 1\ncall = 'balance_memory'\nwho = 1", "script[0].who: is not a key here"),
    ("[[script]]\nat_s = 1\ncall = 'balance_memory'\nargs = 1", "script[0].args: must be a table"),
    (script_line("balance_memory", "x = 1"), "script[0].args.x: is not a key here"),
    (script_line("reserve_memory"), "script[0].args.size_kib: is missing"),
    (script_line("reserve_memory", "size_kib = -1"), "script[0].args.size_kib: must be a whole number"),
    (script_line("reserve_memory_range", "min_kib = 1"), "script[0].args.max_kib: is missing"),
    (script_line("transfer_reservation_to_domain", "domid = 1"), "script[0].args.reservation: is missing"),
    (script_line("transfer_reservation_to_domain", "reservation = 'a'"), "script[0].args.domid: is missing"),
    (script_line("delete_reservation"), "script[0].args.reservation: is missing, and so is domid: one of"),
    (script_line("query_reservation_of_domain"), "script[0].args.reservation: is missing, and so is domid"),
    (
        script_line("query_reservation_of_domain", "domid = -1"),
        "script[0].args.domid: must be a whole number",
    ),
    (script_line("set_policy"), "script[0].args.name: must be text"),
    (script_line("set_balloon", "stuck = true"), "script[0].args.domid: must be a whole number"),
    (script_line("set_balloon", "domid = 1, x = 1"), "script[0].args.x: is not a key here"),
    (script_line("start", "guest = 1"), "script[0].args.guest: must be a table"),
    (
        script_line("start", "guest = { domid = 0, dynamic_min_kib = 1, dynamic_max_kib = 2 }"),
        "script[0].args.guest.domid: 0 is domain 0, which nobody starts",
    ),
    (
        script_line("start", "guest = { domid = 3, dynamic_min_kib = 2, dynamic_max_kib = 1 }"),
        "script[0].args.guest.dynamic_max_kib: 1 is below dynamic_min_kib 2",
    ),
    (
        script_line(
            "start", "guest = { domid = 3, dynamic_min_kib = 1, dynamic_max_kib = 2, actual_kib = 2 }"
        ),
        "script[0].args.guest.actual_kib: is decided by what is granted",
    ),
)


@pytest.mark.parametrize(("text", "why"), BAD_FILES)
def test_a_bad_file_is_refused_with_file_key_and_why_on_one_line(text: str, why: str) -> None:
    said = complaint(text)
    assert said.startswith("file.toml: ")
    assert why in said
    assert "\n" not in said


def test_a_deeply_nested_file_is_refused() -> None:
    assert "is not TOML" in complaint("a = " + "[" * 100000)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load_scenario(str(tmp_path / "nowhere.toml"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml: "):
        load_scenario(str(path))


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="null byte"):
        load_scenario("a\0b")


def test_a_file_without_name_is_called_by_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "stem.toml"
    path.write_text(GUEST)
    assert load_scenario(str(path)).name == "stem"


def test_quiet_is_four_obedient_guests_at_dynamic_max_on_16_gib() -> None:
    scenario = load_scenario("quiet")
    assert scenario.host.total_kib == mib_to_kib(16384)
    assert scenario.others_kib == mib_to_kib(1024)
    assert [guest.domid for guest in scenario.guests] == [1, 2, 3, 4]
    for guest in scenario.guests:
        assert (guest.static_min_kib, guest.static_max_kib) == (mib_to_kib(512), mib_to_kib(4096))
        assert (guest.dynamic_min_kib, guest.dynamic_max_kib) == (mib_to_kib(1024), mib_to_kib(3072))
        assert (guest.target_kib, guest.actual_kib) == (mib_to_kib(3072), mib_to_kib(3072))
        assert guest.vcpus == 2
        assert guest.balloon.rate_kib_s == mib_to_kib(1024)


def test_a_fleet_has_as_many_guests_as_asked_and_room_for_them() -> None:
    scenario = load_scenario("fleet:1000")
    assert len(scenario.guests) == 1000
    assert scenario.host.free_kib > scenario.host.slush_kib
    assert {(guest.dynamic_min_kib, guest.dynamic_max_kib) for guest in scenario.guests} == {
        (mib_to_kib(64), mib_to_kib(256))
    }


@pytest.mark.parametrize("name", ["fleet:0", "fleet:32752", "fleet:x", "fleet:", "fleet:-1", "fleet:999999"])
def test_an_impossible_fleet_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be fleet:N"):
        load_scenario(name)


def test_default_is_six_guests_of_mixed_behaviour_whose_load_moves() -> None:
    scenario = load_scenario("default")
    assert scenario == load_scenario("default")
    assert len(scenario.guests) == 6
    assert scenario.host.total_kib == mib_to_kib(16384)
    assert len({guest.balloon for guest in scenario.guests}) == 6
    for guest in scenario.guests:
        wanted = {point.wanted_kib for point in guest.load}
        assert len(wanted) > 10 or guest.dynamic_min_kib == guest.dynamic_max_kib
