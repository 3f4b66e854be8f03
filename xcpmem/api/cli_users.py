"""The commands about users: who may log in, in which role, and who changed what.

A password comes as ``new=`` (and ``old=``), or is asked for, which keeps it out of other people's lists of
processes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from xcpmem.audit import parse_line
from xcpmem.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.api.cli_run import Run

_LINES: Final = 20
_AUDIT_ROWS: Final = (
    *("time", "user", "role", "source", "call", "target", "arguments", "before", "after", "task", "outcome"),
)


async def _add(run: Run) -> None:
    name, role = run.words.require("name"), run.words.require("role")
    pwd = "" if run.words.flag("pam") else await _new_password(run)
    await run.call("Memory.add_user", name, role, pwd)


async def _list(run: Run) -> None:
    roles = await run.call("Memory.get_users")
    if not isinstance(roles, Mapping):
        raise TypeError(f"a map of roles, not {type(roles).__name__}")
    await run.printer.table([[("name ( RO)", name), ("role ( RO)", role)] for name, role in roles.items()])


async def _remove(run: Run) -> None:
    await run.call("Memory.remove_user", run.words.require("name"))


async def _set_role(run: Run) -> None:
    await run.call("Memory.set_user_role", run.words.require("name"), run.words.require("role"))


async def _set_password(run: Run) -> None:
    await run.call("Memory.set_user_password", run.words.require("name"), await _new_password(run))


async def _change_password(run: Run) -> None:
    old = run.words.get("old") if run.words.has("old") else await run.ask("Old password: ")
    await run.call("Memory.change_password", old, await _new_password(run))


async def _audit(run: Run) -> None:
    text = run.words.get("count", str(_LINES))
    if not (text.isascii() and text.isdigit()):
        raise CommandError(f"Failed to parse parameter 'count': expecting a number of lines, got '{text}'")
    lines = await run.call("Memory.get_audit", int(text))
    if not isinstance(lines, Collection):
        raise TypeError(f"lines, not {type(lines).__name__}")
    changes = [parse_line(str(line)) for line in lines]
    await run.printer.table(
        [
            [(name, _text(change[name])) for name in _AUDIT_ROWS if name in change]
            for change in changes
            if change
        ]
    )


async def _new_password(run: Run) -> str:
    pwd = run.words.get("new") if run.words.has("new") else await run.ask("New password: ")
    if not pwd:
        raise CommandError("The password is empty")
    return pwd


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {entry}" for name, entry in value.items())
    return str(value)


HANDLERS: Final[Mapping[str, Callable[[Run], Awaitable[None]]]] = {
    "user-add": _add,
    "user-list": _list,
    "user-remove": _remove,
    "user-role-set": _set_role,
    "user-password-set": _set_password,
    "user-password-change": _change_password,
    "audit-list": _audit,
}
"""What carries out each of these commands."""
