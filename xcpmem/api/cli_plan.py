"""``plan``: what would come of a range, a reservation, a policy or a start, as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.advice import Case, advise_on
from xcpmem.api.cli_errors import describe_error
from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_frames import PrintStderr
from xcpmem.api.cli_policies import POLICY, describe_wrong_policy
from xcpmem.api.cli_run import STANDARD, Failed, Run, add_advice
from xcpmem.columns import lay_out
from xcpmem.errors import CommandError, InvalidValue
from xcpmem.foresight import PARAMETER
from xcpmem.units import bytes_to_kib_ceil, format_bytes, format_kib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.api.values import Value

METHOD: Final = "Memory.plan"
_VM_KEYS: Final = ("vm", "start")
_BYTE_KEYS: Final = ("dynamic-min", "dynamic-max")
_KIB_KEYS: Final = ("reserve-min", "reserve-max")
KEYS: Final = (*_VM_KEYS, *_BYTE_KEYS, *_KIB_KEYS, POLICY)
_MISFITS: Final[Mapping[str, str]] = {
    "vm": "dynamic-min and dynamic-max are those of a VM: name it with vm=",
    "dynamic_min": "vm= needs dynamic-min=, dynamic-max= or both: the range that is to be tried",
    "reserve_min_kib": "reserve-max= needs reserve-min= beside it",
    "start": "start= reserves what the VM needs: give it without reserve-min=",
}
"""What is wrong with words that do not fit each other, by the wish that `Memory.plan` refuses."""
_ENDS: Final = ("dynamic_min", "dynamic_max")
_RANGE_CALLS: Final = {
    _ENDS: "set_memory_dynamic_range",
    _ENDS[:1]: "set_memory_dynamic_min",
    _ENDS[1:]: "set_memory_dynamic_max",
}
"""The call that does what is planned, by the ends of the range that were given."""


async def plan(run: Run) -> None:
    """Ask what would come of the wishes on the command line, and print who would hold how much."""
    wishes = await _read_wishes(run)
    try:
        forecast: dict[str, Any] = json.loads(str(await run.call(METHOD, wishes)))
    except InvalidValue as error:
        if told := await _describe_wrong_wish(run, wishes, *error.params):
            raise CommandError(told) from error
        raise
    domains = forecast["domains"]
    if run.printer.is_minimal:
        await run.printer.values([f"{uuid}={domain['after_kib']}" for uuid, domain in domains.items()])
    elif forecast["feasible"]:
        if forecast.get("trouble"):
            policy = run.words.get(POLICY)
            line = f"Policy {policy} erred, so XCP's rule decides in its place: {forecast['trouble']}\n"
            await run.printer.send(PrintStderr(line))
        if forecast["granted_kib"] is not None:
            await run.printer.values([f"Would be granted: {format_kib(forecast['granted_kib'])}"])
        await run.printer.values(_table(domains))
        await run.printer.values(["Nothing was changed."])
    if not forecast["feasible"]:
        await _refuse(run, wishes, forecast)


async def _refuse(run: Run, wishes: Mapping[str, Value], forecast: Mapping[str, Any]) -> None:
    """Say why a wish cannot be and what to do about it, as the command does that carries it out."""
    code, *params = forecast["error"]
    names = [await run.records.name_of(param) for param in params]
    lines = describe_error(code, names) or [f"{code}: {', '.join(names)}"]
    advice = advise_on(code, await _case(run, wishes, forecast.get("wish"), params))
    lines = ["It cannot be done.", *add_advice(lines, advice)]
    await run.printer.send(PrintStderr("".join(f"{line}\n" for line in lines)))
    raise Failed


async def _case(run: Run, wishes: Mapping[str, Value], wish: str | None, params: list[str]) -> Case:
    """Give the call that would carry a wish out."""
    if wish not in _VM_KEYS:
        return Case("reserve_memory_range", (), params, {})
    every = await run.records.every(RECORD_CLASSES["vm"])
    item = next(item for item in every if item.uuid == wishes[wish])
    if wish == "start":
        return Case("start", (item.ref,), params, item.record)
    ends = tuple(end for end in _ENDS if end in wishes)
    return Case(_RANGE_CALLS[ends], (item.ref, *(int(str(wishes[end])) for end in ends)), params, item.record)


async def _describe_wrong_wish(run: Run, wishes: Mapping[str, Value], key: str, value: str) -> str:
    """Say what is wrong with words that make no plan, in the words that were typed; empty if it cannot."""
    if key == POLICY or f"{PARAMETER}{key}" in wishes:
        return await describe_wrong_policy(run, run.words.require(POLICY), key, value)
    if key == "reserve_max_kib":
        least, most = (format_bytes(run.words.size(word)) for word in _KIB_KEYS)
        return f"reserve-min {least} is above reserve-max {most}: give sizes that keep the order"
    return _MISFITS.get(key, "")


async def _read_wishes(run: Run) -> dict[str, Value]:
    """Put the words into wishes: names become uuids, sizes plain numbers."""
    wishes: dict[str, Value] = {}
    for key, _ in run.words.without(STANDARD):
        if key in _VM_KEYS:
            wishes[key] = await _find_vm(run, key)
        elif key in _BYTE_KEYS:
            wishes[key.replace("-", "_")] = str(run.words.memory(key, may_be_zero=True))
        elif key in _KIB_KEYS:
            size_kib = bytes_to_kib_ceil(run.words.memory(key, may_be_zero=True))
            wishes[f"{key.replace('-', '_')}_kib"] = str(size_kib)
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
