"""How far a command is that takes its time, told to whoever watches on a terminal.

The client says whether anybody does. From the first second on the line is drawn over itself on standard
error; its last state stays.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from xcpmem.api.cli_fields import RECORD_CLASSES
from xcpmem.api.cli_frames import PrintStderr
from xcpmem.api.cli_records import Item, Records
from xcpmem.progressbar import PATIENCE_S, bar_line
from xcpmem.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from xcpmem.api.cli_run import Run

LOOK_AGAIN_S: Final = 1.0
"""Between two looks at how far it is."""

_VM: Final = RECORD_CLASSES["vm"]

Look = tuple[float | None, str]
"""How much is done, if that is known, and figures for people."""


async def watch(
    run: Run, title: str, work: Coroutine[None, None, object], look: Callable[[], Awaitable[Look]]
) -> None:
    """Carry something out and tell how far it is, if anybody watches.

    Args:
        run: the command.
        title: what goes on.
        work: to be carried out; its errors are raised.
        look: tells how far it is.
    """
    if not run.wants_progress or run.printer.is_minimal:
        await work
        return
    working = asyncio.ensure_future(work)
    told = False
    pause_s = PATIENCE_S
    try:
        while not (await asyncio.wait({working}, timeout=pause_s))[0]:
            fraction, note = await look()
            await run.printer.send(PrintStderr(f"\r{bar_line(title, fraction, note)}"))
            told, pause_s = True, LOOK_AGAIN_S
        await working
        if told:
            fraction, note = await look()
            await run.printer.send(PrintStderr(f"\r{bar_line(title, fraction, note)}"))
    finally:
        working.cancel()
        await asyncio.wait({working})
        if told:
            await run.printer.send(PrintStderr("\n"))


class Approach:
    """How far a VM is on its way to its target.

    Args:
        run: the command.
        item: the VM.
    """

    def __init__(self, run: Run, item: Item) -> None:
        self._run = run
        self._item = item
        self._farthest = 0

    async def look(self) -> Look:
        """Compare what it holds with its target."""
        actual, target = await _numbers(self._run, self._item, "memory-actual", "memory-target")
        if actual is None or target is None:
            return None, "not known"
        away = abs(actual - target)
        self._farthest = max(self._farthest, away)
        fraction = 1.0 - away / self._farthest if self._farthest else 1.0
        return fraction, f"{format_bytes(actual)} of {format_bytes(target)}"


class Lapse:
    """How long something has taken that tells no more of itself, and what the VM does meanwhile.

    Args:
        run: the command.
        item: the VM.
    """

    def __init__(self, run: Run, item: Item) -> None:
        self._run = run
        self._item = item
        self._started_s = asyncio.get_running_loop().time()

    async def look(self) -> Look:
        """Count the seconds."""
        taken_s = asyncio.get_running_loop().time() - self._started_s
        (held,) = await _numbers(self._run, self._item, "memory-actual")
        return None, f"{taken_s:.0f} s, holds {format_bytes(held or 0)}"


async def _numbers(run: Run, item: Item, *names: str) -> list[int | None]:
    """Read fields of a VM as they are now: what the command has read so far is kept for good."""
    records = Records(run.call)
    now = await records.one(_VM, item.uuid)
    texts = [await records.text(now, field) for field in map(_VM.find, names) if field is not None]
    return [int(text) if text.isdecimal() else None for text in texts]
