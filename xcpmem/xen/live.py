"""The host driver over xenstore and the hypervisor: real Xen in dom0, our doubles on a laptop.

Xen's domain list and free memory are read afresh at each look, keys of domains only when a watch said that
they changed. Whatever a guest can write is parsed as text from a stranger.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from xcpmem.breather import Breather
from xcpmem.engine.model import (
    DeleteReservation,
    HostState,
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
from xcpmem.errors import DomainVanished, DriverDisconnected, DriverError
from xcpmem.units import kib_to_whole_pages_ceil
from xcpmem.xen import paths
from xcpmem.xen.domainkeys import ECHO_S, KeyCache
from xcpmem.xen.domainviews import MAXMEM_SLACK_KIB, DomainViews
from xcpmem.xen.domainzero import DOMAIN_ZERO, manage_domain_zero
from xcpmem.xen.doorbell import GAP_S, GUEST_GAP_S, Doorbell, matters
from xcpmem.xen.driver import Look
from xcpmem.xen.guestsamples import GuestSamples
from xcpmem.xen.others import Others
from xcpmem.xen.reservations import ReservationStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xcpmem.engine.model import Action
    from xcpmem.xen.hypervisor import Hypervisor
    from xcpmem.xen.xenstore import Xenstore

_log = logging.getLogger(__name__)

_DOMID: Final = attrgetter("domid")
_ACTUAL_KIB: Final = attrgetter("actual_kib")


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
        self._views = DomainViews()
        self._doorbell = Doorbell(
            xenstore.take_events, guest_gap_s=guest_gap_s, gap_s=min(GAP_S, guest_gap_s)
        )
        xenstore.on_event = self._doorbell.hear
        xenstore.heed(matters)

    async def start(self) -> None:
        """Connect and watch for domains that come and go.

        Raises:
            DriverError: xenstored is not there.
            InvalidValue: domain 0's dynamic-min is more than it may have.
        """
        try:
            await self._xenstore.connect()
            if self._domain_zero_min_kib is not None:
                everyone = (await self._hypervisor.survey()).domains
                zero = next(info for info in everyone if info.domid == DOMAIN_ZERO)
                await manage_domain_zero(self._xenstore, zero, self._domain_zero_min_kib)
            for special in (paths.INTRODUCE_DOMAIN, paths.RELEASE_DOMAIN):
                await self._xenstore.watch(special, "xcpmem")
        except BaseException:
            await self.close()
            raise

    async def wait(self, timeout_s: float, enough_kib: int | None = None) -> bool:
        """Wait for a watch to fire, at most ``timeout_s`` seconds; tell whether one did.

        It ends early when the event of a write of ours does not come. Whether enough is free is asked of Xen
        again and again, for it tells nobody.
        """
        if self._keys.awaits_echo:
            timeout_s = min(timeout_s, ECHO_S)
        if enough_kib is None:
            return await self._doorbell.wait(timeout_s)
        watching = asyncio.create_task(self._ring_when_free(enough_kib, timeout_s))
        try:
            return await self._doorbell.wait(timeout_s)
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def observe(self) -> Look:
        """Look at the whole host; a domain that cannot be read is left alone, not the others.

        Raises:
            DriverError: xenstored or the hypervisor does not answer.
        """
        events, breather = self._doorbell.take(), Breather()
        if self._is_unfinished:
            events = replace(events, resync=True)
        self._is_unfinished = True
        if not self._xenstore.connected:
            raise DriverDisconnected("not connected to xenstored")
        everyone, physical = await self._hypervisor.survey()
        infos = dict(zip(map(_DOMID, everyone), everyone, strict=True))
        zero = [infos.pop(DOMAIN_ZERO)] if self._domain_zero_min_kib is None and DOMAIN_ZERO in infos else []
        if await self._keys.follow(infos.keys()) or events.resync:
            await self.catch_up()
            events |= self._doorbell.take()
        if events.resync:
            self._reservations.forget()
        keys = await self._keys.refresh(infos.keys(), events, self._clock())
        news = await self._samples.refresh(
            infos.keys(),
            lambda domid: self._views.actual_kib(infos[domid], keys[domid]),
            events,
            self._clock(),
        )
        reservations = await self._reservations.load()
        await breather.pause()
        for _ in self._views.refresh(infos.values(), keys, news, reservations, zero):
            await breather.pause()
        others_kib = self._others.learn(
            physical.total_kib,
            physical.free_kib + physical.scrub_kib,
            sum(map(_ACTUAL_KIB, infos.values())),
            self._clock(),
        )
        self._is_unfinished = False
        return Look(
            host=HostState(
                total_kib=physical.total_kib,
                free_kib=physical.free_kib,
                scrub_kib=physical.scrub_kib,
                slush_kib=self._slush_kib,
                domains=self._views.domains,
                reservations=reservations,
                others_kib=others_kib + self._views.offsets_kib,
            ),
            descriptions=self._views.descriptions,
            dropped_reports=self._samples.dropped,
            cpus=physical.cpus,
        )

    async def apply(self, action: Action) -> None:
        """Carry out one action; see `HostDriver.apply`."""
        match action:
            case SetTarget():
                await self.tell((action,))
            case SetDynamicMin() | SetDynamicMax() | SetMemoryOffset():
                path, value_kib = _key(action)
                await self._write({path: str(value_kib)}, action.domid)
            case SetMaxmem(domid, maxmem_kib):
                await self._set_maxmem(domid, maxmem_kib)
            case SetUncooperative(domid, uncooperative=True):
                await self._write({paths.uncooperative(domid): ""}, domid)
            case SetUncooperative(domid):
                await self._xenstore.remove(paths.uncooperative(domid))
            case RecordReservation(reservation):
                await self._reservations.record(reservation)
            case TransferReservation(reservation, domid):
                await self._transfer(reservation, domid)
            case DeleteReservation(reservation):
                await self._reservations.delete(reservation)

    async def tell(self, targets: Sequence[SetTarget]) -> None:
        """Write targets in one transaction, each only while its domain is there; see `HostDriver.tell`."""
        values = {paths.target(target.domid): str(target.target_kib) for target in targets}
        self._doorbell.expect(values)
        try:
            await self._write(values, *(target.domid for target in targets))
        except DriverError:
            self._doorbell.forget(values)
            raise

    async def catch_up(self) -> None:
        """Hear of all that was written before this call: xenstored sends events before a later answer."""
        await self._xenstore.read(paths.OWN)

    async def close(self) -> None:
        """Disconnect from both halves."""
        self._doorbell.close()
        await self._xenstore.close()
        await self._hypervisor.close()

    async def _ring_when_free(self, enough_kib: int, timeout_s: float) -> None:
        try:
            is_free = await self._hypervisor.await_free(enough_kib, timeout_s)
        except DriverError as error:
            _log.debug("free memory cannot be watched, so the next look comes in its time: %s", error)
        else:
            if is_free:
                self._doorbell.ring()

    async def _transfer(self, reservation: Reservation, domid: int) -> None:
        """Keys first, so that the promise stands, then the mark, then maxmem (squeezed's order)."""
        values = {
            paths.initial_reservation(domid): str(reservation.size_kib),
            paths.reservation_id(domid): reservation.reservation_id,
        }
        await self._write(values, domid)
        await self._reservations.record(replace(reservation, domid=domid))
        await self._set_maxmem(domid, reservation.size_kib)

    async def _set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        if domid == DOMAIN_ZERO:
            return
        whole_kib = kib_to_whole_pages_ceil(maxmem_kib + self._views.offset_kib(domid) + MAXMEM_SLACK_KIB)
        await self._hypervisor.set_maxmem(domid, whole_kib)

    async def _write(self, values: Mapping[str, str], *domids: int) -> None:
        if not await self._xenstore.write_if_exists(values, *map(paths.domain, domids)):
            raise DomainVanished(f"domain {' or '.join(map(str, domids))} is gone")
        self._keys.expect(values, self._clock())


def _key(action: SetDynamicMin | SetDynamicMax | SetMemoryOffset) -> tuple[str, int]:
    """Say which key an action writes, and what, KiB."""
    match action:
        case SetDynamicMin(domid, min_kib):
            return paths.dynamic_min(domid), min_kib
        case SetDynamicMax(domid, max_kib):
            return paths.dynamic_max(domid), max_kib
        case SetMemoryOffset(domid, offset_kib):
            return paths.memory_offset(domid), offset_kib
