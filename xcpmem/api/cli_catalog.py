"""The commands of the command line as data: names, arguments, what they do, an example each.

The server's `help` and its check for required arguments, the client's `--help` and its suggestion for a
typo all come from `COMMANDS`. Names, arguments and layout are those of `xe` (xapi's
``ocaml/xapi-cli-server/cli_frontend.ml``); the sentences are our own. Only the standard library is
imported, since the client starts with every command typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VM_SELECTORS: Final = "<vm-selectors>"
HOST_SELECTORS: Final = "<host-selectors>"
_SELECTORS_HELP: Final = {
    VM_SELECTORS: (
        " VMs are selected by vm=<uuid or name-label> or by the values of any of their fields, such as"
        " uuid=<uuid>, power-state=halted, other-config:key=value or tags:contains=<tag>. If several VMs"
        " match, --multiple lets the command go through all of them; without a selector all VMs match."
        " The fields are listed by 'xe vm-list params=all'."
    ),
    HOST_SELECTORS: (
        " Hosts are selected by host=<uuid, name-label or hostname> or by the values of any of their"
        " fields; without a selector all hosts match. The fields are listed by 'xe host-list params=all'."
    ),
}
_HELP_WIDTH: Final = 74
_SYNOPSIS: Final = "<command> [-s server] [-pw passwd] [-p port] [-u user] [-pwf password-file]"


@dataclass(frozen=True, slots=True)
class Command:
    """What can be said of a command without running it.

    Args:
        name: as typed.
        group: the heading it stands under in the client's help.
        summary: one sentence.
        example: its arguments in an example that works as it stands.
        required: keys without which it is refused.
        optional: further keys it knows.
        selectors: `VM_SELECTORS`, `HOST_SELECTORS` or empty.
        is_standard: whether `help` without ``--all`` names it.
        is_hidden: whether even ``help --all`` is silent about it, as `xe` is.
        alias_of: the command it is another name of; the client's help is silent about such.
        is_local: whether it runs in the client, without the daemon.
    """

    name: str
    group: str
    summary: str
    example: str = ""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    selectors: str = ""
    is_standard: bool = False
    is_hidden: bool = False
    alias_of: str = ""
    is_local: bool = False


_LOOK: Final = "Look"
_LIMIT: Final = "Set limits"
_RUN: Final = "Start and stop"
_COMPUTE: Final = "Compute"
_LEARN: Final = "Learn and try"
GROUPS: Final = (_LOOK, _LIMIT, _RUN, _COMPUTE, _LEARN)


def _records(name: str, plural: str, *, is_standard: bool = False) -> Iterator[Command]:
    """Describe the commands that every class of records has."""
    yield Command(
        f"{name}-list",
        _LOOK,
        f"List the {plural}, all or those whose fields have the given values; params= chooses the columns.",
        "power-state=running params=name-label,memory-actual" if name == "vm" else "",
        optional=("params",),
        is_standard=is_standard,
    )
    yield Command(
        f"{name}-param-list",
        _LOOK,
        f"List every field of one of the {plural}.",
        "uuid=$UUID",
        required=("uuid",),
    )
    yield Command(
        f"{name}-param-get",
        _LOOK,
        "Print one field's value, or with param-key= one key's value of a map.",
        "uuid=$UUID param-name=name-label",
        required=("uuid", "param-name"),
        optional=("param-key",),
    )


def _memory(name: str, summary: str, example: str = "", *, is_hidden: bool = False, **keys: str) -> Command:
    """Describe a command that sets something on the selected VMs."""
    required = tuple(keys.get("required", "").split())
    return Command(
        name,
        keys.get("group", _LIMIT),
        summary,
        f"vm=web1 {example}".rstrip(),
        required=required,
        optional=tuple(keys.get("optional", "").split()),
        selectors=VM_SELECTORS,
        is_hidden=is_hidden,
        alias_of=keys.get("alias_of", ""),
    )


COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        *_records("vm", "VMs", is_standard=True),
        *_records("host", "hosts"),
        *_records("pool", "pools"),
        _memory(
            "vm-memory-dynamic-range-set",
            "Set the range within which the memory of a halted or running VM is balanced.",
            "min=1GiB max=2GiB",
            required="min max",
        ),
        _memory(
            "vm-memory-limits-set",
            "Set all four limits of a halted VM at once.",
            "static-min=512MiB static-max=4GiB dynamic-min=1GiB dynamic-max=4GiB",
            required="static-min static-max dynamic-min dynamic-max",
        ),
        _memory(
            "vm-memory-static-range-set",
            "Set the bounds of a halted VM's dynamic range.",
            "min=512MiB max=4GiB",
            required="min max",
        ),
        _memory(
            "vm-memory-set",
            "Give a halted VM a fixed amount of memory.",
            "memory=2GiB",
            required="memory",
        ),
        _memory(
            "vm-memory-target-set",
            "Pin a halted or running VM to one size, by setting both ends of its dynamic range to it.",
            "target=2GiB",
            required="target",
        ),
        _memory(
            "vm-memory-balloon",
            "Another name of vm-memory-target-set.",
            "target=2GiB",
            is_hidden=True,
            required="target",
            alias_of="vm-memory-target-set",
        ),
        _memory(
            "vm-memory-target-wait",
            "Wait until a running VM has reached its memory target.",
            is_hidden=True,
        ),
        _memory(
            "vm-memory-shadow-multiplier-set",
            "Set the shadow memory multiplier of a running VM.",
            "multiplier=1.5",
            required="multiplier",
        ),
        Command(
            "vm-param-set",
            _LIMIT,
            "Set fields of a VM, one after the other in the given order; keys of maps as map:key=value.",
            "uuid=$UUID memory-dynamic-min=1GiB",
            required=("uuid",),
        ),
        Command(
            "vm-param-add",
            _LIMIT,
            "Add keys to a map of a VM, as key=value.",
            "uuid=$UUID param-name=other-config xcpmem-xl-config=/etc/xen/web1.cfg",
            required=("uuid", "param-name"),
            optional=("param-key",),
        ),
        Command(
            "vm-param-remove",
            _LIMIT,
            "Remove a key from a map of a VM.",
            "uuid=$UUID param-name=other-config param-key=xcpmem-xl-config",
            required=("uuid", "param-name", "param-key"),
        ),
        _memory(
            "vm-start",
            "Start halted VMs with their fair share of memory.",
            group=_RUN,
            optional="on paused force",
        ),
        _memory(
            "vm-shutdown", "Ask VMs to shut down, or end them with --force.", group=_RUN, optional="force"
        ),
        _memory("vm-reboot", "Ask VMs to reboot, or end them with --force.", group=_RUN, optional="force"),
        _memory("vm-pause", "Stop running VMs from running; they keep their memory.", group=_RUN),
        _memory("vm-unpause", "Let paused VMs run on.", group=_RUN),
        _memory(
            "vm-compute-memory-overhead",
            "Print the bytes that a VM needs beside what its guest sees.",
            group=_COMPUTE,
        ),
        _memory(
            "vm-compute-maximum-memory",
            "Print the largest static-max with which a VM and its overhead fit into a total.",
            "total=8GiB",
            group=_COMPUTE,
            required="total",
            optional="approximate",
        ),
        Command(
            "host-compute-free-memory",
            _COMPUTE,
            "Print the bytes that are free on a host, or would be with every VM at its dynamic-min.",
            selectors=HOST_SELECTORS,
        ),
        Command(
            "explain",
            _COMPUTE,
            "Print why a VM's memory target is what it is.",
            "vm=web1",
            selectors=VM_SELECTORS,
        ),
        Command(
            "plan",
            _COMPUTE,
            "Print who would hold how much with another range, a reservation, a start or another policy; "
            "nothing is changed.",
            "vm=web1 dynamic-min=1GiB dynamic-max=2GiB",
            optional=("vm", "dynamic-min", "dynamic-max", "reserve-min", "reserve-max", "policy", "start"),
        ),
        Command(
            "host-compute-memory-overhead",
            _COMPUTE,
            "Print the bytes that virtualisation itself needs on a host.",
            selectors=HOST_SELECTORS,
        ),
        Command(
            "help",
            _LEARN,
            "Explain the commands, or those that are named; --all names every one.",
            "vm-memory-dynamic-range-set",
            is_standard=True,
        ),
        Command(
            "simulate",
            _LEARN,
            "Play a scenario file on a simulated host, without a daemon, and report what happened.",
            "two-guests.toml --json",
            is_local=True,
        ),
        Command(
            "simhost",
            _LEARN,
            "Run a simulated host on a socket, for xcpmemd --host.",
            "--scenario default --socket ./host.sock",
            is_local=True,
        ),
    )
}
"""Every command by its name, in the order in which help teaches them."""


def teach(names: Sequence[str] = ()) -> str:
    """Write the client's help: by group, each command with an example.

    Args:
        names: commands to explain in full; none means an overview of all.

    Returns:
        Text of several lines, without the last newline.
    """
    if names:
        return "\n\n".join(_teach_one(name) for name in names)
    lines = [
        "xcpmem: look at the memory of Xen guests and set its limits. It speaks as xe does.",
        "",
        "Usage: xcpmem [-s server|socket] [-p port] [-u user] [-pw password | -pwf file] [--nossl]",
        "              [--minimal] <command> [key=value ...]",
        "",
        "Without -s it asks the daemon on this machine. Sizes may carry KiB, MiB, GiB or TiB.",
    ]
    for group in GROUPS:
        lines += ["", group]
        for command in COMMANDS.values():
            if command.group == group and not command.alias_of:
                lines += [f"  {_example(command)}", f"      {command.summary}"]
    return "\n".join([*lines, "", "More about one command: xcpmem help <command>"])


def _teach_one(name: str) -> str:
    command = COMMANDS.get(name)
    if command is None:
        return f"Unknown command '{name}'" + "".join(f"\n{line}" for line in suggest(name))
    lines = [f"{command.name}: {command.summary}{_SELECTORS_HELP.get(command.selectors, '')}"]
    if command.required:
        lines.append(f"  required: {', '.join(command.required)}")
    optional = [*command.optional, *filter(None, [command.selectors])]
    if optional:
        lines.append(f"  optional: {', '.join(optional)}")
    return "\n".join([*lines, f"  example:  {_example(command)}"])


def _example(command: Command) -> str:
    return f"xcpmem {command.name} {command.example}".rstrip()


def suggest(name: str) -> list[str]:
    """Find the commands that may have been meant.

    Args:
        name: what was typed.

    Returns:
        One sentence, or nothing when the name is known or resembles none.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - only typos pay for it

    if name in COMMANDS:
        return []
    near = get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
    return [f"Did you mean '{near[0]}'?"] if near else []


def describe(name: str) -> list[tuple[str, str]]:
    """Describe one command as `xe help <command>` does.

    Args:
        name: a key of `COMMANDS`.

    Returns:
        The rows of one record, names padded as `xe` pads them.
    """
    command = COMMANDS[name]
    optional = [*command.optional, *filter(None, [command.selectors])]
    return [
        ("command name        ", command.name),
        ("reqd params     ", ", ".join(command.required)),
        ("optional params ", ", ".join(optional)),
        ("description     ", command.summary + _SELECTORS_HELP.get(command.selectors, "")),
    ]


def overview(*, is_full: bool) -> tuple[list[str], list[list[str]]]:
    """List the commands as `xe help` and `xe help --all` do.

    Args:
        is_full: every command that is not hidden instead of the common ones.

    Returns:
        The names in order, and the blocks of lines of the long form.
    """
    names = sorted(
        command.name
        for command in COMMANDS.values()
        if not command.is_hidden and not command.is_local and (is_full or command.is_standard)
    )
    usage = f"Usage: xe {_SYNOPSIS}\n  [command specific arguments]\n\n"
    usage += "To get help on a specific command: xe help <command>\n"
    if not is_full:
        title = "To get a full listing of commands: xe help --all\n\nCommon command list\n-------------------"
        return names, [[usage + title], _wrap(names)]
    families = [[name for name in names if name.startswith(start)] for start in ("host-", "vm-")]
    rest = [name for name in names if not name.startswith(("host-", "vm-"))]
    title = "\nFull command list\n-----------------"
    blank = _wrap([""])
    return names, [[usage + title], _wrap(families[0]), blank, _wrap(families[1]), blank, _wrap(rest)]


def _wrap(names: Sequence[str]) -> list[str]:
    """Join names by commas, indented by four, breaking after `_HELP_WIDTH` letters as `xe` does."""
    lines = [f"    {names[0]}"]
    for name in names[1:]:
        if len(lines[-1]) + len(name) > _HELP_WIDTH:
            lines.append(f"    {name}")
        else:
            lines[-1] += f", {name}"
    return lines
