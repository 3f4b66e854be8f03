"""Why a target is what it is, and what would come of a wish; both from the latest look, touching nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from xcpmem.construction import claim_of, overhead_kib
from xcpmem.engine.forecast import Forecast, Newcomer, forecast
from xcpmem.engine.model import DomainState, Granted, Lifecycle, MemoryRequest, Refused, Wishes
from xcpmem.errors import DomainsUncooperative, InvalidValue, NotSeen, UuidInvalid, XcpmemError
from xcpmem.explanation import explain
from xcpmem.law import START, check_operation
from xcpmem.plugins import find_installed
from xcpmem.units import parse_size_bytes
from xcpmem.vm import INT64_MAX
from xcpmem.watchedpolicy import under_watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.engine.model import DynamicRange, HostState
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.host import HostRecord
    from xcpmem.law import VmLaw
    from xcpmem.ledger import Ledger
    from xcpmem.report import CycleReport
    from xcpmem.ring import Ring
    from xcpmem.vm import Vm

WISHES: Final = ("vm", "dynamic_min", "dynamic_max", "reserve_min_kib", "reserve_max_kib", "policy", "start")
"""What can be wished: a range of a VM (bytes), a reservation (KiB), a policy, the start of a halted VM."""

PARAMETER: Final = "policy:"
"""... and a parameter of the wished policy, its name after this."""

_REQUEST: Final = "plan"
_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wished:
    """Wishes as they were read, nothing of them checked against the host.

    Args:
        vm: uuid; empty: no range is wished.
        dynamic_min: bytes; None: as it is.
        dynamic_max: bytes; None: as it is.
        reserve_kib: least and most; None: no reservation.
        policy: None: as it is.
        start: uuid; empty: nothing is started.
    """

    vm: str
    dynamic_min: int | None
    dynamic_max: int | None
    reserve_kib: tuple[int, int] | None
    policy: ChosenPolicy | None
    start: str


class Foresight:
    """Answers why, and what if.

    Args:
        ring: its reports hold the look and what the ring thinks with.
        ledger: of the VMs.
        law: what may be wished at all.
        host: counts what is left at maximum compression.
        name_domain: gives the reference of the VM of a domid.
    """

    def __init__(
        self,
        ring: Ring,
        ledger: Ledger,
        law: VmLaw,
        host: HostRecord,
        name_domain: Callable[[int], str | None],
    ) -> None:
        self._ring = ring
        self._ledger = ledger
        self._law = law
        self._host = host
        self._name_domain = name_domain

    def explain(self, uuid: str) -> str:
        """Serve ``Memory.explain``: why a VM's target is what it is. Raises UuidInvalid."""
        return explain(self._find(uuid), self._ring.report)

    async def plan(self, wishes: Mapping[str, str]) -> dict[str, Any]:
        """Serve ``Memory.plan``.

        Args:
            wishes: text by name, see `WISHES`; none: where the host is going anyway. A size in bytes may
                carry a suffix.

        Returns:
            ``feasible``; ``error``, a list of code and parameters as the real call would fail with, or None;
            ``wish``, the one that it would refuse (``vm``, ``start`` or ``reserve_min_kib``), or None;
            ``granted_kib`` of the reservation or start, or None; ``domains`` by VM uuid: ``name_label``,
            ``before_kib`` (what it holds now), ``after_kib`` (in the end) and ``reason``, a sentence's end;
            ``trouble``, how the wished policy erred so that XCP's rule decided in its place, or empty.

        Raises:
            InvalidValue: names a wish that cannot be understood, and its value.
            UuidInvalid: there is no such VM.
            NotSeen: the host was not looked at yet.
        """
        report = self._ring.report
        if report is None:
            raise NotSeen("the host was not seen yet")
        wished = _read(wishes)
        for uuid in filter(None, (wished.vm, wished.start)):
            self._find(uuid)
        host, stance = report.look.host, report.stance
        if wished.policy is not None:
            stance = replace(stance, policy=under_watch(wished.policy))
        unchanged = Forecast(host, (), report.reasons)
        try:
            changed = self._change(wished)
        except XcpmemError as error:
            return self._answer(host, unchanged, error, "vm")
        try:
            planned, newcomer = self._wish(wished, changed, report)
        except XcpmemError as error:
            return self._answer(host, unchanged, error, "start")
        found = await asyncio.to_thread(
            forecast, host, planned, stance, report.monotonic_s, newcomer=newcomer
        )
        refusals = [v.error for v in found.verdicts if isinstance(v, Refused) and v.request_id == _REQUEST]
        claim = "start" if wished.start else "reserve_min_kib"
        return self._answer(host, found, refusals[0] if refusals else None, claim)

    def _find(self, uuid: str) -> Vm:
        vm = self._ledger.vms.get(uuid)
        if vm is None:
            raise UuidInvalid("VM", uuid)
        return vm

    def _change(self, wished: _Wished) -> Vm | None:
        """Give the VM with the wished range, if the law allows it."""
        if not wished.vm:
            return None
        vm = self._ledger.vms[wished.vm]
        low = vm.memory_dynamic_min if wished.dynamic_min is None else wished.dynamic_min
        high = vm.memory_dynamic_max if wished.dynamic_max is None else wished.dynamic_max
        free = self._host.compute_free_memory(self._ledger.vms)
        return self._law.set_memory_dynamic_range(vm, low, high, free)

    def _wish(
        self, wished: _Wished, changed: Vm | None, report: CycleReport
    ) -> tuple[Wishes, Newcomer | None]:
        """Put the wishes as the planner knows them, beside those that wait already."""
        ranges: dict[str, DynamicRange] = {}
        if changed is not None and changed.is_resident:
            ranges[changed.uuid] = changed.dynamic_range
        claim_kib, newcomer, vm_uuid = wished.reserve_kib, None, wished.start
        if vm_uuid:
            vm = changed if changed is not None and changed.uuid == vm_uuid else self._ledger.vms[vm_uuid]
            check_operation(vm, START)
            vm = self._law.start(vm, force=False)
            claim_kib = claim_of(vm)
            domid = 1 + max((domain.domid for domain in report.look.host.domains), default=0)
            domain = DomainState(domid, vm_uuid, vm.dynamic_range, 0, 0, 0)
            newcomer = Newcomer(_REQUEST, domain, overhead_kib(vm))
        requests = report.pending
        if claim_kib is not None:
            order = 1 + max((request.order for request in requests), default=0)
            deadline_s = report.monotonic_s + _WAIT_S
            request = MemoryRequest(_REQUEST, _REQUEST, *claim_kib, order, deadline_s, vm_uuid, _WAIT_S)
            requests = (*requests, request)
        return Wishes(ranges, requests), newcomer

    def _answer(
        self, before: HostState, found: Forecast, error: XcpmemError | None, wish: str
    ) -> dict[str, Any]:
        grants = [v.size_kib for v in found.verdicts if isinstance(v, Granted) and v.request_id == _REQUEST]
        seen, after = _by_uuid(before), _by_uuid(found.host)
        return {
            "feasible": error is None,
            "error": self._put(error),
            "wish": None if error is None else wish,
            "trouble": found.trouble,
            "granted_kib": grants[0] if grants else None,
            "domains": {
                uuid: {
                    "name_label": self._ledger.vms[uuid].name_label if uuid in self._ledger.vms else "",
                    "before_kib": seen[uuid].actual_kib if uuid in seen else 0,
                    "after_kib": domain.actual_kib,
                    "reason": found.reasons[domain.domid].text if domain.domid in found.reasons else "",
                }
                for uuid, domain in after.items()
            },
        }

    def _put(self, error: XcpmemError | None) -> list[str] | None:
        """Put an error as a client would get it, VMs by their references."""
        if error is None:
            return None
        if isinstance(error, DomainsUncooperative):
            refs = [self._name_domain(int(domid)) for domid in error.vms]
            return [error.code, *(ref for ref in refs if ref is not None)]
        return [error.code, *error.params]


def _by_uuid(host: HostState) -> dict[str, DomainState]:
    """Find each VM's domain; of two the newer, since the old one is on its way out."""
    return {d.uuid: d for d in host.domains if d.lifecycle is not Lifecycle.DYING}


def _read(wishes: Mapping[str, str]) -> _Wished:
    """Read what is wished; whatever cannot be understood is refused by name."""
    for name, text in wishes.items():
        is_parameter = name.startswith(PARAMETER) and "policy" in wishes
        if name not in WISHES and not is_parameter:
            raise InvalidValue(name, text)
    vm, start = wishes.get("vm", ""), wishes.get("start", "")
    low, high = _read_size("dynamic_min", wishes), _read_size("dynamic_max", wishes)
    if (low is None and high is None) == bool(vm):
        raise InvalidValue("dynamic_min" if vm else "vm", "")
    least, most = _read_size("reserve_min_kib", wishes), _read_size("reserve_max_kib", wishes)
    if least is None and most is not None:
        raise InvalidValue("reserve_min_kib", "")
    if least is not None and start:
        raise InvalidValue("start", start)
    reserve = None if least is None else (least, least if most is None else most)
    if reserve is not None and reserve[0] > reserve[1]:
        raise InvalidValue("reserve_max_kib", reserve[1])
    return _Wished(
        vm=vm,
        dynamic_min=low,
        dynamic_max=high,
        reserve_kib=reserve,
        policy=_read_policy(wishes),
        start=start,
    )


def _read_policy(wishes: Mapping[str, str]) -> ChosenPolicy | None:
    """Find the wished policy, with the parameters that are wished of it."""
    if "policy" not in wishes:
        return None
    parameters = {
        name.removeprefix(PARAMETER): text for name, text in wishes.items() if name.startswith(PARAMETER)
    }
    return find_installed(wishes["policy"], parameters)


def _read_size(name: str, wishes: Mapping[str, str]) -> int | None:
    """Read a size, which may carry a suffix if it is in bytes."""
    text = wishes.get(name)
    if text is None:
        return None
    if name.endswith("_kib") and not text.isdecimal():
        raise InvalidValue(name, text)
    size = parse_size_bytes(text, name)
    if size > INT64_MAX:
        raise InvalidValue(name, text)
    return size
