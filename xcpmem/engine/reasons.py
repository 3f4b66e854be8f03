"""Why each domain has the target it has."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.engine.belief import balloon_state, is_odd
from xcpmem.engine.model import BalloonState
from xcpmem.engine.steps import portions
from xcpmem.engine.thought import Conclusion, Thought
from xcpmem.units import format_kib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.belief import Belief, Caution
    from xcpmem.engine.draft import Draft
    from xcpmem.engine.model import DomainState, DynamicRange
    from xcpmem.engine.note import Note
    from xcpmem.engine.parties import Party
    from xcpmem.engine.policy import Division
    from xcpmem.engine.steps import Steps
    from xcpmem.engine.thought import Unsettled


class Motive(StrEnum):
    """What decided a domain's target."""

    SHARE = "share"
    ALL = "all"
    PINNED = "pinned"
    MINIMUM = "minimum"
    WAITS = "waits"
    FLOOR = "floor"
    CEILING = "ceiling"
    NO_DRIVER = "no_driver"
    LEFT_ALONE = "left_alone"


_POLICYS: Final = frozenset({Motive.SHARE, Motive.ALL, Motive.MINIMUM})
"""What the policy alone decided, so that its own words say it better."""

_STOPPED: Final = frozenset({BalloonState.STUCK, BalloonState.AT_LIMIT})


class Reason(NamedTuple):
    """Why a domain has the target it has.

    Args:
        state: how it stands to its target.
        motive: what decided.
        goal_kib: where the policy wants it once memory is free.
        target_kib: what it is told after this turn.
        actual_kib: what it held at the look.
        dynamic_range: what it may be given.
        note: why the policy gives it that; empty for XCP's rule, whose reason is the motive.
    """

    state: BalloonState
    motive: Motive
    goal_kib: int
    target_kib: int
    actual_kib: int
    dynamic_range: DynamicRange
    note: str | Note = ""

    @property
    def text(self) -> str:
        """The same as a sentence for people, sizes with units."""
        low, high = format_kib(self.dynamic_range.min_kib), format_kib(self.dynamic_range.max_kib)
        goal, actual = format_kib(self.goal_kib), format_kib(self.actual_kib)
        width = self.dynamic_range.max_kib - self.dynamic_range.min_kib
        percent = 100 * (self.goal_kib - self.dynamic_range.min_kib) / width if width else 0.0
        if self.note and self.motive in _POLICYS:
            return f"gets {goal}: it {self.note}"
        text = {
            Motive.SHARE: f"gets its share: {goal}, {percent:.1f} % of the way from {low} to {high}",
            Motive.ALL: f"gets dynamic-max {high}: there is enough for everyone",
            Motive.PINNED: f"is pinned: dynamic-min = dynamic-max = {low}",
            Motive.MINIMUM: f"is at dynamic-min {low}: all above it is needed elsewhere",
            Motive.WAITS: f"is to get {goal} and waits until others have given back enough; holds {actual}",
            Motive.FLOOR: f"was asked to shrink to {format_kib(self.target_kib)} and stopped at {actual}; "
            "its share is taken from others until it moves",
            Motive.CEILING: f"was asked to grow and stopped at {actual}; "
            "its share goes to others until it moves",
            Motive.NO_DRIVER: f"has no balloon driver: holds {actual} whatever is asked",
            Motive.LEFT_ALONE: f"is left alone for now and holds {actual}",
        }[self.motive]
        return f"{text}; it {self.note}" if self.note else text


def reason_to_move(
    domain: DomainState,
    belief: Belief,
    caution: Caution,
    *,
    target_kib: int,
    wanted_kib: int,
    goal_kib: int,
    note: str | Note = "",
) -> Reason:
    """Say why a domain that can be moved is asked for what it is asked for.

    Args:
        domain: as seen.
        belief: what is believed of its guest.
        caution: the thresholds.
        target_kib: what it is told after this turn.
        wanted_kib: what it will be told once memory is free.
        goal_kib: what the policy gives it.
        note: why, as the policy says it.
    """
    dynamic = domain.dynamic_range
    state = balloon_state(belief, domain, caution)
    if state is BalloonState.AT_TARGET or state is BalloonState.MOVING:
        on_the_way = abs(wanted_kib - domain.actual_kib) > caution.inaccuracy_kib
        state = BalloonState.MOVING if on_the_way else BalloonState.AT_TARGET
    if belief.direction >= 0 and belief.meets_ceiling(domain.actual_kib, caution):
        motive = Motive.CEILING
    elif belief.direction < 0 and state in _STOPPED:
        motive = Motive.FLOOR
    elif dynamic.min_kib == dynamic.max_kib:
        motive = Motive.PINNED
    elif wanted_kib > target_kib:
        motive = Motive.WAITS
    elif wanted_kib >= dynamic.max_kib:
        motive = Motive.ALL
    else:
        motive = Motive.MINIMUM if wanted_kib <= dynamic.min_kib else Motive.SHARE
    return Reason(state, motive, goal_kib, target_kib, domain.actual_kib, dynamic, note)


def reason_to_stay(domain: DomainState, belief: Belief, caution: Caution) -> Reason:
    """Say why a domain is not asked for anything: it has no driver, or it is left alone for now."""
    return Reason(
        balloon_state(belief, domain, caution),
        Motive.LEFT_ALONE if domain.can_balloon else Motive.NO_DRIVER,
        domain.target_kib,
        domain.target_kib,
        domain.actual_kib,
        domain.dynamic_range,
    )


def think(before: Thought | None, party: Party, conclusion: Conclusion, caution: Caution) -> Thought:
    """Find the reason for a conclusion.

    Args:
        before: the last turn's thought, by the same thresholds.
        party: whom it is about.
        conclusion: what is to be.
        caution: the thresholds.

    Returns:
        The same object as before if nothing is new.
    """
    if before is not None and before.party is party and before.conclusion == conclusion:
        return before
    target_kib, wanted_kib, goal_kib, note = conclusion
    reason = reason_to_move(
        party.domain,
        party.belief,
        caution,
        target_kib=target_kib,
        wanted_kib=wanted_kib,
        goal_kib=goal_kib,
        note=note,
    )
    return Thought(party, conclusion, reason, _rests(party, target_kib, wanted_kib))


def think_of(
    unsettled: Sequence[Unsettled],
    before: Mapping[int, Thought],
    draft: Draft,
    division: Division,
    caution: Caution,
) -> Steps[dict[int, Thought]]:
    """Think of the unsettled, in steps.

    Args:
        unsettled: as `Recollection.unsettled` lists them.
        before: the last turn's thoughts, by domid and the same thresholds.
        draft: what they are told.
        division: why.
        caution: the thresholds.

    Returns:
        By domid; of everybody else, what was thought before.
    """
    thoughts = dict(before)
    for some in portions(unsettled):
        for party, wanted_kib, goal_kib in some:
            domid = party.domain.domid
            note = division.notes.get(domid, "")
            conclusion = Conclusion(draft.target_kib(party.domain), wanted_kib, goal_kib, note)
            thoughts[domid] = think(before.get(domid), party, conclusion, caution)
        yield
    return thoughts


def _rests(party: Party, target_kib: int, wanted_kib: int) -> bool:
    """Tell whether a party is where it is to be, and only another look of it could change that."""
    is_silent = party.domain.sample is None  # what is said grows old
    is_there = target_kib == wanted_kib and party.is_content(wanted_kib)
    return is_silent and is_there and not is_odd(party.domain, party.belief)
