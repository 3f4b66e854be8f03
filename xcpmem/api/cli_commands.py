"""What each command does: which objects it takes, which XenAPI calls it makes, what it prints.

The commands are those of `xe` (xapi's ``cli_operations.ml``); one command is one `Run`. Sizes are bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.api import cli_help, cli_lifecycle, cli_users
from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_history import export_journal, tell_history
from xcpmem.api.cli_params import (
    add_param,
    clear_param,
    get_param,
    list_params,
    list_records,
    remove_param,
    set_params,
)
from xcpmem.api.cli_plan import plan
from xcpmem.api.cli_policies import list_policies, set_policy
from xcpmem.api.cli_progress import Approach, watch
from xcpmem.api.cli_run import STANDARD, Run
from xcpmem.api.cli_selection import VmCommand, select
from xcpmem.api.values import parse_double
from xcpmem.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xcpmem.api.cli_fields import RecordClass
    from xcpmem.api.cli_printer import Printer
    from xcpmem.api.cli_records import Item
    from xcpmem.api.cli_words import Words

_VM: Final = RECORD_CLASSES["vm"]
_HOST: Final = RECORD_CLASSES["host"]
_SETTABLE: Final = ("vm", "template", "host", "pool")


_WAIT: Final = VmCommand("VM.wait_memory_target_live")


async def _wait_for_target(run: Run) -> None:
    async def wait(item: Item) -> None:
        title = str(item.record["name_label"])
        await watch(run, title, run.call(_WAIT.method, item.ref), Approach(run, item).look)

    await _WAIT.for_each(run, wait)


async def _set_shadow_multiplier(run: Run) -> None:
    try:
        multiplier = parse_double(run.words.require("multiplier"))
    except ValueError as error:
        raise CommandError("Failed to parse parameter 'multiplier': expecting a float") from error
    command = VmCommand("VM.set_shadow_multiplier_live", with_control_domains=False)
    await command.for_each(run, lambda item: run.call(command.method, item.ref, multiplier), ["multiplier"])


async def _compute_vm_overhead(run: Run) -> None:
    async def print_overhead(item: Item) -> None:
        await run.printer.number(_int(await run.call(command.method, item.ref)))

    command = VmCommand("VM.compute_memory_overhead")
    await command.for_each(run, print_overhead)


async def _explain(run: Run) -> None:
    async def print_explanation(item: Item) -> None:
        await run.printer.values([str(await run.call(command.method, item.ref))])

    command = VmCommand("Memory.explain")
    await command.for_each(run, print_explanation)


async def _compute_maximum(run: Run) -> None:
    async def print_maximum(item: Item) -> None:
        maximum = await run.call(command.method, item.ref, total, is_approximate)
        await run.printer.values([str(_int(maximum))])

    command = VmCommand("VM.maximise_memory", with_control_domains=False)
    total = run.words.size("total")
    is_approximate = run.words.flag("approximate")
    await command.for_each(run, print_maximum, ["total", "approximate"])


def _compute_on_host(method: str) -> Callable[[Run], Awaitable[None]]:
    async def compute(run: Run) -> None:
        items = await select(run, _HOST, "host", (), ())
        if not items:
            raise CommandError("No matching hosts found")
        if len(items) > 1:
            raise CommandError(
                "Multiple matching hosts found. Operation can only be performed on one host at a time",
            )
        await run.printer.number(_int(await run.call(method, items[0].ref)))

    return compute


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"an int, not {type(value).__name__}")
    return value


async def print_help(words: Words, printer: Printer) -> None:
    """Answer `help` as `xe` lays it out; it needs no session."""
    names = [name for name, _ in words.params if name not in STANDARD]
    if not names:
        commands, blocks = cli_help.overview(is_full=words.flag("all"))
        for block in [commands] if printer.is_minimal else blocks:
            await printer.values(block)
    for name in names:
        if name in COMMANDS:
            await printer.table([cli_help.describe(name)])
        else:
            await printer.values([f"Unknown command '{name}'"])
    await printer.flush()


def _for(act: Callable[[Run, RecordClass], Awaitable[None]], word: str) -> Callable[[Run], Awaitable[None]]:
    return lambda run: act(run, RECORD_CLASSES[word])


HANDLERS: Final[Mapping[str, Callable[[Run], Awaitable[None]]]] = {
    **{f"{word}-list": _for(list_records, word) for word in RECORD_CLASSES},
    **{f"{word}-param-list": _for(list_params, word) for word in RECORD_CLASSES},
    **{f"{word}-param-get": _for(get_param, word) for word in RECORD_CLASSES},
    **{f"{word}-param-set": _for(set_params, word) for word in _SETTABLE},
    **{f"{word}-param-add": _for(add_param, word) for word in _SETTABLE},
    **{f"{word}-param-remove": _for(remove_param, word) for word in _SETTABLE},
    **{f"{word}-param-clear": _for(clear_param, word) for word in _SETTABLE},
    **cli_users.HANDLERS,
    **cli_lifecycle.HANDLERS,
    "vm-memory-limits-set": VmCommand(
        "VM.set_memory_limits",
        ("static-min", "static-max", "dynamic-min", "dynamic-max"),
        with_templates=True,
    ),
    "vm-memory-dynamic-range-set": VmCommand(
        "VM.set_memory_dynamic_range",
        ("min", "max"),
        with_templates=True,
    ),
    "vm-memory-static-range-set": VmCommand(
        "VM.set_memory_static_range",
        ("min", "max"),
        with_templates=True,
    ),
    "vm-memory-set": VmCommand("VM.set_memory", ("memory",), with_templates=True),
    "vm-memory-target-set": VmCommand("VM.set_memory_dynamic_range", ("target", "target")),
    "vm-memory-balloon": VmCommand("VM.set_memory_dynamic_range", ("target", "target")),
    "vm-memory-target-wait": _wait_for_target,
    "vm-memory-shadow-multiplier-set": _set_shadow_multiplier,
    "vm-compute-memory-overhead": _compute_vm_overhead,
    "vm-compute-maximum-memory": _compute_maximum,
    "host-compute-free-memory": _compute_on_host("host.compute_free_memory"),
    "explain": _explain,
    "plan": plan,
    "history": tell_history,
    "journal-export": export_journal,
    "policy-list": list_policies,
    "policy-set": set_policy,
    "host-compute-memory-overhead": _compute_on_host("host.compute_memory_overhead"),
}
"""What carries out each command but `help`, by its name."""
