"""What the API does with callers that mean harm or know no better: defined answers, nothing changed."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import random
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.apistack import GIB, Stack, listening, running_stack
from xcpmem.api import codec
from xcpmem.errors import WireError, XcpmemError
from xcpmem.units import mib_to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

BODY = 290_000
HEAD = b"<?xml version='1.0'?><methodCall><methodName>VM.get_all</methodName><params><param><value>"
TAIL = b"</value></param></params></methodCall>"


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def around(payload: bytes) -> bytes:
    return HEAD + payload + TAIL


NUMBERS = count()


def flood(shape: str, megabytes: int) -> Iterator[bytes]:
    """Bodies below the size limit, so many megabytes in sum, full of names that were never seen before."""
    for _ in range(megabytes * 1_000_000 // BODY):
        piece = "".join(shape.format(f"x{next(NUMBERS):012x}x") for _ in range(BODY // (len(shape) + 24)))
        yield around(piece.encode())


SHAPES = [
    "<{0}/>",
    "<{0}></{0}>",
    "<value {0}='1'/>",
    "<{0}:value/>",
    "&{0};",
    "<?{0} ?>",
    "<value xmlns:{0}='u'/>",
]


def refuse(bodies: Iterator[bytes]) -> int:
    """Count the bodies that the decoder refuses."""
    refused = 0
    for body in bodies:
        try:
            codec.decode_call(body)
        except WireError:
            refused += 1
    return refused


@pytest.mark.parametrize(("shape", "megabytes"), [(shape, 20) for shape in SHAPES[1:]] + [(SHAPES[0], 50)])
def test_names_that_were_never_seen_leave_nothing_behind(shape: str, megabytes: int) -> None:
    assert refuse(flood(shape, 3)) == 3_000_000 // BODY
    before = resident_bytes()
    assert refuse(flood(shape, megabytes)) == megabytes * 1_000_000 // BODY
    assert resident_bytes() - before < mib_to_bytes(4)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


async def post(http: aiohttp.ClientSession, url: str, body: bytes) -> tuple[int, bytes]:
    async with http.post(url, data=io.BytesIO(body)) as answer:
        return answer.status, await answer.read()


async def test_flood_over_http_leaves_the_server_small_and_serving(stack: Stack) -> None:
    async with listening(stack.app()) as url, aiohttp.ClientSession() as http, asyncio.timeout(60):
        bodies = list(flood(SHAPES[0], 10))
        assert (await post(http, url, bodies[0]))[0] == 500
        before = resident_bytes()
        for body in bodies:
            assert (await post(http, url, body))[0] == 500
        assert resident_bytes() - before < mib_to_bytes(8)
        assert b"SESSION_INVALID" in (await post(http, url, around(b"dead")))[1]


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMBS = {
    "billion laughs": f'<!DOCTYPE l [<!ENTITY l0 "ha">{LAUGHS}]>'.encode() + around(b"&l9;")[21:],
    "external entity": b'<!DOCTYPE l [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + around(b"&f;")[21:],
    "external doctype": b'<!DOCTYPE l SYSTEM "http://192.0.2.1/x.dtd">' + around(b"")[21:],
    "doctype alone": b"<!DOCTYPE methodCall>" + around(b"")[21:],
    "processing instruction": around(b"<?xml-stylesheet href='file:///etc/passwd'?>"),
    "nested 20,000 deep": around(b"<array><data><value>" * 4500 + b"</value></data></array>" * 4500),
    "unclosed": around(b"<array><data><value>" * 14000),
    "megabyte": around(b"x" * (1 << 20)),
    "utf-16": around(b"x").decode().encode("utf-16"),
    "nul": around(b"\x00"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"x" * 100,
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_bomb_is_refused_at_once_and_changes_nothing(stack: Stack, bomb: str) -> None:
    before = stack.state()
    async with listening(stack.app()) as url, aiohttp.ClientSession() as http, asyncio.timeout(10):
        status, page = await post(http, url, BOMBS[bomb])
        assert status == (413 if bomb == "megabyte" else 500)
        assert b"root:" not in page
        assert len(page) < 400
        assert b"SESSION_INVALID" in (await post(http, url, around(b"dead")))[1]
    assert stack.state() == before
    assert stack.observed == [("VM.get_all", "SESSION_INVALID")]


async def test_long_but_lawful_values_are_answered(stack: Stack) -> None:
    session = await stack.login()
    members = {f"k{number}": "v" for number in range(5000)}
    lawful: list[tuple[str, list[object]]] = [
        ("VM.get_by_name_label", ["x" * 280_000]),
        ("VM.get_by_uuid", ["x" * 280_000]),
        ("VM.get_record", ["x" * 280_000]),
        ("pool.set_other_config", ["OpaqueRef:NULL", members]),
    ]
    for method, params in lawful:
        try:
            answer = codec.encode_success(await stack.call(method, session, *params))
        except XcpmemError as error:
            answer = codec.encode_failure(error.code, error.params)
        assert answer.endswith(b"</methodResponse>")
    assert stack.dispatcher.unexpected_errors == 0


BAD_CALLS: dict[str, Callable[[Stack, str], tuple[str, list[object]]]] = {
    "MESSAGE_METHOD_UNKNOWN": lambda _, session: ("VM.set_memory_everything", [session]),
    "MESSAGE_PARAMETER_COUNT_MISMATCH": lambda stack, session: (
        "VM.set_memory_limits",
        [session, stack.vm("halted").ref, 1, 2, 3],
    ),
    "INTERNAL_ERROR": lambda stack, session: (
        "VM.set_memory_limits",
        [session, stack.vm("halted").ref, GIB, 8 * GIB, 2 * GIB, True],
    ),
    "SESSION_INVALID": lambda stack, session: (
        "VM.set_memory_limits",
        [session[:-1] + "x", stack.vm("halted").ref, GIB, 8 * GIB, 2 * GIB, 3 * GIB],
    ),
    "HANDLE_INVALID": lambda _, session: ("VM.set_memory", [session, "OpaqueRef:NULL", 3 * GIB]),
    "MEMORY_CONSTRAINT_VIOLATION_ORDER": lambda stack, session: (
        "VM.set_memory_limits",
        [session, stack.vm("halted").ref, GIB, 8 * GIB, 3 * GIB, 2 * GIB],
    ),
    "VM_BAD_POWER_STATE": lambda stack, session: (
        "VM.set_memory_limits",
        [session, stack.vm("web1").ref, GIB, 8 * GIB, 2 * GIB, 3 * GIB],
    ),
    "MEMORY_CONSTRAINT_VIOLATION_MAXPIN": lambda stack, session: (
        "VM.set_memory_dynamic_range",
        [session, stack.vm("Control domain on host: laptop.test").ref, GIB, 2 * GIB],
    ),
    "INVALID_VALUE": lambda _, session: ("Memory.reserve_memory", [session, -5]),
    "HOST_NOT_ENOUGH_FREE_MEMORY": lambda _, session: ("Memory.reserve_memory", [session, 2**62]),
    "UNKNOWN_RESERVATION": lambda _, session: (
        "Memory.transfer_reservation_to_domain",
        [session, "../../0", 1],
    ),
}


@pytest.mark.parametrize("code", BAD_CALLS)
async def test_bad_call_gets_its_code_and_changes_nothing(stack: Stack, code: str) -> None:
    session = await stack.login()
    method, params = BAD_CALLS[code](stack, session)
    before = stack.state()
    with pytest.raises(XcpmemError) as refusal:
        await stack.call(method, *params)
    assert refusal.value.code == code
    assert stack.state() == before
    assert stack.dispatcher.unexpected_errors == 0


async def test_reader_changes_nothing_whatever_it_calls(stack: Stack) -> None:
    session = await stack.login("reader")
    before = stack.state()
    denied = 0
    for message in stack.dispatcher._datamodel.messages():
        if "read-only" in message.roles or not message.needs_session:
            continue
        with pytest.raises(XcpmemError) as refusal:
            await stack.call(message.wire_name, session, *["x"] * message.required)
        assert refusal.value.code == "RBAC_PERMISSION_DENIED"
        denied += 1
    assert denied >= 20
    assert stack.state() == before


async def test_odd_values_for_every_parameter_never_surprise_the_server(stack: Stack) -> None:
    rng = random.Random(1)  # noqa: S311 - no secret is made
    session = await stack.login()
    refs = [
        stack.vm("web1").ref,
        stack.vm("halted").ref,
        *stack.records.refs("host"),
        *stack.records.refs("pool"),
    ]
    odd: list[object] = [
        *(
            "",
            "0",
            "-1",
            "1e9",
            "9" * 400,
            str(2**63 - 1),
            str(-(2**63)),
            0,
            -1,
            2**63 - 1,
            1.5,
            -0.0,
            True,
            None,
        ),
        *([], {}, [[]], {"": ""}, "OpaqueRef:NULL", "\x00", "\ud800", "ä" * 1000, b"x"),
        *refs,
    ]
    messages = [
        m for m in stack.dispatcher._datamodel.messages() if m.name not in {"logout", "login_with_password"}
    ]
    names = [
        *((message.wire_name, message) for message in messages),
        *((f"Async.{message.wire_name}", message) for message in messages if message.is_async),
    ]
    codes: set[str] = set()
    waiting: list[asyncio.Task[None]] = []

    async def attempt(name: str, params: list[object]) -> None:
        try:
            await stack.call(name, *params)
        except XcpmemError as error:
            codes.add(error.code)
            codec.encode_failure(error.code, error.params)

    async with asyncio.timeout(60):
        for name, message in names:
            for _ in range(8):
                params = [rng.choice([*odd, *refs * 3]) for _ in message.params]
                call = attempt(name, [*[session] * message.needs_session, *params])
                if name in {"event.from", "event.next"}:  # these wait for something to happen
                    waiting.append(asyncio.create_task(call))
                else:
                    await call
        await stack.call("session.logout", session)
        await asyncio.gather(*waiting, attempt("VM.get_all", [session]))
    assert stack.dispatcher.unexpected_errors == 0
    assert codes >= {"INTERNAL_ERROR", "HANDLE_INVALID", "INVALID_VALUE", "SESSION_INVALID"}
    for vm in stack.service.vms().values():
        assert vm.memory_static_min <= vm.memory_dynamic_min <= vm.memory_dynamic_max <= vm.memory_static_max
