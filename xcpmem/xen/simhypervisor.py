"""The hypervisor of the simulated host: in this process, or at the other end of a Unix socket.

The wire is one JSON object a line: ``{"call": "domains"}`` is answered by ``{"result": …}`` or
``{"error": [kind, text]}``, in order. Lines are bounded, calls have deadlines, and a connection that
failed once is not used again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from xcpmem.engine.model import Lifecycle
from xcpmem.errors import DomainVanished, DriverDisconnected, DriverError, DriverTimeout
from xcpmem.specs import DomainType
from xcpmem.xen.hypervisor import DomainInfo, PhysInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from xcpmem.xen.hypervisor import Hypervisor
    from xcpmem.xen.simhost import SimHost

DOMAIN_ZERO_UUID: Final = "00000000-0000-0000-0000-000000000000"
"""Xen gives domain 0 an empty handle."""

REQUEST_BYTES_MOST: Final = 4096
REPLY_BYTES_MOST: Final = 16 * 2**20
"""Room for the list of as many domains as Xen can have."""

CLIENTS_MOST: Final = 16
CALL_DEADLINE_S: Final = 5.0

_SOCKET_MODE: Final = 0o600

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


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

    async def physinfo(self) -> PhysInfo:
        """Read the machine's memory."""
        self._fail("physinfo")
        seen = self._catch_up().observe().host
        return PhysInfo(seen.total_kib, seen.free_kib, seen.scrub_kib)

    async def domains(self) -> tuple[DomainInfo, ...]:
        """List all domains, domain 0 included, by domid."""
        self._fail("domains")
        infos = [DomainInfo(0, DOMAIN_ZERO_UUID, self._others_kib, self._others_kib)]
        for domid, guest in self._catch_up().guests.items():
            infos.append(
                DomainInfo(
                    domid=domid,
                    uuid=guest.uuid,
                    actual_kib=guest.actual_kib,
                    maxmem_kib=guest.maxmem_kib,
                    vcpus=guest.spec.vcpus,
                    hvm=guest.spec.domain_type is not DomainType.PV,
                    paused=guest.lifecycle is Lifecycle.PAUSED,
                    shutdown=guest.lifecycle is Lifecycle.SUSPENDED,
                    dying=guest.lifecycle is Lifecycle.DYING,
                )
            )
        return tuple(infos)

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap what a domain may hold.

        Raises:
            DomainVanished: no such domain.
            DriverError: domain 0, or a negative size.
        """
        self._fail("set_maxmem", domid)
        if domid == 0 or maxmem_kib < 0:
            raise DriverError(f"cannot set maxmem of domain {domid} to {maxmem_kib} KiB")
        self._catch_up().write_maxmem(domid, maxmem_kib)

    async def close(self) -> None:
        """Do nothing: the simulated host stays."""

    def _fail(self, call: str, domid: int | None = None) -> None:
        error = self.fault(call, domid) if self.fault is not None else None
        if error is not None:
            raise error


class HypervisorServer:
    """Serves a hypervisor on a Unix socket.

    Args:
        hypervisor: which.
    """

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._path = Path()

    async def start(self, path: str) -> None:
        """Listen on a socket that only its owner may connect to; one that is there is replaced.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path = Path(path)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=REQUEST_BYTES_MOST)
        self._path.chmod(_SOCKET_MODE)

    async def close(self) -> None:
        """Stop listening, hang up on all clients, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for writer in self._clients.values():
            writer.transport.abort()
        if self._clients:
            await asyncio.wait(self._clients)
        await self._server.wait_closed()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= CLIENTS_MOST:
            writer.close()
            return
        self._clients[task] = writer
        reason: Exception | None = None
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                async with asyncio.timeout(CALL_DEADLINE_S):
                    await writer.drain()
        except (ValueError, RecursionError, OSError, TimeoutError) as error:
            reason = error
        finally:
            del self._clients[task]
            writer.transport.abort()
        if reason is not None:
            _log.info("hung up on a client of the simulated hypervisor: %s", reason)

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            match json.loads(line):
                case {"call": "physinfo"}:
                    return {"result": asdict(await self._hypervisor.physinfo())}
                case {"call": "domains"}:
                    return {"result": [asdict(info) for info in await self._hypervisor.domains()]}
                case {"call": "set_maxmem", "domid": int(domid), "maxmem_kib": int(maxmem_kib)}:
                    await self._hypervisor.set_maxmem(domid, maxmem_kib)
                    return {"result": None}
                case _:
                    return {"error": ["DriverError", "no such call"]}
        except DriverError as error:
            return {"error": [type(error).__name__, str(error)]}


class RemoteHypervisor:
    """A `Hypervisor` at the other end of a Unix socket; connects when first needed, and again after a loss.

    Args:
        path: of the socket.
        call_deadline_s: how long a call may take, connecting included, seconds.
    """

    def __init__(self, path: str, *, call_deadline_s: float = CALL_DEADLINE_S) -> None:
        self._path = path
        self._call_deadline_s = call_deadline_s
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def physinfo(self) -> PhysInfo:
        """Read the machine's memory."""
        return _build(PhysInfo, await self._call({"call": "physinfo"}))

    async def domains(self) -> tuple[DomainInfo, ...]:
        """List all domains."""
        rows = await self._call({"call": "domains"})
        if not isinstance(rows, list):
            raise DriverDisconnected("the simulated hypervisor sent no list of domains")
        return tuple(_build(DomainInfo, row) for row in rows)

    async def set_maxmem(self, domid: int, maxmem_kib: int) -> None:
        """Cap what a domain may hold."""
        await self._call({"call": "set_maxmem", "domid": domid, "maxmem_kib": maxmem_kib})

    async def close(self) -> None:
        """Hang up."""
        self._hang_up()

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _call(self, request: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._call_deadline_s), self._turn:
                reply = await self._ask(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            raise DriverTimeout("the simulated hypervisor does not answer") from None
        except (OSError, ValueError) as error:
            raise DriverDisconnected(f"the simulated hypervisor is gone: {error}") from error
        match reply:
            case {"result": result}:
                return result
            case {"error": ["DomainVanished", str(text)]}:
                raise DomainVanished(text)
            case {"error": [str(_), str(text)]}:
                raise DriverError(text)
        raise DriverDisconnected("the simulated hypervisor sent no answer that makes sense")

    async def _ask(self, line: bytes) -> Any:
        """Send a line and return what is answered; after any failure the connection is not used again."""
        answered = False
        try:
            if self._streams is None:
                self._streams = await asyncio.open_unix_connection(self._path, limit=REPLY_BYTES_MOST)
            reader, writer = self._streams
            writer.write(line)
            await writer.drain()
            reply = await reader.readline()
            if not reply.endswith(b"\n"):
                raise ConnectionResetError("it closed the connection")
            answer = json.loads(reply)
            answered = True
            return answer
        finally:
            if not answered:
                self._hang_up()


def _build(cls: type[_T], row: object) -> _T:
    """Make a value of a class from its fields as they came over the wire."""
    types = {each.name: each.type for each in _fields(cls)}
    if not isinstance(row, dict) or {name: type(value).__name__ for name, value in row.items()} != types:
        raise DriverDisconnected(f"the simulated hypervisor sent no {cls.__name__}")
    return cls(**row)


def _fields(cls: type) -> tuple[Field[Any], ...]:
    return fields(cls)
