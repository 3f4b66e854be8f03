"""Other programs that balance the memory of a Xen host: two at once would undo each other's work."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

RIVALS: Final[Mapping[str, str]] = {
    "squeezed": "/var/xapi/memory",
    "qmemman": "/var/run/qubes/qmemman.sock",
}
"""By their names, the Unix sockets at which they answer."""

_ANSWER_S: Final = 1.0


def refuse_rivals(rivals: Mapping[str, str] = RIVALS) -> None:
    """Refuse to balance a host on which another balancer answers.

    Args:
        rivals: sockets by the names of their programs.

    Raises:
        ConfigError: one does.
    """
    for name, path in rivals.items():
        if _answers(path):
            raise ConfigError(
                "host",
                path,
                f"{name} balances this host: stop it first (systemctl stop {name}), or run with --observe",
            )


def _answers(path: str) -> bool:
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_S)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
