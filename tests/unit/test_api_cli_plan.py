"""``plan`` on the command line: what is asked, and how the answer is laid out."""

from __future__ import annotations

import json

import pytest

from tests.cli_double import DB1, WEB1, XenDouble, say

MIB = 1024
WEB = "11111111-1111-1111-1111-111111111111"
DB = "22222222-2222-2222-2222-222222222222"


class PlanningXen(XenDouble):
    """Answers ``Memory.plan`` as it was told, and keeps what it was asked."""

    def __init__(self, **answer: object) -> None:
        super().__init__()
        self.asked: list[object] = []
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
    assert line.stdout.splitlines()[0] == "Granted: 1.5 GiB"


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
    ("words", "expected"),
    [
        (["vm=nobody", "dynamic-min=1"], "No VM called 'nobody', for 'vm'"),
        (["dynamic-min=much"], "Failed to parse field 'dynamic-min': expecting an integer"),
        (["dynamic_min=1"], "Unknown parameter 'dynamic_min': plan takes vm, start,"),
    ],
)
async def test_words_that_make_no_wish_ask_nothing(words: list[str], expected: str) -> None:
    xen = PlanningXen()
    line = await say(xen, "plan", *words)
    assert expected in line.stderr
    assert (xen.asked, line.code) == ([], 1)
