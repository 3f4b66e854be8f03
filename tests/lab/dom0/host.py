"""The real host as the checks see it: hypervisor, xenstore and xl, without any code of xcpmem's.

All sizes are KiB, as xenstore and `xen.lowlevel.xc` have them.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from xen.lowlevel import xc as xen_lowlevel_xc

from tests.lab.dom0.report import CheckError, require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KIB_PER_MIB: Final = 1024
COMMAND_TIMEOUT_S: Final = 60
POLL_S: Final = 0.02
MARKER: Final = "/lab/marker"
# A guest may stop one page beside its target.
INACCURACY_KIB: Final = 4


@dataclass(frozen=True, slots=True)
class Domain:
    """What the hypervisor knows of a domain: the pages it holds and the most it may hold."""

    domid: int
    uuid: str
    mem_kib: int
    maxmem_kib: int


class Hypervisor:
    """Reads the hypervisor's accounts through dom0's own binding."""

    def __init__(self) -> None:
        self._xc = xen_lowlevel_xc.xc()

    def domains(self) -> dict[int, Domain]:
        """Every domain that lives, by domid; dom0 among them."""
        return {
            info["domid"]: Domain(
                domid=info["domid"],
                uuid=str(uuid.UUID(bytes=bytes(info["handle"]))),
                mem_kib=info["mem_kb"],
                maxmem_kib=info["maxmem_kb"],
            )
            for info in self._xc.domain_getinfo()
            if not info["dying"]
        }

    def mem_kib(self, domid: int) -> int:
        """The memory that a domain really holds."""
        return self.domains()[domid].mem_kib

    def free_kib(self) -> int:
        """The memory that nobody holds, usable at once: scrubbing is not counted."""
        return int(self._xc.physinfo()["free_memory"])

    def set_maxmem(self, domid: int, size_kib: int) -> None:
        """Allow a domain to hold so much and no more."""
        self._xc.domain_setmaxmem(domid, size_kib)


def run(*words: str) -> str:
    """Run one of dom0's own programs and return what it printed.

    Raises:
        CheckError: It failed or took longer than COMMAND_TIMEOUT_S.
    """
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"{words[0]} did not end within {COMMAND_TIMEOUT_S} s") from error
    if done.returncode:
        raise CheckError(f"{' '.join(words)} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def xenstore_read(*paths: str) -> list[str]:
    """The values of keys that must exist, read by `xenstore-read`."""
    return run("xenstore-read", *paths).splitlines()


def xenstore_write(values: Mapping[str, str]) -> None:
    """Write all values by one `xenstore-write`, which uses one transaction."""
    run("xenstore-write", *(word for pair in values.items() for word in pair))


def xenstore_tree(path: str) -> str:
    """Everything below a path, one `path = "value"` a line; empty if it does not exist."""
    done = subprocess.run(
        ["xenstore-ls", "-f", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT_S,
    )
    return done.stdout


class Watch:
    """Notes every write to some keys while its context lasts, by `xenstore-watch`."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)

    def __enter__(self) -> Self:
        self._pending = b""
        self._process = subprocess.Popen(
            ["xenstore-watch", *self._paths, MARKER], stdout=subprocess.PIPE, bufsize=0
        )
        # Every watch fires once when it is set, the marker's last.
        self._read_to_marker()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()

    def events(self) -> list[str]:
        """The paths that were written until now, as often as they were."""
        xenstore_write({MARKER: ""})
        return self._read_to_marker()

    def _read_to_marker(self) -> list[str]:
        """Read events up to the marker's own; xenstored sends them in order."""
        assert self._process.stdout is not None
        end = f"{MARKER}\n".encode()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while end not in self._pending:
                heard = selector.select(COMMAND_TIMEOUT_S)
                chunk = os.read(self._process.stdout.fileno(), 4096) if heard else b""
                require(chunk, f"xenstore-watch tells of {MARKER} within {COMMAND_TIMEOUT_S} s")
                self._pending += chunk
        events, _, self._pending = self._pending.partition(end)
        return events.decode().splitlines()


def wait_until(
    condition: Callable[[], bool],
    expectation: str,
    deadline_s: float,
    seen: Callable[[], object],
    poll_s: float = POLL_S,
) -> float:
    """Wait for a condition of the host, for which there is no event to wait on.

    Args:
        condition: Asked until it is true.
        expectation: What it means, in words.
        deadline_s: Seconds until the wait counts as failed.
        seen: Asked at the deadline, for the failure's text.
        poll_s: How often it is asked.

    Returns:
        The seconds it took.

    Raises:
        CheckError: The condition did not come true in time.
    """
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > deadline_s:
            raise CheckError(f"{expectation}: not within {deadline_s:.0f} s, last seen {seen()}")
        # The hypervisor tells nobody when a domain's size changes: its accounts must be polled.
        time.sleep(poll_s)
    return time.perf_counter() - began
