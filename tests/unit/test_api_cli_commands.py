"""Commands that act on selected objects: which they take, which calls they make, what they print."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.cli_double import DB1, DOM0, GIB, HOST, TEMPLATE, WEB1, XenDouble, say, vm_record
from xcpmem.errors import BadPowerState, ConstraintOrder, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.api.sessions import Peer
    from xcpmem.api.values import Value

MIB = 2**20
UUID1 = "11111111-1111-1111-1111-111111111111"
UUID2 = "22222222-2222-2222-2222-222222222222"


class Odd(XcpmemError):
    code = "ODD_THING"


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (
            [
                "vm-memory-limits-set",
                "static-min=1MiB",
                "static-max=4MiB",
                "dynamic-min=2MiB",
                "dynamic-max=3MiB",
            ],
            ("VM.set_memory_limits", WEB1, MIB, 4 * MIB, 2 * MIB, 3 * MIB),
        ),
        (
            ["vm-memory-dynamic-range-set", "min=1g", "max=2g"],
            ("VM.set_memory_dynamic_range", WEB1, GIB, 2 * GIB),
        ),
        (
            ["vm-memory-static-range-set", "max=2g", "min=1g"],
            ("VM.set_memory_static_range", WEB1, GIB, 2 * GIB),
        ),
        (["vm-memory-set", "memory=12345"], ("VM.set_memory", WEB1, 12345)),
        (["vm-memory-target-set", "target=1g"], ("VM.set_memory_dynamic_range", WEB1, GIB, GIB)),
        (["vm-memory-balloon", "target=1g"], ("VM.set_memory_dynamic_range", WEB1, GIB, GIB)),
        (["vm-memory-target-wait"], ("VM.wait_memory_target_live", WEB1)),
        (["vm-memory-shadow-multiplier-set", "multiplier=1.5"], ("VM.set_shadow_multiplier_live", WEB1, 1.5)),
        (["vm-start"], ("VM.start", WEB1, False, False)),
        (["vm-start", "paused=true", "--force"], ("VM.start", WEB1, True, True)),
        (["vm-start", "on=xen1"], ("VM.start_on", WEB1, HOST, False, False)),
        (["vm-start", "on=xen1.example", "paused=t"], ("VM.start_on", WEB1, HOST, True, False)),
        (["vm-shutdown"], ("VM.clean_shutdown", WEB1)),
        (["vm-shutdown", "--force"], ("VM.hard_shutdown", WEB1)),
        (["vm-shutdown", "force=true"], ("VM.hard_shutdown", WEB1)),
        (["vm-reboot"], ("VM.clean_reboot", WEB1)),
        (["vm-reboot", "--force"], ("VM.hard_reboot", WEB1)),
        (["vm-pause"], ("VM.pause", WEB1)),
        (["vm-unpause"], ("VM.unpause", WEB1)),
    ],
)
async def test_command_makes_one_call_and_prints_nothing(
    words: list[str], change: tuple[object, ...]
) -> None:
    xen = XenDouble()
    line = await say(xen, *words, "vm=web1")
    assert xen.changes == [change]
    assert (line.stdout, line.stderr, line.code) == ("", "", 0)


async def test_start_on_a_host_that_is_not_there_starts_nothing() -> None:
    xen = XenDouble()
    line = await say(xen, "vm-start", "vm=web1", "on=elsewhere")
    assert (line.stdout, line.stderr, line.code) == ("", "Error: Host 'elsewhere' not found\n", 1)
    assert xen.changes == []


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["vm-compute-memory-overhead", "vm=web1"], "VM.compute_memory_overhead"),
        (["host-compute-free-memory"], "host.compute_free_memory"),
        (["host-compute-memory-overhead", "host=xen1.example"], "host.compute_memory_overhead"),
    ],
)
async def test_computed_number_is_printed_but_hidden_by_minimal(words: list[str], method: str) -> None:
    xen = XenDouble()
    xen.answers[method] = 8589934592
    assert (await say(xen, *words)).stdout == "8589934592\n"
    assert (await say(xen, *words, "--minimal")).stdout == "\n"


@pytest.mark.parametrize(
    ("words", "is_approximate"),
    [([], False), (["approximate=true"], True), (["--approximate"], True), (["approximate=f"], False)],
)
async def test_maximum_memory_is_printed_even_with_minimal(words: list[str], is_approximate: bool) -> None:
    xen = XenDouble()
    xen.answers["VM.maximise_memory"] = 42
    for minimal in ([], ["--minimal"]):
        line = await say(xen, "vm-compute-maximum-memory", f"uuid={UUID1}", "total=8GiB", *words, *minimal)
        assert line.stdout == "42\n"
    assert xen.changes == [("VM.maximise_memory", WEB1, 8 * GIB, is_approximate)] * 2


@pytest.mark.parametrize(
    "selector",
    [
        "vm=web1",
        f"vm={UUID1}",
        f"uuid={UUID1}",
        "name-label=web1",
        "power-state=running",
        "other-config:owner=ann",
        "other-config-owner=ann",
        "tags:contains=blue",
        "memory-actual=1258291200",
        "dom-id=3",
        "resident-on=55555555-5555-5555-5555-555555555555",
        "memory-target=1073741824",
    ],
)
async def test_selector_finds_the_one_vm(selector: str) -> None:
    xen = XenDouble()
    line = await say(xen, "vm-memory-set", "memory=1", selector, "is-control-domain=false", "dom-id=3")
    assert (line.stderr, line.code) == ("", 0)
    assert xen.changes == [("VM.set_memory", WEB1, 1)]


@pytest.mark.parametrize(
    ("command", "ref", "is_taken"),
    [
        ("vm-memory-set memory=1", TEMPLATE, True),
        ("vm-start", DOM0, True),
        ("vm-start", TEMPLATE, False),
        ("vm-shutdown", DOM0, False),
        ("vm-reboot --force", DOM0, False),
        ("vm-pause", DOM0, False),
        ("vm-unpause", TEMPLATE, False),
        ("vm-memory-set memory=1", DOM0, True),
        ("vm-memory-limits-set static-min=1 static-max=1 dynamic-min=1 dynamic-max=1", TEMPLATE, True),
        ("vm-memory-dynamic-range-set min=1 max=1", TEMPLATE, True),
        ("vm-memory-static-range-set min=1 max=1", DOM0, True),
        ("vm-memory-target-set target=1", DOM0, True),
        ("vm-memory-target-set target=1", TEMPLATE, False),
        ("vm-memory-target-wait", DOM0, True),
        ("vm-memory-target-wait", TEMPLATE, False),
        ("vm-memory-shadow-multiplier-set multiplier=2", DOM0, False),
        ("vm-memory-shadow-multiplier-set multiplier=2", TEMPLATE, False),
        ("vm-compute-memory-overhead", DOM0, True),
        ("vm-compute-maximum-memory total=1", DOM0, False),
    ],
)
async def test_templates_and_control_domains_are_taken_as_xe_does(
    command: str, ref: str, is_taken: bool
) -> None:
    xen = XenDouble()
    xen.answers.update({"VM.compute_memory_overhead": 1, "VM.maximise_memory": 1})
    line = await say(xen, *command.split(), f"vm={xen.records['VM'][ref]['uuid']}")
    assert [change[1] for change in xen.changes] == ([ref] if is_taken else [])
    assert line.stderr == ("" if is_taken else "Error: No matching VMs found\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vm=nobody"], "No matching VMs found"),
        (["power-state=paused"], "No matching VMs found"),
        ([], "Multiple matches VMs found. --multiple required to complete the operation"),
        (["multiple=false"], "Multiple matches VMs found. --multiple required to complete the operation"),
        (["name=web1"], "Unknown field 'name'"),
        (["name-label:x=web1"], "Field 'name-label' is not a set or map"),
        (["names:x=web1"], "Unknown field 'names:x'"),
        (
            ["tags:has=blue"],
            "Invalid syntax for set filtering (should be set-param:contains=key)",
        ),
    ],
)
async def test_selection_that_does_not_work_is_told_and_nothing_done(words: list[str], text: str) -> None:
    xen = XenDouble()
    line = await say(xen, "vm-memory-set", "memory=1", *words)
    assert (line.stdout, line.stderr, line.code) == ("", f"Error: {text}\n", 1)
    assert xen.changes == []


async def test_multiple_goes_through_all_that_match() -> None:
    xen = XenDouble()
    line = await say(xen, "vm-memory-target-set", "target=1g", "--multiple", "is-control-domain=false")
    assert [change[1] for change in xen.changes] == [WEB1, DB1]
    assert line.code == 0


async def test_multiple_tells_each_failure_on_standard_output_and_does_the_rest() -> None:
    xen = XenDouble()
    xen.records["VM"]["OpaqueRef:new"] = vm_record("99999999-9999-9999-9999-999999999999", "new")
    xen.failures[f"VM.set_memory {WEB1}"] = BadPowerState(WEB1, "halted", "running")
    xen.failures[f"VM.set_memory {DB1}"] = Odd("so")
    line = await say(
        xen, "vm-memory-set", "memory=1g", "--multiple", "is-control-domain=false", "is-a-template=false"
    )
    assert line.stdout == (
        f"operation failed on {UUID1}: The VM is in a power state that forbids this.\n"
        f"vm: {UUID1} (web1)\nexpected: halted\nactual: running\n"
        f"operation failed on {UUID2}: ODD_THING: [ so ]\n"
    )
    assert (line.stderr, line.code) == ("", 1)
    assert [change[1] for change in xen.changes] == ["OpaqueRef:new"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["vm-memory-set", "memory=4 GB!"],
            (
                "Failed to parse field 'memory': expecting an integer"
                " (possibly with suffix KiB, MiB, GiB, TiB), got '4 GB!'"
            ),
        ),
        (
            ["vm-memory-shadow-multiplier-set", "multiplier=big"],
            "Failed to parse parameter 'multiplier': expecting a float",
        ),
        (
            ["vm-compute-maximum-memory", "total=1g", "approximate=perhaps"],
            "Failed to parse parameter 'approximate': expecting 'true' or 'false'",
        ),
    ],
)
async def test_value_that_cannot_be_read_is_told_in_the_words_of_xe(words: list[str], text: str) -> None:
    line = await say(XenDouble(), *words, "vm=web1")
    assert (line.stdout, line.stderr, line.code) == ("", f"Error: {text}\n", 1)


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ("host=xen9", "No matching hosts found"),
        ("enabled=false", "No matching hosts found"),
        (
            "enabled=true",
            "Multiple matching hosts found. Operation can only be performed on one host at a time",
        ),
    ],
)
async def test_host_command_wants_exactly_one_host(selector: str, text: str) -> None:
    xen = XenDouble()
    xen.records["host"]["OpaqueRef:second"] = {**xen.records["host"][HOST], "uuid": "second"}
    line = await say(xen, "host-compute-free-memory", selector, "--multiple")
    assert (line.stdout, line.stderr, line.code) == ("", f"Error: {text}\n", 1)


def slow_until_watched(monkeypatch: pytest.MonkeyPatch, slow: str) -> XenDouble:
    """Make one call last until somebody has looked how far it is; who waits looks at once."""
    for name in ("LOOK_AGAIN_S", "PATIENCE_S"):
        monkeypatch.setattr(f"xcpmem.api.cli_progress.{name}", 0.0)
    xen = XenDouble()
    xen.held[slow] = hold = asyncio.Event()

    class Watching(XenDouble):
        async def call(self, method: str, params: Sequence[Value], *, peer: Peer) -> object:
            if method == "VM_metrics.get_record":
                hold.set()
            return await xen.call(method, params, peer=peer)

    return Watching()


async def test_wait_tells_a_watching_person_where_the_vm_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    line = await say(
        slow_until_watched(monkeypatch, "VM.wait_memory_target_live"),
        "vm-memory-target-wait",
        "vm=web1",
        wants_progress=True,
    )
    assert "web1 [........................]   0 % 1.172 GiB of 1 GiB" in line.stderr
    assert line.stderr.endswith("\n")
    assert (line.stdout, line.code) == ("", 0)


async def test_start_that_takes_its_time_says_how_long_it_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    line = await say(slow_until_watched(monkeypatch, "VM.start"), "vm-start", "vm=web1", wants_progress=True)
    assert "\rstarting web1 0 s, holds 1.172 GiB" in line.stderr
    assert line.code == 0


@pytest.mark.parametrize(("words", "wants_progress"), [(["--minimal"], True), ([], False)])
async def test_wait_is_silent_for_a_script(words: list[str], wants_progress: bool) -> None:
    line = await say(XenDouble(), "vm-memory-target-wait", "vm=web1", *words, wants_progress=wants_progress)
    assert line.stderr == ""
    assert line.code == 0


async def test_failed_wait_is_told_below_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_AGAIN_S", "PATIENCE_S"):
        monkeypatch.setattr(f"xcpmem.api.cli_progress.{name}", 0.0)
    xen = XenDouble()
    xen.failures["VM.wait_memory_target_live"] = ConstraintOrder()
    line = await say(xen, "vm-memory-target-wait", "vm=web1", wants_progress=True)
    assert line.stderr.splitlines()[-1].startswith("The limits must keep the order")
    assert line.code == 1


async def test_help_is_answered_without_a_login() -> None:
    xen = XenDouble()
    line = await say(xen, "help", login=())
    assert line.stdout.endswith("Common command list\n-------------------\n    help, vm-list\n")
    assert (await say(xen, "help", "--minimal", login=())).stdout == "help,vm-list\n"
    assert "vm-param-set" in (await say(xen, "help", "--all", "--minimal", login=())).stdout.strip().split(
        ","
    )
    assert xen.logins == 0


async def test_help_explains_commands_and_names_the_unknown() -> None:
    line = await say(XenDouble(), "help", "vm-memory-set", "foo")
    first, *rest = line.stdout.splitlines()
    assert first == "command name            : vm-memory-set"
    assert rest[0] == "        reqd params     : memory"
    assert rest[-1] == "Unknown command 'foo'"
