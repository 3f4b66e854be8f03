"""The host driver over xenstore and the hypervisor: real Xen in dom0, our doubles on a laptop.

Xen's domain list and free memory are read afresh at each look, keys of domains only when a watch said that
they changed. Whatever a guest can write is parsed as text from a stranger.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import (
    DeleteReservation,
    DomainState,
    DynamicRange,
    HostState,
    Lifecycle,
    RecordReservation,
    Reservation,
    SetDynamicMax,
    SetDynamicMin,
    SetMaxmem,
    SetMemoryOffset,
    SetTarget,
    SetUncooperative,
    TransferReservation,
)
from xcpmem.errors import DomainVanished, DriverDisconnected
from xcpmem.units import KIB_PER_PAGE, kib_to_whole_pages_ceil
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import ECHO_S, DomainKeys, KeyCache, read_size_kib
from xcpmem.xen.domainzero import DOMAIN_ZERO, manage_domain_zero
from xcpmem.xen.doorbell import GAP_S, GUEST_GAP_S, Doorbell
from xcpmem.xen.driver import DomainDescription, Look
from xcpmem.xen.guestsamples import GuestSamples
from xcpmem.xen.others import Others
from xcpmem.xen.reservations import ReservationStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xcpmem.engine.model import Action
    from xcpmem.xen.guestsamples import GuestNews
    from xcpmem.xen.hypervisor import DomainInfo, Hypervisor
    from xcpmem.xen.xenstore import Xenstore

_log = logging.getLogger(__name__)

MAXMEM_SLACK_KIB: Final = 1024
"""What Xen must let a domain hold above its target: libxl's LIBXL_MAXMEM_CONSTANT, and what squeezed adds
for HVM-like guests, which else stop 1 MiB short."""

BINDING_TYPES: Final = {"hvm": "hvm", "pv": "pv", "pvh": "pvh", "pv-in-pvh": "pv_in_pvh"}
"""xenopsd's spelling of domain types to XenAPI's."""


@dataclass(frozen=True, slots=True)
class _Domain:
    """A domain as both sources see it."""

    state: DomainState
    description: DomainDescription


class LiveDriver:
    """Looks at and touches a host; see `HostDriver`.

    Args:
        xenstore: connected or not yet.
        hypervisor: the other half of the host.
        slush_kib: to be kept free, KiB.
        domain_zero_min_kib: domain 0's dynamic-min if it is to be balanced; None: it is left alone.
        observes: write nothing, and count what squeezed has reserved.
        guest_gap_s: how often at most a guest's own words are a reason to look, seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        xenstore: Xenstore,
        hypervisor: Hypervisor,
        *,
        slush_kib: int,
        domain_zero_min_kib: int | None = None,
        observes: bool = False,
        guest_gap_s: float = GUEST_GAP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._xenstore = xenstore
        self._hypervisor = hypervisor
        self._slush_kib = slush_kib
        self._domain_zero_min_kib = domain_zero_min_kib
        self._keys = KeyCache(xenstore)
        self._reservations = ReservationStore(xenstore, observes=observes)
        self._samples = GuestSamples(xenstore)
        self._is_unfinished = False
        self._others = Others()
        self._clock = clock
        self._domains: dict[int, _Domain] = {}
        self._doorbell = Doorbell(
            xenstore.take_events, guest_gap_s=guest_gap_s, gap_s=min(GAP_S, guest_gap_s)
        )
        xenstore.on_event = self._doorbell.hear

    async def start(self) -> None:
        """Connect and watch for domains that come and go.

        Raises:
            DriverError: xenstored is not there.
            InvalidValue: domain 0's dynamic-min is more than it may have.
        """
        try:
            await self._xenstore.connect()
            if self._domain_zero_min_kib is not None:
                zero = next(info for info in await self._hypervisor.domains() if info.domid == DOMAIN_ZERO)
                await manage_domain_zero(self._xenstore, zero, self._domain_zero_min_kib)
            for special in (paths.INTRODUCE_DOMAIN, paths.RELEASE_DOMAIN):
                await self._xenstore.watch(special, "xcpmem")
        except BaseException:
            await self.close()
            raise

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a watch to fire, at most ``timeout_s`` seconds; tell whether one did.

        It ends early when the event of a write of ours does not come.
        """
        return await self._doorbell.wait(min(timeout_s, ECHO_S) if self._keys.awaits_echo else timeout_s)

    async def observe(self) -> Look:
        """Look at the whole host; a domain that cannot be read is left alone, not the others.

        Raises:
            DriverError: xenstored or the hypervisor does not answer.
        """
        events = self._doorbell.take()
        if self._is_unfinished:
            events = replace(events, resync=True)
        self._is_unfinished = True
        if not self._xenstore.connected:
            raise DriverDisconnected("not connected to xenstored")
        if events.resync:
            self._reservations.forget()
        everyone = await self._hypervisor.domains()
        infos = [
            info for info in everyone if info.domid != DOMAIN_ZERO or self._domain_zero_min_kib is not None
        ]
        physical = await self._hypervisor.physinfo()
        keys = await self._keys.refresh([info.domid for info in infos], events, self._clock())
        news = await self._samples.refresh(
            {info.domid: _actual_kib(info, keys[info.domid]) for info in infos}, events, self._clock()
        )
        reservations = await self._reservations.load()
        self._domains = {
            info.domid: _under_construction(
                self._domain(info, keys[info.domid], news[info.domid]), reservations
            )
            for info in infos
        }
        others_kib = self._others.learn(
            physical.total_kib,
            physical.free_kib + physical.scrub_kib,
            sum(info.actual_kib for info in infos),
            self._clock(),
        )
        self._is_unfinished = False
        offsets_kib = sum(domain.state.offset_kib or 0 for domain in self._domains.values())
        return Look(
            host=HostState(
                total_kib=physical.total_kib,
                free_kib=physical.free_kib,
                scrub_kib=physical.scrub_kib,
                slush_kib=self._slush_kib,
                domains=tuple(self._domains[domid].state for domid in sorted(self._domains)),
                reservations=reservations,
                others_kib=others_kib + offsets_kib,
            ),
            descriptions={
                info.domid: _bare_description(info) for info in everyone if info.domid == DOMAIN_ZERO
            }
            | {domid: domain.description for domid, domain in self._domains.items()},
            dropped_reports=self._samples.dropped,
        )

    async def apply(self, action: Action) -> None:
        """Carry out one action; see `HostDriver.apply`."""
        match action:
            case SetTarget() | SetDynamicMin() | SetDynamicMax() | SetMemoryOffset():
                path, value_kib = _key(action)
                await self._write(action.domid, {path: str(value_kib)})
            case SetMaxmem(domid, maxmem_kib):
                await self._set_maxmem(domid, maxmem_kib)
            case SetUncooperative(domid, uncooperative=True):
                await self._write(domid, {paths.uncooperative(domid): ""})
            case SetUncooperative(domid):
                await self._xenstore.remove(paths.uncooperative(domid))
            case RecordReservation(reservation):
                await self._reservations.record(reservation)
            case TransferReservation(reservation, domid):
                await self._transfer(reservation, domid)
            case DeleteReservation(reservation):
                await self._reservations.delete(reservation)

    async def catch_up(self) -> None:
        """Hear of all that was written before this call: xenstored sends events before a later answer."""
        await self._xenstore.read(paths.OWN)

    async def close(self) -> None:
        """Disconnect from both halves."""
        self._doorbell.close()
        await self._xenstore.close()
        await self._hypervisor.close()

    async def _transfer(self, reservation: Reservation, domid: int) -> None:
        """Keys first, so that the promise stands, then the mark, then maxmem (squeezed's order)."""
        await self._write(
            domid,
            {
                paths.initial_reservation(domid): str(reservation.size_kib),
                paths.reservation_id(domid): reservation.reservation_id,
            },
        )
        await self._reservations.record(replace(reservation, domid=domid))
        await self._set_maxmem(domid, reservation.size_kib)

    async def _set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        if domid == DOMAIN_ZERO:
            return
        domain = self._domains.get(domid)
        offset_kib = (domain.state.offset_kib or 0) if domain else 0
        whole_kib = kib_to_whole_pages_ceil(maxmem_kib + offset_kib + MAXMEM_SLACK_KIB)
        await self._hypervisor.set_maxmem(domid, whole_kib)

    async def _write(self, domid: int, values: dict[str, str]) -> None:
        if not await self._xenstore.write_if_exists(paths.domain(domid), values):
            raise DomainVanished(f"domain {domid} is gone")
        self._keys.expect(values, self._clock())

    def _domain(self, info: DomainInfo, keys: DomainKeys, news: GuestNews) -> _Domain:
        offset_kib = _offset_kib(info, keys)
        actual_kib = _actual_kib(info, keys)
        told_kib = read_size_kib(keys.target)
        target_kib = actual_kib if told_kib is None else told_kib
        evidence = _balloon_evidence(keys)
        found_range = _dynamic_range(info.domid, keys)
        state = DomainState(
            domid=info.domid,
            uuid=info.uuid,
            dynamic_range=found_range or DynamicRange(target_kib, target_kib),
            has_range=found_range is not None,
            target_kib=target_kib,
            actual_kib=actual_kib,
            maxmem_kib=_maxmem_kib(info, offset_kib or 0, target_kib),
            can_balloon=evidence.believed,
            lifecycle=_lifecycle(info, built=told_kib is not None),
            initial_reservation_kib=read_size_kib(keys.initial_reservation) or 0,
            uncooperative=keys.uncooperative is not None,
            offset_kib=offset_kib,
            sample=news.sample,
            balloon_active=news.balloon_active,
        )
        static_max_kib = read_size_kib(keys.static_max)
        description = DomainDescription(
            domid=info.domid,
            uuid=info.uuid,
            name_label=keys.name or f"domain {info.domid}",
            static_max_kib=max(static_max_kib or 0, state.dynamic_range.max_kib),
            vcpus=max(1, info.vcpus),
            domain_type=BINDING_TYPES.get(keys.domain_type or "", "hvm" if info.hvm else "pv"),
            balloon_evidence=evidence.text,
            guest_free_kib=news.free_kib if (news.free_kib or 0) <= actual_kib else None,
            lifecycle=state.lifecycle,
        )
        return _Domain(state, description)


def _offset_kib(info: DomainInfo, keys: DomainKeys) -> int | None:
    """Read the offset that was measured once; a PV guest has none."""
    offset_kib = read_size_kib(keys.memory_offset, signed=True)
    return 0 if offset_kib is None and not info.hvm else offset_kib


def _actual_kib(info: DomainInfo, keys: DomainKeys) -> int:
    """Tell what a domain holds of what its guest knows of."""
    return max(0, info.actual_kib - (_offset_kib(info, keys) or 0))


def _maxmem_kib(info: DomainInfo, offset_kib: int, target_kib: int) -> int:
    """Read maxmem in the terms of targets; less than a page of difference is Xen's rounding."""
    maxmem_kib = max(0, info.maxmem_kib - offset_kib - MAXMEM_SLACK_KIB)
    is_rounded_target = abs(maxmem_kib - target_kib) < KIB_PER_PAGE
    return target_kib if info.domid == DOMAIN_ZERO or is_rounded_target else maxmem_kib


def _bare_description(info: DomainInfo) -> DomainDescription:
    """Describe a domain by what Xen knows of it; enough for domain 0."""
    return DomainDescription(
        domid=info.domid,
        uuid=info.uuid,
        name_label=f"domain {info.domid}",
        static_max_kib=info.actual_kib,
        vcpus=max(1, info.vcpus),
    )


def _key(action: SetTarget | SetDynamicMin | SetDynamicMax | SetMemoryOffset) -> tuple[str, int]:
    """Say which key an action writes, and what, KiB."""
    match action:
        case SetTarget(domid, target_kib):
            return paths.target(domid), target_kib
        case SetDynamicMin(domid, min_kib):
            return paths.dynamic_min(domid), min_kib
        case SetDynamicMax(domid, max_kib):
            return paths.dynamic_max(domid), max_kib
        case SetMemoryOffset(domid, offset_kib):
            return paths.memory_offset(domid), offset_kib


def _under_construction(domain: _Domain, reservations: Iterable[Reservation]) -> _Domain:
    """Mark a domain as being built as long as a reservation for it stands: that memory is its own."""
    sizes_kib = [r.size_kib for r in reservations if r.is_for(domain.state)]
    if not sizes_kib or domain.state.lifecycle is Lifecycle.DYING:
        return domain
    state = replace(
        domain.state,
        lifecycle=Lifecycle.BUILDING,
        initial_reservation_kib=max(domain.state.initial_reservation_kib, *sizes_kib),
    )
    return replace(domain, state=state)


@dataclass(frozen=True, slots=True)
class _Evidence:
    believed: bool
    text: str


def _balloon_evidence(keys: DomainKeys) -> _Evidence:
    """Decide whether a balloon driver is believed to listen.

    XenServer's guest agents announce it in ``control/feature-balloon``; by value, since ``0`` means that the
    administrator of the guest switched it off. A plain Linux guest announces nothing: under libxl (which
    unlike xenopsd writes no ``domain-type``) it is believed until it fails to follow a target.
    """
    announced = keys.feature_balloon
    if announced is not None:
        if announced.strip() == "0":
            return _Evidence(
                believed=False, text="the guest says it does not balloon: control/feature-balloon = 0"
            )
        return _Evidence(believed=True, text="the guest announced its driver in control/feature-balloon")
    if keys.domain_type is not None:
        return _Evidence(believed=False, text="no control/feature-balloon yet: still booting, or no driver")
    return _Evidence(believed=True, text="nothing announced; believed until it does not follow a target")


def _lifecycle(info: DomainInfo, *, built: bool) -> Lifecycle:
    if info.dying:
        return Lifecycle.DYING
    if info.shutdown:
        return Lifecycle.SUSPENDED
    if not built:
        return Lifecycle.BUILDING
    return Lifecycle.PAUSED if info.paused else Lifecycle.RUNNING


def _dynamic_range(domid: int, keys: DomainKeys) -> DynamicRange | None:
    """Read the range; None without usable keys."""
    min_kib, max_kib = read_size_kib(keys.dynamic_min), read_size_kib(keys.dynamic_max)
    if min_kib is None or max_kib is None:
        return None
    if min_kib > max_kib:
        _log.warning("domain %d: dynamic-min %d KiB is above dynamic-max %d KiB", domid, min_kib, max_kib)
        return None
    return DynamicRange(min_kib, max_kib)
