"""What stands between a policy and the planner: a policy that errs harms nobody.

An exception or a plan that breaks a bound is counted, and what was last good is done instead; if that no
longer fits, XCP's rule decides, and from the third time in a row it does so for a while. A slow answer is an
exception to the one who calls: whoever owns a clock wraps the policy (`xcpmem.watchedpolicy`). The reference
is section 9.8 of the peers' study, point 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import le
from typing import TYPE_CHECKING, Final

from xcpmem.engine.note import Note
from xcpmem.engine.policy import Division
from xcpmem.engine.proportional import Proportional, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.policy import ChosenPolicy, Claim, Snapshot, State

FAILURES_MOST: Final = 3
"""After so many failures in a row the policy is set aside."""

SET_ASIDE_S: Final = 60.0
"""... for so long; then it is tried again, with an empty state."""

XCPS_RULE: Final = Proportional().name


@dataclass(frozen=True, slots=True)
class PolicyMemory:
    """What is remembered of the policy in force from one turn to the next.

    Args:
        policy: whose memory it is; another choice starts afresh.
        state: as the policy returned it.
        last: what it was told when its plan was last good, and that plan's goals, KiB.
        failures: in a row.
        failures_total: of all policies that were in force, since the daemon started.
        trouble: what was wrong with its last answer; empty: nothing.
        aside_until_s: XCP's rule decides until then, monotonic seconds; None: the policy decides.
    """

    policy: ChosenPolicy | None = None
    state: State = field(default_factory=dict)
    last: tuple[Sequence[Claim], Sequence[int]] = ((), ())
    failures: int = 0
    failures_total: int = 0
    trouble: str = ""
    aside_until_s: float | None = None

    @property
    def is_set_aside(self) -> bool:
        """Whether XCP's rule decides in the policy's place."""
        return self.aside_until_s is not None


def divide(policy: ChosenPolicy, snapshot: Snapshot, memory: PolicyMemory) -> tuple[Division, PolicyMemory]:
    """Ask a policy, and take nothing bad from it.

    Args:
        policy: the one in force.
        snapshot: what it is told.
        memory: as this returned it the last time, or empty.

    Returns:
        A division that is within every bound, and the memory for the next time.
    """
    if memory.policy != policy:
        memory = PolicyMemory(policy, failures_total=memory.failures_total)
    if memory.aside_until_s is not None:
        if snapshot.now_s < memory.aside_until_s:
            return _by_xcps_rule(snapshot, memory.aside_until_s - snapshot.now_s), memory
        memory = replace(memory, state={}, last=((), ()), aside_until_s=None)
    try:
        division, state = policy.plan(snapshot, memory.state)
        trouble = find_fault(division, snapshot) or _find_oddity(division, state)
    except Exception as error:  # noqa: BLE001 -- a policy may raise anything
        return _instead(snapshot, memory, f"{type(error).__name__}: {error}")
    if trouble:
        return _instead(snapshot, memory, trouble)
    goals_kib, notes = list(division.goals_kib), dict(division.notes)  # a policy may use its own again
    division = _with_reasons(Division(goals_kib, notes, division.look_again_s), snapshot, policy.name)
    memory = replace(memory, state=state, last=(snapshot.claims, goals_kib), failures=0, trouble="")
    return division, memory


def find_fault(division: Division, snapshot: Snapshot) -> str:
    """Say which bound a division breaks; empty if it is good."""
    claims, goals_kib = snapshot.claims, division.goals_kib
    if len(goals_kib) != len(claims):
        return f"{len(goals_kib)} goals for {len(claims)} claims"
    lows_kib = [claim.low_kib for claim in claims]
    highs_kib = [claim.high_kib for claim in claims]
    are_whole = all(kind is int for kind in set(map(type, goals_kib)))
    if not (are_whole and all(map(le, lows_kib, goals_kib)) and all(map(le, goals_kib, highs_kib))):
        return _find_faulty_goal(claims, goals_kib)
    if sum(goals_kib) > max(snapshot.budget_kib, sum(lows_kib)):
        return f"{sum(goals_kib)} KiB given away of {snapshot.budget_kib} KiB"
    return ""


def _find_faulty_goal(claims: Sequence[Claim], goals_kib: Sequence[object]) -> str:
    """Say what is wrong with the first goal that is no size, or not within its claim."""
    for claim, goal_kib in zip(claims, goals_kib, strict=True):
        if type(goal_kib) is not int:
            return f"{_name(claim)}: {goal_kib!r} is not a whole number of KiB"
        if not claim.low_kib <= goal_kib <= claim.high_kib:
            return f"{_name(claim)}: {goal_kib} KiB is not within {claim.low_kib} to {claim.high_kib} KiB"
    return ""


def _find_oddity(division: Division, state: object) -> str:
    """Say what of the rest of an answer is not as it must be; empty if it is."""
    notes: Mapping[int, object] = division.notes
    if (wait_s := division.look_again_s) is not None and not wait_s >= 0:
        return f"look again after {wait_s} s"
    for domid, note in notes.items():
        if not isinstance(note, str | Note):
            return f"domain {domid}: its reason {note!r} is no text"
    return "" if isinstance(state, dict) else f"the state {state!r} is no mapping"


def _with_reasons(division: Division, snapshot: Snapshot, name: str) -> Division:
    """Name the policy where it gives no reason of its own: without a note, XCP's rule would be the reason."""
    if name == XCPS_RULE or len(division.notes) >= len(snapshot.claims):
        return division
    by_name = Note(f"is given so much by the policy {name}")
    missing = {
        claim.domid: by_name
        for claim in snapshot.claims
        if claim.domid is not None and claim.domid not in division.notes
    }
    return replace(division, notes={**division.notes, **missing}) if missing else division


def _name(claim: Claim) -> str:
    return "a reservation" if claim.domid is None else f"domain {claim.domid}"


def _instead(snapshot: Snapshot, memory: PolicyMemory, trouble: str) -> tuple[Division, PolicyMemory]:
    """Do what was last good if it still fits, else follow XCP's rule."""
    failures = memory.failures + 1
    memory = replace(
        memory,
        failures=failures,
        failures_total=memory.failures_total + 1,
        trouble=trouble,
        aside_until_s=snapshot.now_s + SET_ASIDE_S if failures >= FAILURES_MOST else None,
    )
    known_kib = {
        claim.uuid: goal for claim, goal in zip(*memory.last, strict=True) if claim.domid is not None
    }
    last_kib = [known_kib.get(claim.uuid, -1) for claim in snapshot.claims]
    if memory.is_set_aside or find_fault(Division(last_kib), snapshot):
        return _by_xcps_rule(snapshot, SET_ASIDE_S), memory
    return Division(last_kib), memory


def _by_xcps_rule(snapshot: Snapshot, wait_s: float) -> Division:
    goals_kib: Sequence[int] = share(snapshot.budget_kib, snapshot.claims)
    return Division(goals_kib, look_again_s=wait_s)
