"""A ring that turns only when a test says so: it replays looks and notes what is wished of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcpmem.report import Bulletin, CycleReport, Failure, Subscriber
from xcpmem.xen.driver import DomainDescription, Look

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xcpmem.engine.model import Action, DomainState, DynamicRange, HostState, MemoryRequest, Reservation
    from xcpmem.engine.policy import ChosenPolicy


def describe(domain: DomainState, **changes: object) -> DomainDescription:
    """What a driver says of a domain; unless told otherwise it was booted for its dynamic-max."""
    given: dict[str, object] = {
        "domid": domain.domid,
        "uuid": domain.uuid,
        "name_label": f"vm{domain.domid}",
        "static_max_kib": domain.dynamic_range.max_kib,
        "domain_type": "pvh",
    }
    return DomainDescription(**(given | changes))  # type: ignore[arg-type]


class ReplayRing:
    """The controller's role without a host; see `xcpmem.ring.Ring`.

    Its clock stands still but for `feed`, which lets a second pass before each look and one after it.
    """

    def __init__(self) -> None:
        self.wishes: dict[str, DynamicRange] = {}
        self.weights: dict[str, int] = {}
        self.policy: ChosenPolicy | None = None
        self.now_s = 0.0
        self._bulletin = Bulletin()
        self._number = 0

    @property
    def report(self) -> CycleReport | None:
        """The latest turn."""
        return self._bulletin.latest

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """Those of the latest turn."""
        return self.report.look.host.reservations if self.report else ()

    def clock(self) -> float:
        """Monotonic seconds."""
        return self.now_s

    def feed(
        self,
        host: HostState,
        *,
        descriptions: Mapping[int, DomainDescription] | None = None,
        actions: tuple[Action, ...] = (),
        failures: tuple[Failure, ...] = (),
        pending: tuple[MemoryRequest, ...] = (),
        looked_at_s: float | None = None,
    ) -> None:
        """Make one turn: the look, what was then done, what failed, and who waits."""
        if descriptions is None:
            descriptions = {domain.domid: describe(domain) for domain in host.domains}
        self.now_s += 1
        self._number += 1
        report = CycleReport(
            number=self._number,
            time_s=1_700_000_000 + self.now_s,
            monotonic_s=self.now_s if looked_at_s is None else looked_at_s,
            look=Look(host, descriptions),
            actions=actions,
            failures=failures,
            pending=pending,
        )
        self.now_s += 1
        self._bulletin.publish(report)

    def set_range(self, uuid: str, dynamic_range: DynamicRange) -> None:
        """Note a wish."""
        self.wishes[uuid] = dynamic_range

    def forget_range(self, uuid: str) -> None:
        """Forget a wish."""
        self.wishes.pop(uuid, None)

    def choose_policy(self, policy: ChosenPolicy) -> None:
        """Remember the choice."""
        self.policy = policy

    def set_weight(self, uuid: str, weight: int) -> None:
        """Remember a weight."""
        self.weights[uuid] = weight

    def wake(self) -> None:
        """It turns only when it is fed."""

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
        """Not part of any replay."""
        raise AssertionError(
            f"{owner} asks a replay for {min_kib} to {max_kib} KiB, {timeout_s} s, {vm_uuid}{reservation_id}"
        )

    async def keep(self, *, owner: str, vm_uuid: str, overhead_kib: int) -> Reservation:
        """Not part of any replay."""
        raise AssertionError(f"{owner} keeps what {vm_uuid} and its overhead of {overhead_kib} KiB hold")

    async def confirm(self, reservation_id: str, domid: int) -> None:
        """Not part of any replay."""
        raise AssertionError(f"{domid} is confirmed for {reservation_id}")

    async def transfer(self, reservation_id: str, domid: int) -> None:
        """Not part of any replay."""
        raise AssertionError(f"replay is to transfer {reservation_id} to {domid}")

    async def delete(self, reservation_id: str) -> None:
        """Not part of any replay."""
        raise AssertionError(f"replay is to delete {reservation_id}")

    async def release(self, owner: str, *, transferred_too: bool = False) -> None:
        """Not part of any replay."""
        raise AssertionError(f"replay is to release {owner}, {transferred_too}")

    def reservation_of_domain(self, domid: int) -> str | None:
        """Not part of any replay."""
        raise AssertionError(f"a replay knows no reservation of {domid}")

    async def settle(self, timeout_s: float) -> bool:
        """It is always at rest."""
        return timeout_s >= 0

    async def next_report(self, after: int, timeout_s: float) -> CycleReport | None:
        """Wait for the next `feed`."""
        return await self._bulletin.next(after, timeout_s)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back with each `feed`."""
        return self._bulletin.subscribe(callback)
