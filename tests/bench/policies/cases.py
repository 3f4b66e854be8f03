"""The twelve workloads that policies are judged by, each made from a seed.

They are those of the peers' study (9.6): a 16 GiB host, eight guests of 512 MiB to 4 GiB (24 mixed ones in
``big``), balloons of 200 MiB/s, half an hour to an hour. The study gives the measured effect of each and
not the numbers of its generator, so those here were chosen, before any policy of ours was tuned, such that
the peers' columns come out near the study's. Sizes KiB, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.units import mib_to_kib
from xcpmem.xen.workload import Need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HOST_MIB: Final = 16384
RATE_MIB_S: Final = 200
RANGE_MIB: Final = (512, 4096)
GUESTS: Final = 8
RAMP_S: Final = 4
HALF_HOUR_S: Final = 1800.0
HOUR_S: Final = 3600.0
SETTLED_S: Final = 600.0


class Voice(StrEnum):
    """What a guest's agent is, whatever policy listens to it."""

    ASKED = "asked"
    """As the run says: a stock agent or ours."""
    OLD = "old"
    """A stock agent from before MemAvailable: page cache looks used."""
    STOCK = "stock"
    """A stock agent, whatever the run says."""
    LIAR = "liar"
    """Ours, made to say that all is used, much is swapped out and all of the time lost."""
    SILENT = "silent"


class Turn(NamedTuple):
    """From ``at_s`` on this is needed."""

    at_s: float
    need: Need


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseGuest:
    """One guest of a case.

    Args:
        turns: its need over time, by rising time, from its first moment on.
        dynamic_min_kib: the low end of its range.
        dynamic_max_kib: the high end.
        weight: for weighted policies.
        shrinks_kib_s: how fast it gives memory back; 0: its balloon is dead.
        grows_kib_s: how fast it takes memory.
        family: its operating system, which no policy may see.
        voice: its agent.
        start_kib: what it is started with; 0: it is there from the beginning, at its share.
        starts_s: when it is to start.
        ends_s: when it is gone; 0: never.
    """

    turns: tuple[Turn, ...]
    dynamic_min_kib: int = mib_to_kib(RANGE_MIB[0])
    dynamic_max_kib: int = mib_to_kib(RANGE_MIB[1])
    weight: int = 1
    shrinks_kib_s: int = mib_to_kib(RATE_MIB_S)
    grows_kib_s: int = mib_to_kib(RATE_MIB_S)
    family: str = "linux"
    voice: Voice = Voice.ASKED
    start_kib: int = 0
    starts_s: float = 0.0
    ends_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload from one seed.

    Args:
        name: of the workload.
        guests: all that ever run.
        duration_s: how long it is run.
        from_s: what is measured begins here.
        budget_kib: what the guests may have together.
        step_s: when the step comes whose recovery is measured; 0: there is none.
        is_constant: whether needs stand still, in the end at least.
        settles_s: if so, movement is counted as restless from here on.
    """

    name: str
    guests: tuple[CaseGuest, ...]
    duration_s: float = HALF_HOUR_S
    from_s: float = 0.0
    budget_kib: int = mib_to_kib(HOST_MIB)
    step_s: float = 0.0
    is_constant: bool = False
    settles_s: float = SETTLED_S


def make_case(name: str, seed: int) -> Case:
    """Make a workload.

    Args:
        name: a key of `CASES`.
        seed: any whole number; the same makes the same.
    """
    random = Random(f"{name}/{seed}")  # noqa: S311  (repeatable load, no secret)
    return CASES[name](random)


def need_of(hot_mib: float, cache_mib: float = 0, cold_mib: float = 0) -> Need:
    """Make a need of MiB."""
    return Need(*(mib_to_kib(round(size_mib)) for size_mib in (hot_mib, cache_mib, cold_mib)))


def still(need: Need) -> tuple[Turn, ...]:
    """Let a need stand still."""
    return (Turn(0.0, need),)


def _idle(random: Random) -> Need:
    return need_of(random.uniform(300, 500), random.uniform(20, 80), random.uniform(20, 100))


def _step(random: Random) -> Case:
    """One guest needs 2.6 GiB more, for good."""
    needs = [
        need_of(random.uniform(500, 900), random.uniform(20, 80), random.uniform(50, 150))
        for _ in range(GUESTS)
    ]
    at_s = 600 + 0.5 * random.randrange(120)
    guests = [CaseGuest(turns=still(need)) for need in needs]
    chosen = random.randrange(GUESTS)
    more = needs[chosen]._replace(hot_kib=needs[chosen].hot_kib + mib_to_kib(2662))
    guests[chosen] = replace(guests[chosen], turns=(Turn(0.0, needs[chosen]), Turn(at_s, more)))
    return Case(name="step", guests=tuple(guests), from_s=at_s, duration_s=at_s + 1200, step_s=at_s)


def _hoard(random: Random) -> Case:
    """Six guests idle, two busy; all start at their share."""
    needs = [_idle(random) for _ in range(6)]
    needs += [need_of(random.uniform(3200, 3500), random.uniform(20, 80)) for _ in range(2)]
    return _constant("hoard", random, needs, HALF_HOUR_S)


def _cache(random: Random) -> Case:
    """Three guests read the same files again and again; nothing but stalls tells of it."""
    needs = [need_of(random.uniform(300, 500), random.uniform(2400, 2700)) for _ in range(3)]
    needs += [_idle(random) for _ in range(GUESTS - 3)]
    return _constant("cache", random, needs, HOUR_S)


def _steady(random: Random) -> Case:
    """A mix that fits and does not move: three busy with memory, one with a cache, the rest idle."""
    needs = [
        need_of(random.uniform(1400, 2300), random.uniform(50, 200), random.uniform(100, 500))
        for _ in range(3)
    ]
    needs.append(need_of(random.uniform(400, 800), random.uniform(1400, 1900), random.uniform(50, 200)))
    needs += [_idle(random) for _ in range(GUESTS - 4)]
    return _constant("steady", random, needs, HOUR_S)


def _constant(name: str, random: Random, needs: list[Need], duration_s: float) -> Case:
    random.shuffle(needs)
    guests = tuple(CaseGuest(turns=still(need)) for need in needs)
    return Case(name=name, guests=guests, duration_s=duration_s, is_constant=True)


def _phase(random: Random) -> Case:
    """Two halves take turns at being busy, every five minutes."""
    guests = []
    for number in range(GUESTS):
        high = need_of(random.uniform(2450, 2700), random.uniform(20, 80))
        low = need_of(random.uniform(850, 1050), random.uniform(20, 80))
        first, second = (high, low) if number % 2 else (low, high)
        turns = tuple(Turn(300.0 * turn, second if turn % 2 else first) for turn in range(6))
        guests.append(CaseGuest(turns=turns))
    return Case(name="phase", guests=tuple(guests))


def bursts(
    random: Random,
    duration_s: float,
    *,
    peak_mib: tuple[float, float] = (1900, 2400),
    rest_s: float = 400.0,
    base: Need | None = None,
) -> tuple[Turn, ...]:
    """Make a guest that is quiet and now and then needs much more for 20 to 120 s.

    Nine of ten bursts end within two minutes (Overdriver saw 88 %); the others take up to four.
    """
    base = base or need_of(random.uniform(400, 700), random.uniform(20, 100), random.uniform(50, 150))
    turns, now_s = [Turn(0.0, base)], 60 + random.expovariate(1 / rest_s)
    while now_s < duration_s:
        burst_s = random.uniform(20, 120) if random.random() < 0.9 else random.uniform(120, 240)
        peak = base._replace(hot_kib=mib_to_kib(round(random.uniform(*peak_mib))))
        turns += _ramp(now_s, base, peak)
        turns.append(Turn(round(now_s + burst_s, 1), base))
        now_s += burst_s + 20 + random.expovariate(1 / rest_s)
    return tuple(turns)


def _ramp(at_s: float, base: Need, peak: Need) -> Iterator[Turn]:
    """Let a need rise as a program loads its data: not at once, but in equal parts over some seconds."""
    for part in range(1, RAMP_S + 1):
        hot_kib = base.hot_kib + (peak.hot_kib - base.hot_kib) * part // RAMP_S
        yield Turn(round(at_s + part - 1, 1), base._replace(hot_kib=hot_kib))


def _burst(random: Random) -> Case:
    """Everybody bursts at random times, and all of it fits."""
    guests = tuple(CaseGuest(turns=bursts(random, HALF_HOUR_S)) for _ in range(GUESTS))
    return Case(name="burst", guests=guests)


def _osmix(random: Random) -> Case:
    """Three Linux and three Windows guests with the same bursts in pairs, an old agent, and none."""
    pairs = [bursts(random, HALF_HOUR_S, rest_s=260) for _ in range(3)]
    guests = [CaseGuest(turns=turns, family=family) for turns in pairs for family in ("linux", "windows")]
    old, silent = (bursts(random, HALF_HOUR_S, peak_mib=(1300, 2050)) for _ in range(2))
    guests += [CaseGuest(turns=old, family="old", voice=Voice.OLD)]
    guests += [CaseGuest(turns=silent, family="silent", voice=Voice.SILENT)]
    return Case(name="osmix", guests=tuple(guests))


def _admission(random: Random) -> Case:
    """Bursts, and VMs that start in the middle of them and live for a few minutes."""
    guests = [CaseGuest(turns=bursts(random, HALF_HOUR_S, rest_s=210)) for _ in range(6)]
    now_s = 60.0
    while now_s < HALF_HOUR_S - 120:
        now_s = round(now_s + random.uniform(60, 150), 1)
        ends_s = round(min(now_s + random.uniform(120, 280), HALF_HOUR_S), 1)
        need = need_of(random.uniform(500, 1200), random.uniform(20, 80))
        size_kib = mib_to_kib(random.randrange(1024, 1537, 64))
        turns = tuple(_shifted(bursts(random, ends_s - now_s, base=need), now_s))
        guests.append(CaseGuest(turns=turns, start_kib=size_kib, starts_s=now_s, ends_s=ends_s))
    return Case(name="admission", guests=tuple(guests))


def _shifted(turns: tuple[Turn, ...], by_s: float) -> Iterator[Turn]:
    for turn in turns:
        yield Turn(round(turn.at_s + by_s, 1), turn.need)


def _slow(random: Random) -> Case:
    """Bursts among guests that give memory back at 15 MiB/s only."""
    guests = tuple(
        CaseGuest(turns=bursts(random, HALF_HOUR_S, rest_s=340), shrinks_kib_s=mib_to_kib(15))
        for _ in range(GUESTS)
    )
    return Case(name="slow", guests=guests)


def _stuck(random: Random) -> Case:
    """Bursts, and two of the eight balloons are dead."""
    case = _burst(random)
    dead = random.sample(range(GUESTS), 2)
    guests = tuple(
        replace(guest, shrinks_kib_s=0, grows_kib_s=0) if number in dead else guest
        for number, guest in enumerate(case.guests)
    )
    return replace(case, name="stuck", guests=guests)


def _overload(random: Random) -> Case:
    """130 % of the host is needed all the time, by guests of weights 1, 2 and 4."""
    weights = [1, 2, 4, 1, 2, 4, 1, 2]
    shares = [random.uniform(0.9, 1.1) for _ in weights]
    scale_mib = 1.3 * HOST_MIB / sum(shares)
    guests = tuple(
        CaseGuest(turns=still(need_of(share * scale_mib - 100, 50, 50)), weight=weight)
        for share, weight in zip(shares, weights, strict=True)
    )
    return Case(name="overload", guests=guests, is_constant=True)


def _big(random: Random) -> Case:
    """24 guests of all sizes, idle, busy and bursting, on a host that is too small for them at times."""
    guests = []
    for number in range(24):
        max_mib = (512, 1024, 1536, 2048, 3072, 4096)[number % 6]
        base = need_of(random.uniform(0.10, 0.16) * max_mib, 0.03 * max_mib, 0.03 * max_mib)
        kind = random.choice(("idle", "busy", "bursts", "bursts"))
        if kind == "busy":
            base = need_of(random.uniform(0.22, 0.36) * max_mib, 0.03 * max_mib, 0.03 * max_mib)
        turns = still(base)
        if kind == "bursts":
            peak_mib = (0.35 * max_mib, max_mib)
            turns = bursts(random, HALF_HOUR_S, peak_mib=peak_mib, rest_s=90, base=base)
        guests.append(
            CaseGuest(
                turns=turns,
                dynamic_min_kib=mib_to_kib(max_mib // 8),
                dynamic_max_kib=mib_to_kib(max_mib),
            )
        )
    return Case(name="big", guests=tuple(guests))


CASES: Final[Mapping[str, Callable[[Random], Case]]] = {
    "step": _step,
    "hoard": _hoard,
    "cache": _cache,
    "phase": _phase,
    "steady": _steady,
    "burst": _burst,
    "osmix": _osmix,
    "admission": _admission,
    "slow": _slow,
    "stuck": _stuck,
    "overload": _overload,
    "big": _big,
}
"""The workloads by name, in the order of the study's table."""
