"""The host port over the pure simulated host: a whole host in memory, on a clock that nobody waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from xcpmem.errors import DriverDisconnected
from xcpmem.specs import microseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xcpmem.engine.model import Action, SetTarget
    from xcpmem.xen.driver import Look
    from xcpmem.xen.simhost import SimHost


class VirtualDriver:
    """A `HostDriver` on a `SimHost`.

    Args:
        host: the host; it may also be changed by others between the calls.
        tick_s: steps in which time passes while somebody waits, seconds.
    """

    def __init__(self, host: SimHost, *, tick_s: float = 0.1) -> None:
        self.host = host
        self._tick_us = max(1, microseconds(tick_s))
        self._seen = -1
        self._is_open = True

    async def observe(self) -> Look:
        """Look at the whole host. Raises DriverDisconnected after `close`."""
        self._check_open()
        self._seen = self.host.version
        return self.host.observe()

    async def apply(self, action: Action) -> None:
        """Carry out one action.

        Raises:
            DomainVanished: the domain is gone.
            DriverDisconnected: after `close`.
            InvalidValue: what no right-minded daemon does; see `SimHost.apply`.
        """
        self._check_open()
        was_current = self._seen == self.host.version
        self.host.apply(action)
        if was_current:
            self._seen = self.host.version

    async def tell(self, targets: Sequence[SetTarget]) -> None:
        """Set targets, all or none of them; raises as `apply`."""
        for target in targets:
            self.host.guest(target.domid)
        for target in targets:
            await self.apply(target)

    async def wait(self, timeout_s: float, enough_kib: int | None = None) -> bool:  # noqa: ARG002
        """Let virtual time pass until the host changes, at most ``timeout_s`` seconds of it.

        Args:
            timeout_s: at most so long.
            enough_kib: needs no watching: whatever guests give is a change.

        Returns:
            Whether something changed since it was last looked at.
        """
        self._check_open()
        await asyncio.sleep(0)
        end_us = self.host.now_us + microseconds(timeout_s)
        while self.host.version == self._seen and self.host.now_us < end_us:
            steps_us = [end_us]
            if self.host.is_active:
                steps_us.append(self.host.now_us + self._tick_us)
            if self.host.looks_next_us is not None:
                steps_us.append(self.host.looks_next_us)
            self.host.advance_to(max(self.host.now_us, min(steps_us)))
        changed = self.host.version != self._seen
        self._seen = self.host.version
        return changed

    async def catch_up(self) -> None:
        """Nothing: what is changed is seen at once. Raises DriverDisconnected after `close`."""
        self._check_open()

    async def close(self) -> None:
        """Let go of the host; it stays as it is."""
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise DriverDisconnected("the driver is closed")
