"""What nobody should send: each has its defined answer, nothing changes, and memory stays flat."""

from __future__ import annotations

import random
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from tests.e2e.clients import Failure, XenApi, Xenstore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.programs import Daemon

GIB = 1 << 30
MIB = 1 << 20
BODY_LIMIT = 300 * 1024
"""The longest body that is read."""

RSS_GROWTH_MOST = 5 * MIB
FLOOD_BYTES = 50 * MIB

DOCTYPE = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
    b"<methodCall><methodName>&e;</methodName><params/></methodCall>"
)


@pytest.fixture(autouse=True)
def nothing_changes(api: XenApi, store: Xenstore) -> Iterator[None]:
    """Whatever a test here sends, the records and the host stay as they are."""
    before = api.state(), [store.memory_kib(domid) for domid in range(1, 5)], store.reservations_kib()
    yield
    after = api.state(), [store.memory_kib(domid) for domid in range(1, 5)], store.reservations_kib()
    assert after == before


def refusal(api: XenApi, method: str, *params: object) -> list[str]:
    with pytest.raises(Failure) as refused:
        api.ask(method, *params)
    return refused.value.details


def post(daemon: Daemon, body: bytes) -> tuple[int, bytes]:
    """Post a body as it is; return status and page."""
    connection = HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    try:
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_unknown_method(api: XenApi) -> None:
    assert refusal(api, "VM.fly", api.session) == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]


def test_too_few_parameters(api: XenApi) -> None:
    details = refusal(api, "VM.set_memory_dynamic_range", api.session, api.ref("guest-1"))
    assert details == ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.set_memory_dynamic_range", "3", "1"]


@pytest.mark.parametrize("wrong", ["much", "1.5", "", "9" * 30, [], {}, True])
def test_size_that_is_no_whole_number(api: XenApi, wrong: object) -> None:
    details = refusal(api, "VM.set_memory_dynamic_range", api.session, api.ref("guest-1"), wrong, 2 * GIB)
    assert details[0] == "INTERNAL_ERROR"
    assert len(details) == 2


def test_dead_session(quiet: Daemon, api: XenApi) -> None:
    assert refusal(api, "VM.get_all", "OpaqueRef:gone") == ["SESSION_INVALID", "OpaqueRef:gone"]
    closed = str(api.ask("session.login_with_password", "root", quiet.password))
    api.ask("session.logout", closed)
    details = refusal(api, "VM.set_memory_dynamic_range", closed, api.ref("guest-1"), GIB, GIB)
    assert details == ["SESSION_INVALID", closed]


def test_reference_of_nobody(api: XenApi) -> None:
    details = refusal(api, "VM.set_memory_dynamic_range", api.session, "OpaqueRef:nobody", GIB, GIB)
    assert details == ["HANDLE_INVALID", "VM", "OpaqueRef:nobody"]


@pytest.mark.parametrize(
    ("minimum", "maximum"),
    [
        pytest.param(2 * GIB, GIB, id="min above max"),
        pytest.param(GIB // 4, GIB, id="min below static-min"),
        pytest.param(GIB, 8 * GIB, id="max above static-max"),
        pytest.param(-GIB, GIB, id="negative"),
    ],
)
def test_dynamic_range_out_of_order(api: XenApi, minimum: int, maximum: int) -> None:
    details = refusal(api, "VM.set_memory_dynamic_range", api.session, api.ref("guest-1"), minimum, maximum)
    assert details == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]


def test_limits_of_a_running_vm_that_only_a_halted_one_may_get(api: XenApi) -> None:
    ref = api.ref("guest-1")
    details = refusal(api, "VM.set_memory_limits", api.session, ref, GIB, 2 * GIB, GIB, 2 * GIB)
    assert details == ["VM_BAD_POWER_STATE", ref, "halted", "running"]


@pytest.mark.parametrize(
    ("method", "params", "details"),
    [
        ("reserve_memory", (-1,), ["INVALID_VALUE", "size_kib", "-1"]),
        ("reserve_memory_range", (5, 4), ["INVALID_VALUE", "max_kib", "4"]),
        ("transfer_reservation_to_domain", ("nothing", 1), ["UNKNOWN_RESERVATION", "nothing"]),
        ("query_reservation_of_domain", (1,), ["NO_RESERVATION", "1"]),
    ],
)
def test_reservation_that_makes_no_sense(
    api: XenApi, method: str, params: tuple[object, ...], details: list[str]
) -> None:
    assert refusal(api, f"Memory.{method}", api.session, *params) == details


def test_reservation_of_more_than_the_host_could_ever_free(api: XenApi) -> None:
    code, needed, free = refusal(api, "Memory.reserve_memory", api.session, 64 * MIB)  # 64 GiB, in KiB
    assert (code, int(needed)) == ("HOST_NOT_ENOUGH_FREE_MEMORY", 64 * GIB)
    assert 10 * GIB < int(free) < 12 * GIB


def test_body_of_a_mebibyte_is_too_long(quiet: Daemon) -> None:
    status, page = post(quiet, b"<" * MIB)
    assert (status, len(page) < 1000) == (413, True)


@pytest.mark.parametrize(
    "body",
    [
        DOCTYPE,
        b"",
        b"\0" * 1000,
        b"<methodCall>",
        b"<methodCall><methodName>VM.get_all</methodName><params><odd/></params></methodCall>",
        b"<a>" * 1000 + b"</a>" * 1000,
        b"\xff\xfe<",
    ],
)
def test_body_that_is_no_call(quiet: Daemon, body: bytes) -> None:
    status, page = post(quiet, body)
    assert (status, len(page) < 1000) == (500, True)
    assert b"hostname" not in page


def test_flood_of_random_element_names_leaves_memory_flat(quiet: Daemon) -> None:
    numbers = random.Random(1)  # noqa: S311 - the same flood each time

    def send() -> int:
        names = "".join(f"<x{numbers.randbytes(6).hex()}/>" for _ in range(BODY_LIMIT // 17))
        body = f"<methodCall>{names}</methodCall>".encode()
        assert len(body) < BODY_LIMIT
        assert post(quiet, body)[0] == 500
        return len(body)

    for _ in range(10):  # what the first of anything costs
        send()
    before, sent = quiet.rss_bytes, 0
    while sent < FLOOD_BYTES:
        sent += send()
    assert quiet.rss_bytes - before <= RSS_GROWTH_MOST
