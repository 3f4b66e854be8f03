"""Commands about VMs as wholes: how they are made and copied, and what is said when no host will do."""

from __future__ import annotations

import pytest

from tests.cli_double import DB1, GIB, HOST, WEB1, XenDouble, say
from xcpmem.errors import (
    NoHostsAvailable,
    NotEnoughMemory,
    NotEnoughPcpus,
    ToolstackError,
    XcpmemError,
)

MIB = 2**20
UUID2 = "22222222-2222-2222-2222-222222222222"


def made(*limits: int, **fields: object) -> dict[str, object]:
    names = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    return {
        "name_label": "web9",
        "name_description": "",
        **dict(zip(names, limits, strict=True)),
        "VCPUs_max": 1,
        "VCPUs_at_startup": 1,
        "actions_after_crash": "destroy",
        **fields,
    }


def a_xen() -> XenDouble:
    xen = XenDouble()
    xen.answers = {"VM.create": DB1, "VM.clone": DB1, "VM.copy": DB1, "VM.get_uuid": UUID2}
    return xen


@pytest.mark.parametrize(
    ("words", "record"),
    [
        ([], made(128 * MIB, 128 * MIB, 256 * MIB, 256 * MIB)),
        (["memory-static-max=4GiB"], made(128 * MIB, 128 * MIB, 4 * GIB, 4 * GIB)),
        (["memory-static-max=64MiB"], made(64 * MIB, 64 * MIB, 64 * MIB, 64 * MIB)),
        (["memory-dynamic-min=1GiB"], made(128 * MIB, GIB, GIB, GIB)),
        (["memory-static-min=1GiB"], made(GIB, GIB, GIB, GIB)),
        (["memory-dynamic-max=2GiB", "memory-dynamic-min=1GiB"], made(128 * MIB, GIB, 2 * GIB, 2 * GIB)),
        (
            ["VCPUs-max=4", "name-description=new", "domain-type=PV-in-PVH"],
            made(
                *(128 * MIB, 128 * MIB, 256 * MIB, 256 * MIB),
                VCPUs_max=4,
                VCPUs_at_startup=4,
                name_description="new",
                domain_type="pv_in_pvh",
            ),
        ),
    ],
)
async def test_vm_is_created_with_what_is_said_and_fitting_limits(
    words: list[str], record: dict[str, object]
) -> None:
    xen = a_xen()
    line = await say(xen, "vm-create", "name-label=web9", *words)
    assert (line.stdout, line.stderr, line.code) == (f"{UUID2}\n", "", 0)
    assert xen.changes[0] == ("VM.create", record)


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("memory-static-max=64", "64 bytes"),
        ("memory-static-max=0", "0 bytes"),
        ("memory-dynamic-max=1KiB", "1 KiB"),
        ("memory-dynamic-min=1", "1 byte"),
    ],
)
async def test_vm_of_less_than_a_mib_is_a_forgotten_unit_and_is_not_made(word: str, size: str) -> None:
    xen = a_xen()
    line = await say(xen, "vm-create", "name-label=web9", word)
    assert line.stderr == (
        f"Error: Failed to parse field '{word.partition('=')[0]}': {size} is less than 1 MiB; sizes are "
        "bytes unless they say KiB, MiB, GiB or TiB\n"
    )
    assert (xen.changes, line.code) == ([], 1)


async def test_least_of_a_new_vm_may_be_nothing() -> None:
    xen = a_xen()
    await say(xen, "vm-create", "name-label=web9", "memory-static-min=0", "memory-dynamic-min=0")
    assert xen.changes[0] == ("VM.create", made(0, 0, 256 * MIB, 256 * MIB))


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("VCPUs-max=two", "Error: Failed to parse parameter 'VCPUs-max': expecting an integer\n"),
        (
            "memory-static-max=1.5GiB",
            (
                "Error: Failed to parse field 'memory-static-max': expecting an integer (possibly with "
                "suffix KiB, MiB, GiB, TiB), got '1.5GiB'\n"
            ),
        ),
    ],
)
async def test_vm_that_makes_no_sense_is_not_created(word: str, complaint: str) -> None:
    xen = a_xen()
    line = await say(xen, "vm-create", "name-label=web9", word)
    assert (line.stderr, line.code) == (complaint, 1)
    assert xen.changes == []


@pytest.mark.parametrize(
    ("command", "call"),
    [("vm-clone", ("VM.clone", WEB1, "web2")), ("vm-copy", ("VM.copy", WEB1, "web2", "OpaqueRef:NULL"))],
)
async def test_copy_is_described_if_asked_for(command: str, call: tuple[object, ...]) -> None:
    xen = a_xen()
    words = (command, "vm=web1", "new-name-label=web2", "new-name-description=the second")
    line = await say(xen, *words)
    assert (line.stdout, line.code) == (f"{UUID2}\n", 0)
    assert xen.changes[:2] == [call, ("VM.set_name_description", DB1, "the second")]


async def test_copy_to_a_storage_that_there_is_none_of_is_refused() -> None:
    xen = a_xen()
    line = await say(xen, "vm-copy", "vm=web1", "new-name-label=web2", f"sr-uuid={UUID2}")
    assert (line.stderr, line.code) == (
        "Error: There is no storage here, so nothing has the sr-uuid of a place for disks\n",
        1,
    )
    assert xen.changes == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotEnoughMemory(2, 1), "Cannot start here [Not enough free memory]"),
        (NotEnoughPcpus(8, 4), "Cannot start here [Not enough CPUs (VM needs 8, but host has 4)]"),
        (
            ToolstackError("the disk is on fire"),
            "Cannot start here [The server failed to carry out the call.; message: the disk is on fire]",
        ),
        (None, "OK"),
    ],
)
async def test_start_without_a_host_prints_what_each_host_lacks(
    error: XcpmemError | None, reason: str
) -> None:
    xen = XenDouble()
    xen.failures["VM.start"] = NoHostsAvailable()
    if error is not None:
        xen.failures[f"VM.assert_can_boot_here {WEB1}"] = error
    line = await say(xen, "vm-start", "vm=web1")
    assert line.code == 1
    assert line.stdout.splitlines()[:2] == [
        "There is no suitable host to start web1 on. What each host lacks:",
        f"xen1    : {reason}",
    ]
    assert line.stderr.startswith("No host can take the VM")
    assert (("VM.assert_can_boot_here", WEB1, HOST) in xen.changes) is (error is None)


async def test_resume_without_a_host_prints_what_each_host_lacks() -> None:
    xen = XenDouble()
    xen.failures["VM.resume"] = NoHostsAvailable()
    xen.failures[f"VM.assert_can_boot_here {WEB1}"] = NotEnoughMemory(2, 1)
    line = await say(xen, "vm-resume", "vm=web1")
    assert line.code == 1
    assert line.stdout.splitlines()[1] == "xen1    : Cannot start here [Not enough free memory]"
