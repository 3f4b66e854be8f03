"""What the daemon tells systemd's watchdog of the ring, and how it ends before it has looked at the host."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xcpmem.assembly import _first_look, _watch
from xcpmem.config import Settings
from xcpmem.controller import Controller

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from xcpmem.engine.model import Action, SetTarget
    from xcpmem.xen.driver import Look

TICKS = 5
DEADLINE_S = 20


class DeafHost:
    """A driver whose first look never ends."""

    async def observe(self) -> Look:
        await asyncio.Event().wait()
        raise AssertionError

    async def apply(self, action: Action) -> None:
        raise AssertionError(action)

    async def tell(self, targets: Sequence[SetTarget]) -> None:
        raise AssertionError(targets)

    async def wait(self, timeout_s: float, enough_kib: int | None = None) -> bool:
        raise AssertionError(timeout_s, enough_kib)

    async def catch_up(self) -> None:
        raise AssertionError

    async def close(self) -> None:
        return None


class TickingController(Controller):
    """Ends the watch when it was woken so many times."""

    def __init__(self, stop: asyncio.Event) -> None:
        super().__init__(DeafHost())
        self._stop = stop
        self._wakes = 0

    def wake(self) -> None:
        super().wake()
        self._wakes += 1
        if self._wakes == TICKS:
            self._stop.set()


def sent_to(manager: socket.socket) -> list[bytes]:
    """Everything that waits to be read."""
    told = []
    with suppress(BlockingIOError):
        while True:
            told.append(manager.recv(1000))
    return told


async def test_ring_that_hangs_is_fed_once_for_the_turns_before_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        stop = asyncio.Event()
        controller = TickingController(stop)
        ring = asyncio.create_task(controller.run())
        async with asyncio.timeout(DEADLINE_S):
            await _watch(stop, ring, controller)
        ring.cancel()
        await asyncio.wait({ring})
        assert sent_to(manager) == [b"WATCHDOG=1"]


async def test_daemon_that_waits_for_its_first_look_ends_when_it_is_told_to() -> None:
    stop = asyncio.Event()
    controller = Controller(DeafHost())
    ring = asyncio.create_task(controller.run())
    asyncio.get_running_loop().call_soon(stop.set)
    async with asyncio.timeout(DEADLINE_S):
        assert not await _first_look(controller, Settings(state_dir=Path("/nowhere")), stop)
    ring.cancel()
    await asyncio.wait({ring})
