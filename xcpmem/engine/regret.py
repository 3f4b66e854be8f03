"""Shrinks that a guest's stalls followed: each is remembered, so that it can be undone and not soon repeated.

Watched for every policy, by the engine; a policy that listens to guests finds in `Claim.regret_kib` what the
guest held before, for as long as that is to be remembered, and counts it as what the guest asks for. It is no
right to the memory: nobody's need is hurt by a guest that only says it stalls. (The peers' study, 9.5 and
9.7: stalls of more than 1 % within 30 s.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from xcpmem.engine.model import DomainState

WINDOW_S: Final = 30.0
"""Stalls this soon after a shrink are put down to it."""

STALL: Final = 0.01
"""A guest that stalls for more of the time is hurt."""

HOLD_S: Final = 30.0
"""A shrink is not repeated for so long, and for twice as long after each time in a row."""

DOUBLINGS_MOST: Final = 5

SHRINKS_MOST: Final = 8
"""So many shrinks of one window are told apart."""

MICROSECONDS_PER_SECOND: Final = 10**6


class Shrink(NamedTuple):
    """A target that was lowered: when, from what (KiB), and how much the guest stalled then, 0 to 1."""

    at_s: float
    before_kib: int
    stall: float


class Watch(NamedTuple):
    """What is remembered of one guest that speaks.

    Args:
        uuid: whose it is: a domid may be used again.
        target_kib: what it was last told.
        seen_s: when its last sample arrived, monotonic seconds.
        stall_us: as in that sample.
        stall: for which share of the time it stalled between the last two, 0 to 1.
        shrinks: of the last window, the oldest first.
        regret_kib: what it held before the shrink that hurt it, 0: none.
        until_s: for how long that is remembered.
        times: regrets in a row.
        regrets: since it was first heard.
    """

    uuid: str
    target_kib: int
    seen_s: float
    stall_us: int | None
    stall: float = 0.0
    shrinks: tuple[Shrink, ...] = ()
    regret_kib: int = 0
    until_s: float = 0.0
    times: int = 0
    regrets: int = 0

    def regret_at(self, now_s: float) -> int:
        """Say what the guest is known to have needed, KiB; 0 when nothing is remembered any more."""
        return self.regret_kib if now_s < self.until_s else 0


def watch(watched: Watch | None, domain: DomainState, now_s: float) -> Watch | None:
    """Take in one look at a domain.

    Args:
        watched: what was remembered.
        domain: as seen.
        now_s: monotonic seconds.

    Returns:
        The same object when there is nothing new; None for a guest that says nothing.
    """
    sample = domain.sample
    if sample is None:
        return None
    if watched is None or watched.uuid != domain.uuid:
        return Watch(domain.uuid, domain.target_kib, sample.seen_s, sample.stall_us)
    if watched.target_kib != domain.target_kib:
        watched = _note_target(watched, domain.target_kib, now_s)
    if sample.seen_s <= watched.seen_s:
        return watched
    stall = 0.0
    if sample.stall_us is not None and watched.stall_us is not None:
        elapsed_us = (sample.seen_s - watched.seen_s) * MICROSECONDS_PER_SECOND
        stall = min(max((sample.stall_us - watched.stall_us) / elapsed_us, 0.0), 1.0)
    watched = watched._replace(stall_us=sample.stall_us, stall=stall)
    if watched.shrinks:
        watched = _judge(watched, sample.seen_s)
    return watched._replace(seen_s=sample.seen_s)


def _note_target(watched: Watch, target_kib: int, now_s: float) -> Watch:
    shrinks = watched.shrinks
    if target_kib < watched.target_kib:
        shrinks = (*shrinks, Shrink(now_s, watched.target_kib, watched.stall))[-SHRINKS_MOST:]
    else:
        shrinks = tuple(shrink for shrink in shrinks if shrink.before_kib > target_kib)
    return watched._replace(target_kib=target_kib, shrinks=shrinks)


def _judge(watched: Watch, seen_s: float) -> Watch:
    """Find out whether a new sample tells of stalls that a shrink brought."""
    survived = any(seen_s - shrink.at_s > WINDOW_S for shrink in watched.shrinks)
    shrinks = tuple(shrink for shrink in watched.shrinks if seen_s - shrink.at_s <= WINDOW_S)
    hurt = [shrink for shrink in shrinks if watched.stall > max(STALL, shrink.stall) and seen_s > shrink.at_s]
    if not hurt:
        times = 0 if survived and not shrinks else watched.times
        return watched._replace(shrinks=shrinks, times=times)
    return watched._replace(
        shrinks=(),
        regret_kib=hurt[0].before_kib,
        until_s=seen_s + HOLD_S * 2 ** min(watched.times, DOUBLINGS_MOST),
        times=watched.times + 1,
        regrets=watched.regrets + 1,
    )
