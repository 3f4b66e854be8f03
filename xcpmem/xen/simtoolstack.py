"""The toolstack of the simulated host: in this process, or at the other end of a Unix socket.

It builds as libxl does: a domain appears, paused and with its pages, then come its keys in xenstore, without
a dynamic range. A guest that was there before keeps its character.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import (
    ConfigError,
    DomainVanished,
    DriverDisconnected,
    DriverError,
    InvalidValue,
    ToolstackError,
)
from xcpmem.scenario import read_scenario
from xcpmem.specs import DomainType, GuestSpec
from xcpmem.units import format_kib, mib_to_kib
from xcpmem.xen.simline import LineClient, LineServer
from xcpmem.xen.toolstack import Blueprint, Holding, Size, Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from xcpmem.scenario import Scenario
    from xcpmem.xen.simulated import SimulatedHost

CALL_DEADLINE_S: Final = 60.0
"""A call to a simulated toolstack that runs elsewhere takes no longer than this."""

QUESTION_DEADLINE_S: Final = 5.0
"""What it can tell at once it tells within this time, or it hangs."""


class SimulatedToolstack:
    """A `Toolstack` over the simulated host.

    Args:
        host: where domains are built.
    """

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self.gate: Callable[[str, str], Awaitable[None]] | None = None
        """For tests: awaited before each step with its name and the VM's title; what it raises is passed on.
        The steps are the names of the calls, and of ``create`` also ``furnish`` and ``created``."""

    def check(self, blueprint: Blueprint) -> None:
        """Find nothing wrong: whatever is described can be simulated."""

    def definitions(self) -> Scenario:
        """Tell which VMs the host was made with, what it keeps free and by what policy."""
        return self._host.definitions()

    async def create(self, blueprint: Blueprint, size: Size) -> None:
        """Build a paused domain."""
        await self._build("create", blueprint, mib_to_kib(size.memory_mib), mib_to_kib(size.static_max_mib))

    async def _build(self, step: str, blueprint: Blueprint, memory_kib: int, static_max_kib: int) -> None:
        await self._pass(step, blueprint.title)
        known = self._host.character(blueprint.uuid)
        domid = self._host.next_domid()
        spec = replace(
            known or GuestSpec(domid=domid, dynamic_min_kib=0, dynamic_max_kib=static_max_kib),
            domid=domid,
            uuid=blueprint.uuid,
            name_label=blueprint.name_label,
            vcpus=blueprint.vcpus,
            domain_type=DomainType(blueprint.domain_type),
            static_min_kib=0,
            dynamic_min_kib=0,
            dynamic_max_kib=static_max_kib,
            static_max_kib=static_max_kib,
            target_kib=memory_kib,
            actual_kib=memory_kib,
        )
        try:
            self._host.begin_guest(spec, memory_kib)
        except InvalidValue as error:
            size_text = format_kib(memory_kib)
            raise ToolstackError(f"{blueprint.title}: {size_text} are not free to build it with") from error
        await self._pass("furnish", blueprint.title)
        with _named(blueprint.title):
            self._host.furnish_guest(domid)
        await self._pass("created", blueprint.title)

    async def unpause(self, subject: Subject) -> None:
        """Let a paused domain run."""
        await self._set_lifecycle("unpause", subject, Lifecycle.RUNNING)

    async def pause(self, subject: Subject) -> None:
        """Stop a domain from running."""
        await self._set_lifecycle("pause", subject, Lifecycle.PAUSED)

    async def shutdown(self, subject: Subject) -> None:
        """Ask the guest; one that is paused or stuck does not hear it."""
        await self._pass("shutdown", subject.title)
        with _named(subject.title):
            if self._host.hears(subject.domid):
                self._host.remove_guest(subject.domid)

    async def reboot(self, subject: Subject) -> None:
        """Ask the guest as for a shutdown; its next domain runs at once, with the memory that it had."""
        await self._pass("reboot", subject.title)
        with _named(subject.title):
            if self._host.hears(subject.domid):
                self._host.reboot_guest(subject.domid)

    async def destroy(self, subject: Subject) -> None:
        """End a domain."""
        await self._pass("destroy", subject.title)
        with _named(subject.title):
            self._host.remove_guest(subject.domid)

    async def save(self, subject: Subject, path: str, holding: Holding) -> None:  # noqa: ARG002 any size is small
        """Write down what a guest holds, and pause it."""
        await self._pass("save", subject.title)
        with _named(subject.title), _on_disk(subject.title, path):
            guest = self._host.catch_up().guest(subject.domid)
            if guest.lifecycle is not Lifecycle.RUNNING:
                raise ToolstackError(f"{subject.title}: it does not run")
            _write_image(path, guest.uuid, guest.actual_kib)
            self._host.set_lifecycle(subject.domid, Lifecycle.PAUSED)
        await self._pass("saved", subject.title)

    async def restore(self, blueprint: Blueprint, size: Size, path: str) -> None:
        """Build a paused domain that holds what was written down."""
        with _on_disk(blueprint.title, path):
            actual_kib = _read_image(path, blueprint.uuid)
        memory_kib = min(actual_kib, mib_to_kib(size.memory_mib))
        await self._build("restore", blueprint, memory_kib, mib_to_kib(size.static_max_mib))

    async def _set_lifecycle(self, step: str, subject: Subject, lifecycle: Lifecycle) -> None:
        await self._pass(step, subject.title)
        with _named(subject.title):
            self._host.set_lifecycle(subject.domid, lifecycle)

    async def _pass(self, step: str, title: str) -> None:
        if self.gate is not None:
            await self.gate(step, title)


@contextmanager
def _named(title: str) -> Iterator[None]:
    """Say of which VM there is no domain."""
    try:
        yield
    except DomainVanished as error:
        raise ToolstackError(f"{title}: {error}") from error


@contextmanager
def _on_disk(title: str, path: str) -> Iterator[None]:
    """Say which file is not as it should be."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ToolstackError(f"{title}: the image {path}: {error}") from error


def _write_image(path: str, uuid: str, actual_kib: int) -> None:
    Path(path).write_text(json.dumps({"uuid": uuid, "actual_kib": actual_kib}), encoding="utf-8")


def _read_image(path: str, uuid: str) -> int:
    match json.loads(Path(path).read_text(encoding="utf-8")):
        case {"uuid": str(whose), "actual_kib": int(actual_kib)} if whose == uuid:
            return actual_kib
    raise ValueError("it is none of this VM")


class ToolstackServer(LineServer):
    """Serves a toolstack on a Unix socket.

    Args:
        toolstack: which.
    """

    def __init__(self, toolstack: SimulatedToolstack) -> None:
        super().__init__(self._call)
        self._toolstack = toolstack
        self._acts = {
            "unpause": toolstack.unpause,
            "pause": toolstack.pause,
            "shutdown": toolstack.shutdown,
            "reboot": toolstack.reboot,
            "destroy": toolstack.destroy,
        }

    async def _call(self, request: Any) -> Any:
        try:
            match request:
                case {"call": "definitions"}:
                    return _table_of(self._toolstack.definitions())
                case {"call": "create", "blueprint": dict(blueprint), "size": dict(size)}:
                    return await self._toolstack.create(Blueprint(**blueprint), Size(**size))
                case {"call": "restore", "blueprint": dict(plan), "size": dict(size), "path": str(path)}:
                    return await self._toolstack.restore(Blueprint(**plan), Size(**size), path)
                case {"call": "save", "subject": dict(who), "path": str(path), "holding": dict(holding)}:
                    return await self._toolstack.save(Subject(**who), path, Holding(**holding))
                case {"call": str(call), "subject": dict(subject)} if call in self._acts:
                    return await self._acts[call](Subject(**subject))
        except TypeError as error:
            raise DriverError("no such call") from error
        raise DriverError("no such call")


class RemoteToolstack:
    """A `Toolstack` at the other end of a Unix socket.

    Args:
        path: of the socket.
        question_deadline_s: how long a question may take that needs no domain to be built, seconds.
    """

    def __init__(self, path: str, *, question_deadline_s: float = QUESTION_DEADLINE_S) -> None:
        self._path = path
        self._question_deadline_s = question_deadline_s
        self._line = LineClient(path, "toolstack", call_deadline_s=CALL_DEADLINE_S)

    def check(self, blueprint: Blueprint) -> None:
        """Find nothing wrong: whatever is described can be simulated."""

    async def definitions(self) -> Scenario:
        """Ask which VMs the host was made with, what it keeps free and by what policy memory is divided.

        Returns:
            A scenario that says this and no more.

        Raises:
            DriverError: nobody is there, no answer came in time, or what came back makes no sense.
        """
        line = LineClient(self._path, "toolstack", call_deadline_s=self._question_deadline_s)
        try:
            table = await line.call({"call": "definitions"})
        finally:
            line.close()
        try:
            return read_scenario(table, where="the simulated toolstack")
        except ConfigError as error:
            raise DriverDisconnected(f"what came back defines no VMs: {error}") from error

    async def create(self, blueprint: Blueprint, size: Size) -> None:
        """Build a paused domain."""
        await self._call(blueprint.title, call="create", blueprint=_facts(blueprint), size=asdict(size))

    async def unpause(self, subject: Subject) -> None:
        """Let a paused domain run."""
        await self._act("unpause", subject)

    async def pause(self, subject: Subject) -> None:
        """Stop a domain from running."""
        await self._act("pause", subject)

    async def shutdown(self, subject: Subject) -> None:
        """Ask the guest to shut down."""
        await self._act("shutdown", subject)

    async def reboot(self, subject: Subject) -> None:
        """Ask the guest to reboot."""
        await self._act("reboot", subject)

    async def destroy(self, subject: Subject) -> None:
        """End a domain."""
        await self._act("destroy", subject)

    async def save(self, subject: Subject, path: str, holding: Holding) -> None:
        """Write down what a guest holds, and pause it."""
        await self._call(
            subject.title, call="save", subject=asdict(subject), path=path, holding=asdict(holding)
        )

    async def restore(self, blueprint: Blueprint, size: Size, path: str) -> None:
        """Build a paused domain that holds what was written down."""
        await self._call(
            blueprint.title, call="restore", blueprint=_facts(blueprint), size=asdict(size), path=path
        )

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    async def _act(self, call: str, subject: Subject) -> None:
        await self._call(subject.title, call=call, subject=asdict(subject))

    async def _call(self, title: str, **request: Any) -> None:
        try:
            await self._line.call(request)
        except DriverError as error:
            raise ToolstackError(f"{title}: {error}") from error


def _facts(blueprint: Blueprint) -> dict[str, Any]:
    return asdict(replace(blueprint, settings=dict(blueprint.settings)))


_DEFINING: Final = (
    *("domid", "uuid", "name_label", "vcpus", "domain_type", "weight"),
    *("static_min_kib", "dynamic_min_kib", "target_kib", "dynamic_max_kib", "static_max_kib"),
)
"""What of a guest's table says what its VM is, and not what the guest is like."""


def _table_of(definitions: Scenario) -> dict[str, Any]:
    """Write down definitions as a scenario file has them."""
    return {
        "name": definitions.name,
        "policy": definitions.policy,
        "host": {"slush_kib": definitions.host.slush_kib},
        "guest": [{key: getattr(guest, key) for key in _DEFINING} for guest in definitions.guests],
    }
