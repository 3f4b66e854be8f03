"""Makers of engine values for tests: short to write, with the figure that matters in sight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.engine.belief import Beliefs, Caution
from xcpmem.engine.model import (
    DomainState,
    DynamicRange,
    HostState,
    Lifecycle,
    MemoryRequest,
    Reservation,
    SetMaxmem,
    SetTarget,
    Wishes,
)
from xcpmem.engine.planner import Plan, PlannerSettings, plan
from xcpmem.engine.policies import find_policy
from xcpmem.engine.policy import Claim
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.engine.model import Action
    from xcpmem.engine.policy import ChosenPolicy

MIB: Final = mib_to_kib(1)
CAUTION: Final = Caution()
PROPORTIONAL: Final = find_policy("proportional")


def uuid_of(domid: int) -> str:
    """The uuid that all makers give to the domain of that number."""
    return f"00000000-0000-4000-8000-{domid:012d}"


def a_domain(
    low_kib: int = 1000 * MIB,
    high_kib: int = 3000 * MIB,
    actual_kib: int | None = None,
    *,
    domid: int = 1,
    uuid: str | None = None,
    target_kib: int | None = None,
    maxmem_kib: int | None = None,
    can_balloon: bool = True,
    lifecycle: Lifecycle = Lifecycle.RUNNING,
    initial_reservation_kib: int = 0,
    uncooperative: bool = False,
) -> DomainState:
    """A domain; unless told otherwise it holds dynamic-max, was told so, and may hold no more."""
    actual_kib = high_kib if actual_kib is None else actual_kib
    target_kib = actual_kib if target_kib is None else target_kib
    return DomainState(
        domid=domid,
        uuid=uuid_of(domid) if uuid is None else uuid,
        dynamic_range=DynamicRange(low_kib, high_kib),
        target_kib=target_kib,
        actual_kib=actual_kib,
        maxmem_kib=target_kib if maxmem_kib is None else maxmem_kib,
        can_balloon=can_balloon,
        lifecycle=lifecycle,
        initial_reservation_kib=initial_reservation_kib,
        uncooperative=uncooperative,
    )


def a_host(
    *domains: DomainState,
    free_kib: int = 0,
    scrub_kib: int = 0,
    slush_kib: int = 0,
    reservations: tuple[Reservation, ...] = (),
) -> HostState:
    """A host that consists of its domains and what is free, by default without a slush fund."""
    total_kib = free_kib + scrub_kib + sum(domain.actual_kib for domain in domains)
    return HostState(total_kib, free_kib, scrub_kib, slush_kib, domains, reservations)


def a_request(
    min_kib: int,
    max_kib: int | None = None,
    *,
    name: str = "r1",
    order: int = 1,
    deadline_s: float = 60.0,
    vm_uuid: str = "",
) -> MemoryRequest:
    """A request for exactly ``min_kib``, or for the range up to ``max_kib``."""
    max_kib = min_kib if max_kib is None else max_kib
    return MemoryRequest(name, "owner", min_kib, max_kib, order, deadline_s, vm_uuid)


def a_claim(min_kib: int, max_kib: int, *, low_kib: int | None = None, high_kib: int | None = None) -> Claim:
    """A claim that is limited by nothing but its range, unless told otherwise."""
    return Claim(
        min_kib, max_kib, min_kib if low_kib is None else low_kib, max_kib if high_kib is None else high_kib
    )


def wanting(*requests: MemoryRequest, **ranges: DynamicRange) -> Wishes:
    """Wishes: requests, and ranges by ``d`` and the domain's number (``d1=...``)."""
    return Wishes(
        ranges={uuid_of(int(name[1:])): wished for name, wished in ranges.items()}, requests=requests
    )


def planned(
    host: HostState,
    wishes: Wishes | None = None,
    beliefs: Beliefs | None = None,
    now_s: float = 0.0,
    settings: PlannerSettings | None = None,
    *,
    policy: ChosenPolicy = PROPORTIONAL,
) -> Plan:
    """One turn of thought, under the proportional policy unless told otherwise."""
    return plan(
        host,
        wishes or Wishes(),
        beliefs or Beliefs(),
        now_s,
        policy,
        settings=settings or PlannerSettings(),
    )


def targets_of(actions: tuple[Action, ...]) -> Mapping[int, int]:
    """The targets that a plan writes, by domid, KiB."""
    return {action.domid: action.target_kib for action in actions if isinstance(action, SetTarget)}


def maxmems_of(actions: tuple[Action, ...]) -> Mapping[int, int]:
    """The last maxmem that a plan sets for each domid, KiB."""
    return {action.domid: action.maxmem_kib for action in actions if isinstance(action, SetMaxmem)}
