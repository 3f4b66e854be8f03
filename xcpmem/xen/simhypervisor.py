"""The hypervisor of the simulated host: in this process, or at the other end of a Unix socket."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import DriverDisconnected, DriverError
from xcpmem.specs import HOST_CPUS, DomainType
from xcpmem.units import kib_to_whole_pages_floor
from xcpmem.xen.hypervisor import GLANCE_S, DomainInfo, PhysInfo, Rows, Survey
from xcpmem.xen.simline import CALL_DEADLINE_S, LineClient, LineServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xcpmem.xen.simhost import SimHost

DOMAIN_ZERO_UUID: Final = "00000000-0000-0000-0000-000000000000"
"""Xen gives domain 0 an empty handle."""

_FIELD_TYPES: Final = (int, str, int, int, int, bool, bool, bool, bool)
"""Of the fields of a `DomainInfo`, in its order."""


class SimulatedHypervisor:
    """A `Hypervisor` over the simulated host.

    Args:
        catch_up: lets the host's time run up to now and returns it.
        others_kib: what domain 0 holds, KiB.
    """

    def __init__(self, catch_up: Callable[[], SimHost], others_kib: int) -> None:
        self._catch_up = catch_up
        self._others_kib = others_kib
        self.fault: Callable[[str, int | None], DriverError | None] | None = None
        """For tests: asked before each call with its name and domid; what it returns is raised."""

    async def survey(self) -> Survey:
        """See all domains and the machine's memory."""
        self._fail("survey")
        host = self._catch_up()
        infos = [DomainInfo(0, DOMAIN_ZERO_UUID, self._others_kib, self._others_kib)]
        for domid, guest in host.guests.items():
            infos.append(
                DomainInfo(
                    domid=domid,
                    uuid=guest.uuid,
                    actual_kib=guest.actual_kib,
                    maxmem_kib=guest.maxmem_kib,
                    vcpus=guest.spec.vcpus,
                    hvm=guest.spec.domain_type is not DomainType.PV,
                    paused=guest.lifecycle in {Lifecycle.PAUSED, Lifecycle.BUILDING},
                    shutdown=guest.lifecycle is Lifecycle.SUSPENDED,
                    dying=guest.lifecycle is Lifecycle.DYING,
                )
            )
        return Survey(tuple(infos), PhysInfo(host.total_kib, host.free_kib, host.scrub_kib, HOST_CPUS))

    async def free_kib(self) -> int:
        """See how much memory is free."""
        self._fail("free_kib")
        return self._catch_up().free_kib

    async def await_free(self, enough_kib: int, timeout_s: float) -> bool:
        """Wait until so much memory is free."""
        return await _await_free(self.free_kib, enough_kib, timeout_s)

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap what a domain may hold, in whole pages as Xen does.

        Raises:
            DomainVanished: no such domain.
            DriverError: domain 0, or a negative size.
        """
        self._fail("set_maxmem", domid)
        if domid == 0 or maxmem_kib < 0:
            raise DriverError(f"cannot set maxmem of domain {domid} to {maxmem_kib} KiB")
        self._catch_up().write_maxmem(domid, kib_to_whole_pages_floor(maxmem_kib))

    async def close(self) -> None:
        """Do nothing: the simulated host stays."""

    def _fail(self, call: str, domid: int | None = None) -> None:
        error = self.fault(call, domid) if self.fault is not None else None
        if error is not None:
            raise error


async def _await_free(look: Callable[[], Awaitable[int]], enough_kib: int, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            while await look() < enough_kib:  # noqa: ASYNC110 -- as Xen does, it tells nobody
                await asyncio.sleep(GLANCE_S[0])
    except TimeoutError:
        return False
    return True


class HypervisorServer(LineServer):
    """Serves a hypervisor on a Unix socket.

    Args:
        hypervisor: which.
    """

    def __init__(self, hypervisor: SimulatedHypervisor) -> None:
        super().__init__(self._call)
        self._hypervisor = hypervisor

    async def _call(self, request: Any) -> Any:
        match request:
            case {"call": "survey"}:
                domains, physical = await self._hypervisor.survey()
                # each row a text of its own: whoever knows it from the last time need not read it
                return [[json.dumps(info) for info in domains], physical]
            case {"call": "free_kib"}:
                return await self._hypervisor.free_kib()
            case {"call": "set_maxmem", "domid": int(domid), "maxmem_kib": int(maxmem_kib)}:
                return await self._hypervisor.set_maxmem(domid, maxmem_kib)
        raise DriverError("no such call")


class RemoteHypervisor:
    """A `Hypervisor` at the other end of a Unix socket.

    Args:
        path: of the socket.
        call_deadline_s: how long a call may take, connecting included, seconds.
    """

    def __init__(self, path: str, *, call_deadline_s: float = CALL_DEADLINE_S) -> None:
        self._line = LineClient(path, "hypervisor", call_deadline_s=call_deadline_s)
        self._rows = Rows(_domain_info)

    async def survey(self) -> Survey:
        """See all domains and the machine's memory."""
        match await self._line.call({"call": "survey"}):
            case [[*rows], [int(total_kib), int(free_kib), int(scrub_kib), int(cpus)]]:
                return Survey(self._rows.take(rows), PhysInfo(total_kib, free_kib, scrub_kib, cpus))
        raise DriverDisconnected("the simulated hypervisor sent no survey")

    async def free_kib(self) -> int:
        """See how much memory is free."""
        match await self._line.call({"call": "free_kib"}):
            case int(free_kib):
                return free_kib
        raise DriverDisconnected("the simulated hypervisor did not say what is free")

    async def await_free(self, enough_kib: int, timeout_s: float) -> bool:
        """Wait until so much memory is free."""
        return await _await_free(self.free_kib, enough_kib, timeout_s)

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap what a domain may hold."""
        await self._line.call({"call": "set_maxmem", "domid": domid, "maxmem_kib": maxmem_kib})

    async def close(self) -> None:
        """Hang up."""
        self._line.close()


def _domain_info(row: object) -> DomainInfo:
    """Read a domain from what came over the wire."""
    try:
        fields = json.loads(row) if isinstance(row, str) else None
    except ValueError:
        fields = None
    if not isinstance(fields, list) or tuple(map(type, fields)) != _FIELD_TYPES:
        raise DriverDisconnected("the simulated hypervisor sent a row that is no domain")
    return DomainInfo(*fields)
