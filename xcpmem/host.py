"""The host's own record and that of domain 0.

Two figures must not follow the moment: what was free when the host booted, and domain 0's limits. Both are
sampled at the first look after a boot of the host and kept until the next, over restarts of the daemon.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from xcpmem.annotations import Annotations
from xcpmem.engine.accounting import compute_free_memory, host_memory_overhead
from xcpmem.engine.limits import MemoryLimits
from xcpmem.errors import ConfigError
from xcpmem.units import format_bytes, kib_to_bytes
from xcpmem.vm import DomainZero, HostFacts, Live, Vm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.annotations import Edit
    from xcpmem.law import VmLaw
    from xcpmem.ledger import Entry, Ledger
    from xcpmem.report import CycleReport

_log = logging.getLogger(__name__)

_HOST_UUID: Final = "host_uuid"
_BOOT_ID: Final = "boot_id"
_BOOT_FREE: Final = "boot_free_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostIdentity:
    """What the composition root knows of the host.

    Args:
        name_label: for people.
        hostname: as the network knows it.
        address: where clients reach it.
        uuid: for its record the first time; empty: one is made.
        boot_id: differs after each boot of the host (Linux: ``/proc/sys/kernel/random/boot_id``); empty:
            not known, so every start of the daemon counts as a boot.
        domain_zero: what is known of domain 0; None: its size is what nobody else holds.
    """

    name_label: str = "localhost"
    hostname: str = "localhost"
    address: str = "127.0.0.1"
    uuid: str = ""
    boot_id: str = ""
    domain_zero: DomainZero | None = None


class HostRecord:
    """Keeps the host's facts and domain 0's VM.

    Args:
        ledger: where domain 0's VM and the kept figures live.
        law: to count domain 0's overhead with.
        identity: of the host.
    """

    def __init__(self, ledger: Ledger, law: VmLaw, identity: HostIdentity) -> None:
        self._ledger = ledger
        self._law = law
        self._identity = identity
        self._boot_free = 0
        self._sampled = False
        self._zero: DomainZero | None = None
        self._zero_uuid = ""
        self._unsaved: Vm | None = None
        self._annotations = Annotations(ledger, "host")
        self._facts = HostFacts(
            uuid="",
            name_label=identity.name_label,
            hostname=identity.hostname,
            address=identity.address,
            reserve_kib=law.formula.reserve_kib,
        )

    @property
    def facts(self) -> HostFacts:
        """The host as of the latest look."""
        return self._facts

    @property
    def domain_zero_policy(self) -> tuple[str, int | tuple[int, int]]:
        """How domain 0 is sized: ``Fixed_size`` or ``Auto_balloon``, and bytes."""
        zero = self.domain_zero
        if zero is not None and zero.memory_dynamic_min < zero.memory_dynamic_max:
            return ("Auto_balloon", (zero.memory_dynamic_min, zero.memory_dynamic_max))
        return ("Fixed_size", zero.memory_actual if zero else 0)

    @property
    def domain_zero(self) -> Vm | None:
        """Domain 0's VM; None before the very first look."""
        return self._ledger.vms.get(self._zero_uuid)

    @property
    def is_unsaved(self) -> bool:
        """Whether `write` has something to store."""
        return self._unsaved is not None

    async def start(self) -> None:
        """Take up what was kept.

        Raises:
            ConfigError: somebody edited it into nonsense.
            HostError: the host's uuid could not be stored.
        """
        values = self._ledger.values
        uuid = values.get(_HOST_UUID)
        if uuid is None:
            uuid = self._identity.uuid or str(uuid4())
            name, text = _HOST_UUID, uuid
            await self._ledger.post(lambda entry: entry.put_value(name, text))
        self._annotations.check()
        self._facts = replace(self._facts, uuid=uuid)
        self._take_annotations()
        known = (vm.uuid for vm in self._ledger.vms.values() if vm.is_control_domain)
        self._zero_uuid = next(known, "")
        if self._identity.boot_id and values.get(_BOOT_ID) == self._identity.boot_id:
            try:
                self._boot_free = int(values.get(_BOOT_FREE, ""))
            except ValueError as error:
                raise ConfigError("state", _BOOT_FREE, str(error)) from error
            self._sampled = self.domain_zero is not None

    async def edit(self, field: str, edit: Edit) -> None:
        """Write one of the fields that are the clients' own. Raises HostError when it could not be stored."""
        await self._annotations.edit(field, edit, self._take_annotations)

    def _take_annotations(self) -> None:
        self._facts = replace(
            self._facts, annotations=self._annotations.fields, version=self._ledger.next_version
        )
        self._ledger.touch("host", self._facts.uuid)

    def compute_free_memory(self, vms: Mapping[str, Vm], *, without: str = "") -> int:
        """Count what is left at maximum compression, bytes, as xapi's memory_check.ml does.

        Args:
            vms: all of them by uuid; those that are being started count as if they ran.
            without: a VM that is not to count while it is being started.
        """
        counted = (
            (vm.memory_dynamic_min, vm.memory_overhead)
            for vm in vms.values()
            if vm.is_resident or (vm.is_scheduled and vm.uuid != without)
        )
        return compute_free_memory(self._facts.memory_total, self._facts.memory_overhead, counted)

    def advise(self, uuid: str) -> None:
        """Say in the log what domain 0 needs at boot to be as its record says; xapi writes that itself.

        Args:
            uuid: of a VM that was changed.
        """
        zero = self.domain_zero
        if zero is not None and zero.uuid == uuid and zero.requires_reboot:
            size = zero.memory_static_max
            _log.warning(
                "domain 0 holds %s after a boot if Xen's command line says dom0_mem=%dB,max:%dB",
                format_bytes(size),
                size,
                size,
            )

    def absorb(self, report: CycleReport) -> None:
        """Take up what a look saw of the host and of domain 0."""
        if self._zero is None:
            self._zero = self._identity.domain_zero or _find_domain_zero(report)
        if not self._sampled:
            self._sample(report, self._zero)
        self._show(report)
        record = self.domain_zero
        if record is None:
            return
        seen = next((domain for domain in report.look.host.domains if domain.domid == 0), None)
        before = self._ledger.live(record.uuid)
        live = Live(
            domid=0,
            power_state="Running",
            memory_target=kib_to_bytes(seen.target_kib if seen else self._zero.memory_kib),
            memory_actual=kib_to_bytes(seen.actual_kib if seen else self._zero.memory_kib),
            start_time_s=before.start_time_s if before else report.time_s,
        )
        self._ledger.overlay(record.uuid, live)

    def write(self, entry: Entry) -> None:
        """Store what has to outlive the daemon."""
        if self._unsaved is not None:
            entry.put_vm(self._unsaved)
            entry.put_value(_BOOT_ID, self._identity.boot_id)
            entry.put_value(_BOOT_FREE, str(self._boot_free))

    def written(self) -> None:
        """Note that what `write` stored is durable."""
        self._unsaved = None

    def _sample(self, report: CycleReport, zero: DomainZero) -> None:
        """Take the two figures of a boot; guests that run already count as if they were not there yet."""
        host = report.look.host
        held_kib = sum(domain.actual_kib for domain in host.domains if domain.domid != 0)
        self._boot_free = kib_to_bytes(host.free_kib + host.scrub_kib + zero.memory_kib + held_kib)
        size, record = kib_to_bytes(zero.memory_kib), self.domain_zero
        keeps_static_min = record is not None and 0 < record.memory_static_min <= size
        balanced = next((domain.dynamic_range for domain in host.domains if domain.domid == 0), None)
        least = kib_to_bytes(balanced.min_kib) if balanced else size
        most = kib_to_bytes(balanced.max_kib) if balanced else size
        kept = record.memory_static_min if record is not None and keeps_static_min else size
        limits = MemoryLimits(
            static_min=min(kept, least),
            dynamic_min=least,
            target=size if balanced is None else least,
            dynamic_max=most,
            static_max=max(size, most),
        )
        if record is None:
            record = Vm(
                uuid=zero.uuid or str(uuid4()),
                name_label=zero.name_label or f"Control domain on host: {self._identity.hostname}",
                memory_static_min=limits.static_min,
                memory_static_max=limits.static_max,
                memory_dynamic_min=limits.dynamic_min,
                memory_dynamic_max=limits.dynamic_max,
                memory_target=limits.target,
                domain_type="pv",
                is_control_domain=True,
            )
        record = replace(
            record.with_limits(limits),
            VCPUs_max=zero.vcpus,
            VCPUs_at_startup=zero.vcpus,
            requires_reboot=False,
        )
        self._zero_uuid = record.uuid
        self._unsaved = self._law.with_overhead(record)
        self._ledger.introduce(self._unsaved)
        self._sampled = True

    def _show(self, report: CycleReport) -> None:
        host, before = report.look.host, self._facts
        total = kib_to_bytes(host.total_kib)
        after = replace(
            before,
            cpu_count=report.look.cpus,
            memory_total=total,
            memory_free=kib_to_bytes(host.free_kib),
            memory_overhead=host_memory_overhead(total, self._boot_free, host.slush_kib),
            boot_free_mem=self._boot_free,
            reserve_kib=host.slush_kib,
        )
        if after == before:
            return
        self._facts = replace(after, version=self._ledger.next_version)
        if (before.memory_total, before.memory_free) != (after.memory_total, after.memory_free):
            self._ledger.touch("host_metrics", after.uuid)
        if replace(before, memory_total=total, memory_free=after.memory_free) != after:
            self._ledger.touch("host", after.uuid)


def _find_domain_zero(report: CycleReport) -> DomainZero:
    """Know domain 0 by its description, or else by what is neither free nor held by a guest."""
    described = report.look.descriptions.get(0)
    if described is not None:
        uuid = "" if UUID(described.uuid).int == 0 else described.uuid
        return DomainZero(described.static_max_kib, described.vcpus, uuid=uuid)
    host = report.look.host
    held_kib = sum(domain.actual_kib for domain in host.domains)
    return DomainZero(max(0, host.total_kib - host.free_kib - host.scrub_kib - held_kib))
