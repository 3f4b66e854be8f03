"""The addresses at which a daemon is going to serve: its own from the start on, served once it is ready.

They are taken before a word is said to the host, so that whoever cannot serve has moved no guest. Who
connects meanwhile waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from xcpmem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SOCKET_MODE: Final = 0o600

_MAY_CHANGE: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, socket.EAI_AGAIN})
"""Somebody else has the address, this machine does not have it yet, nobody could be asked what it is."""

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""A name may have an address of a kind that this machine does without."""


class Addresses:
    """Listening sockets, by the setting that names their addresses.

    Args:
        waiting_most: so many may wait for each to be served; 1 or more.
    """

    def __init__(self, waiting_most: int) -> None:
        self._waiting_most = waiting_most
        self._sockets: defaultdict[str, list[socket.socket]] = defaultdict(list)
        self._paths: dict[Path, tuple[int, ...]] = {}
        self.port = 0
        """The TCP port that was taken, 0 before."""

    def sockets(self, key: str) -> Sequence[socket.socket]:
        """List the sockets that were taken for a setting."""
        return self._sockets[key]

    async def take_tcp(self, key: str, host: str, port: int) -> None:
        """Take all TCP addresses of a name.

        Args:
            key: the setting, for complaints.
            host: a name or an address, without brackets.
            port: 0 takes a free one.

        Raises:
            ConfigError: somebody else has the address or this machine does not have it, which may pass, or
                there can be none.
        """
        where = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        flaw: OSError | None = None
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, kind, protocol, _, address in dict.fromkeys(found):
                try:
                    self._listen(key, (family, kind, protocol), (address[0], port or self.port, *address[2:]))
                except OSError as error:
                    if error.errno not in _NO_SUCH_FAMILY:
                        raise
                    flaw = error
        except (OSError, UnicodeError) as error:
            raise _complaint(key, where, error) from error
        if not self._sockets[key]:
            raise _complaint(key, where, flaw)

    def take_unix(self, key: str, path: Path, *, folder_mode: int | None = None) -> None:
        """Take a Unix socket that only its owner may open; one that a killed daemon left is replaced.

        Args:
            key: the setting, for complaints.
            path: of the socket.
            folder_mode: make its folder with this mode if there is none; None: it must be there.

        Raises:
            ConfigError: somebody else serves it, which may pass, or there can be no socket.
        """
        try:
            if folder_mode is not None:
                path.parent.mkdir(mode=folder_mode, parents=True, exist_ok=True)
            _remove_stale(path)
            listening = self._own(key, socket.socket(socket.AF_UNIX))
            listening.bind(str(path))
            self._paths[path] = _identity(path)
            path.chmod(_SOCKET_MODE)  # before anyone can connect
            listening.listen(self._waiting_most)
        except OSError as error:
            raise _complaint(key, str(path), error) from error

    def release(self) -> None:
        """Let go of everything: who waits is hung up on, Unix sockets are removed, but those of others."""
        for sockets in self._sockets.values():
            for each in sockets:
                each.close()
        self._sockets.clear()
        for path, identity in self._paths.items():
            if path.exists() and _identity(path) == identity:  # else the next daemon serves there already
                path.unlink(missing_ok=True)
        self._paths.clear()

    def _listen(self, key: str, kind: tuple[int, int, int], address: tuple[object, ...]) -> None:
        with socket.socket(*kind) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listening.family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(self._waiting_most)
            self._own(key, socket.socket(fileno=listening.detach()))
        self.port = int(self._sockets[key][0].getsockname()[1])

    def _own(self, key: str, taken: socket.socket) -> socket.socket:
        self._sockets[key].append(taken)
        return taken


def _complaint(key: str, where: str, error: Exception | None) -> ConfigError:
    """Say which setting names an address that cannot be had, and why."""
    number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
    return ConfigError("settings", key, f"{where}: {why}", may_pass=number in _MAY_CHANGE)


def _identity(path: Path) -> tuple[int, ...]:
    """Tell a socket from a later one at its path, whose inode may be the same one again."""
    found = path.lstat()
    return (found.st_dev, found.st_ino, found.st_mtime_ns)


def _remove_stale(path: Path) -> None:
    """Remove a socket that a daemon left behind when it was killed; one that answers stays."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError:  # its queue is full: it lives
            return
