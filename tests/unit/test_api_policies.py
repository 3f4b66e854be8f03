"""Policies over XenAPI and on the command line, down to the ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.apistack import PASSWORD, running_stack
from tests.cli_double import say
from xcpmem.errors import InvalidValue, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.apistack import Stack
    from tests.cli_double import Line, XenDouble


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


async def command(stack: Stack, *words: str) -> Line:
    """Type a command to the real thing."""
    login = ("username=root", f"password={PASSWORD}")
    return await say(cast("XenDouble", stack.dispatcher), *words, login=login)


async def test_policy_is_chosen_and_told_over_xenapi(stack: Stack) -> None:
    session = await stack.login()
    await stack.call("Memory.set_policy", session, "shares", {"idle_tax_percent": "60"})
    policy = cast("dict[str, str]", await stack.call("Memory.get_policy", session))
    assert (policy["name"], policy["idle_tax_percent"], policy["period_s"]) == ("shares", "60", "5.0")
    policies = cast("dict[str, str]", await stack.call("Memory.get_policies", session))
    assert list(policies) == ["proportional", "shares", "pressure"]


async def test_next_turn_of_the_ring_divides_by_the_new_policy(stack: Stack) -> None:
    session = await stack.login()
    await stack.call("Memory.set_policy", session, "pressure", {})
    report = await stack.controller.next_report(stack.controller.report.number, 10)  # type: ignore[union-attr]
    assert report is not None
    assert report.stance.policy.name == "pressure"
    ref = stack.vm("web1").ref
    told = await stack.call("Memory.explain", session, ref)
    assert "it gets 3 GiB: it says nothing of its memory and has exactly its share." in str(told)


async def test_bad_parameter_is_named_and_the_policy_stays(stack: Stack) -> None:
    session = await stack.login()
    with pytest.raises(InvalidValue) as refused:
        await stack.call("Memory.set_policy", session, "shares", {"idle_tax_percent": "101"})
    assert refused.value.params == ("idle_tax_percent", "101")
    assert await stack.call("Memory.get_policy", session) == {"name": "proportional"}


async def test_reader_may_look_and_not_choose(stack: Stack) -> None:
    session = await stack.login("reader")
    assert await stack.call("Memory.get_policy", session) == {"name": "proportional"}
    with pytest.raises(PermissionDenied):
        await stack.call("Memory.set_policy", session, "shares", {})


async def test_command_sets_a_policy_and_lists_it_with_its_parameters(stack: Stack) -> None:
    line = await command(stack, "policy-set", "policy=shares", "idle_tax_percent=60")
    assert (line.stdout, line.stderr, line.code) == ("", "", 0)
    line = await command(stack, "policy-list")
    blocks = [block.splitlines() for block in line.stdout.strip().split("\n\n\n")]
    assert [rows[0].split(": ")[1] for rows in blocks] == ["proportional", "shares", "pressure"]
    cells = [row.split(": ", 1) for row in blocks[1]]
    shares = {label.split(" ( R")[0].strip(): value for label, value in cells}
    assert shares["in-force"] == "true"
    assert shares["idle_tax_percent"].startswith("60; default 75 (a whole number from 0 to 99): ")
    line = await command(stack, "policy-list", "--minimal")
    assert line.stdout == "pressure,shares,proportional\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["policy=fair"], "No policy called 'fair'. There are: proportional, shares, pressure"),
        (
            ["policy=shares", "tax=5"],
            "Unknown parameter 'tax'. Those of policy shares: idle_tax_percent, room_percent,",
        ),
        (
            ["policy=shares", "idle_tax_percent=x"],
            "Failed to parse parameter 'idle_tax_percent': got 'x', the default is 75 (a whole number from",
        ),
    ],
)
@pytest.mark.parametrize("name", ["policy-set", "plan"])
async def test_command_that_does_not_work_says_what_would(
    stack: Stack, name: str, words: list[str], text: str
) -> None:
    line = await command(stack, name, *words)
    assert text in line.stderr
    assert line.code == 1
    policy: Any = await stack.call("Memory.get_policy", await stack.login())
    assert policy["name"] == "proportional"
