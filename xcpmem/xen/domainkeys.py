"""The keys of each domain that matter for memory, read when a watch says that they changed.

Whether watches can be relied on is checked by our own writes, each of which must come back as an event. One
that does not, and the mere passing of time, has everything read again.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from xcpmem.engine.steps import portions
from xcpmem.errors import StoreError
from xcpmem.xen import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from xcpmem.xen.mailbox import Events
    from xcpmem.xen.xenstore import Xenstore

_log = logging.getLogger(__name__)

_Stale: TypeAlias = "tuple[int, Collection[str]]"
"""A domain, and the fields of its keys that are to be read again."""

ECHO_S: Final = 1.0
"""A write of ours whose event has not come after so long shows that events get lost."""

READ_ALL_S: Final = 20.0
"""Everything is read again after so long, events or none; the ring never goes longer without a look."""

TOGETHER_MOST: Final = 50
"""Domains whose keys are asked for at a time, 500 of them: others have their turn before the next."""

_SIZE: Final = re.compile(r"-?[0-9]{1,15}")
"""Up to 15 digits: far beyond any memory, and no number that takes long to compute with."""


@dataclass(frozen=True, slots=True)
class DomainKeys:
    """Raw text by key; None where the key is absent. Some of it is written by the guest."""

    name: str | None = None
    domain_type: str | None = None
    target: str | None = None
    static_max: str | None = None
    dynamic_min: str | None = None
    dynamic_max: str | None = None
    memory_offset: str | None = None
    initial_reservation: str | None = None
    uncooperative: str | None = None
    feature_balloon: str | None = None


_PATHS: Final[Mapping[str, Callable[[int], str]]] = {
    "name": paths.name,
    "domain_type": paths.domain_type,
    "target": paths.target,
    "static_max": paths.static_max,
    "dynamic_min": paths.dynamic_min,
    "dynamic_max": paths.dynamic_max,
    "memory_offset": paths.memory_offset,
    "initial_reservation": paths.initial_reservation,
    "uncooperative": paths.uncooperative,
    "feature_balloon": paths.feature_balloon,
}
_NAMES: Final = tuple(field.name for field in fields(DomainKeys))

_NAMES_BY_KEY: Final = {path(0).removeprefix(f"{paths.domain(0)}/"): name for name, path in _PATHS.items()}

CONFIGURATION_KEYS: Final = frozenset(_NAMES_BY_KEY)
"""The same keys below a domain's directory."""

_WATCHED: Final[tuple[Callable[[int], str], ...]] = (
    paths.memory,
    paths.control,
    paths.data,
    paths.name,
    paths.domain_type,
)
"""Five watches a domain: three directories at once, for guests' reports too, and two single keys."""


def is_at_or_above(name: str, key: str) -> bool:
    """Tell whether a change at a name below a domain's directory (empty: itself) may have changed a key."""
    return not name or name == key or key.startswith(f"{name}/")


def read_size_kib(text: str | None, *, signed: bool = False) -> int | None:
    """Read a size that anybody may have written: decimal digits only, else it is not known.

    Args:
        text: the key's value, None if absent.
        signed: whether it may be negative.

    Returns:
        KiB, or None for anything that is no such number.
    """
    if text is None or _SIZE.fullmatch(text) is None:
        return None
    size_kib = int(text)
    return size_kib if signed or size_kib >= 0 else None


class KeyCache:
    """What xenstore says of each domain, as of the last events.

    Args:
        xenstore: where to read and watch.
    """

    def __init__(self, xenstore: Xenstore) -> None:
        self._xenstore = xenstore
        self._keys: dict[int, DomainKeys] = {}
        self._unreadable: set[int] = set()
        self._echoes: dict[str, float] = {}
        self._read_all_s: float | None = None

    @property
    def awaits_echo(self) -> bool:
        """Whether the event of a write of ours is still to come."""
        return bool(self._echoes)

    def expect(self, written: Iterable[str], now_s: float) -> None:
        """Know that events must come of what was written now, if it is read here; monotonic seconds."""
        for path in written:
            if _changed_names((path,)):
                self._echoes.setdefault(path, now_s)

    async def follow(self, domids: AbstractSet[int]) -> bool:
        """Watch the domains that came since the last call, and no longer those that went.

        Each watch fires once as it is set. Whoever hears that out before `refresh` has it read with the rest,
        and nothing twice; what is heard later may have changed after the reading, and is read again.

        Args:
            domids: the domains that exist now.

        Returns:
            Whether any came.

        Raises:
            DriverError: xenstored does not answer, or refuses a watch.
        """
        if self._keys.keys() == domids:
            return False
        for domid in sorted(self._keys.keys() - domids):
            await self._forget(domid)
        new = domids - self._keys.keys()
        await self._xenstore.watch_many(
            (path(domid), f"xcpmem:{domid}") for domid in sorted(new) for path in _WATCHED
        )
        return bool(new)

    async def refresh(
        self, domids: AbstractSet[int], events: Events, now_s: float
    ) -> Mapping[int, DomainKeys]:
        """Bring the cache up to date by as few reads as can be.

        A domain that cannot be read keeps the keys that were last read of it, and is read again next time.

        Args:
            domids: the domains that are followed.
            events: what changed since the last call.
            now_s: monotonic seconds.

        Returns:
            Keys by domid, one entry for each of ``domids``; the same object for the same words.

        Raises:
            DriverError: xenstored does not answer, or refuses to have any domain read.
        """
        if self._must_read_all(events, now_s):
            stale: dict[int, Collection[str]] = dict.fromkeys(domids, _NAMES)
        else:
            stale = _changed_names(events.paths)
            stale |= dict.fromkeys((domids - self._keys.keys()) | self._unreadable, _NAMES)
        await self._read([(domid, stale[domid]) for domid in sorted(stale.keys() & domids)], domids)
        return self._keys

    def _must_read_all(self, events: Events, now_s: float) -> bool:
        for path in events.paths & self._echoes.keys():
            del self._echoes[path]
        overdue = [path for path, written_s in self._echoes.items() if now_s - written_s >= ECHO_S]
        if overdue and not events.resync:
            _log.warning("no event came of our write to %s: reading all keys again", overdue[0])
        must = (
            events.resync
            or bool(overdue)
            or self._read_all_s is None
            or now_s - self._read_all_s >= READ_ALL_S
        )
        if must:
            self._echoes.clear()
            self._read_all_s = now_s
        return must

    async def _forget(self, domid: int) -> None:
        del self._keys[domid]
        self._unreadable.discard(domid)
        own = f"{paths.domain(domid)}/"
        self._echoes = {path: at_s for path, at_s in self._echoes.items() if not path.startswith(own)}
        for path in _WATCHED:
            try:
                await self._xenstore.unwatch(path(domid), f"xcpmem:{domid}")
            except StoreError as error:
                if error.name != "ENOENT":
                    raise

    async def _read(self, stale: Sequence[_Stale], living: AbstractSet[int]) -> None:
        for some in portions(stale, TOGETHER_MOST):
            try:
                await self._read_together(some)
            except StoreError:
                await self._read_one_by_one(some, living)

    async def _read_together(self, stale: Sequence[_Stale]) -> None:
        wanted = [_PATHS[name](domid) for domid, names in stale for name in names]
        values = iter(await self._xenstore.read_many(wanted) if wanted else ())
        for domid, names in stale:
            before = self._keys.get(domid)
            keys = replace(before or DomainKeys(), **dict(zip(names, values, strict=False)))
            if keys != before:
                self._keys[domid] = keys
            self._unreadable.discard(domid)

    async def _read_one_by_one(self, stale: Sequence[_Stale], living: AbstractSet[int]) -> None:
        """Find out which domain it is that xenstored does not want to have read."""
        for domid, names in stale:
            try:
                await self._read_together(((domid, names),))
            except StoreError as error:
                if domid not in self._unreadable:
                    _log.warning("domain %d cannot be read: %s", domid, error)
                self._unreadable.add(domid)
                if living <= self._unreadable:
                    raise
                self._keys.setdefault(domid, DomainKeys())


def _changed_names(changed: Collection[str]) -> dict[int, Collection[str]]:
    """Say which fields of which domains' keys may have changed."""
    found: dict[int, set[str]] = {}
    for domid, changed_key in filter(None, map(paths.domain_key, changed)):
        for key, name in _NAMES_BY_KEY.items():
            if is_at_or_above(changed_key, key):
                found.setdefault(domid, set()).add(name)
    return {**found}
