"""The picture of ``xcpmem top``: who has what memory and why, as lines of text for a terminal of any size.

A line for the daemon, a bar for the host, who waits, and a line with a bar for each VM: ``#`` is what it
holds, ``|`` its dynamic-min and dynamic-max within 0 to static-max, ``>`` or ``<`` where it is going. Names
and reasons come from elsewhere and are stripped of whatever could command a terminal.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xcpmem.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NARROWEST: Final = 60
"""A narrower terminal is drawn for as if it had so many columns, and shows as much as it can."""

_NAME: Final = 14
_SIZE: Final = 9
_BAR_LEAST: Final = 18
_BAR_MOST: Final = 40
_ROW: Final = _NAME + 2 * _SIZE + 4
_WIDE: Final = frozenset("WF")
_CODES: Final = {"green": "32", "yellow": "33", "red": "31", "bold": "1", "grey": "90", "alarm": "1;31"}


class Order(StrEnum):
    """How the VMs are sorted."""

    NAME = "name"
    HOLDS = "holds"
    STATE = "state"


_STATES: Final = ("stuck", "at_limit", "moving", "no_balloon", "at_target")
"""The order of `Order.STATE`: who may need a person first."""

_COLOURS: Final = {"stuck": "red", "at_limit": "yellow", "moving": "yellow", "at_target": "green"}


class Size(NamedTuple):
    """Columns and rows; no rows: as many as there are lines."""

    columns: int
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """How to draw.

    Args:
        size: of the terminal.
        is_coloured: whether colours may be used.
        order: of the VMs.
        first: as many VMs are scrolled out at the top.
        complaint: why the state is old, or empty.
    """

    size: Size
    is_coloured: bool = False
    order: Order = Order.NAME
    first: int = 0
    complaint: str = ""


def draw(state: Mapping[str, Any], view: View) -> list[str]:
    """Draw what ``/api/v1/state`` says.

    Args:
        state: as it came.
        view: how.

    Returns:
        At most as many lines as there are rows, none wider than the columns; where the rows are not limited,
        reasons are as long as they are.
    """
    columns = max(view.size.columns, NARROWEST)
    painter = _Painter(is_coloured=view.is_coloured)
    lines = [_head(state, columns, painter)]
    if view.complaint:
        lines.append(painter.paint(fit(clean(view.complaint), columns), "alarm"))
    lines += _ring_lines(state, columns, painter)
    lines += _host_lines(state["host"], columns, painter)
    lines += _request_lines(state["requests"], columns)
    vms = sort(state["vms"], view.order)
    bar = max(_BAR_LEAST, min(_BAR_MOST, (columns - _ROW) // 2))
    lines += ["", painter.paint(fit(_title(bar), columns), "bold")]
    rows = view.size.rows
    room = len(vms) if rows is None else max(1, rows - len(lines))
    first = max(0, min(view.first, len(vms) - room))
    shown = vms[first : first + room]
    hidden = len(vms) - len(shown)
    if hidden and rows is not None:
        shown = shown[: max(1, room - 1)]
    width = None if rows is None else columns
    lines += [_vm_line(vm, bar, width, painter) for vm in shown]
    if hidden and rows is not None:
        last = first + len(shown)
        lines.append(painter.paint(fit(f"VMs {first + 1} to {last} of {len(vms)}", columns), "grey"))
    return lines if rows is None else lines[:rows]


def sort(vms: Sequence[Mapping[str, Any]], order: Order) -> list[Mapping[str, Any]]:
    """Sort the VMs that run; halted ones are left out."""
    running = [vm for vm in vms if vm.get("domid") is not None]
    by_name = sorted(running, key=lambda vm: (str(vm["name_label"]).lower(), vm["uuid"]))
    if order is Order.HOLDS:
        return sorted(by_name, key=lambda vm: -(vm["actual_bytes"] or 0))
    if order is Order.STATE:
        rank = {name: at for at, name in enumerate(_STATES)}
        return sorted(by_name, key=lambda vm: rank.get(str(vm["state"]), len(rank)))
    return by_name


def clean(text: object) -> str:
    """Make a text harmless: one line, nothing that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def fit(text: str, columns: int) -> str:
    """Cut a text to so many columns; a letter may take two."""
    if _columns_of(text) <= columns:
        return text
    cut, used = "", 0
    for letter in text:
        used += _columns_of(letter)
        if used > columns - 1:
            break
        cut += letter
    return f"{cut}~"


def gauge(vm: Mapping[str, Any], width: int) -> str:
    """Draw one VM's bar, brackets included.

    Args:
        vm: of the state.
        width: columns.
    """
    inside = width - 2
    whole = max(vm["static_max_bytes"] or 0, vm["actual_bytes"] or 0, 1)

    def place(size: int | None) -> int:
        return min(inside - 1, (size or 0) * inside // whole)

    actual, target = place(vm["actual_bytes"]), place(vm["target_bytes"])
    cells = ["#" if at < actual or (at == actual and vm["actual_bytes"]) else "." for at in range(inside)]
    for size in (vm["dynamic_min_bytes"], vm["dynamic_max_bytes"]):
        cells[place(size)] = "|"
    if target != actual:
        cells[target] = ">" if target > actual else "<"
    return f"[{''.join(cells)}]"


class _Painter:
    """Wraps texts in colours, or not.

    Args:
        is_coloured: whether at all.
    """

    def __init__(self, *, is_coloured: bool) -> None:
        self._is_coloured = is_coloured

    def paint(self, text: str, colour: str) -> str:
        code = _CODES.get(colour) if self._is_coloured else None
        return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _columns_of(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in _WIDE)
        for letter in text
    )


def _pad(text: str, columns: int) -> str:
    cut = fit(text, columns)
    return cut + " " * (columns - _columns_of(cut))


def _head(state: Mapping[str, Any], columns: int, painter: _Painter) -> str:
    host, ring = state["host"], state["ring"]
    age_s = max(0.0, state["time_s"] - ring.get("looked_at_s", state["time_s"]))
    parts = [
        f"xcpmem {clean(state['version'])}",
        clean(host["name_label"]),
        f"policy {clean(host['policy'])}",
        f"turn {ring['turn']}",
        f"seen {age_s:.0f} s ago",
        "stable" if ring.get("is_stable") else "moving",
        *(["looks only, touches nothing"] if host.get("observes") else []),
    ]
    return painter.paint(fit("  ".join(parts), columns), "bold")


def _ring_lines(state: Mapping[str, Any], columns: int, painter: _Painter) -> list[str]:
    ring = state["ring"]
    lines = [painter.paint(fit(clean(each["text"]), columns), "red") for each in ring["failures"]]
    if not ring["sees_host"] and not lines:
        lines = [painter.paint(fit("the host was not seen yet", columns), "red")]
    return lines


def _host_lines(host: Mapping[str, Any], columns: int, painter: _Painter) -> list[str]:
    total = host.get("total_bytes")
    if not total:
        return []
    free, others = host["free_bytes"] + host["scrub_bytes"], host["others_bytes"]
    held = max(0, total - free - others)
    inside = columns - 2
    marks = (("#", held), ("o", others), (".", free))
    cells, used, done = "", 0, 0
    for mark, size in marks:
        used += size
        upto = min(inside, used * inside // total)
        cells += mark * (upto - done)
        done = upto
    cells += "." * (inside - len(cells))
    figures = [
        f"{format_bytes(total)}:",
        f"# VMs {format_bytes(held)}",
        f"o others {format_bytes(others)}",
        f". free {format_bytes(free)}",
        f"reserved {format_bytes(host['reserved_bytes'])}",
    ]
    return [painter.paint(f"[{cells}]", "green"), fit("  ".join(figures), columns)]


def _request_lines(requests: Sequence[Mapping[str, Any]], columns: int) -> list[str]:
    most = 3
    lines = [
        fit(
            f"waits: {format_bytes(each['min_bytes'])} for {clean(each['vm_uuid'] or each['owner'])}: "
            f"{clean(each['waits_for'])}",
            columns,
        )
        for each in requests[:most]
    ]
    if len(requests) > most:
        lines.append(f"... and {len(requests) - most} more wait")
    return lines


def _title(bar: int) -> str:
    held, target = "holds".rjust(_SIZE), "target".rjust(_SIZE)
    return f"{'VM':<{_NAME}} {held} {target} {'0 to static-max':<{bar}} why"


def _vm_line(vm: Mapping[str, Any], bar: int, columns: int | None, painter: _Painter) -> str:
    name = _pad(clean(vm["name_label"]), _NAME)
    held = format_bytes(vm["actual_bytes"] or 0).rjust(_SIZE)
    target = format_bytes(vm["target_bytes"] or 0).rjust(_SIZE)
    why = clean(vm["reason"] or "")
    if columns is not None:
        why = fit(why, max(1, columns - _NAME - 2 * _SIZE - bar - 4))
    colour = _COLOURS.get(str(vm["state"]), "")
    return f"{name} {held} {target} {painter.paint(gauge(vm, bar), colour)} {why}".rstrip()
