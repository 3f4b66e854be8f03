"""The images of suspended VMs: a file each in a folder of the state dir, and what their records say of them.

A VM is suspended when its record says what its domain held and no domain of it is there; the record says so
from the moment when the image is on disk, and no longer once a guest is about to run on from it. A file
without that word of the record is what a daemon that died left behind, see `xcpmem.suspension`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from xcpmem.errors import HostError, ToolstackError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from xcpmem.ledger import Entry, Ledger
    from xcpmem.vm import Vm

    _T = TypeVar("_T")

IMAGES_FOLDER: Final = "images"
"""The folder's name in the state dir."""

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


class Images:
    """The folder.

    Args:
        ledger: of the VMs.
        folder: is made when it is first needed; None: nothing can be suspended here.
    """

    def __init__(self, ledger: Ledger, folder: Path | None = None) -> None:
        self._ledger = ledger
        self._folder = folder.absolute() if folder is not None else None
        self._uuids: set[str] = set()

    @property
    def has_place(self) -> bool:
        """Whether images can be kept at all."""
        return self._folder is not None

    @property
    def uuids(self) -> frozenset[str]:
        """Of the VMs that have an image or a part of one, whatever their records say."""
        return frozenset(self._uuids)

    def start(self) -> None:
        """Find what is there.

        Raises:
            HostError: the folder cannot be read.
        """
        self._uuids = {uuid for uuid, vm in self._ledger.vms.items() if vm.memory_suspended >= 0}
        if self._folder is None or not self._folder.exists():
            return
        try:
            self._uuids |= {unquote(path.name) for path in self._folder.iterdir()}
        except OSError as error:
            raise HostError(f"{self._folder}: {error.strerror}") from error

    def is_suspended(self, uuid: str) -> bool:
        """Tell whether a VM's record says that its image is whole and of use."""
        vm = self._ledger.vms.get(uuid)
        return vm is not None and vm.memory_suspended >= 0

    async def prepare(self, uuid: str) -> str:
        """Make an empty file for a VM's image.

        Returns:
            Its path.

        Raises:
            ToolstackError: the disk refused.
        """
        path = self._path(uuid)

        def make() -> None:
            path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))

        await _on_disk(path, make)
        self._uuids.add(uuid)
        return str(path)

    async def find(self, uuid: str) -> str:
        """Give the path of a VM's image.

        Raises:
            ToolstackError: it is not there.
        """
        path = self._path(uuid)
        await _on_disk(path, lambda: path.open("rb").close())
        return str(path)

    async def keep(self, uuid: str, held: int) -> None:
        """Make an image that was written durable, and let the VM's record say that it is suspended.

        Args:
            uuid: of the VM.
            held: by its domain, bytes.

        Raises:
            ToolstackError: the disk refused; likewise HostError.
        """
        path = self._path(uuid)

        def sync() -> None:
            for each in (path, path.parent):
                descriptor = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

        await _on_disk(path, sync)
        await self._note(uuid, held)

    async def drop(self, uuid: str) -> None:
        """Let a VM be suspended no longer: first its record says so, then the file goes.

        Raises:
            HostError: the record could not be stored, or the file not be removed.
        """
        if uuid not in self._uuids:
            return
        if self.is_suspended(uuid):
            await self._note(uuid, -1)
        if self._folder is not None:
            path = self._path(uuid)
            await _on_disk(path, lambda: path.unlink(missing_ok=True))
        self._uuids.discard(uuid)

    async def is_being_written(self, uuid: str) -> bool:
        """Tell whether a program that holds the file locked still writes to it.

        Raises:
            ToolstackError: the file cannot be asked.
        """
        if self._folder is None:
            return False
        path = self._path(uuid)
        return await _on_disk(path, lambda: _is_locked(path))

    async def _note(self, uuid: str, held: int) -> None:
        def write(entry: Entry) -> None:
            vm: Vm | None = entry.vms.get(uuid)
            if vm is not None:
                entry.put_vm(replace(vm, memory_suspended=held))

        await self._ledger.post(write)

    def _path(self, uuid: str) -> Path:
        return (self._folder or Path()) / quote(uuid, safe="")


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _on_disk(path: Path, work: Callable[[], _T]) -> _T:
    """Do something to a file without holding up the loop. Raises ToolstackError."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise ToolstackError(f"the image {path}: {error.strerror or error}") from error
