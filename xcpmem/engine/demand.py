"""What the policy ``pressure`` knows of one guest: how much it uses, its recent peak, and its stalls.

A guest that stalls although it uses less than it has waits for what was dropped from its cache: its cache is
hot and larger than its memory. No amount that it could report as used says so, hence the boost: a size that
grows while stalls last that the demand does not explain, is held for a while, and fades so slowly that the
guest is not probed to pieces. One that stalls while most of its memory is in use has no cache of that size:
its kernel wastes the rest. Its boost goes with its use, else it would keep at rest what it took in a burst.

Formulas and constants are those of the peers' study, section 9.5, but for what its measurements left to be
turned. A boost fades only while somebody lacks memory. A guest whose use begins to rise is expected to need
what it needed before. A peak comes last, after what stalls ask for. Nobody is left without any cache. There
is less room to grow, since what nobody needs stands in the guests as cache anyway. A guest that goes on
saying that it uses all it is given, and knows of no stalls, is not believed for a while, longer each time.
``tests/bench/POLICIES.md`` has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from xcpmem.engine.parameters import Parameter, Parameters, kib, percent, seconds
from xcpmem.units import KIB_PER_PAGE, mib_to_kib

if TYPE_CHECKING:
    from xcpmem.engine.policy import Claim
    from xcpmem.engine.sample import Sample

PERCENT: Final = 100
MICROSECONDS_PER_SECOND: Final = 10**6


@dataclass(frozen=True)
class DemandParameters(Parameters):
    """The knobs of a guest's demand, with the defaults of the study."""

    room_percent: Annotated[float, percent("more than a guest uses that it needs", most=400)] = 6.0
    room_kib: Annotated[int, kib("... and so much more")] = mib_to_kib(64)
    sure_room_percent: Annotated[float, percent("the same, of what is sure up to its share", most=400)] = 10.0
    censored_room_percent: Annotated[float, percent("the same if its use may hide a need", most=400)] = 50.0
    peak_s: Annotated[float, seconds("time in which the memory of a peak fades to a third", least=1)] = 30.0
    crest_s: Annotated[float, seconds("the same for the peak that a rise of use points to", least=1)] = 7200.0
    rise_percent: Annotated[float, percent("using so much more of its memory than before is a rise")] = 5.0
    rise_s: Annotated[float, seconds("a rise is expected to reach the crest within so long")] = 10.0
    trials: Annotated[int, Parameter("if its use may hide a need, it may grow so often in vain", least=0)] = 2
    doubt_s: Annotated[float, seconds("... and then counts as silent for so long")] = 3600.0
    doubt_doublings: Annotated[
        int, Parameter("... doubled each time, so often at most", least=0, most=16)
    ] = 5
    stall_percent: Annotated[float, percent("stalls beyond are a need; of the time", 0.01, 100)] = 0.5
    calm_percent: Annotated[float, percent("stalls below are none; of the time", most=100)] = 0.1
    explained_percent: Annotated[float, percent("stalls of one that uses more are explained", least=1)] = 98.0
    full_percent: Annotated[float, percent("a boost of one that uses more goes with its use")] = 75.0
    stalled_s: Annotated[float, seconds("stalls must last so long")] = 2.0
    boost_percent: Annotated[float, percent("who stalls gets a boost of this and its stalls")] = 5.0
    boost_most_percent: Annotated[float, percent("... but of no more at a time")] = 25.0
    hold_s: Annotated[float, seconds("a boost is held so long, twice as long each time it helps")] = 30.0
    hold_doublings: Annotated[int, Parameter("... doubled so often at most", least=0, most=16)] = 5
    fade_calm_s: Annotated[float, seconds("in which a calm guest's boost fades to a third", least=1)] = 300.0
    fade_s: Annotated[float, seconds("the same for one that stalls a little", least=1)] = 900.0
    refault_us: Annotated[int, Parameter("of stall that each page read again stands for, us", least=0)] = 8000
    boost_is_need: Annotated[bool, Parameter("whether who stalls is sure of its share, whatever it uses")] = (
        True
    )


BOOST_LEAST_KIB: Final = mib_to_kib(1)
"""A boost that has faded to this is over."""


class Demand(NamedTuple):
    """What is known of one guest; a list of numbers in JSON. Sizes KiB, times monotonic seconds.

    Args:
        seen_s: when its last sample arrived.
        stall_us: as in the sample; None: not said.
        refault_kib: as in the sample; None: not said.
        demand_kib: what it uses and has on swap.
        peak_kib: its highest demand of late, as of ``seen_s``.
        stall: the share of the time for which it stalled between its last two samples, 0 to 1.
        stalled_since_s: since when it stalls for no reason that its demand explains; None: it does not.
        boost_kib: what it is to have beyond what its use says, as of ``seen_s``.
        held_until_s: before this the boost does not fade.
        holds: how often the hold was doubled.
        is_relieved: whether its stalls have ended since the boost was last raised.
        crest_kib: its highest demand of the last hour or so, as of ``seen_s``.
        rising_until_s: its use is on the rise, and the crest expected, until then.
        size_kib: what it held when it was last heard.
        vain: how often it grew and went on saying that all is used, and nothing of stalls.
        doubted_until_s: it is not believed until then.
        is_credible: whether it ever called anything available that it had not just been given.
        boosted_use_kib: what it used when the boost was asked for, if it was so much of its memory that the
            boost goes with its use; 0: it does not.
        doubts: how often in a row it was not believed; each time it takes longer until it is heard again.
    """

    seen_s: float
    stall_us: int | None
    refault_kib: int | None
    demand_kib: int
    peak_kib: int
    stall: float = 0.0
    stalled_since_s: float | None = None
    boost_kib: int = 0
    held_until_s: float = 0.0
    holds: int = 0
    is_relieved: bool = False
    crest_kib: int = 0
    rising_until_s: float = 0.0
    size_kib: int = 0
    vain: int = 0
    doubted_until_s: float = 0.0
    is_credible: bool = False
    boosted_use_kib: int = 0
    doubts: int = 0

    def peak_at(self, now_s: float, parameters: DemandParameters) -> int:
        """Say what is left of the peak, KiB: it fades towards the demand."""
        return self._faded(self.peak_kib, now_s, parameters.peak_s)

    def crest_at(self, now_s: float, parameters: DemandParameters) -> int:
        """Say what is left of the crest, KiB: it fades towards the demand, but slowly."""
        return self._faded(self.crest_kib, now_s, parameters.crest_s)

    def boost_at(self, now_s: float, parameters: DemandParameters) -> int:
        """Say what is left of the boost if it is contended, KiB."""
        fading_s = now_s - max(self.seen_s, self.held_until_s)
        if self.boost_kib == 0 or fading_s <= 0:
            return self.boost_kib
        is_calm = self.stall * PERCENT < parameters.calm_percent
        boost_kib = int(
            self.boost_kib * exp(-fading_s / (parameters.fade_calm_s if is_calm else parameters.fade_s))
        )
        return boost_kib if boost_kib >= BOOST_LEAST_KIB else 0

    def boost_for(self, used_kib: int, boost_kib: int) -> int:
        """Say how much of a boost is called for by a guest that uses so much, KiB."""
        if used_kib >= self.boosted_use_kib:
            return boost_kib
        return boost_kib * used_kib // self.boosted_use_kib

    def _faded(self, size_kib: int, now_s: float, fades_s: float) -> int:
        fading_kib = size_kib - self.demand_kib
        if fading_kib <= 0:
            return self.demand_kib
        return self.demand_kib + int(fading_kib * exp(-(now_s - self.seen_s) / fades_s))


class Needs(NamedTuple):
    """What a guest is to have, in the order in which guests are served, each within its limits; KiB.

    Args:
        need_kib: what nobody may take from it below its entitlement.
        used_kib: what it uses, with the least of room that a cache needs.
        room_kib: ... with room to grow.
        boost_kib: ... and what its stalls ask for.
        peak_kib: ... and what it may need again soon, as it did before.
        crest_kib: ... and what it needed at some time: it is the first to get what nobody needs.
    """

    need_kib: int
    used_kib: int
    room_kib: int
    boost_kib: int
    peak_kib: int
    crest_kib: int


def follow(
    demand: Demand | None,
    claim: Claim,
    sample: Sample,
    parameters: DemandParameters,
    *,
    is_contended: bool = True,
) -> Demand:
    """Take a sample in; the same object when it brought nothing new.

    Args:
        demand: what was known, None of a guest that is heard for the first time.
        claim: the guest as it is seen.
        sample: what it said last.
        parameters: the knobs.
        is_contended: whether somebody lacks memory; while nobody does, no boost fades, since probing whether
            a cache is still hot costs time and what is found helps nobody.
    """
    used_kib = sample.used_kib + sample.swapped_kib
    if demand is None:
        demand = Demand(sample.seen_s, sample.stall_us, sample.refault_kib, used_kib, used_kib)
        return demand._replace(
            crest_kib=used_kib, size_kib=claim.actual_kib, is_credible=not _is_censored(sample)
        )
    if sample.seen_s <= demand.seen_s:
        return demand
    seen_s = sample.seen_s
    rise_kib = max(parameters.room_kib, int(claim.actual_kib * parameters.rise_percent / PERCENT))
    is_rising = used_kib - demand.demand_kib > rise_kib
    demand = _doubt(demand, claim, sample, parameters)
    return _boost(demand, claim, sample, parameters, is_contended=is_contended)._replace(
        seen_s=seen_s,
        stall_us=sample.stall_us,
        refault_kib=sample.refault_kib,
        demand_kib=used_kib,
        peak_kib=max(used_kib, demand.peak_at(seen_s, parameters)),
        crest_kib=max(used_kib, demand.crest_at(seen_s, parameters)),
        rising_until_s=seen_s + parameters.rise_s if is_rising else demand.rising_until_s,
        size_kib=claim.actual_kib,
    )


def needs_of(demand: Demand, claim: Claim, sample: Sample, parameters: DemandParameters) -> Needs:
    """Say what a guest is to have; what fades does so from sample to sample, not while nothing is heard."""
    used_kib = demand.demand_kib
    room_kib = with_room_kib(used_kib, sample, parameters)
    boost_kib = max(room_kib + demand.boost_for(used_kib, demand.boost_kib), claim.regret_kib)
    sure_kib = int(used_kib * (PERCENT + parameters.sure_room_percent) / PERCENT) + parameters.room_kib
    need_kib = max(sure_kib, boost_kib if parameters.boost_is_need and demand.boost_kib else room_kib)
    is_rising = demand.seen_s < demand.rising_until_s
    crest_kib = demand.crest_kib + parameters.room_kib
    peak_kib = max(boost_kib, crest_kib if is_rising else demand.peak_kib + parameters.room_kib)
    crest_kib = max(peak_kib, crest_kib)
    sizes_kib = (need_kib, used_kib + parameters.room_kib, room_kib, boost_kib, peak_kib, crest_kib)
    low_kib, high_kib = claim.low_kib, claim.high_kib
    return Needs(*(min(max(size, low_kib), high_kib) for size in sizes_kib))


def with_room_kib(used_kib: int, sample: Sample, parameters: DemandParameters) -> int:
    """Say what a guest that uses so much needs with room to grow, whatever its range; KiB."""
    more = parameters.censored_room_percent if _is_censored(sample) else parameters.room_percent
    return int(used_kib * (PERCENT + more) / PERCENT) + parameters.room_kib


def is_believed(demand: Demand) -> bool:
    """Tell whether what a guest says is taken for what it needs; if not, it counts as silent."""
    return demand.seen_s >= demand.doubted_until_s


def _doubt(demand: Demand, claim: Claim, sample: Sample, parameters: DemandParameters) -> Demand:
    """Stop believing a guest that says, however much it gets, that it uses all.

    Agents of before 2021 call only free memory available, and a cache fills whatever it is given. Whoever was
    heard to have something available of its own is no such guest: it is believed, whatever it says.
    """
    has_grown = claim.actual_kib * PERCENT >= demand.size_kib * (PERCENT + parameters.rise_percent)
    if not _is_censored(sample):
        if has_grown:
            return demand._replace(vain=0)
        return demand._replace(vain=0, is_credible=True, doubts=0, doubted_until_s=0.0)
    if demand.is_credible:
        return demand
    vain = demand.vain + (has_grown or claim.actual_kib >= claim.high_kib)
    if vain < parameters.trials:
        return demand._replace(vain=vain)
    doubt_s = parameters.doubt_s * 2**demand.doubts
    doubts = min(demand.doubts + 1, parameters.doubt_doublings)
    return demand._replace(vain=0, doubts=doubts, doubted_until_s=sample.seen_s + doubt_s)


def _boost(
    demand: Demand, claim: Claim, sample: Sample, parameters: DemandParameters, *, is_contended: bool
) -> Demand:
    """Give more to a guest that stalls for no reason that its use explains, and let what it got fade."""
    seen_s, used_kib = sample.seen_s, sample.used_kib + sample.swapped_kib
    stall = _stall(demand, sample, parameters)
    boost_kib = demand.boost_at(seen_s, parameters) if is_contended else demand.boost_kib
    is_relieved = demand.is_relieved or stall * PERCENT < parameters.calm_percent
    is_explained = used_kib * PERCENT >= claim.actual_kib * parameters.explained_percent
    since_s = None
    if stall * PERCENT > parameters.stall_percent and not is_explained:
        since_s = demand.seen_s if demand.stalled_since_s is None else demand.stalled_since_s
    demand = demand._replace(
        stall=stall,
        stalled_since_s=since_s,
        boost_kib=boost_kib,
        holds=demand.holds if boost_kib else 0,
        is_relieved=is_relieved,
    )
    if since_s is None or seen_s - since_s < parameters.stalled_s:
        return demand
    more = min(parameters.boost_most_percent, parameters.boost_percent + stall * PERCENT)
    wanted_kib = int(claim.actual_kib * (1 + more / PERCENT))
    holds = min(demand.holds + is_relieved, parameters.hold_doublings) if boost_kib else 0
    asked_kib = wanted_kib - with_room_kib(used_kib, sample, parameters)
    if asked_kib > demand.boost_for(used_kib, boost_kib):
        is_of_cache = boost_kib > 0 and demand.boosted_use_kib == 0
        is_full = used_kib * PERCENT >= claim.actual_kib * parameters.full_percent
        boost_kib = asked_kib
        demand = demand._replace(boosted_use_kib=used_kib if is_full and not is_of_cache else 0)
    return demand._replace(
        boost_kib=boost_kib,
        holds=holds,
        held_until_s=seen_s + parameters.hold_s * 2**holds,
        is_relieved=False,
    )


def _is_censored(sample: Sample) -> bool:
    return sample.is_censored and sample.stall_us is None


def _stall(demand: Demand, sample: Sample, parameters: DemandParameters) -> float:
    """Tell for which share of the time the guest stalled since the sample before; 0 after it rebooted."""
    elapsed_us = (sample.seen_s - demand.seen_s) * MICROSECONDS_PER_SECOND
    stalled_us = 0.0
    if sample.stall_us is not None and demand.stall_us is not None:
        stalled_us = sample.stall_us - demand.stall_us
    elif sample.refault_kib is not None and demand.refault_kib is not None and sample.stall_us is None:
        stalled_us = (sample.refault_kib - demand.refault_kib) // KIB_PER_PAGE * parameters.refault_us
    return min(max(stalled_us / elapsed_us, 0.0), 1.0)
