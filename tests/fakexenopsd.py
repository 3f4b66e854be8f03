"""xenopsd's part in the memory of a host, as its callers' code has it: what it asks, in which order.

Standard library only: the lab plays it inside dom0 too. It speaks XML-RPC to the direct socket, one
connection a call, with integers as untyped text as rpc-light writes them.
"""

from __future__ import annotations

import http.client
import socket
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE = "xenopsd"
DEADLINE_S = 90


class SqueezedFailure(Exception):
    """An error variant, as plain lists and texts."""

    def __init__(self, variant: Any) -> None:
        super().__init__(str(variant))
        self.variant = variant


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request_of(method: str, params: Sequence[object]) -> bytes:
    """The body of a call, as xenopsd writes it."""
    values = "".join(f"<param><value>{param}</value></param>" for param in ("dbg", *params))
    return (
        f'<?xml version="1.0"?><methodCall><methodName>{method}</methodName>'
        f"<params>{values}</params></methodCall>"
    ).encode()


def call(path: str, method: str, *params: object) -> Any:
    """Ask the balancer at a socket.

    Raises:
        SqueezedFailure: it answered with an error.
        OSError: there is none.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("POST", "/", request_of(method, params), {"User-agent": "xenopsd"})
        answer = connection.getresponse()
        body = answer.read()
        assert (answer.status, answer.getheader("Connection")) == (200, "close"), (answer.status, body)
    finally:
        connection.close()
    struct = ET.fromstring(body).find("params/param/value/struct")  # noqa: S314 - our own daemon's answer
    assert struct is not None, body
    members = {member[0].text: _plain(member[1]) for member in struct}
    if members["Status"] == "Failure":
        raise SqueezedFailure(members["ErrorDescription"])
    return members["Value"]


def login(path: str) -> str:
    """Log in, once in a life."""
    return str(call(path, "login", SERVICE))


def reserve_range(path: str, min_kib: int, max_kib: int) -> tuple[str, int]:
    """Reserve what a VM is to be built with, and check as xenopsd does that it lies in the range."""
    reservation_id, amount = call(path, "reserve_memory_range", SERVICE, min_kib, max_kib)
    assert min_kib <= int(amount) <= max_kib, (min_kib, amount, max_kib)
    return str(reservation_id), int(amount)


def hand_over(path: str, domid: int) -> None:
    """Finish a build: the reservation of the domain is asked for and deleted, then everybody balanced."""
    reservation_id = call(path, "query_reservation_of_domain", SERVICE, domid)
    call(path, "delete_reservation", SERVICE, reservation_id)
    call(path, "balance_memory")


def _plain(value: ET.Element) -> Any:
    if len(value) == 0:
        return value.text or ""
    (typed,) = value
    if typed.tag == "nil":
        return None
    if typed.tag == "array":
        return [_plain(item) for item in typed[0]]
    return typed.text
