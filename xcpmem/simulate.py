"""``xcpmem simulate FILE``: act a scenario out and print what became of it, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from xcpmem.errors import ConfigError, InvalidValue
from xcpmem.plugins import installed_policies
from xcpmem.progressbar import Progress
from xcpmem.scenario import load_scenario
from xcpmem.simulation import Simulation
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xcpmem.scenario import Scenario


def run(scenario: Scenario, *, trace: bool = False) -> dict[str, Any]:
    """Act a scenario out.

    Args:
        scenario: what to act out.
        trace: whether to list each instant at which something happened.

    Returns:
        The answer of ``xcpmem simulate --json``, keys in a stable order; the same for the same scenario.

    Raises:
        InvalidValue: the scenario's policy does not exist.
    """
    return Simulation(scenario, trace=trace).run()


def simulate_main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: the words after ``simulate``.

    Returns:
        0 if every call ended and every invariant held, 1 if an invariant was broken, 2 for a bad file.
    """
    options = _parser().parse_args(argv)
    try:
        scenario = load_scenario(options.file)
        progress = Progress(f"simulating {scenario.name}")
        simulation = _prepare(options.file, scenario, trace=options.trace, tell=progress.show)
    except ConfigError as error:
        sys.stderr.write(f"xcpmem simulate: {error}\n")
        return 2
    answer = simulation.run()
    progress.end()
    sys.stdout.write(json.dumps(answer) + "\n" if options.json else format_answer(answer))
    for sentence in simulation.broken:
        sys.stderr.write(f"xcpmem simulate: {sentence}\n")
    return 1 if simulation.broken else 0


def _prepare(where: str, scenario: Scenario, *, trace: bool, tell: Callable[[float], None]) -> Simulation:
    try:
        return Simulation(scenario, trace=trace, tell=tell)
    except InvalidValue as error:
        known = ", ".join(installed_policies())
        why = f"there is no policy {scenario.policy!r}; there are: {known}"
        raise ConfigError(where, "policy", why) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xcpmem simulate",
        description="Act out a scenario on a simulated host and virtual time.",
    )
    parser.add_argument("file", metavar="FILE", help="a scenario file, or default, quiet, fleet:N")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--trace", action="store_true", help="with --json: also each instant of the run")
    return parser


def format_answer(answer: dict[str, Any]) -> str:
    """Write an answer for people: calls, guests and totals, sizes with units."""
    totals, final = answer["totals"], answer["final"]
    lines = [f"{answer['name']} (policy {answer['policy']}, seed {answer['seed']})"]
    if answer["calls"]:
        calls = [
            (f"{call['at_s']:g} s", call["call"], f"{call['took_s']:g} s", _result(call))
            for call in answer["calls"]
        ]
        lines += ["", *_columns([("at", "call", "took", "result"), *calls])]
    if final["guests"]:
        guests = [
            (
                domid,
                format_kib(guest["target_kib"]),
                format_kib(guest["actual_kib"]),
                format_kib(guest["maxmem_kib"]),
                guest["state"],
            )
            for domid, guest in final["guests"].items()
        ]
        lines += ["", *_columns([("domid", "target", "actual", "maxmem", "state"), *guests])]
    free, least = format_kib(final["free_kib"]), format_kib(totals["min_free_kib"])
    excess, moved = format_kib(totals["overcommit_kib"]), format_kib(totals["moved_kib"])
    lines += [
        "",
        f"free {free}, at least {least}; over-committed by {excess}",
        f"moved {moved} by {totals['target_changes']} target changes",
        f"settled at {totals['settled_at_s']:g} s, stalled {totals['stall_s']:g} s",
    ]
    return "\n".join(lines) + "\n"


def _result(call: dict[str, Any]) -> str:
    if not call["ok"]:
        code, *params = call["error"]
        return f"{code}[{', '.join(params)}]"
    match call["value"]:
        case None:
            return "ok"
        case [str(reservation_id), int(size_kib)] if call["call"] == "reserve_memory_range":
            return f"{reservation_id} {format_kib(size_kib)}"
        case int(size_kib) if call["call"] == "start":
            return format_kib(size_kib)
        case value:
            return str(value)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
