"""The toolstack of a host that is run with `xl`.

A VM's ``other_config:xcpmem-xl-config`` names the file that says what the VM is made of: kernel, disks,
networks (xl.cfg(5)). Memory, its bound and the uuid come from here and override the file. Words go to `xl`
as words, never through a shell.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Final

from xcpmem.errors import SrFull, ToolstackError
from xcpmem.units import format_kib, kib_to_bytes, mib_to_bytes, mib_to_kib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xcpmem.xen.toolstack import Blueprint, Holding, Size, Subject

CONFIG_KEY: Final = "xcpmem-xl-config"
"""Key of other_config: the absolute path of the VM's file for `xl`."""

CREATE_S: Final = 300.0
"""`xl create` may take so long; it waits for others that build, one after the other."""

ACT_S: Final = 60.0
"""Any other command of `xl` may take so long."""

RESTORE_S: Final = 3600.0
"""`xl restore` may take so long: it reads all that the domain holds from the disk."""

IMAGE_EXTRA_BYTES: Final = mib_to_bytes(100)
"""A domain's file is larger than what it holds by no more than this (what xapi adds for a suspend image)."""

_TARGET_SLACK_KIB: Final = mib_to_kib(1)

KILLED_S: Final = 5.0
"""A process that was killed has ended after so long."""

OUTPUT_BYTES_MOST: Final = 8192
"""As much is kept of what `xl` says: its end, where the reason stands."""

LINE_MOST: Final = 500

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

_WATCHER: Final = """\
import os, select, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
ended = os.pidfd_open(child.pid)
ready, _, _ = select.select([ended, 0], [], [])
if ended not in ready:
    child.kill()
sys.exit(child.wait() % 256)
"""
"""The same for a program that is no child of ours: its standard input is a pipe that ends when we do."""

_OUTSIDE: Final = (
    *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--property=KillMode=process"),
    *("--description=xl for xcpmemd", "--setenv=LC_ALL=C"),
)
"""Runs a program in a unit of its own, outside our sandbox, with our standard streams and to its end. What it
leaves behind (the `xl` that waits for the guest's end, device models) is left alone when it ends."""

_log = logging.getLogger(__name__)


def outside_sandbox(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Say what to put before a program so that it runs outside the sandbox of our unit.

    Args:
        environ: our own; systemd gives a unit's processes ``INVOCATION_ID``.

    Returns:
        Words; none where we are no unit.
    """
    found = shutil.which(_OUTSIDE[0], path=environ.get("PATH"))
    if found is None or not environ.get("INVOCATION_ID"):
        return ()
    return (found, *_OUTSIDE[1:], f"--setenv=PATH={environ.get('PATH', os.defpath)}")


class XlToolstack:
    """A `Toolstack` that runs `xl`.

    Args:
        program: the command, looked up in ``PATH`` if it is no path.
        outside: what stands before it to run it outside our sandbox, see `outside_sandbox`.
        create_s: how long building may take, seconds.
        act_s: how long anything else may take, seconds.
        restore_s: how long building from a file may take, seconds.
    """

    def __init__(
        self,
        program: str = "xl",
        *,
        outside: tuple[str, ...] = (),
        create_s: float = CREATE_S,
        act_s: float = ACT_S,
        restore_s: float = RESTORE_S,
    ) -> None:
        self._program = program
        self._outside = outside
        self._create_s = create_s
        self._act_s = act_s
        self._restore_s = restore_s

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

    async def save(self, subject: Subject, path: str, holding: Holding) -> None:
        """Write a domain to a file and leave it paused; an `xl` that has begun is left to its end.

        Or else its guest would stay suspended for ever: no command of `xl` wakes it up again.

        Raises:
            SrFull: the file would not fit.
            ToolstackError: the domain holds more than its target, with which `xl` would build it again;
                or as every call.
        """
        if holding.actual_kib > holding.target_kib + _TARGET_SLACK_KIB:
            held, told = format_kib(holding.actual_kib), format_kib(holding.target_kib)
            raise ToolstackError(
                f"{subject.title}: it holds {held} and was told to hold {told}; xl would fail"
            )
        needed = kib_to_bytes(holding.actual_kib) + IMAGE_EXTRA_BYTES
        usage = shutil.disk_usage(path)
        if usage.total > 0 and usage.free < needed:  # a file system in memory may count nothing
            raise SrFull(needed, usage.free)
        command = self._command(subject.title)
        words = (*self._outside, command, "save", "-p", str(subject.domid), path)
        with TemporaryFile() as output, _locked(path) as image:
            process = _spawn(words, image, output)
            await _end_of(process)
            _check_end(subject.title, "save", _reap(process), output)

    async def restore(self, blueprint: Blueprint, size: Size, path: str) -> None:  # noqa: ARG002 the file knows
        """Build a paused domain from a file; `xl` stays behind as after `create`."""
        await self._run(blueprint.title, self._restore_s, "restore", "-p", path)

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
        command = self._command(title)
        with TemporaryFile() as output:
            watched = (*self._outside, sys.executable, "-I", "-S", "-c", _WATCHER) if self._outside else ()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())),
                *(*watched, command, *words),
                stdin=asyncio.subprocess.PIPE if watched else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=output,
                env={**os.environ, "LC_ALL": "C"},
            )
            try:
                async with asyncio.timeout(deadline_s):
                    status = await process.wait()
            except TimeoutError:
                why = f"xl {words[0]} did not end within {deadline_s:g} s"
                raise ToolstackError(f"{title}: {why}") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    async with asyncio.timeout(KILLED_S):
                        await process.wait()
            _log.debug("ran", extra={"command": f"xl {' '.join(words)}", "status": status})
            _check_end(title, words[0], status, output)

    def _command(self, title: str) -> str:
        command = shutil.which(self._program)
        if command is None:
            raise ToolstackError(f"{title}: there is no command {self._program} on this host")
        return command


def _locked(path: str) -> IO[bytes]:
    """Open a file, locked for as long as anybody has it from here."""
    file = Path(path).open("rb")  # noqa: SIM115 the caller closes it
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _spawn(words: tuple[str, ...], image: IO[bytes], output: IO[bytes]) -> int:
    """Start a child that outlives us, as those of asyncio do not; the image is its standard input."""
    actions = (
        (os.POSIX_SPAWN_DUP2, image.fileno(), 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
    )
    return os.posix_spawn(words[0], words, {**os.environ, "LC_ALL": "C"}, file_actions=actions, setsid=True)


async def _end_of(process: int) -> None:
    """Wait for the end of a child."""
    loop = asyncio.get_running_loop()
    ended, descriptor = asyncio.Event(), os.pidfd_open(process)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _reap(process: int) -> int:
    """Give the status of a child that has ended, as `subprocess` does."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _check_end(title: str, word: str, status: int, output: IO[bytes]) -> None:
    """Raise ToolstackError with what `xl` said last unless it succeeded."""
    if status != 0:
        lines = _last_lines(output) or ["it did not say why"]
        failed = f"{title}: xl {word} failed ({_ending(status)})"
        _log.warning("%s; it said: %s", failed, " | ".join(lines))
        raise ToolstackError(f"{failed}: {lines[-1][:LINE_MOST]}")


def _last_lines(output: IO[bytes]) -> list[str]:
    """Give the last lines that say something: the cause is often not in the very last."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_BYTES_MOST))
    lines = output.read().decode(errors="replace").splitlines()
    printable = ("".join(filter(str.isprintable, line)).strip() for line in lines)
    return [line for line in printable if line]


def _ending(status: int) -> str:
    if status > 0:
        return f"status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
