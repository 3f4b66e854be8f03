"""What xcpmem serves in squeezed's place: its direct socket, its queue on the message switch, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xcpmem.api.boottime import BootMemory
from xcpmem.api.squeezed import SqueezedCalls
from xcpmem.api.squeezed_http import SqueezedSocket
from xcpmem.api.switch_server import SwitchServer

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from xcpmem.service import Service

DIRECT: Final = "squeezed_socket"
"""The setting that names the direct socket."""

DIRECTORY_MODE: Final = 0o755
"""Of the directory of the direct socket, which squeezed makes so as well."""


class DropIn:
    """squeezed's transports.

    Args:
        service: does the work.
        listening: the direct socket; None: it is not served.
        switch_path: of the message switch's socket; None: it is not used.
        boot_memory_file: where squeezed keeps what was free at boot; None: it is not shared.
        epoch: differs after each boot of the host.
    """

    def __init__(
        self,
        service: Service,
        *,
        listening: socket.socket | None,
        switch_path: Path | None,
        boot_memory_file: Path | None = None,
        epoch: str = "",
    ) -> None:
        calls = SqueezedCalls(service, BootMemory(boot_memory_file))
        self._server: SqueezedSocket | None = None
        self._switch: SwitchServer | None = None
        if listening is not None:
            self._server = SqueezedSocket(calls, listening)
        if switch_path is not None:
            self._switch = SwitchServer(str(switch_path), calls, service.answers, epoch=epoch)

    @property
    def is_connected(self) -> bool:
        """Whether everything is served that should be."""
        return self._switch is None or self._switch.is_connected

    async def start(self) -> None:
        """Begin to serve; a switch that is not there yet is waited for."""
        if self._server is not None:
            await self._server.start()
        if self._switch is not None:
            self._switch.start()

    async def close(self) -> None:
        """Stop; messages that were not answered come to whoever serves the queue next."""
        if self._switch is not None:
            await self._switch.close()
        if self._server is not None:
            await self._server.close()
