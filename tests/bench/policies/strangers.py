"""Five workloads that no policy was tuned on, since they were made after the last of them was.

    python -m tests.bench.policies --strangers

Guests of all sizes, weights and systems at once; storms in which all need more in the same minute; one that
lies; many small ones that join and leave; and some whose agents speak once a minute. All needs stand still
for the last quarter of an hour, in which nothing may oscillate. Sizes KiB, times seconds.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from tests.bench.policies.cases import Case, CaseGuest, Turn, Voice, bursts, need_of, still
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.xen.workload import Need

RESTS_S: Final = 1500.0
"""Needs change until then."""

SETTLES_S: Final = RESTS_S + 300.0
"""... and what moves later is counted as restless."""

ENDS_S: Final = RESTS_S + 900.0

FRESH: Final = tuple(range(3001, 3011))
"""Seeds that were looked at for nothing else."""


def make_stranger(name: str, seed: int) -> Case:
    """Make a workload.

    Args:
        name: a key of `STRANGERS`.
        seed: any whole number; the same makes the same.
    """
    random = Random(f"stranger/{name}/{seed}")  # noqa: S311  (repeatable load, no secret)
    guests = STRANGERS[name](random)
    return Case(name=name, guests=guests, duration_s=ENDS_S, is_constant=True, settles_s=SETTLES_S)


def _crowd(random: Random) -> tuple[CaseGuest, ...]:
    """Ten guests of all sizes, weights, systems and agents: steady, in tides, bursting, with hot caches."""
    guests = []
    for number in range(10):
        max_mib = random.choice((1024, 2048, 3072, 4096))
        base = need_of(
            random.uniform(0.15, 0.3) * max_mib, 0.02 * max_mib, random.uniform(0.02, 0.3) * max_mib
        )
        kind = ("still", "bursts", "tide", "bursts")[number % 4]
        turns = still(base)
        if kind == "bursts":
            turns = bursts(random, RESTS_S, peak_mib=(0.4 * max_mib, 0.9 * max_mib), base=base)
        elif kind == "tide":
            high = base._replace(hot_kib=mib_to_kib(round(random.uniform(0.5, 0.8) * max_mib)))
            turns = _tide(base, high, random.uniform(240, 480))
        guests.append(
            CaseGuest(
                turns=turns,
                dynamic_min_kib=mib_to_kib(max_mib // 8),
                dynamic_max_kib=mib_to_kib(max_mib),
                weight=random.choice((1, 1, 2, 3)),
                family=random.choice(("linux", "windows")),
                voice=(Voice.ASKED, Voice.ASKED, Voice.ASKED, Voice.OLD, Voice.SILENT)[number % 5],
            )
        )
    return tuple(guests)


def _storm(random: Random) -> tuple[CaseGuest, ...]:
    """Eight guests that all need more in the same minute, every few minutes, as backups at night do."""
    starts_s, now_s = [], 60.0
    while now_s < RESTS_S - 200:
        starts_s.append(now_s)
        now_s += random.uniform(150, 330)
    guests = []
    for _ in range(8):
        base = need_of(random.uniform(400, 900), random.uniform(20, 100), random.uniform(50, 200))
        turns = [Turn(0.0, base)]
        for start_s in starts_s:
            at_s = round(start_s + random.uniform(0, 20), 1)
            peak = base._replace(hot_kib=mib_to_kib(round(random.uniform(1500, 2900))))
            turns += [Turn(at_s, peak), Turn(round(at_s + random.uniform(40, 120), 1), base)]
        guests.append(CaseGuest(turns=tuple(turns)))
    return tuple(guests)


def _liar(random: Random) -> tuple[CaseGuest, ...]:
    """Seven guests that burst, and an idle one whose agent says that it needs all and stalls all the time."""
    honest = [CaseGuest(turns=bursts(random, RESTS_S, rest_s=300)) for _ in range(7)]
    liar = CaseGuest(turns=still(need_of(random.uniform(200, 400), 20, 20)), voice=Voice.LIAR)
    return (*honest, liar)


def _swarm(random: Random) -> tuple[CaseGuest, ...]:
    """Three big guests that burst, and some sixty small ones that come and go all the time."""
    guests = [CaseGuest(turns=bursts(random, RESTS_S, rest_s=200, peak_mib=(2200, 3600))) for _ in range(3)]
    now_s = 30.0
    while now_s < RESTS_S - 60:
        now_s = round(now_s + random.uniform(10, 35), 1)
        size_mib = random.randrange(96, 321, 32)
        ends_s = round(now_s + random.uniform(120, 900), 1)
        base = need_of(random.uniform(0.3, 0.6) * size_mib, 0.05 * size_mib, 0.05 * size_mib)
        high = base._replace(hot_kib=mib_to_kib(round(random.uniform(0.8, 1.5) * size_mib)))
        turns = [Turn(now_s, base)]
        if random.random() < 0.6:
            at_s = round(now_s + random.uniform(20, 90), 1)
            turns += [Turn(at_s, high), Turn(round(at_s + random.uniform(20, 60), 1), base)]
        guests.append(
            CaseGuest(
                turns=tuple(turns),
                dynamic_min_kib=mib_to_kib(size_mib // 2),
                dynamic_max_kib=mib_to_kib(2 * size_mib),
                start_kib=mib_to_kib(size_mib),
                starts_s=now_s,
                ends_s=0.0 if ends_s >= RESTS_S else ends_s,
            )
        )
    return tuple(guests)


def _minutely(random: Random) -> tuple[CaseGuest, ...]:
    """Four guests that are heard once a minute need up to their shares; four with our agent burst."""
    slow = [
        CaseGuest(
            turns=bursts(random, RESTS_S, rest_s=200, peak_mib=(1000, 1900)),
            voice=Voice.STOCK,
        )
        for _ in range(4)
    ]
    return (*slow, *(CaseGuest(turns=bursts(random, RESTS_S, rest_s=200)) for _ in range(4)))


def _tide(low: Need, high: Need, period_s: float) -> tuple[Turn, ...]:
    """Let a need rise and fall slowly, in steps of a sixteenth."""
    turns, now_s, step = [], 0.0, 0
    while now_s < RESTS_S:
        part = (step if step <= 16 else 32 - step) / 16
        hot_kib = low.hot_kib + int((high.hot_kib - low.hot_kib) * part)
        turns.append(Turn(round(now_s, 1), low._replace(hot_kib=hot_kib)))
        now_s, step = now_s + period_s / 32, (step + 1) % 32
    return tuple(turns)


STRANGERS: Final[Mapping[str, Callable[[Random], tuple[CaseGuest, ...]]]] = {
    "crowd": _crowd,
    "storm": _storm,
    "liar": _liar,
    "swarm": _swarm,
    "minutely": _minutely,
}
"""The workloads by name."""
