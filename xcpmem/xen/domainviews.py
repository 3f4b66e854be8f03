"""What each domain is, from all that is said of it: Xen's row, its keys in xenstore, its guest's own words.

A look at a thousand domains of which nothing changed must cost next to nothing, so what was made of the same
words before is used again: whoever follows the looks sees by identity what did not change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import compress, repeat
from operator import is_, ne
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem.engine.model import DomainState, DynamicRange, Lifecycle
from xcpmem.engine.steps import portions
from xcpmem.units import KIB_PER_PAGE
from xcpmem.xen.domainkeys import DomainKeys, read_size_kib
from xcpmem.xen.domainzero import DOMAIN_ZERO
from xcpmem.xen.driver import DomainDescription

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from xcpmem.engine.model import Reservation
    from xcpmem.xen.guestsamples import GuestNews
    from xcpmem.xen.hypervisor import DomainInfo

_log = logging.getLogger(__name__)

MAXMEM_SLACK_KIB: Final = 1024
"""What Xen must let a domain hold above its target: libxl's LIBXL_MAXMEM_CONSTANT, and what squeezed adds
for HVM-like guests, which else stop 1 MiB short."""

BINDING_TYPES: Final = {"hvm": "hvm", "pv": "pv", "pvh": "pvh", "pv-in-pvh": "pv_in_pvh"}
"""xenopsd's spelling of domain types to XenAPI's."""

_NO_KEYS: Final = DomainKeys()


class _Evidence(NamedTuple):
    """Whether a balloon driver is believed to listen, and why."""

    believed: bool
    text: str


class _Reading(NamedTuple):
    """What a domain's keys say, sizes KiB; None: nothing usable."""

    target_kib: int | None
    dynamic_range: DynamicRange | None
    static_max_kib: int | None
    offset_kib: int | None
    initial_reservation_kib: int
    evidence: _Evidence


class _Words(NamedTuple):
    """All that was said of a domain; the same words, by the very same news, make the same view."""

    info: DomainInfo
    keys: DomainKeys
    news: GuestNews
    promise_kib: int | None


@dataclass(frozen=True, slots=True)
class DomainView:
    """One domain as it was seen.

    Args:
        words: what it was made of.
        reading: what its keys say.
        state: the numbers for the engine.
        description: for the records.
    """

    words: _Words
    reading: _Reading
    state: DomainState
    description: DomainDescription


class DomainViews:
    """The domains as of the latest look."""

    def __init__(self) -> None:
        self._views: dict[int, DomainView] = {}
        self._domains: tuple[DomainState, ...] = ()
        self._said: dict[int, tuple[DomainInfo, DomainKeys, GuestNews, int | None]] = {}
        self._bystanders: tuple[DomainInfo, ...] = ()
        self._descriptions: dict[int, DomainDescription] = {}
        self.offsets_kib = 0
        """What Xen counts of all domains and their guests do not know of."""

    @property
    def domains(self) -> tuple[DomainState, ...]:
        """Their numbers by rising domid; the same object as before if none changed."""
        return self._domains

    @property
    def descriptions(self) -> Mapping[int, DomainDescription]:
        """Their descriptions by domid; the same object as before if none changed."""
        return self._descriptions

    def offset_kib(self, domid: int) -> int:
        """Tell what Xen counts of a domain and its guest does not know of, 0 if that is not known."""
        view = self._views.get(domid)
        return (view.state.offset_kib or 0) if view else 0

    def actual_kib(self, info: DomainInfo, keys: DomainKeys) -> int:
        """Tell what a domain holds of what its guest knows of, KiB, by words that are no view yet."""
        view = self._views.get(info.domid)
        if view is not None and view.words.keys is keys:
            return _actual_kib(info, view.reading)
        return _actual_kib(info, _read(info.domid, keys))

    def refresh(
        self,
        infos: Collection[DomainInfo],
        keys: Mapping[int, DomainKeys],
        news: Mapping[int, GuestNews],
        reservations: Iterable[Reservation],
        bystanders: Iterable[DomainInfo] = (),
    ) -> Iterator[None]:
        """See everybody anew of whom something else is said than before, in steps.

        Args:
            infos: of the domains that count.
            keys: by domid, of each.
            news: by domid, of each.
            reservations: all; a domain is being built as long as one for it stands: that memory is its own.
                One that a client transferred and keeps counts until the driver has announced itself, and no
                longer for a domain that runs and that Xen lets hold less.
            bystanders: domains that are only described.
        """
        promises_kib = _promises_kib(reservations)
        promised_kib = (_promise_kib(promises_kib, info, keys[info.domid]) for info in infos)
        domids = [info.domid for info in infos]
        words = zip(
            infos,
            map(keys.__getitem__, domids),
            map(news.__getitem__, domids),
            promised_kib if promises_kib else repeat(None),
            strict=False,
        )
        said = dict(zip(domids, words, strict=True))
        others = tuple(bystanders)
        if said != self._said or others != self._bystanders:
            yield from self._see(said)
            self._describe(others)

    def _see(self, said: dict[int, tuple[DomainInfo, DomainKeys, GuestNews, int | None]]) -> Iterator[None]:
        for domid in self._views.keys() - said.keys():
            del self._views[domid]
        for some in portions(list(compress(said, map(ne, said.values(), map(self._said.get, said))))):
            for domid in some:
                self._views[domid] = _view(_Words(*said[domid]), self._views.get(domid))
            yield
        self._said = said
        domains = [self._views[domid].state for domid in sorted(said)]
        if not _are_same(domains, self._domains):
            self._domains = tuple(domains)
            self.offsets_kib = sum(domain.offset_kib or 0 for domain in domains)

    def _describe(self, bystanders: tuple[DomainInfo, ...]) -> None:
        self._bystanders = bystanders
        descriptions = {info.domid: _bare_description(info) for info in bystanders}
        descriptions |= {domid: self._views[domid].description for domid in self._said}
        if descriptions != self._descriptions:
            self._descriptions = descriptions


def _bare_description(info: DomainInfo) -> DomainDescription:
    """Describe a domain by what Xen knows of it; enough for domain 0."""
    return DomainDescription(
        domid=info.domid,
        uuid=info.uuid,
        name_label=f"domain {info.domid}",
        static_max_kib=info.actual_kib,
        vcpus=max(1, info.vcpus),
    )


def _view(words: _Words, before: DomainView | None) -> DomainView:
    """Make a view; what of it is as before stays the same object."""
    info, keys, news, promise_kib = words
    is_read = before is not None and before.words.keys is keys
    reading = before.reading if before is not None and is_read else _read(info.domid, keys)
    state = _state(info, keys, news, reading)
    lifecycle = state.lifecycle
    if promise_kib is not None and lifecycle is not Lifecycle.DYING:
        state = replace(
            state,
            lifecycle=Lifecycle.BUILDING,
            initial_reservation_kib=max(state.initial_reservation_kib, promise_kib),
        )
    if before is None:
        return DomainView(words, reading, state, _description(words, reading, state, lifecycle))
    if _is_ending(words, before):
        state = replace(state, is_ending=True)
    # samples are equal whenever they were taken, so a fresh one tells by being another
    is_same = before.state.sample is state.sample and before.state == state
    state = before.state if is_same else state
    description = before.description
    if reading.target_kib is None or not _has_only_moved(words, before.words):
        again = _description(words, reading, state, lifecycle)
        description = description if description == again else again
    return DomainView(words, reading, state, description)


def _has_only_moved(words: _Words, before: _Words) -> bool:
    """Tell whether a domain holds more or less, and nothing else by which it is described was said anew."""
    info, keys, news, promise_kib = words
    return (
        news is before.news
        and news.free_kib is None
        and keys is before.keys
        and promise_kib == before.promise_kib
        and info == before.info._replace(actual_kib=info.actual_kib)
    )


def _description(
    words: _Words, reading: _Reading, state: DomainState, lifecycle: Lifecycle
) -> DomainDescription:
    info, keys, news, _ = words
    return DomainDescription(
        domid=info.domid,
        uuid=info.uuid,
        name_label=keys.name or f"domain {info.domid}",
        static_max_kib=max(reading.static_max_kib or 0, state.dynamic_range.max_kib),
        vcpus=max(1, info.vcpus),
        domain_type=BINDING_TYPES.get(keys.domain_type or "", "hvm" if info.hvm else "pv"),
        balloon_evidence=reading.evidence.text,
        guest_free_kib=news.free_kib if (news.free_kib or 0) <= state.actual_kib else None,
        lifecycle=lifecycle,
    )


def _state(info: DomainInfo, keys: DomainKeys, news: GuestNews, reading: _Reading) -> DomainState:
    offset_kib = _offset_kib(info, reading)
    actual_kib = _actual_kib(info, reading)
    target_kib = actual_kib if reading.target_kib is None else reading.target_kib
    return DomainState(
        domid=info.domid,
        uuid=info.uuid,
        dynamic_range=reading.dynamic_range or DynamicRange(target_kib, target_kib),
        has_range=reading.dynamic_range is not None,
        target_kib=target_kib,
        actual_kib=actual_kib,
        maxmem_kib=_maxmem_kib(info, offset_kib or 0, target_kib),
        can_balloon=reading.evidence.believed,
        lifecycle=_lifecycle(info, built=reading.target_kib is not None),
        initial_reservation_kib=reading.initial_reservation_kib,
        uncooperative=keys.uncooperative is not None,
        offset_kib=offset_kib,
        sample=news.sample,
        balloon_active=news.balloon_active,
        static_max_kib=reading.static_max_kib or None,
    )


def _read(domid: int, keys: DomainKeys) -> _Reading:
    return _Reading(
        target_kib=read_size_kib(keys.target),
        dynamic_range=_dynamic_range(domid, keys),
        static_max_kib=read_size_kib(keys.static_max),
        offset_kib=read_size_kib(keys.memory_offset, signed=True),
        initial_reservation_kib=read_size_kib(keys.initial_reservation) or 0,
        evidence=_balloon_evidence(keys),
    )


def _offset_kib(info: DomainInfo, reading: _Reading) -> int | None:
    """Give the offset that was measured once; a PV guest has none, nor has one that is dying any longer."""
    return 0 if info.dying or (reading.offset_kib is None and not info.hvm) else reading.offset_kib


def _actual_kib(info: DomainInfo, reading: _Reading) -> int:
    """Tell what a domain holds of what its guest knows of."""
    return max(0, info.actual_kib - (_offset_kib(info, reading) or 0))


def _maxmem_kib(info: DomainInfo, offset_kib: int, target_kib: int) -> int:
    """Read maxmem in the terms of targets; less than a page of difference is Xen's rounding."""
    maxmem_kib = max(0, info.maxmem_kib - offset_kib - MAXMEM_SLACK_KIB)
    is_rounded_target = abs(maxmem_kib - target_kib) < KIB_PER_PAGE
    return target_kib if info.domid == DOMAIN_ZERO or is_rounded_target else maxmem_kib


def _balloon_evidence(keys: DomainKeys) -> _Evidence:
    """Decide whether a balloon driver is believed to listen.

    XenServer's guest agents announce it in ``control/feature-balloon``; by value, since ``0`` means that the
    administrator of the guest switched it off. A plain Linux guest announces nothing: under libxl (which
    unlike xenopsd writes no ``domain-type``) it is believed until it fails to follow a target.
    """
    if _has_announced_driver(keys):
        return _Evidence(believed=True, text="the guest announced its driver in control/feature-balloon")
    if keys.feature_balloon is not None:
        return _Evidence(
            believed=False, text="the guest says it does not balloon: control/feature-balloon = 0"
        )
    if keys.domain_type is not None:
        return _Evidence(believed=False, text="no control/feature-balloon yet: still booting, or no driver")
    return _Evidence(believed=True, text="nothing announced; believed until it does not follow a target")


def _has_announced_driver(keys: DomainKeys) -> bool:
    return keys.feature_balloon is not None and keys.feature_balloon.strip() != "0"


def _lifecycle(info: DomainInfo, *, built: bool) -> Lifecycle:
    if info.dying:
        return Lifecycle.DYING
    if info.shutdown:
        return Lifecycle.SUSPENDED
    if not built:
        return Lifecycle.BUILDING
    return Lifecycle.PAUSED if info.paused else Lifecycle.RUNNING


def _is_ending(words: _Words, before: DomainView) -> bool:
    """Tell whether a domain that was complete is being destroyed and Xen does not call it dying yet.

    libxl pauses it and removes its directory, then lets Xen take its pages; getdomaininfo sets
    XEN_DOMINF_dying only at DOMDYING_dead, when all but the last are taken.
    """
    info = words.info
    was_complete = before.reading.target_kib is not None or before.state.is_ending
    return (
        was_complete
        and before.words.info.uuid == info.uuid
        and words.keys == _NO_KEYS
        and (info.paused or info.shutdown)
        and not info.dying
    )


def _dynamic_range(domid: int, keys: DomainKeys) -> DynamicRange | None:
    """Read the range; None without usable keys."""
    min_kib, max_kib = read_size_kib(keys.dynamic_min), read_size_kib(keys.dynamic_max)
    if min_kib is None or max_kib is None:
        return None
    if min_kib > max_kib:
        _log.warning("domain %d: dynamic-min %d KiB is above dynamic-max %d KiB", domid, min_kib, max_kib)
        return None
    return DynamicRange(min_kib, max_kib)


def _promises_kib(reservations: Iterable[Reservation]) -> dict[int | str, int]:
    """Say what is set aside for domains that are being built, by domid and by the VM's uuid."""
    promises_kib: dict[int | str, int] = {}
    for reservation in reservations:
        for key in (reservation.domid, reservation.vm_uuid):
            if key is not None and key != "":
                promises_kib[key] = max(reservation.size_kib, promises_kib.get(key, 0))
    return promises_kib


def _promise_kib(promises_kib: Mapping[int | str, int], info: DomainInfo, keys: DomainKeys) -> int | None:
    """Say what is set aside for a domain that is being built, None if it is not."""
    for_vm_kib, for_domid_kib = promises_kib.get(info.uuid), promises_kib.get(info.domid)
    if for_domid_kib is None or _has_announced_driver(keys):
        return for_vm_kib
    # nothing lowers maxmem during a build, and the guest, who may delete what it announced, cannot do that
    is_past_building = not info.paused and info.maxmem_kib < for_domid_kib
    return for_vm_kib if is_past_building else max(for_domid_kib, for_vm_kib or 0)


def _are_same(some: Collection[object], others: Collection[object]) -> bool:
    """Tell whether two collections hold the same objects in the same order."""
    return len(some) == len(others) and all(map(is_, some, others))
