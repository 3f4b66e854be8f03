"""The role that the controller plays for the line: wishes go in, reports come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.engine.model import DynamicRange, Reservation
    from xcpmem.engine.policy import ChosenPolicy
    from xcpmem.report import CycleReport, Subscriber


class Ring(Protocol):
    """What the line needs of the controller; `xcpmem.controller.Controller` says more of each."""

    @property
    def report(self) -> CycleReport | None:
        """The latest turn, None before the first."""

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """Those that stand, also if no report tells of them yet."""

    def set_range(self, uuid: str, dynamic_range: DynamicRange) -> None:
        """Wish a VM's dynamic range, KiB, from now on."""

    def forget_range(self, uuid: str) -> None:
        """Obey again what xenstore says of a VM's range."""

    def choose_policy(self, policy: ChosenPolicy) -> None:
        """Divide memory by another policy from the next turn on."""

    def set_weight(self, uuid: str, weight: int) -> None:
        """Let a VM count so much under policies that weigh."""

    def wake(self) -> None:
        """Let the ring turn soon."""

    async def reserve(
        self,
        *,
        owner: str,
        min_kib: int,
        max_kib: int,
        timeout_s: float = 60.0,
        vm_uuid: str = "",
        reservation_id: str = "",
    ) -> Reservation:
        """Set memory aside, for a VM that is to be started if ``vm_uuid`` names one."""

    async def keep(self, *, owner: str, vm_uuid: str, overhead_kib: int) -> Reservation:
        """Set aside what a VM holds, so that it is still there when its domain has gone."""

    async def confirm(self, reservation_id: str, domid: int) -> None:
        """Note that a domain is complete for which memory was set aside."""

    async def transfer(self, reservation_id: str, domid: int) -> None:
        """Give a reservation to a domain under construction."""

    async def delete(self, reservation_id: str) -> None:
        """Give a reservation back; an unknown one is no error."""

    async def release(self, owner: str, *, transferred_too: bool = False) -> None:
        """Give back all of an owner's reservations that were not transferred, or really all."""

    def reservation_of_domain(self, domid: int) -> str | None:
        """Tell which reservation was transferred to a domain."""

    async def settle(self, timeout_s: float) -> bool:
        """Wait until the host is stable; False when the time is over."""

    async def next_report(self, after: int, timeout_s: float) -> CycleReport | None:
        """Wait for a turn later than number ``after``; None when the time is over."""

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back, in the loop, after each turn; returns a function that ends this."""
