"""Commands about VMs as wholes: they are made, copied, started, stopped, moved and destroyed.

Names, arguments and defaults are those of `xe`; ``vm-create`` also takes the VM's size, which `xe` leaves to
later commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_errors import describe_error
from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_progress import Lapse, watch
from xcpmem.api.cli_selection import VmCommand
from xcpmem.api.values import parse_int64
from xcpmem.errors import CommandError, XcpmemError
from xcpmem.refs import NULL_REF
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.api.cli_records import Item
    from xcpmem.api.cli_run import Run
    from xcpmem.api.values import Value

_HOST: Final = RECORD_CLASSES["host"]
_VM: Final = RECORD_CLASSES["vm"]

_NEW_MIN: Final = mib_to_bytes(128)
_NEW_MAX: Final = mib_to_bytes(256)
"""What `xe vm-create` makes of a VM of which it is told no size."""

_NO_HOSTS: Final = "NO_HOSTS_AVAILABLE"
_REASONS: Final[Mapping[str, str]] = {
    "HOST_NOT_ENOUGH_FREE_MEMORY": "Not enough free memory",
    "HOST_NOT_ENOUGH_PCPUS": "Not enough CPUs (VM needs {0}, but host has {1})",
}
"""How the table of `xe vm-start` words what keeps a VM from a host; other errors have their own words."""

_LABEL: Final = "new-name-label"
_DESCRIPTION: Final = "new-name-description"
_STORAGE: Final = "sr-uuid"
_LIMITS: Final = ("memory-static-min", "memory-dynamic-min", "memory-dynamic-max", "memory-static-max")


async def _act(run: Run, doing: str, item: Item, method: str, *params: Value) -> None:
    """Make a call that may take its time, with an eye on the VM."""
    title = f"{doing} {item.record['name_label']}"
    await watch(run, title, run.call(method, item.ref, *params), Lapse(run, item).look)


async def _start(run: Run) -> None:
    """Start the selected VMs, on a host if one is named; control domains may be selected, as in `xe`."""
    options = (run.words.flag("paused"), run.words.flag("force"))
    host = await _find_host(run, run.words.get("on")) if run.words.has("on") else None

    async def start(item: Item) -> None:
        if host is not None:
            await _act(run, "starting", item, "VM.start_on", host.ref, *options)
            return
        await _bring_somewhere(run, "starting", item, "VM.start", *options)

    await VmCommand("VM.start").for_each(run, start, ["on", "paused", "progress"])


async def _bring_somewhere(run: Run, doing: str, item: Item, method: str, *params: Value) -> None:
    """Make a call that chooses a host, and tell what each host lacks if there is none."""
    try:
        await _act(run, doing, item, method, *params)
    except XcpmemError as error:
        if error.code == _NO_HOSTS:
            await _tell_why_nowhere(run, item)
        raise


async def _tell_why_nowhere(run: Run, item: Item) -> None:
    """Print a table of the hosts, each with what keeps the VM from it."""
    rows = []
    for host in await run.records.every(_HOST):
        try:
            await run.call("VM.assert_can_boot_here", item.ref, host.ref)
            reason = "OK"
        except XcpmemError as error:
            known = _REASONS.get(error.code, "").format(*error.params)
            words = describe_error(error.code, error.params) or [error.code, *error.params]
            reason = f"Cannot start here [{known or '; '.join(words)}]"
        rows.append((str(host.record["name_label"]), reason))
    title = str(item.record["name_label"])
    await run.printer.values([f"There is no suitable host to start {title} on. What each host lacks:"])
    await run.printer.table([rows])


async def _resume(run: Run) -> None:
    """Bring the selected VMs back, on a host if one is named."""
    host = await _find_host(run, run.words.get("on")) if run.words.has("on") else None
    options = (False, run.words.flag("force"))

    async def resume(item: Item) -> None:
        if host is None:
            await _bring_somewhere(run, "resuming", item, "VM.resume", *options)
        else:
            await _act(run, "resuming", item, "VM.resume_on", host.ref, *options)

    await VmCommand("VM.resume", with_control_domains=False).for_each(run, resume, ["on", "progress"])


async def _migrate(run: Run) -> None:
    host = await _find_host(run, run.words.require("host"))
    command = VmCommand("VM.pool_migrate", with_control_domains=False)
    await command.for_each(
        run, lambda item: run.call(command.method, item.ref, host.ref, {}), ["host", "live"]
    )


def _copying(method: str, *more: Value) -> Callable[[Run], Awaitable[None]]:
    """Make the command that makes a VM like another and prints the new one's uuid."""

    async def copy(run: Run) -> None:
        async def copy_one(item: Item) -> None:
            made = str(await run.call(method, item.ref, label, *more))
            if run.words.has(_DESCRIPTION):
                await run.call("VM.set_name_description", made, run.words.get(_DESCRIPTION))
            await _print_uuid(run, made)

        label = run.words.require(_LABEL)
        if run.words.has(_STORAGE):
            raise CommandError(
                f"There is no storage here, so nothing has the {_STORAGE} of a place for disks"
            )
        command = VmCommand(method, with_control_domains=False, with_templates=True)
        await command.for_each(run, copy_one, [_LABEL, _DESCRIPTION])

    return copy


async def _create(run: Run) -> None:
    """Make a halted VM of the given size; what is not said fits what is, and is else what `xe` makes it."""
    given = {
        name: run.words.memory(name, may_be_zero=name.endswith("-min"))
        for name in _LIMITS
        if run.words.has(name)
    }
    static_max = given.get("memory-static-max", max([_NEW_MAX, *given.values()]))
    dynamic_max = given.get("memory-dynamic-max", static_max)
    dynamic_min = given.get(
        "memory-dynamic-min", max(min(_NEW_MIN, dynamic_max), given.get("memory-static-min", 0))
    )
    record: dict[str, Value] = {
        "name_label": run.words.require("name-label"),
        "name_description": run.words.get("name-description"),
        "memory_static_min": given.get("memory-static-min", min(_NEW_MIN, dynamic_min)),
        "memory_dynamic_min": dynamic_min,
        "memory_dynamic_max": dynamic_max,
        "memory_static_max": static_max,
        "VCPUs_max": _vcpus(run),
        "VCPUs_at_startup": _vcpus(run),
        "actions_after_crash": "destroy",
    }
    if run.words.has("domain-type"):
        record["domain_type"] = run.words.get("domain-type").lower().replace("-", "_")
    await _print_uuid(run, str(await run.call("VM.create", record)))


def _vcpus(run: Run) -> int:
    text = run.words.get("VCPUs-max", "1")
    try:
        return parse_int64(text)
    except ValueError as error:
        raise CommandError("Failed to parse parameter 'VCPUs-max': expecting an integer") from error


async def _print_uuid(run: Run, ref: str) -> None:
    await run.printer.values([str(await run.call("VM.get_uuid", ref))])


async def _destroy(run: Run) -> None:
    item = await run.records.one(_VM, run.words.require("uuid"))
    await run.call("VM.destroy", item.ref)


async def _find_host(run: Run, wanted: str) -> Item:
    names = ("uuid", "name_label", "hostname")
    for item in await run.records.every(_HOST):
        if wanted in [item.record.get(name) for name in names]:
            return item
    raise CommandError(f"Host '{wanted}' not found")


def _cleanly_or_hard(doing: str, clean: str, hard: str) -> Callable[[Run], Awaitable[None]]:
    async def end(run: Run) -> None:
        method = hard if run.words.flag("force") else clean
        command = VmCommand(method, with_control_domains=False)
        await command.for_each(run, lambda item: _act(run, doing, item, method), ["progress"])

    return end


HANDLERS: Final[Mapping[str, Callable[[Run], Awaitable[None]]]] = {
    "vm-create": _create,
    "vm-clone": _copying("VM.clone"),
    "vm-copy": _copying("VM.copy", NULL_REF),
    "vm-destroy": _destroy,
    "vm-start": _start,
    "vm-shutdown": _cleanly_or_hard("shutting down", "VM.clean_shutdown", "VM.hard_shutdown"),
    "vm-reboot": _cleanly_or_hard("rebooting", "VM.clean_reboot", "VM.hard_reboot"),
    "vm-pause": VmCommand("VM.pause", with_control_domains=False),
    "vm-unpause": VmCommand("VM.unpause", with_control_domains=False),
    "vm-suspend": VmCommand("VM.suspend", with_control_domains=False),
    "vm-resume": _resume,
    "vm-migrate": _migrate,
}
"""What carries out each of them, by its name."""
