"""From the ring's reports to the VM records: domains come, go, and say what they are.

A domain that nobody knows is adopted as it was found. Of a VM that is known, the stored limits win when its
domain is first seen; later, a range that somebody else wrote to xenstore becomes the VM's limits, if the
order law allows. Our own wish that is not carried out yet is never mistaken for that: while the ring still
has the wish, xenstore is ours; once the keys say what was wished, the wish is withdrawn and any other value
is somebody else's. A VM whose domain we ourselves build or replace is left as it was until that is over.

In squeezed's place, and where it only observes, xcpmem is a guest: xapi keeps the limits, and what xenstore
says wins at the first look too, lest what changed while no daemon was there be undone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from xcpmem.engine.model import Lifecycle, SetTarget
from xcpmem.engine.steps import portions
from xcpmem.errors import HostError
from xcpmem.units import bytes_to_kib_floor, format_kib, kib_to_bytes
from xcpmem.vm import Built, Live, Vm

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from xcpmem.engine.limits import MemoryLimits
    from xcpmem.engine.model import DomainState, HostState
    from xcpmem.host import HostRecord
    from xcpmem.law import VmLaw
    from xcpmem.ledger import Entry, Ledger, Touched
    from xcpmem.report import CycleReport
    from xcpmem.ring import Ring
    from xcpmem.xen.driver import DomainDescription

_log = logging.getLogger(__name__)

AT_ONCE: Final = 50
"""So many domains are taken up, in a millisecond or two, before others get their turn."""

_POWER_STATES: Final = {
    Lifecycle.RUNNING: "Running",
    Lifecycle.BUILDING: "Running",
    Lifecycle.PAUSED: "Paused",
    Lifecycle.SUSPENDED: "Suspended",
}


@dataclass(slots=True)
class _Sight:
    """A domain past its first look.

    Args:
        domid: a VM's next domain has another.
        asked_at_s: monotonic time of the wish that is not known to be fulfilled; None: xenstore rules.
    """

    domid: int
    asked_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Foreign:
    """Limits that somebody else wrote; bytes.

    Args:
        before: the VM's limits when that was seen.
        static_min: of the domain.
        dynamic_min: of the range.
        dynamic_max: of the range.
        static_max: of the domain.
    """

    before: MemoryLimits
    static_min: int
    dynamic_min: int
    dynamic_max: int
    static_max: int

    def apply(self, limits: MemoryLimits) -> MemoryLimits:
        """Put them into a VM's limits."""
        return replace(
            limits,
            static_min=self.static_min,
            dynamic_min=self.dynamic_min,
            dynamic_max=self.dynamic_max,
            static_max=self.static_max,
        )

    def is_newest(self, limits: MemoryLimits) -> bool:
        """Whether nobody changed the VM's limits since."""
        return limits == replace(self.before, target=limits.target)


class Adoption:
    """Takes up one report after the other.

    Args:
        ledger: of the VMs.
        host: takes up its part of each report.
        law: to count overheads with.
        ring: the controller.
        clock: the one by which reports are stamped, monotonic seconds.
        follows: somebody else keeps the VMs' limits.
    """

    def __init__(
        self,
        ledger: Ledger,
        host: HostRecord,
        law: VmLaw,
        ring: Ring,
        clock: Callable[[], float],
        *,
        follows: bool = False,
    ) -> None:
        self._ledger = ledger
        self._host = host
        self._law = law
        self._ring = ring
        self._clock = clock
        self._follows = follows
        self._looked_at: HostState | None = None
        self._domids: dict[str, int] = {}
        """By VM uuid, whose domain is there, and which it is."""
        self._missing: set[str] = set()
        """Uuids of VMs whose domain is not there any more, which may be on purpose."""
        self._sights: dict[str, _Sight] = {}
        self._unsaved: set[str] = set()
        self._foreign: dict[str, _Foreign] = {}
        self._writing: asyncio.Future[None] | None = None
        self._agreed: dict[str, DomainState] = {}
        """By VM uuid, the domains that have the VM's range: nothing is to be done until either changes."""
        self._doubted: set[str] = set()
        """Uuids of VMs whose domain is to be taken up again, though it may not change."""
        ledger.subscribe(self._compare_anew)

    def absorb(self, report: CycleReport) -> Iterator[None]:
        """Bring the records up to a report, in steps between which others can have their turn.

        Only domains that changed are looked at, those that were touched, and those that do not agree yet.
        """
        self._host.absorb(report)
        targets_kib = {a.domid: a.target_kib for a in report.actions if isinstance(a, SetTarget)}
        touched = {getattr(action, "domid", None) for action in report.actions}
        unsettled = self._unsettled(report.look.host, touched)
        self._doubted.update(domain.uuid for domain in unsettled)
        lost = self._missing - self._ledger.veiled
        for uuid in lost:
            self._lose(uuid)
        if lost:  # told before others have their turn, who would look in vain for what is gone
            self._missing -= lost
            self._ledger.publish()
        for some in portions(unsettled, AT_ONCE):
            veiled = self._ledger.veiled
            for domain in some:
                if domain.uuid not in veiled:
                    target_kib = targets_kib.get(domain.domid, domain.target_kib)
                    self._take_up(domain, target_kib, report, is_touched=domain.domid in touched)
            yield
        self._write()
        self._ledger.publish()

    def _unsettled(self, host: HostState, touched: set[int | None]) -> list[DomainState]:
        """List the domains to be taken up, and note who is missing."""
        before, self._looked_at = self._looked_at, host
        others = touched | {self._domids.get(uuid) for uuid in self._doubted}
        changes = host.changes_since(before, others) if before else None
        if changes is None:
            domains = _by_uuid(host.domains)
            self._missing = (self._missing | self._domids.keys()) - domains.keys()
            self._domids = {uuid: domain.domid for uuid, domain in domains.items()}
            agreed = self._agreed
            return [d for d in domains.values() if d is not agreed.get(d.uuid) or d.domid in touched]
        return [d for d in changes if self._domids.get(d.uuid) == d.domid]

    def _take_up(
        self, domain: DomainState, target_kib: int, report: CycleReport, *, is_touched: bool
    ) -> None:
        """Lay over a VM what was seen of its domain, and see whose range is to rule."""
        uuid, agreed = domain.uuid, self._agreed.get(domain.uuid)
        self._know(domain, report.look.descriptions.get(domain.domid))
        before = self._ledger.live(uuid)
        came = before is None or before.domid != domain.domid
        live = Live(
            domid=domain.domid,
            power_state=_POWER_STATES[domain.lifecycle],
            memory_target=kib_to_bytes(target_kib),
            memory_actual=kib_to_bytes(domain.actual_kib),
            start_time_s=report.time_s if before is None or came else before.start_time_s,
            uncooperative=domain.uncooperative,
            built=self._built(uuid, came=came),
        )
        self._ledger.overlay(uuid, live)
        has_only_moved = agreed is not None and not is_touched and _has_only_moved(domain, agreed)
        is_whole = domain.lifecycle is not Lifecycle.BUILDING
        agrees = has_only_moved or (is_whole and self._compare(domain, report, is_touched=is_touched))
        if agrees and not is_touched:
            self._agree(domain)
        else:
            self._doubt(uuid)

    def _agree(self, domain: DomainState) -> None:
        self._agreed[domain.uuid] = domain
        self._doubted.discard(domain.uuid)

    def _doubt(self, uuid: str) -> None:
        self._agreed.pop(uuid, None)
        self._doubted.add(uuid)

    def _compare_anew(self, touched: Touched) -> None:
        """Trust no agreement any more on VMs that changed."""
        for class_name, uuid in touched:
            if class_name == "VM" and uuid in self._domids:
                self._doubt(uuid)

    def hold(self, uuid: str) -> None:
        """Pass the stored range of a VM on to the ring, if the VM is on the host."""
        self._foreign.pop(uuid, None)
        sight = self._sights.get(uuid)
        if sight is not None:
            self._doubt(uuid)
            sight.asked_at_s = self._clock()
            self._ring.set_range(uuid, self._ledger.vms[uuid].dynamic_range)

    def is_settled(self, uuid: str) -> bool:
        """Whether nothing that was wished for a VM's range still waits for the ring."""
        sight = self._sights.get(uuid)
        return sight is None or sight.asked_at_s is None

    def _built(self, uuid: str, *, came: bool) -> Built | None:
        """Say what a VM's domain was built as: what its record said when it came, or when it was made."""
        vm = self._ledger.vms.get(uuid)
        if vm is None:
            return None
        is_new = came or not self._ledger.is_stored(uuid)
        return vm.with_live(None, version=0).as_built if is_new else vm.built

    def _know(self, domain: DomainState, description: DomainDescription | None) -> None:
        """Have a record of the domain's VM; until it is stored, it follows what is seen."""
        if self._ledger.is_stored(domain.uuid) or domain.uuid in self._unsaved:
            return
        found = self._law.with_overhead(_vm_of(domain, description))
        known = self._ledger.vms.get(domain.uuid)
        if known is None or known.limits != replace(found.limits, target=known.memory_target):
            self._ledger.introduce(found)

    def _compare(self, domain: DomainState, report: CycleReport, *, is_touched: bool) -> bool:
        """Decide whether xenstore's range or the stored one is to follow the other.

        Returns:
            Whether neither is, nor will be until the domain, its VM or a wish changes.
        """
        uuid, description = domain.uuid, report.look.descriptions.get(domain.domid)
        vm, sight = self._ledger.vms[uuid], self._sights.get(uuid)
        agrees = domain.dynamic_range == vm.dynamic_range
        if sight is None or sight.domid != domain.domid:
            self._sights[uuid] = _Sight(domain.domid)
            if not self._ledger.is_stored(uuid):
                self._unsaved.add(uuid)
                _log.info("adopted domain %d, VM %s, as found: %s", domain.domid, uuid, _text(domain))
            elif self._follows:
                self._take_over(vm, domain, description)
            elif not agrees:
                _log.info(
                    "domain %d, VM %s, came with %s: stored limits win", domain.domid, uuid, _text(domain)
                )
                self.hold(uuid)
        elif sight.asked_at_s is not None:
            carried_out = agrees and not is_touched and not report.failures
            if carried_out and report.monotonic_s >= sight.asked_at_s:
                sight.asked_at_s = None
                self._ring.forget_range(uuid)
        elif agrees:
            self._foreign.pop(uuid, None)
            return self._ledger.is_stored(uuid)
        else:
            self._take_over(vm, domain, description)
        return False

    def _take_over(self, vm: Vm, domain: DomainState, description: DomainDescription | None) -> None:
        """Make what somebody else wrote the VM's limits, or write the VM's range again."""
        seen = domain.dynamic_range
        dynamic_min = _newer(vm.memory_dynamic_min, seen.min_kib)
        dynamic_max = _newer(vm.memory_dynamic_max, seen.max_kib)
        static_min, static_max = vm.memory_static_min, vm.memory_static_max
        if self._follows:
            if description is not None:
                static_max = _newer(static_max, description.static_max_kib)
            static_min, static_max = min(static_min, dynamic_min), max(static_max, dynamic_max)
        change = _Foreign(vm.limits, static_min, dynamic_min, dynamic_max, static_max)
        if change.apply(vm.limits) == vm.limits:
            return
        if change.apply(vm.limits).is_valid:
            if self._foreign.get(vm.uuid) != change:
                _log.info("VM %s takes over what someone else wrote: %s", vm.uuid, _text(domain))
                self._foreign[vm.uuid] = change
            return
        _log.warning(
            "VM %s: someone else wrote %s, which is not within static-min %s and static-max %s; undone",
            vm.uuid,
            _text(domain),
            format_kib(bytes_to_kib_floor(vm.memory_static_min)),
            format_kib(bytes_to_kib_floor(vm.memory_static_max)),
        )
        self.hold(vm.uuid)

    def _lose(self, uuid: str) -> None:
        """Note that a VM has no domain any more."""
        self._ledger.overlay(uuid, None)
        self._agreed.pop(uuid, None)
        self._doubted.discard(uuid)
        sight = self._sights.pop(uuid, None)
        if sight is not None and sight.asked_at_s is not None:
            self._ring.forget_range(uuid)
        self._foreign.pop(uuid, None)
        self._unsaved.discard(uuid)
        self._ledger.withdraw(uuid)

    def _write(self) -> None:
        """Have everything stored that reports brought, unless that is under way already."""
        if self._writing is not None or not (self._host.is_unsaved or self._unsaved or self._foreign):
            return
        unsaved, foreign = frozenset(self._unsaved), dict(self._foreign)
        try:
            self._writing = self._ledger.post(
                partial(self._decide, unsaved, foreign), partial(self._written, unsaved, foreign)
            )
        except HostError as error:
            _log.warning("what the host shows is not stored yet: %s", error)
        else:
            self._writing.add_done_callback(self._ended)

    def _decide(self, unsaved: frozenset[str], foreign: Mapping[str, _Foreign], entry: Entry) -> None:
        self._host.write(entry)
        for uuid in unsaved & entry.vms.keys():
            entry.put_vm(entry.vms[uuid])
        for uuid, change in foreign.items():
            vm = entry.vms.get(uuid)
            if vm is not None and change.is_newest(vm.limits):
                entry.put_vm(vm.with_limits(change.apply(vm.limits)))

    def _written(self, unsaved: frozenset[str], foreign: Mapping[str, _Foreign]) -> None:
        self._host.written()
        self._unsaved -= unsaved
        for uuid, change in foreign.items():
            if self._foreign.get(uuid) is change:
                del self._foreign[uuid]

    def _ended(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        error = None if writing.cancelled() else writing.exception()
        if error is not None:
            _log.warning("what the host shows is not stored yet: %s", error)


def _by_uuid(domains: Iterable[DomainState]) -> dict[str, DomainState]:
    """Find the domain of each VM: the newest, since an old one may still be dying; they come by domid."""
    return {d.uuid: d for d in domains if d.domid != 0 and d.lifecycle is not Lifecycle.DYING}


def _has_only_moved(domain: DomainState, before: DomainState) -> bool:
    """Tell whether a VM's domain is the one that it was, with the very same range."""
    return (
        domain.domid == before.domid
        and domain.dynamic_range is before.dynamic_range
        and domain.lifecycle is before.lifecycle
    )


def _newer(stored: int, seen_kib: int) -> int:
    """Take the size that was seen for the stored one, bytes, unless they differ by less than a KiB."""
    return stored if bytes_to_kib_floor(stored) == seen_kib else kib_to_bytes(seen_kib)


def _text(domain: DomainState) -> str:
    seen = domain.dynamic_range
    return f"dynamic range {format_kib(seen.min_kib)} to {format_kib(seen.max_kib)}"


def _vm_of(domain: DomainState, description: DomainDescription | None) -> Vm:
    """Describe a VM as its domain was found; static-min is not known to Xen."""
    dynamic_max_kib = domain.dynamic_range.max_kib
    static_max_kib = description.static_max_kib if description else domain.maxmem_kib
    vcpus = max(1, description.vcpus if description else 1)
    return Vm(
        uuid=domain.uuid,
        name_label=description.name_label if description else f"domain {domain.domid}",
        memory_static_min=0,
        memory_static_max=kib_to_bytes(max(static_max_kib, dynamic_max_kib)),
        memory_dynamic_min=kib_to_bytes(domain.dynamic_range.min_kib),
        memory_dynamic_max=kib_to_bytes(dynamic_max_kib),
        memory_target=kib_to_bytes(domain.target_kib),
        VCPUs_max=vcpus,
        VCPUs_at_startup=vcpus,
        domain_type=description.domain_type if description else "pv",
    )
