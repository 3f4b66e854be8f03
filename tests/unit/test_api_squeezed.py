"""squeezed's calls: the samples of its own wire, byte for byte, and what its callers rely on."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.apistack import GIB, GIB_KIB, a_guest, running_stack
from xcpmem.api.boottime import BootMemory
from xcpmem.api.squeezed import Answer, SqueezedCalls, call_name, variant_of
from xcpmem.api.squeezed_wire import answer_json, answer_xml, encode_json, method_of_json
from xcpmem.errors import (
    ConnectionLost,
    DomainsUncooperative,
    InvalidValue,
    NoReservation,
    NotEnoughMemory,
    UnknownReservation,
    WireError,
)
from xcpmem.refs import service_owner
from xcpmem.units import mib_to_kib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.apistack import Stack
    from xcpmem.errors import XcpmemError

MIB = mib_to_kib(1)
HEAD = (
    '<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name>'
    "<value>{status}</value></member><member><name>{name}</name>{value}</member></struct></value></param>"
    "</params></methodResponse>"
)


@asynccontextmanager
async def squeezed(
    state_dir: Path, boot_file: Path | None = None
) -> AsyncIterator[tuple[SqueezedCalls, Stack]]:
    async with running_stack(state_dir, [a_guest(1, "web1"), a_guest(2, "db1")]) as stack:
        yield SqueezedCalls(stack.service, BootMemory(boot_file)), stack


async def ask(calls: SqueezedCalls, method: str, *params: object, request_id: int = 8, name: str = "") -> str:
    request = {"method": method, "params": ["dbg", *params], "id": request_id}
    return (await answer_json(calls, json.dumps(request).encode(), name=name)).decode()


async def reserved(calls: SqueezedCalls, size_kib: int, service: str = "xenopsd") -> str:
    return str(json.loads(await ask(calls, "reserve_memory", service, size_kib))["result"])


def xml_call(method: str, *params: object) -> bytes:
    values = "".join(f"<param><value>{param}</value></param>" for param in ("dbg", *params))
    return (
        f'<?xml version="1.0"?><methodCall><methodName>{method}</methodName><params>{values}</params>'
        "</methodCall>"
    ).encode()


async def test_login_answers_the_name_of_the_service(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, _):
        request = b'{"method":"login","params":["string","string"],"id":10}'
        assert await answer_json(calls, request) == b'{"result":"string","error":null,"id":0}'


async def test_unit_is_null_in_json_and_nil_in_xml(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, _):
        for method, params in {"balance_memory": (), "delete_reservation": ("s", "reservation_id")}.items():
            assert await ask(calls, method, *params) == '{"result":null,"error":null,"id":0}'
            assert (await answer_xml(calls, xml_call(method, *params))).decode() == HEAD.format(
                status="Success", name="Value", value="<value><nil/></value>"
            )


async def test_range_answers_the_reservation_and_what_was_granted_in_kib(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        answer = json.loads(await ask(calls, "reserve_memory_range", "xenopsd", GIB_KIB, 2 * GIB_KIB))
        reservation_id, granted_kib = answer["result"]
        assert GIB_KIB <= granted_kib <= 2 * GIB_KIB
        assert stack.host.reservations[reservation_id].size_kib == granted_kib


async def test_xml_has_integers_as_untyped_text(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, _):
        call = xml_call("reserve_memory_range", "xenopsd", 1048576, 1048576)
        answer = (await answer_xml(calls, call)).decode()
        assert "<value>1048576</value></data></array></value>" in answer
        assert (await answer_xml(calls, xml_call("get_host_reserved_memory"))).decode() == HEAD.format(
            status="Success", name="Value", value="<value>73728</value>"
        )


async def test_reserved_memory_is_kib_and_the_others_are_bytes(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        assert await ask(calls, "get_host_reserved_memory") == '{"result":73728,"error":null,"id":0}'
        free = stack.service.get_host_initial_free_memory()
        assert free > GIB
        assert json.loads(await ask(calls, "get_host_initial_free_memory"))["result"] == free
        assert json.loads(await ask(calls, "get_domain_zero_policy"))["result"] == ["Fixed_size", 2 * GIB]


async def test_boot_memory_comes_from_the_file_that_survives_us(tmp_path: Path) -> None:
    shared = tmp_path / "xapi" / "boot_time_memory"
    async with squeezed(tmp_path / "state", shared) as (calls, stack):
        counted = stack.service.get_host_initial_free_memory()
        assert json.loads(await ask(calls, "get_host_initial_free_memory"))["result"] == counted
        assert shared.read_text() == f"{counted}\n"
        shared.write_text("123456789")
        assert json.loads(await ask(calls, "get_host_initial_free_memory"))["result"] == 123456789


@pytest.mark.parametrize("text", ["", "-5", "a lot", "9" * 70 + "x"])
async def test_boot_memory_that_is_no_number_is_written_anew(tmp_path: Path, text: str) -> None:
    shared = tmp_path / "boot_time_memory"
    shared.write_text(text)
    assert BootMemory(shared).bytes(42) == 42
    assert shared.read_text() == "42\n"


async def test_what_cannot_be_had_is_told_in_kib(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, _):
        answer = json.loads(await ask(calls, "reserve_memory", "xenopsd", 100 * GIB_KIB))
        name, (needed_kib, free_kib) = answer["error"]
        assert (name, needed_kib, answer["result"]) == ("Cannot_free_this_much_memory", 100 * GIB_KIB, None)
        assert 0 < free_kib < needed_kib


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("transfer_reservation_to_domain", ["s", "error", 1], ["Unknown_reservation", "error"]),
        ("query_reservation_of_domain", ["s", 1], "No_reservation"),
        ("query_reservation_of_domain", ["s", "7"], "No_reservation"),
        ("reserve_memory", ["s", -1], ["Invalid_memory_value", -1]),
        ("reserve_memory_range", ["s", -3, 5], ["Invalid_memory_value", -3]),
        ("reserve_memory_range", ["s", 5, 4], ["Invalid_memory_value", 4]),
        ("reserve_memory", ["s", "a lot"], ["Internal_error", "INVALID_VALUE(64-bit integer, a lot)"]),
        ("reserve_memory", ["s", 2**63], ["Internal_error", f"INVALID_VALUE(64-bit integer, {2**63})"]),
        ("reserve_memory", ["s", True], ["Internal_error", "INVALID_VALUE(64-bit integer, True)"]),
        ("reserve_memory", ["s"], ["Internal_error", "INVALID_VALUE(parameters of reserve_memory, 2)"]),
        ("login", [7], ["Internal_error", "INVALID_VALUE(string, 7)"]),
        ("no_such", [], ["Internal_error", "INVALID_VALUE(method, no_such)"]),
    ],
)
async def test_errors_are_variants_and_change_nothing(
    tmp_path: Path, method: str, params: list[object], error: object
) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        answer = await ask(calls, method, *params)
        assert answer == json.dumps({"result": None, "error": error, "id": 0}, separators=(",", ":"))
        assert stack.host.reservations == {}


async def test_xml_failure_has_the_variant_for_its_description(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, _):
        call = xml_call("transfer_reservation_to_domain", "s", "error", 1)
        items = "<value>Unknown_reservation</value><value>error</value>"
        array = f"<value><array><data>{items}</data></array></value>"
        assert (await answer_xml(calls, call)).decode() == HEAD.format(
            status="Failure", name="ErrorDescription", value=array
        )
        assert (
            "<name>ErrorDescription</name><value>No_reservation</value>"
            in (await answer_xml(calls, xml_call("query_reservation_of_domain", "s", 1))).decode()
        )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"method":"login","params":{},"id":1}', b"\xff", b"[" * 9999]
)
async def test_what_is_no_request_is_answered_in_version_1(tmp_path: Path, body: bytes) -> None:
    async with squeezed(tmp_path) as (calls, _):
        answer = json.loads(await answer_json(calls, body))
        assert answer["result"] is None
        assert answer["error"][0] == "Internal_error"
        assert method_of_json(body) == ""


async def test_xml_that_is_no_request_is_refused(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, _):
        with pytest.raises(WireError):
            await answer_xml(calls, b"<methodCall/>")


async def test_session_needs_no_login_and_is_never_invalid(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        for service in ("xenopsd", "never/logged in", ""):
            reservation_id = await reserved(calls, MIB, service)
            assert stack.host.reservations[reservation_id].owner == service_owner(service)


async def test_login_gives_back_all_of_that_name_and_nothing_of_others(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        await reserved(calls, MIB)
        given = await reserved(calls, MIB)
        await ask(calls, "transfer_reservation_to_domain", "xenopsd", given, 1)
        others = await reserved(calls, MIB, "other")
        await ask(calls, "login", "xenopsd")
        assert list(stack.host.reservations) == [others]


async def test_build_of_a_domain_goes_from_the_range_to_the_balance(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        reservation_id = await reserved(calls, GIB_KIB)
        moved = await ask(calls, "transfer_reservation_to_domain", "xenopsd", reservation_id, 2)
        assert json.loads(moved)["error"] is None
        assert (
            json.loads(await ask(calls, "query_reservation_of_domain", "xenopsd", 2))["result"]
            == reservation_id
        )
        await ask(calls, "delete_reservation", "xenopsd", reservation_id)
        assert stack.host.reservations == {}
        assert json.loads(await ask(calls, "balance_memory"))["error"] is None


async def test_reservation_that_is_asked_for_again_is_made_once(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        name = call_name("org.xen.xapi.memory", "3")
        first = await ask(calls, "reserve_memory_range", "xenopsd", MIB, 2 * MIB, name=name)
        await stack.controller.settle(60)
        assert await ask(calls, "reserve_memory_range", "xenopsd", MIB, 2 * MIB, name=name) == first
        assert len(stack.host.reservations) == 1


async def test_balance_never_fails(tmp_path: Path) -> None:
    async with squeezed(tmp_path) as (calls, stack):
        await stack.controller.close()
        assert await ask(calls, "balance_memory") == '{"result":null,"error":null,"id":0}'


SAMPLES = [
    (Answer(None), b'{"result":null,"error":null,"id":0}'),
    (Answer("reservation_id"), b'{"result":"reservation_id","error":null,"id":0}'),
    (
        Answer(("reserve_memory_range_result", 0)),
        b'{"result":["reserve_memory_range_result",0],"error":null,"id":0}',
    ),
    (Answer(("Fixed_size", 0)), b'{"result":["Fixed_size",0],"error":null,"id":0}'),
    (Answer(("Auto_balloon", (0, 0))), b'{"result":["Auto_balloon",[0,0]],"error":null,"id":0}'),
]
ERRORS: list[tuple[XcpmemError, bytes]] = [
    (NotEnoughMemory(0, 0), b'["Cannot_free_this_much_memory",[0,0]]'),
    (DomainsUncooperative("0"), b'["Domains_refused_to_cooperate",[0]]'),
    (DomainsUncooperative(), b'["Domains_refused_to_cooperate",[]]'),
    (UnknownReservation("error"), b'["Unknown_reservation","error"]'),
    (NoReservation(7), b'"No_reservation"'),
    (InvalidValue("size_kib", 0), b'["Invalid_memory_value",0]'),
    (ConnectionLost(), b'["Internal_error","connection lost"]'),
]


@pytest.mark.parametrize(("answer", "sample"), SAMPLES)
def test_results_are_written_as_in_squeezeds_own_samples(answer: Answer, sample: bytes) -> None:
    assert encode_json(answer) == sample


@pytest.mark.parametrize(("error", "variant"), ERRORS)
def test_errors_are_written_as_in_squeezeds_own_samples(error: XcpmemError, variant: bytes) -> None:
    assert encode_json(Answer(error=variant_of(error))) == b'{"result":null,"error":' + variant + b',"id":0}'
