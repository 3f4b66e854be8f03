"""The port to the toolstack: what builds, ends, pauses and runs domains.

The balancer moves memory between domains that exist; a toolstack makes them exist. `XlToolstack` runs `xl`,
`SimulatedToolstack` builds on the simulated host. A toolstack decides nothing about memory: it is told how
much a domain gets, and everything that it says of success is believed only when the ring has seen it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from xcpmem.engine.model import check_not_negative
from xcpmem.errors import InvalidValue, ToolstackError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A VM whose domain is to be built.

    Args:
        uuid: of the VM; becomes the domain's handle.
        name_label: for people.
        vcpus: 1 or more.
        domain_type: XenAPI's word.
        settings: the VM's other_config: each toolstack has keys of its own.
    """

    uuid: str
    name_label: str
    vcpus: int = 1
    domain_type: str = "pv"
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vcpus < 1:
            raise InvalidValue("vcpus", self.vcpus)

    @property
    def title(self) -> str:
        """The VM, for sentences."""
        return f"VM {self.name_label} ({self.uuid})"


@dataclass(frozen=True, slots=True)
class Size:
    """How much memory a domain gets, in whole MiB as every toolstack counts.

    Args:
        memory_mib: what it boots with.
        static_max_mib: what it may ever be given; not less.
    """

    memory_mib: int
    static_max_mib: int

    def __post_init__(self) -> None:
        check_not_negative(memory_mib=self.memory_mib)
        if self.memory_mib > self.static_max_mib:
            raise InvalidValue("memory_mib", self.memory_mib)


@dataclass(frozen=True, slots=True)
class Holding:
    """How a domain stands to its target when it is to be written to disk, KiB.

    Args:
        actual_kib: what it holds.
        target_kib: what it was told to hold.
    """

    actual_kib: int
    target_kib: int

    def __post_init__(self) -> None:
        check_not_negative(actual_kib=self.actual_kib, target_kib=self.target_kib)


@dataclass(frozen=True, slots=True)
class Subject:
    """A domain to which something is to be done.

    Args:
        domid: Xen's number.
        title: its VM, for sentences.
    """

    domid: int
    title: str


class Toolstack(Protocol):
    """Builds, ends, pauses and runs domains; every call has a deadline of its own.

    Each raises ToolstackError, which names the VM and says why in one line.
    """

    def check(self, blueprint: Blueprint) -> None:
        """Refuse at once what cannot be built whatever memory there is.

        Raises:
            ToolstackError: what is missing.
        """

    async def create(self, blueprint: Blueprint, size: Size) -> None:
        """Build a domain that is complete and paused when this returns.

        After an error, or when the caller goes away, part of it may be there.
        """

    async def unpause(self, subject: Subject) -> None:
        """Let a paused domain run."""

    async def pause(self, subject: Subject) -> None:
        """Stop a domain from running; it keeps its memory."""

    async def shutdown(self, subject: Subject) -> None:
        """Ask the guest to shut down; this returns when it was asked."""

    async def reboot(self, subject: Subject) -> None:
        """Ask the guest to reboot; its next domain has another domid."""

    async def destroy(self, subject: Subject) -> None:
        """End a domain, whatever state it is in."""

    async def save(self, subject: Subject, path: str, holding: Holding) -> None:
        """Write a running domain to a file; it is paused when this returns, and runs on after an error.

        What was begun goes on to its end when the caller goes away; the file is locked (flock) meanwhile.

        Args:
            subject: the domain.
            path: of a file that is there and empty.
            holding: how large it is.

        Raises:
            SrFull: the disk has not so much room.
        """

    async def restore(self, blueprint: Blueprint, size: Size, path: str) -> None:
        """Build a domain from what `save` wrote, as `create`; it holds what it held then."""


class NoToolstack:
    """A `Toolstack` where there is none: everything is refused in words."""

    def check(self, blueprint: Blueprint) -> None:
        """Refuse."""
        self._refuse(blueprint.title)

    async def create(self, blueprint: Blueprint, size: Size) -> None:  # noqa: ARG002 nothing is built
        """Refuse."""
        self._refuse(blueprint.title)

    async def unpause(self, subject: Subject) -> None:
        """Refuse."""
        self._refuse(subject.title)

    async def pause(self, subject: Subject) -> None:
        """Refuse."""
        self._refuse(subject.title)

    async def shutdown(self, subject: Subject) -> None:
        """Refuse."""
        self._refuse(subject.title)

    async def reboot(self, subject: Subject) -> None:
        """Refuse."""
        self._refuse(subject.title)

    async def destroy(self, subject: Subject) -> None:
        """Refuse."""
        self._refuse(subject.title)

    async def save(self, subject: Subject, path: str, holding: Holding) -> None:  # noqa: ARG002 nothing is kept
        """Refuse."""
        self._refuse(subject.title)

    async def restore(self, blueprint: Blueprint, size: Size, path: str) -> None:  # noqa: ARG002 nothing is built
        """Refuse."""
        self._refuse(blueprint.title)

    def _refuse(self, title: str) -> None:
        raise ToolstackError(f"{title}: this host has no toolstack")


NO_TOOLSTACK: Final = NoToolstack()
"""For hosts on which nothing is to be started or stopped."""
