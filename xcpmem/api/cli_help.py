"""How the commands are explained: as `xe` does it, and the client's own way.

Only the standard library is imported, since the client starts with every command typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_catalog import COMMANDS, GROUPS, HOST_SELECTORS, VM_SELECTORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.api.cli_catalog import Command

_SELECTORS_HELP: Final = {
    VM_SELECTORS: (
        "VMs are selected by vm=<uuid or name-label> or by the values of any of their fields, such as"
        " uuid=<uuid>, power-state=halted, other-config:key=value or tags:contains=<tag>. If several VMs"
        " match, --multiple lets the command go through all of them; without a selector all VMs match."
        " The fields are listed by '{program} vm-list params=all'."
    ),
    HOST_SELECTORS: (
        "Hosts are selected by host=<uuid, name-label or hostname> or by the values of any of their"
        " fields; without a selector all hosts match. The fields are listed by"
        " '{program} host-list params=all'."
    ),
}
_HELP_WIDTH: Final = 74
_SYNOPSIS: Final = "<command> [-s server] [-pw passwd] [-p port] [-u user] [-pwf password-file]"


def teach(names: Sequence[str] = ()) -> str:
    """Write the client's help: by group, each command with an example.

    Args:
        names: commands to explain in full, all of them known; none means an overview of all.

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
        "Without -s it asks the daemon on this machine. Sizes are bytes unless they say KiB, MiB, GiB or",
        "TiB; KB, MB, GB and TB mean the same as these, as in xe.",
    ]
    for group in GROUPS:
        lines += ["", group]
        for command in COMMANDS.values():
            if command.group == group and not command.alias_of:
                lines += [f"  {_example(command)}", f"      {command.summary}"]
    return "\n".join([*lines, "", "More about one command: xcpmem help <command>"])


def _teach_one(name: str) -> str:
    from xcpmem.api.cli_keys import MEANINGS  # noqa: PLC0415 - only this answer needs it

    command = COMMANDS[name]
    lines = [f"{command.name}: {command.summary}"]
    if command.selectors:
        lines[0] += f" {selectors_help(command.selectors, 'xcpmem')}"
    if command.required:
        lines.append(f"  required: {', '.join(command.required)}")
    optional = [*command.optional, *filter(None, [command.selectors])]
    if optional:
        lines.append(f"  optional: {', '.join(optional)}")
    meanings = MEANINGS.get(name, {})
    width = max(map(len, meanings), default=0)
    lines += [f"    {key:{width}}  {meaning}" for key, meaning in meanings.items()]
    return "\n".join([*lines, f"  example:  {_example(command)}"])


def _example(command: Command) -> str:
    return f"xcpmem {command.name} {command.example}".rstrip()


def selectors_help(selectors: str, program: str) -> str:
    """Explain how VMs or hosts are selected.

    Args:
        selectors: `VM_SELECTORS` or `HOST_SELECTORS`.
        program: in which the reader types: ``xe`` or ``xcpmem``.
    """
    return _SELECTORS_HELP[selectors].format(program=program)


def unknown(name: str) -> list[str]:
    """Say that there is no such command, and which was meant; nothing if there is."""
    return [] if name in COMMANDS else [f"Unknown command '{name}'", *suggest(name)]


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
    selected = [selectors_help(command.selectors, "xe")] if command.selectors else []
    return [
        ("command name        ", command.name),
        ("reqd params     ", ", ".join(command.required)),
        ("optional params ", ", ".join(optional)),
        ("description     ", " ".join([command.summary, *selected])),
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
