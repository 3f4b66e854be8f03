"""The toolstack of a host that is run with `xl`.

A VM's ``other_config:xcpmem-xl-config`` names the file that says what the VM is made of: kernel, disks,
networks (xl.cfg(5)). Memory, its bound and the uuid come from here and override the file. Words go to `xl`
as words, never through a shell.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ToolstackError

if TYPE_CHECKING:
    from xcpmem.xen.toolstack import Blueprint, Size, Subject

CONFIG_KEY: Final = "xcpmem-xl-config"
"""Key of other_config: the absolute path of the VM's file for `xl`."""

CREATE_S: Final = 300.0
"""`xl create` may take so long; it waits for others that build, one after the other."""

ACT_S: Final = 60.0
"""Any other command of `xl` may take so long."""

KILLED_S: Final = 5.0
"""A process that was killed has ended after so long, and one that ended has closed its output."""

OUTPUT_BYTES_MOST: Final = 8192
"""As much is kept of what `xl` says: its end, where the reason stands."""

LINE_MOST: Final = 500

_READ_BYTES: Final = 4096
_LAUNCHER: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Starts a program that the kernel kills when we die (prctl(2), PR_SET_PDEATHSIG).

Or else an `xl` that nobody waits for any more would build a domain with memory that the next daemon has given
to others. The one that stays behind for a domain is a child of it, and not bound by this.
"""

_log = logging.getLogger(__name__)


class XlToolstack:
    """A `Toolstack` that runs `xl`.

    Args:
        program: the command, looked up in ``PATH`` if it is no path.
        create_s: how long building may take, seconds.
        act_s: how long anything else may take, seconds.
    """

    def __init__(self, program: str = "xl", *, create_s: float = CREATE_S, act_s: float = ACT_S) -> None:
        self._program = program
        self._create_s = create_s
        self._act_s = act_s

    def check(self, blueprint: Blueprint) -> None:
        """Refuse a VM that names no file to build it from."""
        self._config(blueprint)

    async def create(self, blueprint: Blueprint, size: Size) -> None:
        """Build a paused domain; `xl` stays behind to end or rebuild it when its guest wants that."""
        words = (
            *("create", "-p", self._config(blueprint)),
            f"memory={size.memory_mib}",
            f"maxmem={size.static_max_mib}",
            f'uuid="{blueprint.uuid}"',
        )
        await self._run(blueprint.title, self._create_s, *words)

    async def unpause(self, subject: Subject) -> None:
        """Let a paused domain run."""
        await self._act(subject, "unpause")

    async def pause(self, subject: Subject) -> None:
        """Stop a domain from running."""
        await self._act(subject, "pause")

    async def shutdown(self, subject: Subject) -> None:
        """Ask by xenstore, or by ACPI a guest that has no drivers for that."""
        await self._act(subject, "shutdown", "-F")

    async def reboot(self, subject: Subject) -> None:
        """Ask as for a shutdown; the `xl` that stayed behind when the domain was built builds the next."""
        await self._act(subject, "reboot", "-F")

    async def destroy(self, subject: Subject) -> None:
        """End a domain."""
        await self._act(subject, "destroy")

    def _config(self, blueprint: Blueprint) -> str:
        path = blueprint.settings.get(CONFIG_KEY)
        if path is None:
            raise ToolstackError(
                f"{blueprint.title}: other_config:{CONFIG_KEY} must name the file to build it from"
            )
        # xl would take a word with "=" for a setting, and one with "-" for an option.
        if not path.startswith("/") or "=" in path:
            why = "is no absolute path" if not path.startswith("/") else "must not have '=' in it"
            raise ToolstackError(f"{blueprint.title}: other_config:{CONFIG_KEY}: {path} {why}")
        if not Path(path).is_file():
            raise ToolstackError(f"{blueprint.title}: other_config:{CONFIG_KEY}: no file {path}")
        return path

    async def _act(self, subject: Subject, word: str, *options: str) -> None:
        await self._run(subject.title, self._act_s, word, *options, str(subject.domid))

    async def _run(self, title: str, deadline_s: float, *words: str) -> None:
        """Run `xl` to its end.

        Raises:
            ToolstackError: it could not be run, failed, or took too long.
        """
        command = shutil.which(self._program)
        if command is None:
            raise ToolstackError(f"{title}: there is no command {self._program} on this host")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())),
            *(command, *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert process.stderr is not None  # noqa: S101 it was asked for
        output = asyncio.create_task(_read_end(process.stderr), name="output of xl")
        try:
            async with asyncio.timeout(deadline_s):
                status = await process.wait()
            said = await _last_line(output)
        except TimeoutError:
            raise ToolstackError(f"{title}: xl {words[0]} did not end within {deadline_s:g} s") from None
        finally:
            output.cancel()
            if process.returncode is None:
                process.kill()
                async with asyncio.timeout(KILLED_S):
                    await process.wait()
        _log.debug("ran", extra={"command": f"xl {' '.join(words)}", "status": status})
        if status != 0:
            raise ToolstackError(f"{title}: xl {words[0]} failed ({_ending(status)}): {said}")


async def _read_end(stream: asyncio.StreamReader) -> bytes:
    """Read to the end and keep the last of it."""
    end = b""
    while chunk := await stream.read(_READ_BYTES):
        end = (end + chunk)[-OUTPUT_BYTES_MOST:]
    return end


async def _last_line(output: asyncio.Task[bytes]) -> str:
    """Give the last line that says something; one who stays behind may hold the output open."""
    await asyncio.wait({output}, timeout=KILLED_S)
    text = output.result().decode(errors="replace") if output.done() else ""
    lines = [line.strip() for line in text.splitlines()]
    printable = ("".join(letter for letter in line if letter.isprintable()) for line in reversed(lines))
    return next(filter(None, printable), "it did not say why")[:LINE_MOST]


def _ending(status: int) -> str:
    if status > 0:
        return f"status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
