"""A scenario acted out on virtual time: the simulated host, the daemon's ring, and the script.

Time between events is passed in one go, so an idle hour costs nothing. The answer is plain data for JSON
and depends on nothing but the scenario: ``error`` is null or a list of code and parameters, as in XenAPI
(but domains to blame are domids); ``value`` is a reservation's id, or its id and KiB for a range, the KiB
granted to a started guest, the answer to a question, else null; the trace lists each instant at which
something happened, with calls, actions, verdicts and the guests whose sizes changed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from xcpmem import script
from xcpmem.engine.model import Granted, Refused
from xcpmem.engine.planner import plan
from xcpmem.errors import DomainVanished, InvalidValue
from xcpmem.plugins import find_installed
from xcpmem.simdaemon import CallRecord, Kept, SimDaemon
from xcpmem.specs import MICROSECONDS_PER_SECOND, microseconds
from xcpmem.xen.simhost import SimHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.scenario import Scenario
    from xcpmem.script import WorldCall
    from xcpmem.simdaemon import Planner, Turn

TURNS_MOST: Final = 50
"""More turns than this at one instant: the planner contradicts itself."""

NOT_ENDED: Final = ("INTERNAL_ERROR", "still waiting at the end of the run")
"""The error of a call that had no answer when the run ended."""

NOT_MADE: Final = ("INTERNAL_ERROR", "the run ended before its time")
"""The error of a call that the script has after the end of the run."""


class Simulation:
    """One run of a scenario.

    Args:
        scenario: what to act out.
        trace: whether to write down each instant at which something happened.
        planner: who thinks; another one only to show what a safeguard is for.
        tell: told now and then how far it is, from 0 to 1.

    Raises:
        InvalidValue: the scenario's policy does not exist.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        trace: bool = False,
        planner: Planner = plan,
        tell: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.host = SimHost(scenario)
        self.broken: list[str] = []
        self._scenario = scenario
        self._planner = planner
        self._tell = tell
        self._deadline_us = microseconds(scenario.deadline_s)
        self._tick_us = max(1, microseconds(scenario.tick_s))
        self._trace = _Trace(self.host) if trace else None
        self._calls = [CallRecord(line, number) for number, line in enumerate(scenario.script)]
        self._agenda = sorted(self._calls, key=lambda call: (_made_us(call), call.number), reverse=True)
        self._kept = Kept(find_installed(scenario.policy))
        self._daemon: SimDaemon | None = None
        self._restart_us = 0
        self._held_back: list[CallRecord] = []

    def run(self) -> dict[str, Any]:
        """Act it out, once.

        Returns:
            The answer of ``xcpmem simulate --json``; broken invariants are in `broken`.
        """
        wants_turn = False
        while True:
            wants_turn |= self._restart() | self._make_calls()
            if wants_turn and self._daemon is not None:
                self._turn(self._daemon)
            if self._trace is not None:
                self._trace.end_instant()
            next_us = self._next_us()
            if next_us > self._deadline_us:
                break
            reports = self.host.reports
            moved = self.host.advance_to(next_us)
            self._tell(next_us / max(1, self._deadline_us))
            daemon = self._daemon
            wants_turn = daemon is not None and (
                next_us >= daemon.next_turn_us
                or self.host.reports > reports
                or (moved and not daemon.is_stable)
            )
        self.host.advance_to(self._deadline_us)
        self._judge()
        return self._answer()

    def _restart(self) -> bool:
        if self._daemon is not None or self.host.now_us < self._restart_us:
            return False
        self._daemon = SimDaemon(self._scenario, self.host, self._kept, self.broken, self._planner)
        for record in self._held_back:
            self._make(record)
        self._held_back = []
        return True

    def _make_calls(self) -> bool:
        """Make all calls that are due, in the order of the file."""
        made = False
        while self._agenda and _made_us(self._agenda[-1]) <= self.host.now_us:
            self._make(self._agenda.pop())
            made = True
        return made

    def _make(self, record: CallRecord) -> None:
        call = record.line.call
        if self._trace is not None:
            self._trace.note("calls", call.word)
        if isinstance(call, script.WorldCall):
            try:
                self._happen(call)
            except InvalidValue as error:
                record.fail(self.host.now_us, error)
            except DomainVanished:
                record.fail(self.host.now_us, InvalidValue("domid", getattr(call, "domid", "")))
            else:
                record.succeed(self.host.now_us)
        elif self._daemon is None:
            self._held_back.append(record)
        else:
            self._daemon.answer(record, call)

    def _happen(self, call: WorldCall) -> None:
        match call:
            case script.Shutdown(domid=0):
                raise InvalidValue("domid", 0)
            case script.Shutdown(domid=domid):
                self.host.remove_guest(domid)
            case script.SetBalloon(domid=domid, changes=changes):
                self.host.set_balloon(domid, changes)
            case script.TakeMemory(size_kib=size_kib):
                self.host.take_memory(size_kib)
            case script.KillDaemon(down_s=down_s):
                if self._daemon is not None:
                    self._daemon.die()
                self._daemon = None
                self._restart_us = self.host.now_us + microseconds(down_s)
                self._restart()

    def _turn(self, daemon: SimDaemon) -> None:
        """Turn the ring until it has nothing more to do at this instant."""
        for _ in range(TURNS_MOST):
            turn = daemon.turn()
            if self._trace is not None:
                self._trace.note_turn(turn)
            if not turn.actions and not turn.verdicts:
                return
        self.broken.append(f"at {_seconds(self.host.now_us)} s: the ring does not come to rest")

    def _next_us(self) -> int:
        now_us = self.host.now_us
        times_us = [_made_us(self._agenda[-1])] if self._agenda else []
        times_us.append(self._restart_us if self._daemon is None else self._daemon.next_turn_us)
        if self.host.is_active:
            times_us.append((now_us // self._tick_us + 1) * self._tick_us)
        looks_us = self.host.looks_next_us
        if looks_us is not None:
            times_us.append(looks_us)
        return max(now_us, min(times_us))

    def _judge(self) -> None:
        self.host.audit()
        if self.host.ledger.overcommit_kib > 0:
            self.broken.append(f"over-committed by {self.host.ledger.overcommit_kib} KiB")
        for record in self._calls:
            who = f"call {record.number} ({record.line.call.word})"
            if _made_us(record) > self._deadline_us:
                record.error, record.ended_us = NOT_MADE, _made_us(record)
                at_s, end_s = record.line.at_s, self._scenario.deadline_s
                self.broken.append(f"{who} was never made: at_s {at_s:g} s is after deadline_s {end_s:g} s")
            elif record.ended_us is None:
                record.error = NOT_ENDED
                self.broken.append(f"{who} never ended")

    def _answer(self) -> dict[str, Any]:
        ledger = self.host.ledger
        reasons = self._daemon.reasons() if self._daemon is not None else {}
        answer: dict[str, Any] = {
            "name": self._scenario.name,
            "seed": self._scenario.seed,
            "policy": self._scenario.policy,
            "calls": [self._call_answer(record) for record in self._calls],
            "final": {
                "free_kib": self.host.physical_free_kib,
                "guests": {
                    str(domid): {
                        "target_kib": guest.target_kib,
                        "actual_kib": guest.actual_kib,
                        "maxmem_kib": guest.maxmem_kib,
                        "state": str(reasons[domid].state if domid in reasons else guest.balloon_state()),
                    }
                    for domid, guest in self.host.guests.items()
                },
            },
            "totals": {
                "moved_kib": ledger.moved_kib,
                "target_changes": ledger.target_changes,
                "overcommit_kib": ledger.overcommit_kib,
                "min_free_kib": ledger.min_free_kib,
                "settled_at_s": _seconds(ledger.settled_us),
                "stall_s": self.host.stall_s(),
            },
        }
        if self._trace is not None:
            answer["trace"] = self._trace.entries
        return answer

    def _call_answer(self, record: CallRecord) -> dict[str, Any]:
        ended_us = self.host.now_us if record.ended_us is None else record.ended_us
        return {
            "at_s": record.line.at_s,
            "call": record.line.call.word,
            "ok": record.error is None,
            "error": None if record.error is None else list(record.error),
            "value": record.value,
            "took_s": _seconds(ended_us - _made_us(record)),
        }


class _Trace:
    """Writes down each instant at which something happened: calls, actions, verdicts, changed guests."""

    def __init__(self, host: SimHost) -> None:
        self.entries: list[dict[str, Any]] = []
        self._host = host
        self._entry: dict[str, Any] = {}
        self._shown: dict[int, tuple[int, int, int]] = {}

    def note(self, kind: str, what: object) -> None:
        """Add something to the instant."""
        self._entry.setdefault(kind, []).append(what)

    def note_turn(self, turn: Turn) -> None:
        """Add what a turn did."""
        for action in turn.actions:
            self.note("actions", {"action": type(action).__name__, **asdict(action)})
        for verdict in turn.verdicts:
            match verdict:
                case Granted(request_id, size_kib):
                    self.note("granted", {"request_id": request_id, "size_kib": size_kib})
                case Refused(request_id, error):
                    self.note("refused", {"request_id": request_id, "error": [error.code, *error.params]})

    def end_instant(self) -> None:
        """Close the instant; nothing is written if nothing happened."""
        sizes = {
            domid: (guest.target_kib, guest.actual_kib, guest.maxmem_kib)
            for domid, guest in self._host.guests.items()
        }
        changed = {
            str(domid): dict(zip(("target_kib", "actual_kib", "maxmem_kib"), size, strict=True))
            for domid, size in sizes.items()
            if size != self._shown.get(domid)
        }
        gone = [domid for domid in self._shown if domid not in sizes]
        if self._entry or changed or gone:
            head = {"t_s": _seconds(self._host.now_us), "free_kib": self._host.physical_free_kib}
            tail = {"guests": changed} | ({"gone": gone} if gone else {})
            self.entries.append(head | self._entry | tail)
        self._entry, self._shown = {}, sizes


def _made_us(record: CallRecord) -> int:
    return microseconds(record.line.at_s)


def _seconds(time_us: int) -> float:
    return time_us / MICROSECONDS_PER_SECOND
