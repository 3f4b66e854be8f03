"""``plan``: what would come of a range, a reservation, a policy or a start, as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.cli_errors import describe_error
from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_frames import PrintStderr
from xcpmem.api.cli_policies import POLICY, describe_wrong_policy
from xcpmem.api.cli_run import STANDARD, Failed, Run
from xcpmem.columns import lay_out
from xcpmem.errors import CommandError, InvalidValue
from xcpmem.foresight import PARAMETER
from xcpmem.units import bytes_to_kib_ceil, format_kib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.api.values import Value

METHOD: Final = "Memory.plan"
_VM_KEYS: Final = ("vm", "start")
_BYTE_KEYS: Final = ("dynamic-min", "dynamic-max")
_KIB_KEYS: Final = ("reserve-min", "reserve-max")
KEYS: Final = (*_VM_KEYS, *_BYTE_KEYS, *_KIB_KEYS, POLICY)


async def plan(run: Run) -> None:
    """Ask what would come of the wishes on the command line, and print who would hold how much."""
    wishes = await _read_wishes(run)
    try:
        forecast: dict[str, Any] = json.loads(str(await run.call(METHOD, wishes)))
    except InvalidValue as error:
        key, value = error.params
        if key != POLICY and f"{PARAMETER}{key}" not in wishes:
            raise
        raise CommandError(await describe_wrong_policy(run, run.words.require(POLICY), key, value)) from error
    domains = forecast["domains"]
    if run.printer.is_minimal:
        await run.printer.values([f"{uuid}={domain['after_kib']}" for uuid, domain in domains.items()])
    elif forecast["feasible"]:
        if forecast.get("trouble"):
            policy = run.words.get(POLICY)
            line = f"Policy {policy} erred, so XCP's rule decides in its place: {forecast['trouble']}\n"
            await run.printer.send(PrintStderr(line))
        if forecast["granted_kib"] is not None:
            await run.printer.values([f"Granted: {format_kib(forecast['granted_kib'])}"])
        await run.printer.values(_table(domains))
        await run.printer.values(["Nothing was changed."])
    if not forecast["feasible"]:
        code, *params = forecast["error"]
        names = [await run.records.name_of(param) for param in params]
        lines = describe_error(code, names) or [f"{code}: {', '.join(names)}"]
        await run.printer.send(PrintStderr("".join(f"{line}\n" for line in ["It cannot be done.", *lines])))
        raise Failed


async def _read_wishes(run: Run) -> dict[str, Value]:
    """Put the words into wishes: names become uuids, sizes plain numbers."""
    wishes: dict[str, Value] = {}
    for key, _ in run.words.without(STANDARD):
        if key in _VM_KEYS:
            wishes[key] = await _find_vm(run, key)
        elif key in _BYTE_KEYS:
            wishes[key.replace("-", "_")] = str(run.words.size(key))
        elif key in _KIB_KEYS:
            wishes[f"{key.replace('-', '_')}_kib"] = str(bytes_to_kib_ceil(run.words.size(key)))
        elif key == POLICY:
            wishes[key] = run.words.get(key)
        elif run.words.get(POLICY):
            wishes[f"{PARAMETER}{key}"] = run.words.get(key)
        else:
            raise CommandError(f"Unknown parameter '{key}': plan takes {', '.join(KEYS)}")
    return wishes


async def _find_vm(run: Run, key: str) -> str:
    wanted = run.words.get(key)
    every = await run.records.every(RECORD_CLASSES["vm"])
    found = [item.uuid for item in every if wanted in {item.uuid, item.record["name_label"]}]
    if len(found) != 1:
        text = "No VM" if not found else f"{len(found)} VMs"
        raise CommandError(f"{text} called '{wanted}', for '{key}': give one VM's uuid or name-label")
    return found[0]


def _table(domains: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lay out who would hold how much, those who would change first."""
    rows = []
    for domain in sorted(domains.values(), key=lambda each: each["before_kib"] == each["after_kib"]):
        change_kib = domain["after_kib"] - domain["before_kib"]
        sign = "+" if change_kib > 0 else ""
        rows.append(
            (
                domain["name_label"],
                format_kib(domain["before_kib"]),
                format_kib(domain["after_kib"]),
                f"{sign}{format_kib(change_kib)}" if change_kib else "",
                domain["reason"],
            )
        )
    return lay_out([("VM", "holds", "would hold", "change", "because it"), *rows], "<>>><")
