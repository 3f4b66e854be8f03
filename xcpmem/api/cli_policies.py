"""``policy-list`` and ``policy-set``: which policies there are, and which is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from xcpmem.api.cli_run import STANDARD
from xcpmem.errors import CommandError, InvalidValue

if TYPE_CHECKING:
    from xcpmem.api.cli_run import Run
    from xcpmem.api.values import Value

_NAME: Final = "name"
POLICY: Final = "policy"


async def list_policies(run: Run) -> None:
    """Print each policy with its parameters: those of the one in force as they are, else their defaults."""
    current = await _map(run, "Memory.get_policy")
    for name, about in (await _map(run, "Memory.get_policies")).items():
        is_current = name == current[_NAME]
        rows = [("policy ( RO)", name), ("about ( RO)", about), ("in-force ( RO)", str(is_current).lower())]
        for parameter, meaning in (await _map(run, "Memory.get_policy_parameters", name)).items():
            value = f"{current[parameter]}; default {meaning}" if is_current else f"default {meaning}"
            rows.append((f"{parameter} ( {'RW' if is_current else 'RO'})", value))
        await run.printer.table([rows])


async def set_policy(run: Run) -> None:
    """Put a policy in force; every other word of the command line is one of its parameters."""
    name = run.words.require(POLICY)
    parameters: Value = dict(run.words.without({POLICY, *STANDARD}))
    try:
        await run.call("Memory.set_policy", name, parameters)
    except InvalidValue as error:
        raise CommandError(await describe_wrong_policy(run, name, *error.params)) from error


async def describe_wrong_policy(run: Run, name: str, key: str, value: str) -> str:
    """Say what is wrong with a wish for a policy, and what would be right.

    Args:
        run: the command.
        name: the policy that was wished for.
        key: what the server found wrong: ``policy``, or a parameter of the policy.
        value: of the key.
    """
    if key == POLICY:
        known = await _map(run, "Memory.get_policies")
        return f"No policy called '{value}'. There are: {', '.join(known)}"
    meanings = await _map(run, "Memory.get_policy_parameters", name)
    if key in meanings:
        return f"Failed to parse parameter '{key}': got '{value}', the default is {meanings[key]}"
    return f"Unknown parameter '{key}'. Those of policy {name}: {', '.join(meanings) or 'none'}"


async def _map(run: Run, method: str, *args: Value) -> dict[str, str]:
    return cast("dict[str, str]", await run.call(method, *args))
