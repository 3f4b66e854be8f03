"""``history`` and ``journal-export``: what was decided, in sentences or as lines for ``xcpmem replay``."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_frames import PrintStderr
from xcpmem.api.cli_run import STANDARD, Run
from xcpmem.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xcpmem.api.values import Value

_HISTORY: Final = "Memory.get_history"
_JOURNAL: Final = "Memory.get_journal"
HISTORY_KEYS: Final = ("vm", "since", "until", "limit")
EXPORT_KEYS: Final = ("since", "until")
_UNITS_S: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN: Final = re.compile(r"(\d{1,9})(s|min|m|h|d|w)")
_WHEN: Final = "a span back from now (90s, 15m, 2h, 3d) or a time (2026-11-24T13:00, or 13:00 for today)"


async def tell_history(run: Run) -> None:
    """Print the decisions, each with its time, and before them who asked for something."""
    filters = _read_filters(run, HISTORY_KEYS)
    if run.words.has("vm"):
        filters["vm"] = await _find_vm(run, run.words.get("vm"))
    if run.words.has("limit"):
        filters["limit"] = run.words.get("limit")
    answer: dict[str, Any] = json.loads(str(await run.call(_HISTORY, filters)))
    lines = [line for entry in answer["entries"] for line in _lines(entry)]
    await run.printer.values(lines)
    if not lines and not run.printer.is_minimal:
        await run.printer.send(PrintStderr("Nothing was decided then.\n"))
    if answer["lost"]:
        await run.printer.send(PrintStderr(f"{answer['lost']} entries were lost: see the daemon's log.\n"))


async def export_journal(run: Run) -> None:
    """Print whole entries, one a line as JSON, until there are no more."""
    filters: dict[str, Value] = _read_filters(run, EXPORT_KEYS)
    while True:
        answer: dict[str, Any] = json.loads(str(await run.call(_JOURNAL, filters)))
        await run.printer.values([json.dumps(entry, separators=(",", ":")) for entry in answer["entries"]])
        if not answer["entries"]:
            break
        filters["after"] = str(answer["entries"][-1]["id"])


def _read_filters(run: Run, keys: Sequence[str]) -> dict[str, Value]:
    for key, _ in run.words.without({*STANDARD, *keys}):
        raise CommandError(f"Unknown parameter '{key}': {run.words.command} takes {', '.join(keys)}")
    return {
        key: f"{read_time(key, run.words.get(key)):.3f}" for key in ("since", "until") if run.words.has(key)
    }


def read_time(field: str, text: str, clock: Callable[[], float] = time.time) -> float:
    """Read a point in time as people write it.

    Args:
        field: what it is for.
        text: a span back from now, a date with or without a time, or a time of today; local time unless it
            says otherwise.
        clock: Unix time, seconds.

    Returns:
        Unix time, seconds.

    Raises:
        CommandError: it is none of these.
    """
    if match := _SPAN.fullmatch(text):
        return max(0.0, clock() - int(match[1]) * _UNITS_S[match[2]])
    if re.fullmatch(r"\d\d?:\d\d(:\d\d)?", text):
        today = datetime.fromtimestamp(clock()).astimezone().date()
        text = f"{today.isoformat()}T{text.zfill(len('00:00'))}"
    try:
        return max(0.0, datetime.fromisoformat(text).astimezone().timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise CommandError(f"Failed to parse parameter '{field}': expecting {_WHEN}, got '{text}'") from error


async def _find_vm(run: Run, wanted: str) -> str:
    """Find a VM by name or uuid; a uuid of one that is gone is taken as it is."""
    every = await run.records.every(RECORD_CLASSES["vm"])
    found = [item.uuid for item in every if wanted in {item.uuid, item.record["name_label"]}]
    if len(found) > 1:
        raise CommandError(f"{len(found)} VMs are called '{wanted}': give the uuid")
    if not found and not re.fullmatch(r"[0-9a-f-]{36}", wanted):
        raise CommandError(f"No VM is called '{wanted}': of one that is gone, give the uuid")
    return found[0] if found else wanted


def _lines(entry: dict[str, Any]) -> list[str]:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time_s"]))
    texts = [*entry["asked"], *(decision["text"] for decision in entry["decisions"])]
    return [f"{clock}  {text}" for text in texts]
