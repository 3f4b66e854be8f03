"""The port to a host: what the ring needs, whichever host is behind it.

`LiveDriver` serves it over xenstore and the hypervisor, `VirtualDriver` over the pure simulated host.
Only the controller calls it; one contract suite holds for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from xcpmem.engine.model import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xcpmem.engine.model import Action, HostState, SetTarget


@dataclass(frozen=True, slots=True)
class DomainDescription:
    """What a domain is, beside its memory; the raw material of a VM record.

    Args:
        domid: Xen's number.
        uuid: the VM's uuid.
        name_label: the toolstack's name for it.
        static_max_kib: the most it was booted for, KiB.
        vcpus: as many as it was built with.
        domain_type: ``hvm``, ``pv``, ``pv_in_pvh`` or ``pvh``, XenAPI's words.
        balloon_evidence: why the daemon believes (or not) in its balloon driver, a sentence.
        guest_free_kib: what the guest's agent says is free inside, KiB; None when it is silent or absurd.
        lifecycle: what it does by itself, whatever is set aside for it.
    """

    domid: int
    uuid: str
    name_label: str
    static_max_kib: int
    vcpus: int = 1
    domain_type: str = "pv"
    balloon_evidence: str = ""
    guest_free_kib: int | None = None
    lifecycle: Lifecycle = Lifecycle.RUNNING


@dataclass(frozen=True, slots=True)
class Look:
    """One observation.

    Args:
        host: the numbers for the engine.
        descriptions: by domid, for the records.
        dropped_reports: how many of the guests' own reports were dropped since the driver started, by flaw.
        cpus: physical CPUs of the host; 0: not known.
    """

    host: HostState
    descriptions: Mapping[int, DomainDescription] = field(default_factory=dict)
    dropped_reports: Mapping[str, int] = field(default_factory=dict)
    cpus: int = 0


class HostDriver(Protocol):
    """Looks at a host and touches it; every call has a deadline of its own."""

    async def observe(self) -> Look:
        """Look at the whole host.

        Raises:
            DriverError: the host as a whole cannot be seen; one unreadable domain is left out instead.
        """

    async def apply(self, action: Action) -> None:
        """Carry out one action; doing it twice is the same as once.

        Raises:
            DomainVanished: the domain is gone.
            DriverError: it did not work and may be tried again.
        """

    async def tell(self, targets: Sequence[SetTarget]) -> None:
        """Set targets of several domains at one go, all or none of them; twice is the same as once.

        Raises:
            DomainVanished: one of the domains is gone.
            DriverError: it did not work and may be tried again.
        """

    async def wait(self, timeout_s: float, enough_kib: int | None = None) -> bool:
        """Wait until something at the host changed, at most ``timeout_s`` seconds.

        Args:
            timeout_s: at most so long.
            enough_kib: so much free memory is a change, too; None: however much is free.

        Returns:
            Whether something changed.
        """

    async def catch_up(self) -> None:
        """Hear of all that was changed before this call: later looks see it.

        Raises:
            DriverError: the host does not answer.
        """

    async def close(self) -> None:
        """Let go of the host; it stays as it is."""
