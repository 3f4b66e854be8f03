"""The port to the hypervisor and its binding on dom0's ``xen.lowlevel.xc``.

Xen counts in pages and KiB; here everything is KiB. The binding is a C extension that the distribution
ships for its own Python only, hence looked up at run time in its folder; its calls block, hence the
worker thread.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from xcpmem.errors import DomainVanished, DriverDisconnected, DriverError, DriverTimeout
from xcpmem.units import kib_to_whole_pages_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")
_Row = TypeVar("_Row")

BINDING_FOLDERS: Final = (
    "/usr/lib/xen-*/lib/python",
    "/usr/lib/xen/lib/python",
    "/usr/lib/python3*/*-packages",
)
"""Where distributions keep ``xen.lowlevel.xc``: Debian's xen-utils, older ones, and those that install it
for the system's Python."""

DOMAINS_MOST: Final = 32768
"""More domains than Xen can have (DOMID_FIRST_RESERVED is 0x7ff0)."""

SETMAXMEM_MOST_KIB: Final = 2**31 - 1
"""The binding reads a maxmem as a C int (``pyxc_domain_setmaxmem`` in Xen's xc.c): a page less than 2 TiB."""

CALL_DEADLINE_S: Final = 5.0

GLANCE_S: Final = (0.01, 0.25)
"""Bounds of the time between two glances at free memory that is awaited."""


class PhysInfo(NamedTuple):
    """Xen's own account of the machine: its memory, KiB, and its physical CPUs (0: not known)."""

    total_kib: int
    free_kib: int
    scrub_kib: int
    cpus: int = 0


class DomainInfo(NamedTuple):
    """One row of Xen's domain list.

    Args:
        domid: Xen's number.
        uuid: from the domain's handle, canonical text.
        actual_kib: pages it holds.
        maxmem_kib: pages it may hold.
        vcpus: online virtual CPUs.
        hvm: whether it is an HVM or PVH guest.
        paused: paused by the toolstack.
        shutdown: it has shut down (or is suspended) and waits for its toolstack.
        dying: it is being torn down.
    """

    domid: int
    uuid: str
    actual_kib: int
    maxmem_kib: int
    vcpus: int = 1
    hvm: bool = False
    paused: bool = False
    shutdown: bool = False
    dying: bool = False


class Survey(NamedTuple):
    """What Xen tells in one batch of hypercalls.

    Args:
        domains: all of them, domain 0 included, by domid.
        physical: the machine itself, read last.
    """

    domains: tuple[DomainInfo, ...]
    physical: PhysInfo


class Hypervisor(Protocol):
    """The few things the ring asks of Xen."""

    async def survey(self) -> Survey:
        """See all domains and the machine's memory, in one batch of hypercalls. Raises DriverError."""

    async def await_free(self, enough_kib: int, timeout_s: float) -> bool:
        """Wait until so much memory is free, at most ``timeout_s`` seconds; tell whether it is.

        Raises:
            DriverError: Xen does not tell what is free.
        """

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap what a domain may hold; below what it holds now is allowed: it may then only shrink.

        Raises:
            DomainVanished: no such domain.
            DriverError: Xen refused.
        """

    async def close(self) -> None:
        """Give back handles and threads."""


def next_glance_s(pause_s: float, gained_kib: int, missing_kib: int) -> float:
    """Say when to look again for free memory: after half of the time in which the rest may come.

    Args:
        pause_s: since the glance before.
        gained_kib: what has become free in it.
        missing_kib: what is yet to come.
    """
    least_s, most_s = GLANCE_S
    if gained_kib <= 0:
        return min(2 * pause_s, most_s)
    return min(max(pause_s * missing_kib / gained_kib / 2, least_s), most_s)


class Rows(Generic[_Row]):
    """Makes domains of rows as they come, anew only of those that are not as they were the last time.

    Args:
        make: makes one of its row.
    """

    def __init__(self, make: Callable[[_Row], DomainInfo]) -> None:
        self._make = make
        self._rows: Sequence[_Row] = ()
        self._domains: tuple[DomainInfo, ...] = ()

    def take(self, rows: Sequence[_Row]) -> tuple[DomainInfo, ...]:
        """Turn the rows of one list into domains; the same object as before if no row is another."""
        if rows == self._rows:
            return self._domains
        last = len(self._rows)
        domains = tuple(
            self._domains[at] if at < last and row == self._rows[at] else self._make(row)
            for at, row in enumerate(rows)
        )
        self._rows, self._domains = rows, domains
        return domains


class XcHypervisor:
    """Dom0's own binding, called in one worker thread: it holds one handle and blocks.

    Args:
        xc: an instance of ``xen.lowlevel.xc.xc``.
        call_deadline_s: how long a hypercall may take, seconds.
    """

    def __init__(self, xc: Any, *, call_deadline_s: float = CALL_DEADLINE_S) -> None:
        self._xc = xc
        self._call_deadline_s = call_deadline_s
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hypervisor")
        self._rows = Rows(_domain_info)

    async def survey(self) -> Survey:
        """See everything in one visit to the worker."""
        return await self._call(self._survey)

    async def await_free(self, enough_kib: int, timeout_s: float) -> bool:
        """Poll, for Xen tells of no page: in the worker, where a glance is a hypercall and wakes nobody."""
        is_over = threading.Event()
        try:
            return await self._call(lambda: self._poll_free(enough_kib, timeout_s, is_over), timeout_s)
        finally:
            is_over.set()

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap a domain and verify it: a cap that silently is not there would over-promise memory.

        Xen rounds down to whole pages, so that much less is the cap that was asked for.
        """

        def call() -> bool:
            if not any(row["domid"] == domid for row in self._xc.domain_getinfo(domid, 1)):
                return False
            try:
                self._xc.domain_setmaxmem(domid, maxmem_kib)
            except OverflowError as error:
                raise DriverError(
                    f"a maxmem of {maxmem_kib} KiB is more than xen.lowlevel.xc can set "
                    f"({SETMAXMEM_MOST_KIB} KiB, a page less than 2 TiB)"
                ) from error
            (row,) = self._xc.domain_getinfo(domid, 1)
            return bool(row["domid"] == domid and row["maxmem_kb"] == kib_to_whole_pages_floor(maxmem_kib))

        if not await self._call(call):
            raise DomainVanished(f"domain {domid} is gone or kept its maxmem")

    async def close(self) -> None:
        """End the worker thread; a hypercall under way is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _survey(self) -> Survey:
        domains = self._rows.take([*map(_ROW, self._xc.domain_getinfo(0, DOMAINS_MOST))])
        info = self._xc.physinfo()
        sizes = (info["total_memory"], info["free_memory"], info["scrub_memory"])
        return Survey(domains, PhysInfo(*sizes, info.get("nr_cpus", 0)))

    def _poll_free(self, enough_kib: int, timeout_s: float, is_over: threading.Event) -> bool:
        pause_s, end_s = GLANCE_S[0], time.monotonic() + timeout_s
        free_kib = self._xc.physinfo()["free_memory"]
        while free_kib < enough_kib and (left_s := end_s - time.monotonic()) > 0:
            if is_over.wait(min(pause_s, left_s)):
                break
            before_kib, free_kib = free_kib, self._xc.physinfo()["free_memory"]
            pause_s = next_glance_s(pause_s, free_kib - before_kib, enough_kib - free_kib)
        return bool(free_kib >= enough_kib)

    async def _call(self, function: Callable[[], _T], takes_s: float = 0.0) -> _T:
        try:
            async with asyncio.timeout(self._call_deadline_s + takes_s):
                return await asyncio.get_running_loop().run_in_executor(self._worker, function)
        except TimeoutError:
            raise DriverTimeout(f"a hypercall took longer than {self._call_deadline_s:g} s") from None
        except (OSError, ValueError, RuntimeError) as error:  # xen.lowlevel.xc.Error is a RuntimeError
            if error.args[:1] == (errno.ESRCH,):
                raise DomainVanished(f"no such domain: {error}") from error
            raise DriverError(f"a hypercall failed: {error}") from error


_ROW: Final = itemgetter(
    "domid", "handle", "mem_kb", "maxmem_kb", "online_vcpus", "hvm", "paused", "shutdown", "dying"
)
"""What of Xen's row makes a `DomainInfo`, in its order."""


def _domain_info(row: Sequence[Any]) -> DomainInfo:
    domid, handle, actual_kib, maxmem_kib, vcpus, *flags = row
    return DomainInfo(domid, _uuid(bytes(handle)), actual_kib, maxmem_kib, vcpus, *map(bool, flags))


@lru_cache(DOMAINS_MOST)
def _uuid(handle: bytes) -> str:
    return str(UUID(bytes=handle))


def open_hypervisor(folders: Sequence[str] = BINDING_FOLDERS) -> XcHypervisor:
    """Find the distribution's binding and open it.

    Args:
        folders: as for `find_binding`.

    Raises:
        DriverDisconnected: there is no binding for this Python, or no Xen beneath; the text says which.
    """
    binding = find_binding(folders)
    try:
        return XcHypervisor(binding.xc())
    except Exception as error:
        raise DriverDisconnected(f"the hypervisor does not answer: {error}") from error


def find_binding(folders: Sequence[str] = BINDING_FOLDERS) -> Any:
    """Find the distribution's binding, without asking Xen anything.

    Args:
        folders: absolute glob patterns to look in, the most specific first.

    Returns:
        The module ``xen.lowlevel.xc``.

    Raises:
        DriverDisconnected: there is none for this Python.
    """
    found = [str(path) for pattern in folders for path in sorted(Path("/").glob(pattern.lstrip("/")))]
    for folder in found:
        if (Path(folder) / "xen" / "lowlevel").is_dir() and folder not in sys.path:
            sys.path.append(folder)
    try:
        return importlib.import_module("xen.lowlevel.xc")
    except ImportError as error:
        raise DriverDisconnected(
            f"no Xen binding for Python {sys.version_info.major}.{sys.version_info.minor} ({error}); "
            "it comes with the distribution's xen-utils and only for the distribution's own Python"
        ) from error
