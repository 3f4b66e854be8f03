"""The picture of ``top``: what it shows of a state, within the terminal, whatever names and reasons say."""

from __future__ import annotations

from typing import Any

import pytest

from xcpmem.picture import Order, Size, View, clean, draw, fit, gauge, sort

GIB = 2**30
WIDE = View(Size(200))


def a_vm(name: str = "web", **fields: Any) -> dict[str, Any]:
    return {
        "uuid": f"uuid of {name}",
        "name_label": name,
        "power_state": "Running",
        "domid": 1,
        "static_min_bytes": 0,
        "static_max_bytes": 4 * GIB,
        "dynamic_min_bytes": GIB,
        "dynamic_max_bytes": 3 * GIB,
        "target_bytes": 2 * GIB,
        "actual_bytes": 2 * GIB,
        "state": "at_target",
        "reason": "gets its share: 2 GiB, 50.0 % of the way from 1 GiB to 3 GiB",
        **fields,
    }


def a_state(*vms: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "version": "1.2.3",
        "time_s": 1010.0,
        "ring": {"turn": 7, "looked_at_s": 1008.0, "is_stable": True, "sees_host": True, "failures": []},
        "host": {
            "name_label": "xen1",
            "policy": "proportional",
            "total_bytes": 16 * GIB,
            "free_bytes": 3 * GIB,
            "scrub_bytes": GIB,
            "others_bytes": 4 * GIB,
            "reserved_bytes": GIB // 2,
        },
        "vms": list(vms or (a_vm(),)),
        "requests": [],
        **fields,
    }


def test_picture_has_the_daemon_the_host_and_each_vm_with_units() -> None:
    head, bar, figures, blank, title, row = draw(a_state(), View(Size(80)))
    assert head == "xcpmem 1.2.3  xen1  policy proportional  turn 7  seen 2 s ago  stable"
    looking = a_state()
    looking["host"]["observes"] = True
    assert draw(looking, WIDE)[0] == f"{head}  looks only, touches nothing"
    assert len(bar) == 80
    assert [bar.count(mark) for mark in "#o."] == [39, 19, 20]
    assert figures == "16 GiB:  # VMs 8 GiB  o others 4 GiB  . free 4 GiB  reserved 512 MiB"
    assert (blank, title[:40]) == ("", "VM                 holds    target 0 to ")
    assert row.startswith("web                2 GiB     2 GiB [")
    assert row.endswith("] gets its share: 2 GiB, 50.0 % of the way from 1 GiB to 3 GiB")


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(2, "[####|####...|...]"), (3, "[####|###<###|...]"), (1, "[####|...>...|...]")],
)
def test_gauge_has_ticks_and_says_where_the_guest_is_going(actual: int, expected: str) -> None:
    assert gauge(a_vm(actual_bytes=actual * GIB), 18) == expected


def test_gauge_of_a_guest_that_holds_more_than_it_ever_should_stays_in_its_frame() -> None:
    assert len(gauge(a_vm(actual_bytes=9 * GIB, target_bytes=4 * GIB), 20)) == 20


@pytest.mark.parametrize("columns", [10, 40, 79, 80, 132, 300])
@pytest.mark.parametrize("rows", [3, 10, 24, 100])
def test_picture_stays_within_the_terminal(columns: int, rows: int) -> None:
    vms = [a_vm(f"vm-{number:04d} with a long name", domid=number) for number in range(1000)]
    requests = [
        {"min_bytes": GIB, "vm_uuid": None, "owner": "x" * 99, "waits_for": "y" * 300} for _ in range(5)
    ]
    lines = draw(a_state(*vms, requests=requests), View(Size(columns, rows)))
    assert len(lines) <= rows
    assert max(map(len, lines)) <= max(columns, 60)


def test_scrolled_picture_says_which_vms_it_shows() -> None:
    vms = [a_vm(f"vm-{number:04d}", domid=number) for number in range(1000)]
    lines = draw(a_state(*vms), View(Size(80, 12), first=500))
    assert lines[-1] == "VMs 501 to 506 of 1000"
    assert lines[5].startswith("vm-0500")
    assert draw(a_state(*vms), View(Size(80, 12), first=5000))[-2].startswith("vm-0998")


def test_plain_picture_is_whole_and_without_a_single_escape() -> None:
    vms = [a_vm(f"vm-{number}", domid=number) for number in range(100)]
    lines = draw(a_state(*vms), WIDE)
    assert len(lines) == 105
    assert "\x1b" not in "".join(lines)


def test_colours_are_only_for_those_who_want_them() -> None:
    stuck = a_vm(state="stuck")
    assert "\x1b[31m" in "".join(draw(a_state(stuck), View(Size(80), is_coloured=True)))
    assert "\x1b" not in "".join(draw(a_state(stuck), View(Size(80))))


def test_old_state_is_said_to_be_old_and_failures_are_shown() -> None:
    ring = a_state()["ring"] | {"sees_host": False, "failures": [{"text": "cannot see the host: late"}]}
    lines = draw(a_state(ring=ring), View(Size(80), complaint="OLD: no answer for 5 s: refused"))
    assert lines[1:3] == ["OLD: no answer for 5 s: refused", "cannot see the host: late"]


def test_before_the_first_look_there_is_a_picture_as_well() -> None:
    state = a_state(ring={"turn": 0, "sees_host": False, "failures": []})
    state["host"] = {"name_label": "xen1", "policy": "proportional"}
    state["vms"] = []
    assert draw(state, View(Size(80)))[1] == "the host was not seen yet"


def test_names_cannot_command_the_terminal() -> None:
    evil = a_vm("\x1b[2Jgone\r\nnext", reason="\x07bell\x9b2J")
    lines = draw(a_state(evil), WIDE)
    assert "?[2Jgone??next" in lines[-1]
    assert all(letter.isprintable() for line in lines for letter in line)


def test_letters_that_take_two_columns_are_counted_so() -> None:
    assert fit("数据库服务器", 7) == "数据库~"
    assert fit("e\u0301tat", 4) == "e\u0301tat"
    assert clean("naïve") == "naïve"


def test_vms_are_sorted_by_name_size_or_who_needs_a_person_and_halted_ones_left_out() -> None:
    vms = [
        a_vm("b", actual_bytes=1, state="at_target"),
        a_vm("C", actual_bytes=3, state="stuck"),
        a_vm("a", actual_bytes=2, state="moving"),
        a_vm("off", domid=None),
    ]
    assert [vm["name_label"] for vm in sort(vms, Order.NAME)] == ["a", "b", "C"]
    assert [vm["name_label"] for vm in sort(vms, Order.HOLDS)] == ["C", "a", "b"]
    assert [vm["name_label"] for vm in sort(vms, Order.STATE)] == ["C", "a", "b"]
