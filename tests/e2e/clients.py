"""Clients that share no code with the daemon: the standard library's XML-RPC, and pyxs for its xenstore."""

from __future__ import annotations

import errno
import xmlrpc.client
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pyxs.client import Client
from pyxs.exceptions import PyXSError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pyxs.monitor import Monitor

WATCH_S = 20.0
"""A change that is not seen within so long does not come."""

RESERVATIONS = "/xcpmem/reservations"

Record = dict[str, Any]


class Failure(Exception):
    """XenAPI said no; ``details`` are the code and its parameters."""

    def __init__(self, details: list[str]) -> None:
        super().__init__(*details)
        self.details = details


class Serving(Protocol):
    """A daemon that serves, however it was started."""

    @property
    def url(self) -> str: ...

    @property
    def password(self) -> str: ...


class XenApi:
    """A session of root's, logged in by password over TCP.

    Args:
        daemon: whose.
    """

    def __init__(self, daemon: Serving) -> None:
        self._server = xmlrpc.client.ServerProxy(daemon.url)
        self.session = str(self.ask("session.login_with_password", "root", daemon.password))

    def call(self, method: str, *params: object) -> Any:
        """Call with the session first; sizes may be ints, which XenAPI wants as text."""
        return self.ask(method, self.session, *params)

    def ask(self, method: str, *params: object) -> Any:
        """Call with just these parameters."""
        given = [str(param) if type(param) is int else param for param in params]
        answer: Any = getattr(self._server, method)(*given)
        if answer["Status"] != "Success":
            raise Failure(answer["ErrorDescription"])
        return answer["Value"]

    def vms(self) -> dict[str, Record]:
        """All VMs but domain 0, by name."""
        records = self.call("VM.get_all_records").values()
        return {vm["name_label"]: vm for vm in records if not vm["is_control_domain"]}

    def vm(self, name: str) -> Record:
        return self.vms()[name]

    def ref(self, name: str) -> str:
        (found,) = self.call("VM.get_by_name_label", name)
        return str(found)

    def state(self) -> object:
        """Everything that a call could have changed."""
        return [self.call(f"{name}.get_all_records") for name in ("VM", "pool", "host")]

    def close(self) -> None:
        self._server("close")()


@contextmanager
def logged_in(daemon: Serving) -> Iterator[XenApi]:
    """A session that is closed, though not logged out: its reservations stay."""
    api = XenApi(daemon)
    try:
        yield api
    finally:
        api.close()


class Xenstore:
    """A host's xenstore as any other program of the host sees it.

    Args:
        client: connected.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def read(self, path: str) -> str:
        return str(self._client.read(path.encode()).decode())

    def domain(self, domid: int, key: str) -> str:
        return self.read(f"/local/domain/{domid}/{key}")

    def domain_names(self) -> set[str]:
        """The names of all domains; one that ends while they are read has none."""
        names = set()
        for domid in self._list("/local/domain"):
            with _if_there():
                names.add(self.read(f"/local/domain/{domid}/name"))
        return names

    def memory_kib(self, domid: int) -> Mapping[str, int]:
        """A domain's dynamic-min, dynamic-max and target, KiB."""
        keys = ("dynamic-min", "dynamic-max", "target")
        return {key: int(self.domain(domid, f"memory/{key}")) for key in keys}

    def reservations_kib(self) -> dict[str, int]:
        """All reservations that stand, KiB by id; one that ends while they are read does not."""
        found = {}
        for owner in self._list(RESERVATIONS):
            for name in self._list(f"{RESERVATIONS}/{owner}"):
                with _if_there():
                    found[name] = int(self.read(f"{RESERVATIONS}/{owner}/{name}"))
        return found

    @contextmanager
    def watching_targets(self, *domids: int) -> Iterator[TargetChanges]:
        """See each change of some domains' targets."""
        with self._client.monitor() as monitor:
            for domid in domids:  # a token each: pyxs gives an event to every watch of its token
                monitor.watch(f"/local/domain/{domid}/memory/target".encode(), f"{domid}".encode())
            changes = TargetChanges(monitor)
            changes.wait_for(len(domids))  # every watch fires once at first
            yield changes

    def _list(self, path: str) -> list[str]:
        """The names below a path; none, if it is not there."""
        names: list[str] = []
        with _if_there():
            names += [name.decode() for name in self._client.list(path.encode())]
        return names


@contextmanager
def _if_there() -> Iterator[None]:
    """Read what others may remove meanwhile."""
    try:
        yield
    except PyXSError as error:
        if error.args[0] != errno.ENOENT:
            raise


class TargetChanges:
    """The changes of targets as they come."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def wait_for(self, count: int) -> None:
        """Wait until there were so many more; queue.Empty if they do not come."""
        for _ in range(count):
            self._monitor.events.get(timeout=WATCH_S)


@contextmanager
def xenstore(path: Path) -> Iterator[Xenstore]:
    """Connect to a xenstored."""
    with Client(unix_socket_path=str(path).encode()) as client:
        yield Xenstore(client)
