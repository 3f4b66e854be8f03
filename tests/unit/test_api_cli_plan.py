"""``plan`` on the command line: what is asked, and how the answer is laid out."""

from __future__ import annotations

import json

import pytest

from tests.cli_double import DB1, WEB1, XenDouble, say
from xcpmem.errors import InvalidValue, XcpmemError

MIB = 1024
WEB = "11111111-1111-1111-1111-111111111111"
DB = "22222222-2222-2222-2222-222222222222"


class PlanningXen(XenDouble):
    """Answers ``Memory.plan`` as it was told, and keeps what it was asked."""

    def __init__(self, **answer: object) -> None:
        super().__init__()
        self.asked: list[object] = []
        self.refusal: XcpmemError | None = None
        self.answer = {
            "feasible": True,
            "error": None,
            "granted_kib": None,
            "domains": {
                DB: {"name_label": "db", "before_kib": 2048 * MIB, "after_kib": 2048 * MIB, "reason": "sits"},
                WEB: {
                    "name_label": "web",
                    "before_kib": 3072 * MIB,
                    "after_kib": 2048 * MIB,
                    "reason": "gives",
                },
            },
        } | answer

    async def call(self, method, params, *, peer):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 as its parent
        if method == "Memory.plan" and self.refusal is not None:
            raise self.refusal
        if method == "Memory.plan":
            self.asked += params[1:]
            return json.dumps(self.answer)
        return await super().call(method, params, peer=peer)


async def test_table_shows_first_who_would_change_with_units_and_reasons() -> None:
    line = await say(PlanningXen(), "plan", "vm=web1", "dynamic-max=2GiB")
    assert line.stdout.splitlines() == [
        "VM   holds  would hold  change  because it",
        "web  3 GiB       2 GiB  -1 GiB  gives",
        "db   2 GiB       2 GiB          sits",
        "Nothing was changed.",
    ]
    assert line.code == 0


async def test_words_become_wishes_in_the_units_of_the_call() -> None:
    xen = PlanningXen()
    await say(xen, "plan", "vm=web1", "dynamic-min=1GiB", f"start={DB}", "policy=proportional")
    await say(xen, "plan", "reserve-min=1GiB", "reserve-max=1.5GiB".replace("1.5GiB", "1536MiB"))
    assert xen.asked == [
        {"vm": WEB, "dynamic_min": str(2**30), "start": DB, "policy": "proportional"},
        {"reserve_min_kib": str(2**20), "reserve_max_kib": str(1536 * MIB)},
    ]


async def test_other_words_beside_a_policy_are_its_parameters() -> None:
    xen = PlanningXen()
    await say(xen, "plan", "policy=shares", "idle_tax_percent=60")
    assert xen.asked == [{"policy": "shares", "policy:idle_tax_percent": "60"}]
    assert (await say(xen, "plan", "idle_tax_percent=60")).code == 1


async def test_a_policy_that_errs_is_told_apart_from_xcps_rule_that_decides_for_it() -> None:
    line = await say(PlanningXen(trouble="RuntimeError: boom"), "plan", "policy=rude")
    assert line.stderr == "Policy rude erred, so XCP's rule decides in its place: RuntimeError: boom\n"
    assert line.stdout.splitlines()[-1] == "Nothing was changed."


async def test_grant_is_told_before_the_table() -> None:
    line = await say(PlanningXen(granted_kib=1536 * MIB), "plan", "reserve-min=1GiB", "reserve-max=2GiB")
    assert line.stdout.splitlines()[0] == "Would be granted: 1.5 GiB"


async def test_minimal_gives_sizes_in_kib_by_uuid() -> None:
    line = await say(PlanningXen(), "plan", "--minimal")
    assert line.stdout == f"{DB}=2097152,{WEB}=2097152\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ["HOST_NOT_ENOUGH_FREE_MEMORY", "10", "5"],
            ["It cannot be done.", "The host has not enough memory", "needed: 10", "available: 5"],
        ),
        (["VMS_FAILED_TO_COOPERATE", WEB1, DB1], [f"VM: {WEB} (web1)", f"VM: {DB} (db1, old)"]),
        (["NEW_CODE", "x"], ["It cannot be done.", "NEW_CODE: x"]),
    ],
)
async def test_what_cannot_be_is_said_in_words_with_exit_code_one(
    error: list[str], expected: list[str]
) -> None:
    line = await say(PlanningXen(feasible=False, error=error), "plan", "reserve-min=9GiB")
    assert (line.stdout, line.code) == ("", 1)
    assert [text for text in expected if text not in line.stderr] == []


@pytest.mark.parametrize(
    ("words", "wish", "error", "advice"),
    [
        (
            ["vm=web1", "dynamic-min=3GiB", "dynamic-max=2GiB"],
            "vm",
            ["MEMORY_CONSTRAINT_VIOLATION_ORDER"],
            "dynamic-min 3 GiB is above dynamic-max 2 GiB; give sizes that keep the order",
        ),
        (
            ["vm=web1", "dynamic-max=6GiB"],
            "vm",
            ["MEMORY_CONSTRAINT_VIOLATION_ORDER"],
            "dynamic-max 6 GiB is above static-max 4 GiB; raise static-max first, the VM must be halted",
        ),
        (
            ["vm=web1", "dynamic-min=2GiB", "reserve-min=1GiB"],
            "vm",
            ["HOST_NOT_ENOUGH_FREE_MEMORY", "1048576", "524288"],
            "1 GiB (1048576 KiB) are needed and 512 MiB (524288 KiB) can be had, 512 MiB too little: ",
        ),
        (
            ["vm=web1", "dynamic-min=2GiB", "reserve-min=20GiB"],
            "reserve_min_kib",
            ["HOST_NOT_ENOUGH_FREE_MEMORY", "21474836480", "1073741824"],
            "20 GiB (21474836480 bytes) are needed and 1 GiB (1073741824 bytes) can be had, 19 GiB too ",
        ),
        (
            ["start=web1"],
            "start",
            ["VM_BAD_POWER_STATE", WEB1, "halted", "running"],
            "web1 is running: shut it down first (vm-shutdown)",
        ),
    ],
)
async def test_refused_plan_says_what_the_real_command_would(
    words: list[str], wish: str, error: list[str], advice: str
) -> None:
    line = await say(PlanningXen(feasible=False, error=error, wish=wish), "plan", *words)
    assert line.stderr.startswith("It cannot be done.\n")
    assert f": {advice}" in line.stderr
    assert line.code == 1


@pytest.mark.parametrize(
    ("words", "field", "expected"),
    [
        (
            ["reserve-min=2GiB", "reserve-max=1GiB"],
            "reserve_max_kib",
            "reserve-min 2 GiB is above reserve-max 1 GiB: give sizes that keep the order",
        ),
        (["reserve-max=1GiB"], "reserve_min_kib", "reserve-max= needs reserve-min= beside it"),
        (["dynamic-max=1GiB"], "vm", "dynamic-min and dynamic-max are those of a VM: name it with vm="),
        (
            ["vm=web1"],
            "dynamic_min",
            "vm= needs dynamic-min=, dynamic-max= or both: the range that is to be tried",
        ),
        (
            [f"start={DB}", "reserve-min=1GiB"],
            "start",
            "start= reserves what the VM needs: give it without reserve-min=",
        ),
    ],
)
async def test_words_that_do_not_fit_each_other_are_named_as_they_were_typed(
    words: list[str], field: str, expected: str
) -> None:
    xen = PlanningXen()
    xen.refusal = InvalidValue(field, "")
    line = await say(xen, "plan", *words)
    assert (line.stdout, line.stderr, line.code) == ("", f"Error: {expected}\n", 1)


async def test_wish_that_is_refused_for_another_reason_is_told_as_it_is() -> None:
    xen = PlanningXen()
    xen.refusal = InvalidValue("requests waiting", 1000)
    line = await say(xen, "plan")
    assert line.stderr == "The value is out of its range.\nfield: requests waiting\nvalue: 1000\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vm=nobody", "dynamic-min=1GiB"], "No VM called 'nobody', for 'vm'"),
        (["dynamic-min=much"], "Failed to parse field 'dynamic-min': expecting an integer"),
        (
            ["reserve-min=2"],
            "Failed to parse field 'reserve-min': 2 bytes is less than 1 MiB; sizes are bytes",
        ),
        (["vm=web1", "dynamic-min=1"], "Failed to parse field 'dynamic-min': 1 byte is less than 1 MiB"),
        (["dynamic_min=1"], "Unknown parameter 'dynamic_min': plan takes vm, start,"),
    ],
)
async def test_words_that_make_no_wish_ask_nothing(words: list[str], expected: str) -> None:
    xen = PlanningXen()
    line = await say(xen, "plan", *words)
    assert expected in line.stderr
    assert (xen.asked, line.code) == ([], 1)
