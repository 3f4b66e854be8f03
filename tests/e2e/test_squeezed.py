"""In squeezed's place: its socket, its reservations, and a look beside it that touches nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from pyxs import Client

from tests import fakexenopsd
from tests.e2e.clients import Failure, logged_in, xenstore
from tests.fakexenopsd import SqueezedFailure, request_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.programs import Workshop

MIB_KIB = 1 << 10
GIB_KIB = 1 << 20
OBSERVES = "xcpmem only observes this host (--observe)"
RESERVATION = "6e0d7f3c-7d0e-4c55-9c1c-3a3f5b0c9a11"


def converse(path: Path, request: bytes) -> bytes:
    """Send bytes to a socket and read until it closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nUser-agent: xenopsd\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def test_direct_socket_serves_one_call_a_connection(shop: Workshop) -> None:
    path = shop.folder / "memory"
    shop.daemon("--squeezed-socket", str(path))
    answer = converse(path, post(request_of("login", ["xenopsd"])))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in head.lower()
    assert body == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
        b"<value>Success</value></member><member><name>Value</name><value>xenopsd</value></member></struct>"
        b"</value></param></params></methodResponse>"
    )
    other = converse(path, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert other.startswith(b"HTTP/1.1 404")
    assert other.endswith(b"\r\n\r\n")
    with pytest.raises(SqueezedFailure) as failure:
        fakexenopsd.call(str(path), "reserve_memory", "xenopsd", 10**9)
    assert failure.value.variant[0] == "Cannot_free_this_much_memory"


def test_service_needs_no_new_login_after_our_restart_and_keeps_what_it_reserved(shop: Workshop) -> None:
    host = shop.simhost("quiet")
    path = str(shop.folder / "memory")
    options = ("--host", str(host), "--squeezed-socket", path)
    daemon = shop.daemon(*options)
    fakexenopsd.login(path)
    reservation_id, amount_kib = fakexenopsd.reserve_range(path, 512 * MIB_KIB, GIB_KIB)
    daemon.kill()
    shop.daemon(*options)
    with xenstore(host) as store:
        assert store.reservations_kib() == {reservation_id: amount_kib}
    fakexenopsd.call(path, "transfer_reservation_to_domain", fakexenopsd.SERVICE, reservation_id, 1)
    fakexenopsd.hand_over(path, 1)
    with xenstore(host) as store:
        assert store.reservations_kib() == {}


def test_reservations_pass_from_squeezed_to_us_and_back(shop: Workshop) -> None:
    host = shop.simhost("quiet")
    path = str(shop.folder / "memory")
    theirs = f"/squeezed/state/xenopsd/{RESERVATION}".encode()
    with Client(unix_socket_path=str(host)) as client:
        client.write(theirs, b"524288")
        client.write(theirs + b"/in-transfer", b"2")
    daemon = shop.daemon("--host", str(host), "--squeezed-socket", path)
    with xenstore(host) as store:
        assert store.reservations_kib() == {RESERVATION: 524288}
    assert fakexenopsd.call(path, "query_reservation_of_domain", "xenopsd", 2) == RESERVATION
    kept, amount_kib = fakexenopsd.reserve_range(path, MIB_KIB, MIB_KIB)
    assert daemon.end() == 0
    with Client(unix_socket_path=str(host)) as client:
        assert client.read(theirs) == b"524288"
        assert client.read(theirs + b"/in-transfer") == b"2"
        assert client.read(f"/squeezed/state/xenopsd/{kept}".encode()) == str(amount_kib).encode()
    with xenstore(host) as store:
        assert store.reservations_kib() == {}


def test_observer_sees_what_squeezed_reserved_and_writes_nothing(shop: Workshop) -> None:
    host = shop.simhost("quiet")
    with Client(unix_socket_path=str(host)) as client:
        monitor = client.monitor()
        monitor.watch(b"/", b"trace")
        events = monitor.wait()
        next(events)  # fires once when it is set
        # xapi wrote this, and nobody has obeyed it yet: whoever balances would
        client.write(b"/local/domain/1/memory/dynamic-max", str(GIB_KIB).encode())
        client.write(f"/squeezed/state/xenopsd/{RESERVATION}".encode(), b"524288")
        written = [next(events).path for _ in range(2)]
        observer = shop.daemon("--host", str(host), "--observe")
        with logged_in(observer) as api:
            seen = api.call("Memory.get_diagnostics")
            assert f"reservation {RESERVATION} of service_xenopsd: 524288 KiB" in seen
            reference = api.ref("guest-1")
            for refused in (
                ("VM.set_memory_dynamic_range", reference, 2**30, 2**30),
                ("Memory.reserve_memory", 1024),
                ("VM.hard_shutdown", reference),
            ):
                with pytest.raises(Failure) as failure:
                    api.call(*refused)
                assert failure.value.details == ["OPERATION_NOT_ALLOWED", OBSERVES]
            assert "would tell domain 1 to hold" in seen
            why = api.call("Memory.explain", reference)
            assert "its target is 3 GiB; xcpmem only observes and would tell it to hold 1 GiB" in why
        assert observer.end() == 0
        assert "simulated host: it looks only and touches nothing (--observe)" in observer.log
        assert "guest-1 would hold 1 GiB instead of 3 GiB" in observer.log
        assert "could not be given back" not in observer.log
        client.write(b"/lab/end", b"now")
        written.append(next(events).path)
    assert written == [
        b"/local/domain/1/memory/dynamic-max",
        f"/squeezed/state/xenopsd/{RESERVATION}".encode(),
        b"/lab/end",
    ]
