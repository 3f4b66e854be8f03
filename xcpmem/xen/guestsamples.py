"""What is known of each guest from what it says: the reports of its agents, weighed and dated.

A report counts from the moment it arrives: when its key is written, or when its text is first seen. What
cannot be read or cannot be true is dropped and counted, and the last good word grows old. A guest whose
words are old is as good as silent to whoever reads them (`Sample.is_fresh`).
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Final

from xcpmem.engine.sample import Sample
from xcpmem.errors import StoreError
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import is_at_or_above, read_size_kib
from xcpmem.xen.guestreports import Source, read_available, read_own, read_used

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from xcpmem.xen.guestreports import Report
    from xcpmem.xen.mailbox import Events
    from xcpmem.xen.xenstore import Xenstore

_log = logging.getLogger(__name__)

OWN_PERIOD_S: Final = 10.0
"""Heartbeat of xcpmem's own agent."""
SLOW_PERIOD_S: Final = 122.0
"""xe-daemon reports every 120 s, the old Windows agent every 121.5 s; both write ``data/updated``."""
RUST_PERIOD_S: Final = 60.0
"""The Rust agent reports every 60 s, xenplus every 59 s; neither writes ``data/updated``."""
QUBES_PERIOD_S: Final = 3600.0
"""Qubes' agent is silent until 30 MB have changed: its word does not grow old by the minute."""
LINES_PERIOD_S: Final = 5.0
"""xenballoond reports every second, when it gets one."""

SCARCE_PART: Final = 20
"""With less than this part of it available, and no word of stalls, a guest may need more than it uses."""
FREE_PART: Final = 33
"""Older xe-daemons report what is free without the cache: less than 3 % of it is what they always say."""
FREE_S: Final = 600.0
"""For longer than this."""
COUNTS_CACHE: Final = (7, 20)
"""xe-daemon says what is available, cache included, in versions after this one (xe-guest-utilities, 2021)."""

_KEYS: Final = (
    paths.DATA_XCPMEM_REPORT,
    paths.DATA_MEMINFO_FREE,
    paths.DATA_UPDATED,
    paths.MEMORY_MEMINFO,
    paths.MEMORY_SWAPINFO,
    paths.CONTROL_BALLOON_ACTIVE,
)
REPORT_KEYS: Final = frozenset(_KEYS)
"""What guests say of themselves, below their domain's directory."""
_VERSION: Final = (paths.PV_ADDONS_MAJOR_VERSION, paths.PV_ADDONS_MINOR_VERSION)
_FLAGS: Final[Mapping[str | None, bool]] = {"0": False, "1": True}


class Flaw(StrEnum):
    """Why a report was dropped; the label of its counter."""

    MALFORMED = "malformed"
    ABSURD = "absurd"


@dataclass(frozen=True, slots=True, eq=False)
class GuestNews:
    """What is known of a guest from its own words; never the same as other news, which came at another time.

    Args:
        sample: its last report by its best agent; None: it says nothing.
        free_kib: what it said is free, KiB; None: it has not said so lately.
        balloon_active: whether its driver says that the balloon moves right now; None: it does not say.
    """

    sample: Sample | None = None
    free_kib: int | None = None
    balloon_active: bool | None = None


@dataclass(slots=True)
class _Guest:
    """What one guest wrote, and what was made of it."""

    texts: dict[str, str | None] = field(default_factory=dict)
    samples: dict[Source, Sample] = field(default_factory=dict)
    free_kib: dict[Source, int] = field(default_factory=dict)
    scarce_since_s: float | None = None
    complained: set[Source] = field(default_factory=set)
    is_new: bool = True
    news: GuestNews = GuestNews()
    news_until_s: float = -inf


class GuestSamples:
    """Reads the guests' reports when a watch says that they were written.

    Args:
        xenstore: where to read. Who watches is the `KeyCache`.
    """

    def __init__(self, xenstore: Xenstore) -> None:
        self._xenstore = xenstore
        self._guests: dict[int, _Guest] = {}
        self._unread: AbstractSet[int] = set()
        self._news: dict[int, GuestNews] = {}
        self._news_until_s = -inf
        self._dropped = Counter({flaw.value: 0 for flaw in Flaw})

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many reports were dropped since the beginning, by `Flaw`."""
        return dict(self._dropped)

    async def refresh(
        self,
        domids: AbstractSet[int],
        actual_kib: Callable[[int], int],
        events: Events,
        now_s: float,
    ) -> Mapping[int, GuestNews]:
        """Take in what was written since the last call.

        Args:
            domids: the domains that exist now.
            actual_kib: tells what one of them holds, KiB.
            events: what changed since then.
            now_s: monotonic seconds; the reports' time of arrival.

        Returns:
            By domid, one entry for each domain; the same object for the same news.

        Raises:
            DriverError: xenstored does not answer.
        """
        named = _named_keys(events.paths)
        heard = domids if events.resync else domids & (named.keys() | self._unread)
        if self._guests.keys() != domids:
            for domid in self._guests.keys() - domids:
                del self._guests[domid]
            heard |= domids - self._guests.keys()
        wanted = {
            domid: keys
            for domid in sorted(heard)
            if (keys := list(self._stale_keys(domid, named.get(domid, ()), resync=events.resync)))
        }
        texts = await self._read(wanted)
        self._unread = wanted.keys() - texts.keys()
        for domid, version in (await self._read(self._unversioned(texts, resync=events.resync))).items():
            texts[domid] |= version
        for domid, news in texts.items():
            guest = self._guests.setdefault(domid, _Guest())
            arrived = {key for key, text in news.items() if text != guest.texts.get(key)}
            arrived |= named.get(domid, set()) & set(_KEYS)
            guest.texts |= news
            guest.news_until_s = -inf
            self._take(domid, guest, arrived, actual_kib(domid), now_s)
            guest.is_new = False
        if texts or now_s > self._news_until_s or self._news.keys() != domids:
            self._choose(domids, now_s)
        return self._news

    def _choose(self, domids: AbstractSet[int], now_s: float) -> None:
        """Say what is known of each guest, and until when that is so if none says anything."""
        silent = _Guest()
        guests = {domid: self._guests.get(domid, silent) for domid in domids}
        self._news = {
            domid: guest.news if now_s <= guest.news_until_s else _news(guest, now_s)
            for domid, guest in guests.items()
        }
        self._news_until_s = min((guest.news_until_s for guest in guests.values()), default=inf)

    async def _read(self, wanted: Mapping[int, Sequence[str]]) -> dict[int, dict[str, str | None]]:
        """Read keys of many domains; one that xenstored does not want to have read is left out."""
        try:
            return await self._read_together(wanted)
        except StoreError:
            texts: dict[int, dict[str, str | None]] = {}
            for domid, keys in wanted.items():
                try:
                    texts |= await self._read_together({domid: keys})
                except StoreError as error:
                    _log.debug("domain %d: what its guest says cannot be read: %s", domid, error)
            return texts

    async def _read_together(self, wanted: Mapping[int, Sequence[str]]) -> dict[int, dict[str, str | None]]:
        listed = [_path(domid, key) for domid, keys in wanted.items() for key in keys]
        values = iter(await self._xenstore.read_many(listed) if listed else ())
        return {domid: dict(zip(keys, values, strict=False)) for domid, keys in wanted.items()}

    def _stale_keys(self, domid: int, named: Collection[str], *, resync: bool) -> Iterator[str]:
        guest = self._guests.get(domid)
        if guest is None or resync or domid in self._unread:
            yield from _KEYS
            return
        yield from (key for key in _KEYS if any(is_at_or_above(name, key) for name in named))

    def _unversioned(
        self, texts: Mapping[int, Mapping[str, str | None]], *, resync: bool
    ) -> dict[int, Sequence[str]]:
        """Find whose report cannot be judged without their agent's version; most guests have neither."""
        return {
            domid: _VERSION
            for domid, news in texts.items()
            if news.get(paths.DATA_MEMINFO_FREE) is not None
            and (resync or domid not in self._guests or self._guests[domid].texts.get(_VERSION[0]) is None)
        }

    def _take(
        self, domid: int, guest: _Guest, arrived: Collection[str], actual_kib: int, now_s: float
    ) -> None:
        if paths.DATA_XCPMEM_REPORT in arrived:
            self._hear(domid, guest, Source.OWN, actual_kib, now_s)
        if paths.DATA_MEMINFO_FREE in arrived:
            self._hear(domid, guest, Source.AVAILABLE, actual_kib, now_s)
        elif paths.DATA_UPDATED in arrived and (sample := guest.samples.get(Source.AVAILABLE)):
            # These agents write a number only when it has changed; that they live is written each time.
            guest.samples[Source.AVAILABLE] = replace(sample, seen_s=now_s)
        if paths.MEMORY_MEMINFO in arrived or paths.MEMORY_SWAPINFO in arrived:
            self._hear(domid, guest, Source.USED, actual_kib, now_s)

    def _hear(self, domid: int, guest: _Guest, source: Source, actual_kib: int, now_s: float) -> None:
        text = guest.texts.get(source.value)
        if not text:
            guest.samples.pop(source, None)
            return
        report = _read(source, text, guest)
        used_kib = report.used_of(actual_kib) if report is not None else None
        if report is None or used_kib is None:
            self._drop(domid, guest, source, Flaw.MALFORMED if report is None else Flaw.ABSURD)
            return
        guest.free_kib[source] = actual_kib - used_kib
        guest.samples[source] = Sample(
            seen_s=now_s,
            period_s=_period_s(source, report, guest),
            used_kib=used_kib,
            swapped_kib=report.swapped_kib,
            stall_us=report.stall_us,
            refault_kib=report.refault_kib,
            is_censored=report.stall_us is None and _is_censored(source, guest, used_kib, actual_kib, now_s),
            is_estimated=report.is_estimated,
            source=source.value,
        )

    def _drop(self, domid: int, guest: _Guest, source: Source, flaw: Flaw) -> None:
        if flaw is Flaw.ABSURD and guest.is_new:
            return  # It was said before anybody listened, when the guest may have had another size.
        self._dropped[flaw.value] += 1
        if source not in guest.complained:
            guest.complained.add(source)
            _log.warning("domain %d: %s in %s; reports like it are dropped", domid, flaw.value, source.value)


def _named_keys(changed: Collection[str]) -> dict[int, set[str]]:
    """Sort changed paths by domain: the keys below its directory."""
    named: dict[int, set[str]] = {}
    for key in filter(None, map(paths.domain_key, changed)):
        named.setdefault(key[0], set()).add(key[1])
    return named


def _path(domid: int, key: str) -> str:
    return f"{paths.domain(domid)}/{key}"


def _read(source: Source, text: str, guest: _Guest) -> Report | None:
    match source:
        case Source.OWN:
            return read_own(text)
        case Source.AVAILABLE:
            return read_available(text)
        case Source.USED:
            return read_used(text, guest.texts.get(paths.MEMORY_SWAPINFO))


def _period_s(source: Source, report: Report, guest: _Guest) -> float:
    match source:
        case Source.OWN:
            return OWN_PERIOD_S
        case Source.AVAILABLE:
            return RUST_PERIOD_S if guest.texts.get(paths.DATA_UPDATED) is None else SLOW_PERIOD_S
        case Source.USED:
            return LINES_PERIOD_S if report.is_lines else QUBES_PERIOD_S


def _is_censored(source: Source, guest: _Guest, used_kib: int, actual_kib: int, now_s: float) -> bool:
    """Tell whether a report without a word of stalls may hide a need."""
    free_kib = actual_kib - used_kib
    if source is not Source.AVAILABLE or not _is_blind_to_cache(guest):
        return free_kib * SCARCE_PART < actual_kib
    if free_kib * FREE_PART >= actual_kib:
        guest.scarce_since_s = None
        return False
    if guest.scarce_since_s is None:
        guest.scarce_since_s = now_s
    return now_s - guest.scarce_since_s > FREE_S


def _is_blind_to_cache(guest: _Guest) -> bool:
    """Tell an xe-daemon that reports free memory without the cache, by its version.

    The Rust agent, whose versions begin at 1, writes no ``data/updated``; only Windows' driver writes
    ``control/balloon-active``.
    """
    if guest.texts.get(paths.DATA_UPDATED) is None or guest.texts.get(paths.CONTROL_BALLOON_ACTIVE):
        return False
    major, minor = (read_size_kib(guest.texts.get(key)) for key in _VERSION)
    return major is not None and (major, minor or 0) <= COUNTS_CACHE


def _news(guest: _Guest, now_s: float) -> GuestNews:
    """Choose among a guest's agents: the most telling that spoke lately, or else that ever spoke."""
    known = [source for source in Source if source in guest.samples]
    fresh = [source for source in known if guest.samples[source].is_fresh(now_s)]
    best = next(iter(fresh + known), None)
    guest.news = GuestNews(
        sample=guest.samples[best] if best is not None else None,
        free_kib=guest.free_kib[fresh[0]] if fresh else None,
        balloon_active=_FLAGS.get(guest.texts.get(paths.CONTROL_BALLOON_ACTIVE)),
    )
    guest.news_until_s = guest.samples[fresh[0]].stale_s if fresh else inf
    return guest.news
