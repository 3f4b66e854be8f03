"""What the ring has come to believe of each guest from watching it.

A belief outlives requests: a guest that was seen to stop somewhere is planned around from then on, and
believed again the moment it moves past that place. Only observed time counts, so neither a clock step
nor a pause of the daemon condemns anybody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.engine.containment import PolicyMemory
from xcpmem.engine.model import BalloonState, Lifecycle
from xcpmem.engine.regret import Watch, watch
from xcpmem.engine.remains import watch_decay
from xcpmem.engine.steps import finish, portions
from xcpmem.engine.thought import Recollection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xcpmem.engine.model import DomainState, DynamicRange
    from xcpmem.engine.remains import Decay
    from xcpmem.engine.steps import Steps

LOOK_GAP_S: Final = 1.0
"""The most that one gap between two looks adds to a guest's waiting time."""

PATIENCE_MARGIN: Final = 1.5
"""A guest that once paused may pause half as long again before it is given up."""

PATIENCE_MOST_S: Final = 30.0
"""No patience beyond this: other requests depend on the verdict (Linux retries every 32 s at worst)."""

OFFSET_STILL_S: Final = 2.0
"""A guest's offset is measured only after it has not moved for so long: squeezed measures at first sight,
which is wrong for ever if the guest happened to balloon."""

OFFSET_ERROR_MOST_KIB: Final = 65536
"""A guest that stops further from its target than this met a limit; its offset is not to blame. (squeezed
saw 68 MiB of true offset at most, and what is corrected here is the error of a measured one.)"""

LEAST_PROGRESS: Final = 1024
"""Moving less than the asked distance over this number within one patience is not progress."""

RETRY_LOOK_S: Final = (1.0, 30.0)
"""A guest past its patience is looked at after as long as it has stood still, within these bounds; a domain
that is paused, being built or dying, of whose next step nobody tells, after as long as it has been so."""

_AWAITED: Final = frozenset({Lifecycle.PAUSED, Lifecycle.BUILDING, Lifecycle.DYING})


@dataclass(frozen=True, slots=True)
class Caution:
    """How the ring deals with guests that are late, stuck or not exact.

    Args:
        inaccuracy_kib: a guest this near to its target has reached it (squeezed: one page, 4 KiB).
        patience_s: without progress for longer than this, a guest is planned around (squeezed: 5).
        uncooperative_s: off its target for longer than this, the flag for others is raised (squeezed: 20).
    """

    inaccuracy_kib: int = 4
    patience_s: float = 5.0
    uncooperative_s: float = 20.0


class Belief(NamedTuple):
    """What is believed of one guest; sizes KiB, times seconds of observation.

    Args:
        uuid: whose belief it is: a domid may be used again.
        dynamic_range: under which it was formed; a new range earns a fresh start.
        direction: +1 when the guest was last asked to grow, -1 to shrink, 0 when it was at its target.
        asked_kib: what it held when that began.
        mark_kib: what it held at its last progress.
        waited_s: since then.
        away_s: since it was last at its target.
        moved: whether it has moved at all since it was asked.
        due_kib: the oldest target on this way that it has not reached, as far as later ones did not ease it.
        due_s: how long it was asked for that.
        floor_kib: where it stopped shrinking, None if not known to.
        ceiling_kib: where it stopped growing, None if not known to.
        pause_s: the longest pause after which it moved on.
        rate_kib_s: its speed when last seen moving, 0 if never.
        missed: target and distance from it, KiB, of the last ask that ended short of the target.
        offset_error_kib: by how much the measured offset proved wrong, 0 if it did not.
        delay_s: how long after it was last asked, having been at rest, it began to move.
        halted_s: for how long it has not been running, 0 when it runs.
        is_ballooning: whether its driver says that it is at work; None: it does not say.
        has_agent: whether its guest says something about its memory.
    """

    uuid: str
    dynamic_range: DynamicRange
    direction: int = 0
    asked_kib: int = 0
    mark_kib: int = 0
    waited_s: float = 0.0
    away_s: float = 0.0
    moved: bool = False
    due_kib: int = 0
    due_s: float = 0.0
    floor_kib: int | None = None
    ceiling_kib: int | None = None
    pause_s: float = 0.0
    rate_kib_s: float = 0.0
    missed: tuple[int, int] | None = None
    offset_error_kib: int = 0
    delay_s: float = 0.0
    halted_s: float = 0.0
    is_ballooning: bool | None = None
    has_agent: bool = False

    def patience_s(self, caution: Caution) -> float:
        """Tell how long this guest may stand still before it is planned around, seconds.

        A driver that says it is at work is believed, but not beyond what others can wait for.
        """
        if self.is_ballooning:
            return PATIENCE_MOST_S
        return max(caution.patience_s, min(self.pause_s * PATIENCE_MARGIN, PATIENCE_MOST_S))

    def gave_up(self, caution: Caution) -> bool:
        """Tell whether the guest is, in this ask, past its patience."""
        return self.direction != 0 and self.waited_s > self.patience_s(caution)

    def is_in_debt(self, caution: Caution, wait_s: float) -> bool:
        """Tell whether the guest had time enough to give memory back, and did not.

        Time enough is its patience, or half of a caller's whole ``wait_s`` if that is less. What it was asked
        for later counts only once it has given what it was asked for first.
        """
        enough_s = min(self.patience_s(caution), wait_s / 2)
        return self.direction < 0 and (self.due_s >= enough_s or self.gave_up(caution))

    def meets_ceiling(self, actual_kib: int, caution: Caution) -> bool:
        """Tell whether a guest of that size stands where it once stopped growing."""
        return self.ceiling_kib is not None and actual_kib >= self.ceiling_kib - caution.inaccuracy_kib

    def meets_floor(self, actual_kib: int, caution: Caution) -> bool:
        """Tell whether a guest of that size stands where it once stopped shrinking."""
        return self.floor_kib is not None and actual_kib <= self.floor_kib + caution.inaccuracy_kib


@dataclass(frozen=True, slots=True)
class Beliefs:
    """All that is carried from one turn to the next.

    Args:
        by_domid: what is believed of each guest.
        seen_s: when this was last brought up to date, monotonic seconds.
        watches: by domid, what is remembered of shrinks that hurt.
        regrets: how many did since the daemon started.
        policy: what is remembered of the policy in force, its state included.
        recollection: what was thought of each domain in the last turn.
        decays: by domid, how those that are dying give their pages back.
    """

    by_domid: Mapping[int, Belief] = field(default_factory=dict)
    seen_s: float | None = None
    watches: Mapping[int, Watch] = field(default_factory=dict)
    regrets: int = 0
    policy: PolicyMemory = field(default_factory=PolicyMemory)
    recollection: Recollection = field(default_factory=Recollection, repr=False)
    decays: Mapping[int, Decay] = field(default_factory=dict)

    def learn(self, domains: Sequence[DomainState], now_s: float, caution: Caution) -> Beliefs:
        """Take in one look at all domains; see `learning`."""
        return finish(self.learning(domains, now_s, caution, domains))

    def learning(
        self,
        domains: Sequence[DomainState],
        now_s: float,
        caution: Caution,
        awake: Sequence[DomainState],
    ) -> Steps[Beliefs]:
        """Take in one look, in steps; domains that are gone are forgotten.

        Args:
            domains: as seen.
            now_s: monotonic seconds.
            caution: the thresholds.
            awake: those of them that do not rest, as `Recollection.awake` lists them.
        """
        elapsed_s = 0.0 if self.seen_s is None else max(0.0, now_s - self.seen_s)
        watches: dict[int, Watch] = {}
        by_domid = dict(self.by_domid)
        for some in portions(awake):
            for domain in some:
                domid = domain.domid
                by_domid[domid] = learn(by_domid.get(domid), domain, elapsed_s, caution)
                if domain.sample is not None and (watched := watch(self.watches.get(domid), domain, now_s)):
                    watches[domid] = watched
            yield
        if len(by_domid) > len(domains):
            by_domid = {domain.domid: by_domid[domain.domid] for domain in domains}
        regrets = self.regrets + _regrets(self.watches, watches)
        decays = watch_decay(self.decays, awake, now_s)
        return Beliefs(by_domid, now_s, watches, regrets, self.policy, self.recollection, decays)

    def awaited_s(self, domains: Iterable[DomainState]) -> list[float]:
        """Say when to see whether a domain runs by now that did not, or is gone, seconds."""
        least_s, most_s = RETRY_LOOK_S
        return [
            min(max(self.by_domid[domain.domid].halted_s, least_s), most_s)
            for domain in domains
            if domain.lifecycle in _AWAITED or domain.is_ending
        ]


def _regrets(before: Mapping[int, Watch], after: Mapping[int, Watch]) -> int:
    """Count the shrinks that were newly regretted."""
    return sum(
        watched.regrets - before[domid].regrets
        for domid, watched in after.items()
        if domid in before and before[domid].uuid == watched.uuid
    )


def direction_of(domain: DomainState, caution: Caution) -> int:
    """Tell where a domain has to go: +1 grow, -1 shrink, 0 when it is at its target."""
    gap_kib = domain.target_kib - domain.actual_kib
    if abs(gap_kib) <= caution.inaccuracy_kib:
        return 0
    return 1 if gap_kib > 0 else -1


def learn(belief: Belief | None, domain: DomainState, elapsed_s: float, caution: Caution) -> Belief:
    """Bring one belief up to date.

    Args:
        belief: what was believed, or None at first sight.
        domain: as seen now.
        elapsed_s: since the last look, seconds.
        caution: the thresholds.

    Returns:
        The same object when there is nothing new, so that resting guests cost nothing.
    """
    if belief is None or belief.uuid != domain.uuid:
        belief = Belief(domain.uuid, domain.dynamic_range, mark_kib=domain.actual_kib)
    elif belief.dynamic_range != domain.dynamic_range:
        belief = belief._replace(
            dynamic_range=domain.dynamic_range,
            direction=0,
            floor_kib=None,
            ceiling_kib=None,
        )
    belief = _told(belief, domain)
    if domain.lifecycle is not Lifecycle.RUNNING:
        return belief._replace(direction=0, waited_s=0.0, away_s=0.0, halted_s=belief.halted_s + elapsed_s)
    if belief.halted_s:
        belief = belief._replace(halted_s=0.0)
    if not domain.can_balloon:
        return belief._replace(direction=0, waited_s=0.0, away_s=0.0) if belief.direction else belief
    if domain.offset_kib is None:
        still = domain.actual_kib == belief.mark_kib
        waited_s = belief.waited_s + min(elapsed_s, LOOK_GAP_S) if still else 0.0
        return belief._replace(mark_kib=domain.actual_kib, waited_s=waited_s)
    direction = direction_of(domain, caution)
    if direction == 0:
        return _arrived(belief, domain)
    if direction != belief.direction:
        away_s = belief.away_s + _observed_s(belief, elapsed_s) if belief.direction else 0.0
        return belief._replace(
            direction=direction,
            asked_kib=domain.actual_kib,
            mark_kib=domain.actual_kib,
            waited_s=0.0,
            away_s=away_s,
            moved=False,
            due_kib=domain.target_kib,
            due_s=0.0,
        )
    return _on_the_way(belief, domain, elapsed_s, caution)


def _told(belief: Belief, domain: DomainState) -> Belief:
    """Take in what driver and guest say of themselves."""
    has_agent = domain.sample is not None
    if belief.is_ballooning is domain.balloon_active and belief.has_agent is has_agent:
        return belief
    return belief._replace(is_ballooning=domain.balloon_active, has_agent=has_agent)


def _observed_s(belief: Belief, elapsed_s: float) -> float:
    """Tell how much of a gap between looks was meant: the ring looks more rarely at who stands still."""
    return min(elapsed_s, max(LOOK_GAP_S, belief.waited_s))


def _arrived(belief: Belief, domain: DomainState) -> Belief:
    floor_kib, ceiling_kib = belief.floor_kib, belief.ceiling_kib
    if floor_kib is not None and domain.actual_kib < floor_kib:
        floor_kib = None
    if ceiling_kib is not None and domain.actual_kib > ceiling_kib:
        ceiling_kib = None
    settled = belief.direction == 0 and belief.mark_kib == domain.actual_kib
    if settled and floor_kib == belief.floor_kib and ceiling_kib == belief.ceiling_kib:
        return belief
    moved_on = belief.direction != 0 and belief.mark_kib != domain.actual_kib
    return belief._replace(
        direction=0,
        mark_kib=domain.actual_kib,
        waited_s=0.0,
        away_s=0.0,
        floor_kib=floor_kib,
        ceiling_kib=ceiling_kib,
        pause_s=max(belief.pause_s, belief.waited_s) if moved_on else belief.pause_s,
        offset_error_kib=0,
    )


def _on_the_way(belief: Belief, domain: DomainState, elapsed_s: float, caution: Caution) -> Belief:
    step_kib = max(
        2 * caution.inaccuracy_kib,
        abs(domain.target_kib - belief.asked_kib) // LEAST_PROGRESS,
    )
    moved_kib = (domain.actual_kib - belief.mark_kib) * belief.direction
    observed_s = _observed_s(belief, elapsed_s)
    away_s = belief.away_s + observed_s
    due_kib, due_s = _due(belief, domain, observed_s, caution)
    if moved_kib >= step_kib:
        taken_s = belief.waited_s + elapsed_s
        floor_kib, ceiling_kib = belief.floor_kib, belief.ceiling_kib
        if floor_kib is not None and domain.actual_kib <= floor_kib - step_kib:
            floor_kib = None
        if ceiling_kib is not None and domain.actual_kib >= ceiling_kib + step_kib:
            ceiling_kib = None
        return belief._replace(
            mark_kib=domain.actual_kib,
            waited_s=0.0,
            away_s=away_s,
            moved=True,
            due_kib=due_kib,
            due_s=due_s,
            floor_kib=floor_kib,
            ceiling_kib=ceiling_kib,
            pause_s=max(belief.pause_s, belief.waited_s),
            delay_s=belief.delay_s if belief.moved else belief.waited_s,
            rate_kib_s=moved_kib / taken_s if taken_s > 0 else belief.rate_kib_s,
        )
    waited_s = belief.waited_s + min(elapsed_s, LOOK_GAP_S)
    belief = belief._replace(waited_s=waited_s, away_s=away_s, due_kib=due_kib, due_s=due_s)
    if not belief.gave_up(caution):
        return belief
    belief = _suspect_offset(belief, domain, caution)
    if belief.direction < 0:
        return belief._replace(floor_kib=domain.actual_kib)
    return belief._replace(ceiling_kib=domain.actual_kib)


def _due(belief: Belief, domain: DomainState, observed_s: float, caution: Caution) -> tuple[int, float]:
    """Follow the oldest ask until the guest has met it; a later one that goes less far takes its place."""
    nearer = min if belief.direction > 0 else max
    due_kib = nearer(belief.due_kib, domain.target_kib)
    if (due_kib - domain.actual_kib) * belief.direction <= caution.inaccuracy_kib:
        return domain.target_kib, 0.0
    return due_kib, belief.due_s + observed_s


def _suspect_offset(belief: Belief, domain: DomainState, caution: Caution) -> Belief:
    """Tell a wrong offset from a limit: two asks that both moved the guest and missed by the same distance.

    A guest at a limit stops at the same size instead, whatever it is asked.
    """
    missed_kib = domain.actual_kib - domain.target_kib
    if not belief.moved or domain.offset_kib == 0 or abs(missed_kib) > OFFSET_ERROR_MOST_KIB:
        return belief
    if belief.missed is None or belief.missed[0] == domain.target_kib:
        return belief._replace(missed=(domain.target_kib, missed_kib))
    same = abs(belief.missed[1] - missed_kib) <= caution.inaccuracy_kib
    return belief._replace(
        missed=None if same else (domain.target_kib, missed_kib),
        offset_error_kib=missed_kib if same else 0,
    )


def is_odd(domain: DomainState, belief: Belief) -> bool:
    """Tell whether a domain's flag may have to change, or its offset is not known for sure."""
    return (
        belief.away_s > 0 or domain.uncooperative or domain.offset_kib is None or belief.offset_error_kib != 0
    )


def balloon_state(belief: Belief, domain: DomainState, caution: Caution) -> BalloonState:
    """Say how a domain stands to its target."""
    if not domain.can_balloon:
        return BalloonState.NO_BALLOON
    if belief.meets_ceiling(domain.actual_kib, caution) and belief.direction >= 0:
        return BalloonState.AT_LIMIT
    if belief.direction == 0:
        return BalloonState.AT_TARGET
    if not belief.gave_up(caution):
        return BalloonState.MOVING
    return BalloonState.AT_LIMIT if belief.moved else BalloonState.STUCK
