"""``/api/v1/state``: the last turn's report as JSON, put together of parts that are made when they change.

Sizes are bytes, times seconds of Unix time; `api-spec/state.md` says what each member means. A thousand VMs
are 0.7 MB: what is said of a VM is written again only when something in it changed, and a few at a time, so
that nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from xcpmem import __version__
from xcpmem.api.waits import tell_requests, tell_reservations
from xcpmem.engine.model import Lifecycle
from xcpmem.explanation import explain
from xcpmem.units import kib_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.engine.model import DomainState, HostState
    from xcpmem.engine.reasons import Reason
    from xcpmem.report import CycleReport
    from xcpmem.vm import HostFacts, Vm

_VMS_AT_ONCE: Final = 50
"""So many VMs are written, in a millisecond or two, before others get their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSources:
    """Where the state comes from; each is asked when a state is made.

    Args:
        report: the latest turn, None before the first.
        vms: the VM records by uuid.
        host: the host's record.
        policy: name of the policy that divides the memory.
        name_owner: names the owner of a reservation for people: who is logged in there.
        driver: ``simulated`` or ``xen``.
        observes: whether the daemon looks and plans but touches nothing.
        looks_every_s: the longest time without a look, seconds; data twice as old is not to be trusted.
    """

    report: Callable[[], CycleReport | None]
    vms: Callable[[], Mapping[str, Vm]]
    host: Callable[[], HostFacts]
    policy: Callable[[], str]
    name_owner: Callable[[str], str]
    driver: str
    observes: bool = False
    looks_every_s: float


@dataclass(frozen=True)
class State:
    """What is known at one moment, as JSON.

    Args:
        serial: rises by one with each state that is made.
        common: all members but the VMs, without the closing brace.
        vms: what is said of each VM, by uuid.
        before: the same of the state before.
    """

    serial: int
    common: bytes
    vms: Mapping[str, bytes]
    before: Mapping[str, bytes]

    @cached_property
    def document(self) -> bytes:
        """All of it."""
        return b'%b,"vms":[%b]}' % (self.common, b",".join(self.vms.values()))

    @cached_property
    def changes(self) -> bytes:
        """The same with those VMs only that changed since the state before; ``gone`` has uuids."""
        changed = [text for uuid, text in self.vms.items() if self.before.get(uuid) is not text]
        gone = [uuid for uuid in self.before if uuid not in self.vms]
        return b'%b,"vms":[%b],"gone":%b}' % (self.common, b",".join(changed), _encode(gone))


class _Seen(NamedTuple):
    """All that is said of a VM; equal ones are written the same."""

    vm: Vm
    domain: DomainState | None
    reason: Reason | None
    shadow_targets: Mapping[str, int]


class StateWriter:
    """Makes states.

    Args:
        sources: where they come from.
    """

    def __init__(self, sources: StateSources) -> None:
        self._sources = sources
        self._serial = 0
        self._written: dict[str, tuple[_Seen, bytes]] = {}

    async def write(self, now_s: float) -> State:
        """Make the state of this moment; not to be called again before it is done.

        Args:
            now_s: Unix time, seconds.
        """
        report, vms = self._sources.report(), tuple(self._sources.vms().values())
        domains = {domain.uuid: domain for domain in report.look.host.domains} if report else {}
        before, after = self._written, dict[str, tuple[_Seen, bytes]]()
        for number, vm in enumerate(vms, 1):
            if vm.is_a_template or vm.is_a_snapshot:
                continue
            domain = domains.get(vm.uuid)
            reason = report.reasons.get(domain.domid) if report and domain else None
            shadow_targets = _shadow_targets(domain, report) if report and domain else {}
            seen, known = _Seen(vm, domain, reason, shadow_targets), before.get(vm.uuid)
            if known is None or known[0] != seen:
                known = seen, _encode(_tell_vm(seen, report))
            after[vm.uuid] = known
            if number % _VMS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._written = after
        self._serial += 1
        common = _encode(self._tell_common(report, now_s)).removesuffix(b"}")
        texts = {uuid: text for uuid, (_, text) in after.items()}
        return State(self._serial, common, texts, {uuid: text for uuid, (_, text) in before.items()})

    def _tell_common(self, report: CycleReport | None, now_s: float) -> dict[str, object]:
        sources, facts = self._sources, self._sources.host()
        return {
            "version": __version__,
            "time_s": round(now_s, 3),
            "host": {
                "uuid": facts.uuid,
                "name_label": facts.name_label,
                "driver": sources.driver,
                "policy": sources.policy(),
                "observes": sources.observes,
                **(_tell_memory(report.look.host) if report else {}),
            },
            "ring": _tell_ring(report, sources.looks_every_s),
            "requests": tell_requests(report, sources.name_owner, now_s) if report else [],
            "reservations": tell_reservations(report, sources.name_owner) if report else [],
        }


def _tell_memory(host: HostState) -> dict[str, object]:
    held_kib = sum(domain.actual_kib for domain in host.domains)
    others_kib = host.total_kib - host.free_kib - host.scrub_kib - held_kib
    return {
        "total_bytes": kib_to_bytes(host.total_kib),
        "free_bytes": kib_to_bytes(host.free_kib),
        "scrub_bytes": kib_to_bytes(host.scrub_kib),
        "slush_bytes": kib_to_bytes(host.slush_kib),
        "reserved_bytes": kib_to_bytes(host.reserved_kib),
        "spare_bytes": kib_to_bytes(host.spare_kib),
        "others_bytes": kib_to_bytes(max(0, others_kib)),
    }


def _tell_ring(report: CycleReport | None, looks_every_s: float) -> dict[str, object]:
    if report is None:
        return {"turn": 0, "looks_every_s": looks_every_s, "sees_host": False, "failures": []}
    return {
        "turn": report.number,
        "looked_at_s": round(report.time_s, 3),
        "looks_every_s": looks_every_s,
        "duration_s": round(report.duration_s, 6),
        "sees_host": report.saw_host,
        "is_stable": report.stable,
        "failures": [
            {"kind": failure.kind, "reason": failure.reason, "text": failure.text}
            for failure in report.failures
        ],
    }


def _tell_vm(seen: _Seen, report: CycleReport | None) -> dict[str, object]:
    vm, domain, reason, shadow_targets = seen
    return {
        "uuid": vm.uuid,
        "name_label": vm.name_label,
        "domid": vm.domid if vm.is_resident else None,
        "power_state": vm.power_state,
        "is_control_domain": vm.is_control_domain,
        "static_min_bytes": vm.memory_static_min,
        "dynamic_min_bytes": vm.memory_dynamic_min,
        "dynamic_max_bytes": vm.memory_dynamic_max,
        "static_max_bytes": vm.memory_static_max,
        "target_bytes": kib_to_bytes(domain.target_kib) if domain else vm.memory_target,
        "actual_bytes": kib_to_bytes(domain.actual_kib) if domain else vm.memory_actual,
        "maxmem_bytes": kib_to_bytes(domain.maxmem_kib) if domain else None,
        "goal_bytes": kib_to_bytes(reason.goal_kib) if reason else None,
        "state": reason.state.value if reason else None,
        "motive": reason.motive.value if reason else None,
        "reason": _reason_text(seen, report),
        "shadow_targets_bytes": shadow_targets,
        "is_being_built": domain is not None and domain.lifecycle is Lifecycle.BUILDING,
        "sample": _tell_sample(domain, report) if domain and report else None,
    }


def _shadow_targets(domain: DomainState, report: CycleReport) -> Mapping[str, int]:
    """Tell what the policies that are not in force would have it hold, bytes by policy."""
    return {
        name: kib_to_bytes(shadow.targets_kib[domain.domid])
        for name, shadow in report.shadows.items()
        if domain.domid in shadow.targets_kib
    }


def _reason_text(seen: _Seen, report: CycleReport | None) -> str:
    """Say why it has its target; of a VM that is not balanced, why it is not."""
    return seen.reason.text if seen.reason else explain(seen.vm, report if seen.domain is None else None)


def _tell_sample(domain: DomainState, report: CycleReport) -> dict[str, object] | None:
    """Tell what the guest said of its memory, and when: an age would be another at each turn."""
    sample = domain.sample
    if sample is None:
        return None
    return {
        "sampled_at_s": round(report.time_s - (report.monotonic_s - sample.seen_s), 1),
        "period_s": sample.period_s,
        "used_bytes": kib_to_bytes(sample.used_kib),
        "swapped_bytes": kib_to_bytes(sample.swapped_kib),
        "source": sample.source,
    }


def _encode(value: object) -> bytes:
    """Write JSON; what is no Unicode in a name becomes an escape."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
