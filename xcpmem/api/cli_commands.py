"""What each command does: which objects it takes, which XenAPI calls it makes, what it prints.

The commands are those of `xe` (xapi's ``cli_operations.ml``); one command is one `Run`. Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xcpmem.api import cli_help, cli_users
from xcpmem.api.cli_catalog import COMMANDS
from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_frames import Print
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
from xcpmem.api.cli_progress import Approach, Lapse, watch
from xcpmem.api.cli_records import Item, keep_matching
from xcpmem.api.cli_run import STANDARD, Failed, Run, describe
from xcpmem.api.values import parse_double
from xcpmem.errors import CommandError, XcpmemError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from xcpmem.api.cli_fields import RecordClass
    from xcpmem.api.cli_printer import Printer
    from xcpmem.api.cli_words import Words
    from xcpmem.api.values import Value

_VM: Final = RECORD_CLASSES["vm"]
_HOST: Final = RECORD_CLASSES["host"]
_SETTABLE: Final = ("vm", "template", "pool")


@dataclass(frozen=True, slots=True)
class _VmCommand:
    """A command that makes one call for each selected VM.

    Args:
        method: the XenAPI call; after the VM come the sizes.
        sizes: keys of the command line, each a required size.
        with_control_domains: whether control domains may be selected.
        with_templates: whether templates may be selected.
    """

    method: str
    sizes: tuple[str, ...] = ()
    with_control_domains: bool = True
    with_templates: bool = False

    async def __call__(self, run: Run) -> None:
        sizes = [run.words.size(key) for key in self.sizes]
        await self.for_each(run, lambda item: run.call(self.method, item.ref, *sizes))

    async def for_each(
        self,
        run: Run,
        act: Callable[[Item], Awaitable[object]],
        keys: Iterable[str] = (),
    ) -> None:
        """Let ``act`` have each selected VM; ``keys`` are further keys that select nothing."""
        items = await _select(run, _VM, "vm", self._filters(), {*self.sizes, *keys})
        if not items:
            raise CommandError("No matching VMs found")
        if len(items) == 1:
            await act(items[0])
        elif run.words.flag("multiple"):
            await _act_on_all(run, items, act)
        else:
            raise CommandError("Multiple matches VMs found. --multiple required to complete the operation")

    def _filters(self) -> list[tuple[str, str]]:
        filters = [] if self.with_templates else [("is-a-template", "false")]
        return filters if self.with_control_domains else [*filters, ("is-control-domain", "false")]


async def _select(
    run: Run,
    kind: RecordClass,
    selector: str,
    filters: Iterable[tuple[str, str]],
    keys: Iterable[str],
) -> list[Item]:
    """Find the objects that a command line selects.

    Args:
        run: with the words.
        kind: of which class.
        selector: the key that takes a uuid or a name instead of a field's value.
        filters: applied before those of the command line.
        keys: keys that belong to the command and select nothing.
    """
    items = await run.records.every(kind)
    if run.words.has(selector):
        wanted = run.words.get(selector)
        names = ("uuid", "name_label", "hostname")
        items = [item for item in items if wanted in [item.record.get(name) for name in names]]
    for name, value in (*filters, *run.words.without({selector, *STANDARD, *keys})):
        items = await keep_matching(run.records, items, name, value)
    return items


async def _act_on_all(run: Run, items: Sequence[Item], act: Callable[[Item], Awaitable[object]]) -> None:
    failures = []
    for item in items:
        try:
            await act(item)
        except XcpmemError as error:
            lines = await describe(run.records, error)
            failures.append((item.uuid, "\n".join(lines or [f"{error.code}: [ {'; '.join(error.params)} ]"])))
    for uuid, text in failures:
        await run.printer.send(Print(f"operation failed on {uuid}: {text}"))
    if failures:
        raise Failed


_WAIT: Final = _VmCommand("VM.wait_memory_target_live")


async def _wait_for_target(run: Run) -> None:
    async def wait(item: Item) -> None:
        title = str(item.record["name_label"])
        await watch(run, title, run.call(_WAIT.method, item.ref), Approach(run, item).look)

    await _WAIT.for_each(run, wait)


async def _act(run: Run, doing: str, item: Item, method: str, *params: Value) -> None:
    """Make a call that may take its time, with an eye on the VM."""
    title = f"{doing} {item.record['name_label']}"
    await watch(run, title, run.call(method, item.ref, *params), Lapse(run, item).look)


async def _set_shadow_multiplier(run: Run) -> None:
    try:
        multiplier = parse_double(run.words.require("multiplier"))
    except ValueError as error:
        raise CommandError("Failed to parse parameter 'multiplier': expecting a float") from error
    command = _VmCommand("VM.set_shadow_multiplier_live", with_control_domains=False)
    await command.for_each(run, lambda item: run.call(command.method, item.ref, multiplier), ["multiplier"])


async def _compute_vm_overhead(run: Run) -> None:
    async def print_overhead(item: Item) -> None:
        await run.printer.number(_int(await run.call(command.method, item.ref)))

    command = _VmCommand("VM.compute_memory_overhead")
    await command.for_each(run, print_overhead)


async def _explain(run: Run) -> None:
    async def print_explanation(item: Item) -> None:
        await run.printer.values([str(await run.call(command.method, item.ref))])

    command = _VmCommand("Memory.explain")
    await command.for_each(run, print_explanation)


async def _compute_maximum(run: Run) -> None:
    async def print_maximum(item: Item) -> None:
        maximum = await run.call(command.method, item.ref, total, is_approximate)
        await run.printer.values([str(_int(maximum))])

    command = _VmCommand("VM.maximise_memory", with_control_domains=False)
    total = run.words.size("total")
    is_approximate = run.words.flag("approximate")
    await command.for_each(run, print_maximum, ["total", "approximate"])


def _compute_on_host(method: str) -> Callable[[Run], Awaitable[None]]:
    async def compute(run: Run) -> None:
        items = await _select(run, _HOST, "host", (), ())
        if not items:
            raise CommandError("No matching hosts found")
        if len(items) > 1:
            raise CommandError(
                "Multiple matching hosts found. Operation can only be performed on one host at a time",
            )
        await run.printer.number(_int(await run.call(method, items[0].ref)))

    return compute


async def _start(run: Run) -> None:
    """Start the selected VMs, on a host if one is named; control domains may be selected, as in `xe`."""
    options = (run.words.flag("paused"), run.words.flag("force"))
    host = await _find_host(run, run.words.get("on")) if run.words.has("on") else None

    async def start(item: Item) -> None:
        if host is None:
            await _act(run, "starting", item, "VM.start", *options)
        else:
            await _act(run, "starting", item, "VM.start_on", host.ref, *options)

    await _VmCommand("VM.start").for_each(run, start, ["on", "paused", "progress"])


async def _resume(run: Run) -> None:
    host = await _find_host(run, run.words.get("on")) if run.words.has("on") else None
    options = (False, run.words.flag("force"))

    async def resume(item: Item) -> None:
        if host is None:
            await run.call("VM.resume", item.ref, *options)
        else:
            await run.call("VM.resume_on", item.ref, host.ref, *options)

    await _VmCommand("VM.resume", with_control_domains=False).for_each(run, resume, ["on", "progress"])


async def _migrate(run: Run) -> None:
    host = await _find_host(run, run.words.require("host"))
    command = _VmCommand("VM.pool_migrate", with_control_domains=False)
    await command.for_each(
        run, lambda item: run.call(command.method, item.ref, host.ref, {}), ["host", "live"]
    )


async def _clone(run: Run) -> None:
    """Print the uuid of the new VM, as `xe` does."""

    async def clone(item: Item) -> None:
        made = str(await run.call(command.method, item.ref, label))
        await run.printer.values([str(await run.call("VM.get_uuid", made))])

    label = run.words.require("new-name-label")
    command = _VmCommand("VM.clone", with_control_domains=False, with_templates=True)
    await command.for_each(run, clone, ["new-name-label"])


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
        command = _VmCommand(method, with_control_domains=False)
        await command.for_each(run, lambda item: _act(run, doing, item, method), ["progress"])

    return end


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
    "vm-start": _start,
    "vm-shutdown": _cleanly_or_hard("shutting down", "VM.clean_shutdown", "VM.hard_shutdown"),
    "vm-reboot": _cleanly_or_hard("rebooting", "VM.clean_reboot", "VM.hard_reboot"),
    "vm-pause": _VmCommand("VM.pause", with_control_domains=False),
    "vm-unpause": _VmCommand("VM.unpause", with_control_domains=False),
    "vm-suspend": _VmCommand("VM.suspend", with_control_domains=False),
    "vm-resume": _resume,
    "vm-migrate": _migrate,
    "vm-clone": _clone,
    "vm-destroy": _destroy,
    "vm-memory-limits-set": _VmCommand(
        "VM.set_memory_limits",
        ("static-min", "static-max", "dynamic-min", "dynamic-max"),
        with_templates=True,
    ),
    "vm-memory-dynamic-range-set": _VmCommand(
        "VM.set_memory_dynamic_range",
        ("min", "max"),
        with_templates=True,
    ),
    "vm-memory-static-range-set": _VmCommand(
        "VM.set_memory_static_range",
        ("min", "max"),
        with_templates=True,
    ),
    "vm-memory-set": _VmCommand("VM.set_memory", ("memory",), with_templates=True),
    "vm-memory-target-set": _VmCommand("VM.set_memory_dynamic_range", ("target", "target")),
    "vm-memory-balloon": _VmCommand("VM.set_memory_dynamic_range", ("target", "target")),
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
