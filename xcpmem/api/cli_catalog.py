"""The commands of the command line as data: names, arguments, what they do, an example each.

The server's `help` and its check for required arguments, the client's `--help`, its suggestion for a typo,
the man page and the shells' completions all come from `COMMANDS`; `cli_help` and `completions` write them.
Names, arguments and layout are those of `xe` (xapi's ``ocaml/xapi-cli-server/cli_frontend.ml``); the
sentences are our own. Only the standard library is imported, since the client starts with every command
typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

VM_SELECTORS: Final = "<vm-selectors>"
HOST_SELECTORS: Final = "<host-selectors>"


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
_PEOPLE: Final = "Users"
_LEARN: Final = "Learn and try"
GROUPS: Final = (_LOOK, _LIMIT, _RUN, _COMPUTE, _PEOPLE, _LEARN)


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


def _settable(name: str, one: str, field: str) -> Iterator[Command]:
    """Describe the commands of a class whose fields can be set."""
    yield Command(
        f"{name}-param-set",
        _LIMIT,
        f"Set fields of {one}, one after the other in the given order; keys of maps as map:key=value.",
        f"uuid=$UUID {field}",
        required=("uuid",),
    )
    yield Command(
        f"{name}-param-add",
        _LIMIT,
        f"Add keys to a map of {one}, as key=value, or with param-key= a member to a set.",
        "uuid=$UUID param-name=other-config owner=ann",
        required=("uuid", "param-name"),
        optional=("param-key",),
    )
    yield Command(
        f"{name}-param-remove",
        _LIMIT,
        f"Remove a key from a map of {one}, or a member from a set.",
        "uuid=$UUID param-name=other-config param-key=owner",
        required=("uuid", "param-name", "param-key"),
    )
    yield Command(
        f"{name}-param-clear",
        _LIMIT,
        f"Empty a map or a set of {one}.",
        "uuid=$UUID param-name=other-config",
        required=("uuid", "param-name"),
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


_USERS: Final = (
    Command(
        "user-add",
        _PEOPLE,
        "Let somebody log in, in one of XenAPI's roles; the password is asked for unless new= gives it, and "
        "left to PAM with --pam.",
        "name=alice role=vm-operator",
        required=("name", "role"),
        optional=("new", "pam"),
    ),
    Command("user-list", _PEOPLE, "List the users beside root, each with the role."),
    Command(
        "user-remove",
        _PEOPLE,
        "Let a user log in no more, and end their sessions.",
        "name=alice",
        required=("name",),
    ),
    Command(
        "user-role-set",
        _PEOPLE,
        "Give a user another role; their sessions end.",
        "name=alice role=read-only",
        required=("name", "role"),
    ),
    Command(
        "user-password-set",
        _PEOPLE,
        "Give a user another password, asked for unless new= gives it; their sessions end.",
        "name=alice",
        required=("name",),
        optional=("new",),
    ),
    Command(
        "user-password-change",
        _PEOPLE,
        "Change the password of the user who is logged in; what is not given is asked for.",
        "",
        optional=("old", "new"),
    ),
    Command(
        "audit-list",
        _PEOPLE,
        "List the latest changes: who, what, from where, before and after.",
        "count=20",
        optional=("count",),
    ),
)

COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        *_records("vm", "VMs", is_standard=True),
        *_records("host", "hosts"),
        *_records("pool", "pools"),
        *_records("template", "templates"),
        *_records("task", "tasks"),
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
        *_settable("vm", "a VM", "memory-dynamic-min=1GiB"),
        *_settable("template", "a template", "name-description=small"),
        *_settable("host", "a host", "name-description=rack-7"),
        *_settable("pool", "the pool", "other-config:owner=ann"),
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
        _memory("vm-suspend", "Write VMs to disk and end them; vm-resume brings them back.", group=_RUN),
        _memory("vm-resume", "Bring suspended VMs back.", group=_RUN, optional="on force"),
        _memory("vm-migrate", "Move VMs to another host.", "host=xen2", group=_RUN, required="host"),
        Command(
            "vm-create",
            _LIMIT,
            "Make a halted VM and print its uuid; of 128 to 256 MiB unless sizes are given.",
            "name-label=web9 memory-dynamic-min=1GiB memory-static-max=4GiB VCPUs-max=2",
            required=("name-label",),
            optional=(
                *("name-description", "memory-static-min", "memory-dynamic-min", "memory-dynamic-max"),
                *("memory-static-max", "VCPUs-max", "domain-type"),
            ),
        ),
        _memory(
            "vm-clone",
            "Make a halted VM like another and print its uuid.",
            "new-name-label=web2",
            required="new-name-label",
            optional="new-name-description",
        ),
        _memory(
            "vm-copy",
            "Make a halted VM like another, as vm-clone does: there are no disks to copy here.",
            "new-name-label=web2",
            required="new-name-label",
            optional="new-name-description sr-uuid",
        ),
        Command("vm-destroy", _LIMIT, "Forget a halted VM.", "uuid=$UUID", required=("uuid",)),
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
            "top",
            _LOOK,
            "Show who has what memory and why, drawn anew every second; one plain picture when piped.",
            "",
            is_local=True,
        ),
        Command(
            "history",
            _LOOK,
            "Print what was decided when and on whose wish: of all or of one VM, from a time on (since=15m, "
            "since=2026-11-24T13:00), the newest 100 entries or limit=.",
            "vm=web1 since=2h",
            optional=("vm", "since", "until", "limit"),
        ),
        Command(
            "journal-export",
            _LEARN,
            "Print recorded decisions with all that led to them, as a file for 'xcpmem replay'.",
            "since=2h > monday.jsonl",
            optional=("since", "until"),
        ),
        Command(
            "policy-list", _LOOK, "List the policies that memory can be divided by, and their parameters."
        ),
        Command(
            "policy-set",
            _LIMIT,
            "Divide memory by another policy from now on, with parameters of it as further key=value.",
            "policy=shares idle_tax_percent=60",
            required=("policy",),
        ),
        Command(
            "host-compute-memory-overhead",
            _COMPUTE,
            "Print the bytes that virtualisation itself needs on a host.",
            selectors=HOST_SELECTORS,
        ),
        *_USERS,
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
            "replay",
            _LEARN,
            "Think a recorded stretch through again under another policy, and show what would have differed.",
            "monday.jsonl policy=pressure",
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
