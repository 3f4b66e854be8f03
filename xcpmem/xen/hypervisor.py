"""The port to the hypervisor and its binding on dom0's ``xen.lowlevel.xc``.

Xen counts in pages and KiB; here everything is KiB. The binding is a C extension that the distribution
ships for its own Python only, hence looked up at run time in its folder; its calls block, hence the
worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PhysInfo:
    """Xen's own account of the machine's memory, KiB."""

    total_kib: int
    free_kib: int
    scrub_kib: int


@dataclass(frozen=True, slots=True)
class DomainInfo:
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


class Hypervisor(Protocol):
    """The four things the ring asks of Xen."""

    async def physinfo(self) -> PhysInfo:
        """Read the machine's memory. Raises DriverError."""

    async def domains(self) -> tuple[DomainInfo, ...]:
        """List all domains, domain 0 included, by domid. Raises DriverError."""

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap what a domain may hold; below what it holds now is allowed: it may then only shrink.

        Raises:
            DomainVanished: no such domain.
            DriverError: Xen refused.
        """

    async def close(self) -> None:
        """Give back handles and threads."""
