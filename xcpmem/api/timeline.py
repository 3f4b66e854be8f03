"""``/api/v1/timeline``: the last hour of the host and of each VM, kept in memory.

Time is cut into slots of ten seconds, whose last report counts. Of each VM only changes are kept, at most one
for each slot: a thousand VMs that move all the time are 9 MB, VMs at rest are nothing.
"""

from __future__ import annotations

import json
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import DeleteReservation, RecordReservation, SetTarget, TransferReservation
from xcpmem.units import format_kib, kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xcpmem.engine.model import Action, HostState
    from xcpmem.report import CycleReport

SLOT_S: Final = 10.0
SLOTS: Final = 361
"""An hour and the slot that it begins in."""

_MOVES_TOLD: Final = 8
"""So many changes of targets, and as many notes, are kept in words for each slot."""
_NOTHING: Final = -1
_HOST_COLUMNS: Final = ("total", "free", "reserved", "held", "target")
_VM_COLUMNS: Final = ("target", "actual", "dynamic_min", "dynamic_max")


class _Steps:
    """A few figures over time: one row for each slot at which they changed.

    Args:
        width: how many figures.
    """

    def __init__(self, width: int) -> None:
        self._row = width + 1
        self._cells = array("q")

    def put(self, slot: int, figures: tuple[int, ...]) -> None:
        """Note the figures from this slot on; it is the latest one, or a later one."""
        if self._cells and tuple(self._cells[1 - self._row :]) == figures:
            return
        if self._cells and self._cells[-self._row] == slot:
            del self._cells[-self._row :]
        self._cells.extend((slot, *figures))

    def end(self, slot: int) -> None:
        """Note that there is nothing from this slot on."""
        self.put(slot, (_NOTHING,) * (self._row - 1))

    def forget_before(self, slot: int) -> bool:
        """Drop rows that say nothing of this slot or later; tell whether anything is left to show."""
        while len(self._cells) > self._row and self._cells[self._row] <= slot:
            del self._cells[: self._row]
        is_over = len(self._cells) == self._row and self._cells[1] == _NOTHING and self._cells[0] <= slot
        return bool(self._cells) and not is_over

    def columns(self, first: int, last: int) -> list[list[int | None]]:
        """Give each figure in bytes at each slot from first to last, None where there was nothing."""
        columns: list[list[int | None]] = [[] for _ in range(self._row - 1)]
        rows = [self._cells[at : at + self._row] for at in range(0, len(self._cells), self._row)]
        at = -1
        for slot in range(first, last + 1):
            while at + 1 < len(rows) and rows[at + 1][0] <= slot:
                at += 1
            figures = rows[at][1:] if at >= 0 else (_NOTHING,) * len(columns)
            for column, figure in zip(columns, figures, strict=True):
                column.append(None if figure == _NOTHING else kib_to_bytes(figure))
        return columns


@dataclass(slots=True)
class _Decisions:
    """What was decided in one slot, and when that began, on the monotonic clock."""

    slot: int
    at_s: float
    targets: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


class Timeline:
    """Remembers an hour.

    Args:
        name_of: the present name of a VM or of the owner of a reservation, by uuid.
    """

    def __init__(self, name_of: Callable[[str], str]) -> None:
        self._name_of = name_of
        self._host = _Steps(len(_HOST_COLUMNS))
        self._vms: dict[str, _Steps] = {}
        self._decisions: deque[_Decisions] = deque(maxlen=SLOTS)
        self._latest: CycleReport | None = None
        self._first_slot = 0
        self._is_blind = False

    def observe_cycle(self, report: CycleReport) -> None:
        """Take note of a turn; to be subscribed to the controller."""
        if not report.saw_host:
            self._is_blind = True
            return
        slot = _slot_of(report)
        if self._latest is None:
            self._first_slot = slot
        elif slot > (before := _slot_of(self._latest)):
            self._absorb(self._latest)
            if self._is_blind and slot > before + 1:
                self._leave_gap(before + 1)
        self._is_blind = False
        self._latest = report
        self._note_decisions(slot, report)

    def document(self, vm_uuid: str | None = None) -> bytes:
        """Write the last hour as JSON; `api-spec/state.md` describes it.

        Args:
            vm_uuid: of this VM; None: of the host. One that is not known has no figures.
        """
        report = self._latest
        if report is None:
            return _encode(times_s=[], decisions=[], slot_s=SLOT_S)
        self._absorb(report)
        last = _slot_of(report)
        first = max(self._first_slot, last - SLOTS + 1)
        steps = self._host if vm_uuid is None else self._vms.get(vm_uuid) or _Steps(len(_VM_COLUMNS))
        names = _HOST_COLUMNS if vm_uuid is None else _VM_COLUMNS
        offset_s = report.time_s - report.monotonic_s
        begun_s = [round(slot * SLOT_S + offset_s, 1) for slot in range(first, last)]
        figures = zip(names, steps.columns(first, last), strict=True)
        return _encode(
            slot_s=SLOT_S,
            times_s=[*begun_s, round(report.time_s, 1)],
            decisions=[
                told
                for each in self._decisions
                if each.slot >= first
                if (told := self._tell(each, offset_s, vm_uuid)) is not None
            ],
            **{f"{name}_bytes": column for name, column in figures},
        )

    def _absorb(self, report: CycleReport) -> None:
        """Keep the figures of a slot's last report."""
        slot, host = _slot_of(report), report.look.host
        oldest = slot - SLOTS + 1
        held_kib = sum(domain.actual_kib for domain in host.domains)
        target_kib = sum(domain.target_kib for domain in host.domains)
        free_kib = host.free_kib + host.scrub_kib
        self._host.put(slot, (host.total_kib, free_kib, host.reserved_kib, held_kib, target_kib))
        self._host.forget_before(oldest)
        self._absorb_vms(slot, host)
        for uuid in [uuid for uuid, steps in self._vms.items() if not steps.forget_before(oldest)]:
            del self._vms[uuid]

    def _leave_gap(self, slot: int) -> None:
        """Know nothing from this slot on, until the next report."""
        for steps in (self._host, *self._vms.values()):
            steps.end(slot)

    def _absorb_vms(self, slot: int, host: HostState) -> None:
        for domain in host.domains:
            steps = self._vms.get(domain.uuid)
            if steps is None:
                steps = self._vms[domain.uuid] = _Steps(len(_VM_COLUMNS))
            low_kib, high_kib = domain.dynamic_range.min_kib, domain.dynamic_range.max_kib
            steps.put(slot, (domain.target_kib, domain.actual_kib, low_kib, high_kib))
        for uuid in self._vms.keys() - {domain.uuid for domain in host.domains}:
            self._vms[uuid].end(slot)

    def _note_decisions(self, slot: int, report: CycleReport) -> None:
        if not report.actions:
            return
        if not self._decisions or self._decisions[-1].slot != slot:
            self._decisions.append(_Decisions(slot, report.monotonic_s))
        decisions = self._decisions[-1]
        domains = {domain.domid: domain for domain in report.look.host.domains}
        for action in report.actions:
            if isinstance(action, SetTarget) and (domain := domains.get(action.domid)) is not None:
                reason = report.reasons.get(action.domid)
                known = decisions.targets.get(domain.uuid)
                if known is None and len(decisions.targets) >= _MOVES_TOLD:
                    decisions.untold.add(domain.uuid)
                    continue
                before_kib = known[0] if known else domain.target_kib
                text = reason.text if reason else ""
                decisions.targets[domain.uuid] = (before_kib, action.target_kib, text)
            elif (note := self._note(action)) and len(decisions.notes) < _MOVES_TOLD:
                decisions.notes.append(note)

    def _note(self, action: Action) -> str:
        """Say in words what was done for a reservation; nothing for what is no decision of its own."""
        match action:
            case RecordReservation(reservation):
                for_whom = self._name_of(reservation.vm_uuid or reservation.owner)
                return f"{format_kib(reservation.size_kib)} set aside for {for_whom}"
            case TransferReservation(reservation, domid):
                return f"{format_kib(reservation.size_kib)} given to domain {domid}, which is being built"
            case DeleteReservation(reservation):
                return f"{format_kib(reservation.size_kib)} that was set aside given back"
        return ""

    def _tell(
        self, decisions: _Decisions, offset_s: float, vm_uuid: str | None
    ) -> Mapping[str, object] | None:
        """Tell of a slot's decisions, or of those on one VM; None if there is nothing to tell."""
        chosen = {
            uuid: target for uuid, target in decisions.targets.items() if vm_uuid is None or vm_uuid == uuid
        }
        notes: Sequence[str] = decisions.notes if vm_uuid is None else ()
        untold = len(decisions.untold) if vm_uuid is None else int(vm_uuid in decisions.untold)
        if not (chosen or notes or untold):
            return None
        return {
            "time_s": round(decisions.at_s + offset_s, 1),
            "targets": [
                {
                    "vm_uuid": uuid,
                    "name_label": self._name_of(uuid),
                    "before_bytes": kib_to_bytes(before_kib),
                    "after_bytes": kib_to_bytes(after_kib),
                    "reason": reason,
                }
                for uuid, (before_kib, after_kib, reason) in chosen.items()
            ],
            "further_targets": untold,
            "notes": notes,
        }


def _slot_of(report: CycleReport) -> int:
    return int(report.monotonic_s // SLOT_S)


def _encode(**members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii")
