"""Requests shaped as the other SDKs send them, and answers as those SDKs check them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.apistack import GIB, PASSWORD, Stack, listening, running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STATUS = (
    '<?xml version="1.0"?><methodResponse><params><param><value><struct><member><name>Status</name><value>'
)
TAIL = "</member></struct></value></param></params></methodResponse>"


class Wire:
    """Raw requests to a running server."""

    def __init__(self, stack: Stack, url: str, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.url = url
        self.http = http

    async def post(self, path: str, body: str, **headers: str) -> str:
        async with self.http.post(self.url + path, data=body.encode(), headers=headers) as answer:
            assert answer.status == 200
            kind = "application/json" if path == "/jsonrpc" else "text/xml"
            assert answer.headers["Content-Type"] == kind
            return (await answer.read()).decode()

    async def json(self, **members: object) -> Any:
        """A request as C# on .NET 8 sends it: without any Content-Type."""
        return json.loads(await self.post("/jsonrpc", json.dumps(members)))

    async def xml(self, method: str, *values: str) -> str:
        """A request as the C SDK writes it: every value typed as a string."""
        params = "".join(f"<param><value><string>{value}</string></value></param>" for value in values)
        body = f"<methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>"
        return await self.post("/", f"<?xml version='1.0'?>{body}")


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with (
        running_stack(tmp_path) as stack,
        listening(stack.app()) as url,
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as http,
    ):
        yield Wire(stack, url, http)


async def test_csharp_starts_in_version_1_and_goes_on_in_version_2(wire: Wire) -> None:
    login = await wire.json(
        id=1, method="session.login_with_password", params=["root", PASSWORD, "2.21", "XenCenter"]
    )
    assert list(login) == ["result", "error", "id"]
    assert (login["error"], login["id"]) == (None, 1)
    session = login["result"]
    pools = (await wire.json(id=2, method="pool.get_all_records", params=[session]))["result"]
    (pool,) = pools.values()
    host = (await wire.json(id=3, method="host.get_record", params=[session, pool["master"]]))["result"]
    assert (host["API_version_major"], host["API_version_minor"]) == (2, 21)
    superuser = await wire.json(
        jsonrpc="2.0", id=4, method="session.get_is_local_superuser", params=[session, session]
    )
    assert superuser == {"jsonrpc": "2.0", "result": True, "id": 4}
    permissions = await wire.json(
        jsonrpc="2.0", id=5, method="session.get_rbac_permissions", params=[session, session]
    )
    assert permissions["result"] == []


async def test_go_finds_a_host_that_says_xapi(wire: Wire) -> None:
    params: list[object] = ["root", PASSWORD, "1.0", "Go sdk"]
    login = await wire.json(jsonrpc="2.0", id=0, method="session.login_with_password", params=params)
    session = login["result"]
    assert login == {"jsonrpc": "2.0", "result": session, "id": 0}
    (pool,) = (await wire.json(jsonrpc="2.0", id=0, method="pool.get_all", params=[session]))["result"]
    record = (await wire.json(jsonrpc="2.0", id=0, method="pool.get_record", params=[session, pool]))[
        "result"
    ]
    host = await wire.json(jsonrpc="2.0", id=0, method="host.get_record", params=[session, record["master"]])
    assert "xapi" in host["result"]["software_version"]


async def test_json_has_numbers_where_xml_has_strings(wire: Wire) -> None:
    session = await wire.stack.login()
    ref = wire.stack.vm("halted").ref
    record = (await wire.json(id=1, method="VM.get_record", params=[session, ref]))["result"]
    assert (record["memory_static_max"], record["HVM_shadow_multiplier"]) == (4 * GIB, 1.0)
    assert (record["is_a_template"], record["snapshot_time"]) == (False, "19700101T00:00:00Z")
    done = await wire.json(
        id="x", method="VM.set_memory_dynamic_range", params=[session, ref, GIB, str(2 * GIB)]
    )
    assert done == {"result": "", "error": None, "id": "x"}


async def test_failure_in_json_is_shaped_by_its_version(wire: Wire) -> None:
    dead = ["OpaqueRef:dead"]
    assert await wire.json(id=1, method="VM.get_all", params=dead) == {
        "result": None,
        "error": ["SESSION_INVALID", "OpaqueRef:dead"],
        "id": 1,
    }
    assert await wire.json(jsonrpc="2.0", id=1, method="VM.get_all", params=dead) == {
        "jsonrpc": "2.0",
        "error": {"code": 1, "message": "SESSION_INVALID", "data": dead},
        "id": 1,
    }
    session = await wire.stack.login()
    ref = wire.stack.vm("halted").ref
    order = {"jsonrpc": "2.0", "id": 1, "method": "VM.set_memory_dynamic_range"}
    assert (await wire.json(**order, params=[session, ref, 2 * GIB, GIB]))["error"] == {
        "code": 1,
        "message": "MEMORY_CONSTRAINT_VIOLATION_ORDER",
        "data": [],
    }


async def test_bytes_in_json_that_are_no_unicode_are_told_after_the_session(wire: Wire) -> None:
    session = await wire.stack.login()
    body = b'{"id":1,"method":"VM.get_by_name_label","params":["%b","\xff"]}'
    for first, error in (
        (session.encode(), ["INVALID_VALUE", "Invalid UTF-8 string in parameter", "?"]),
        (b"dead", ["SESSION_INVALID", "dead"]),
    ):
        async with wire.http.post(f"{wire.url}/jsonrpc", data=body % first) as answer:
            assert (await answer.json())["error"] == error


async def test_xen_orchestra_connects_by_two_parameters_and_lists_types(wire: Wire) -> None:
    login = await wire.json(
        jsonrpc="2.0", id=1, method="session.login_with_password", params=["root", PASSWORD]
    )
    session = login["result"]
    names = (await wire.json(jsonrpc="2.0", id=2, method="system.listMethods", params=[]))["result"]
    types = sorted(name.split(".")[0] for name in names if name.endswith(".get_all_records"))
    assert types == [
        *("VM", "VM_guest_metrics", "VM_metrics", "host", "host_metrics", "pool", "role", "subject", "task"),
    ]
    for name in types:
        answer = await wire.json(jsonrpc="2.0", id=3, method=f"{name}.get_all_records", params=[session])
        assert "error" not in answer
        assert bool(answer["result"]) == (name not in {"subject", "task"})


async def test_c_reads_untyped_strings_on_one_line(wire: Wire) -> None:
    answer = await wire.xml(
        "session.login_with_password", "root", PASSWORD.replace("&", "&amp;").replace("<", "&lt;"), "1.3"
    )
    match = re.fullmatch(
        re.escape(f"{STATUS}Success</value></member><member><name>Value</name><value>")
        + "(OpaqueRef:[0-9a-f-]{36})"
        + re.escape(f"</value>{TAIL}"),
        answer,
    )
    assert match is not None
    session = match[1]
    ref = wire.stack.vm("halted").ref
    value = f"{STATUS}Success</value></member><member><name>Value</name>%s{TAIL}"
    for name, xml in {
        "memory_static_max": f"<value>{4 * GIB}</value>",
        "is_a_template": "<value><boolean>0</boolean></value>",
        "HVM_shadow_multiplier": "<value><double>1</double></value>",
        "snapshot_time": "<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>",
        "tags": "<value><array><data></data></array></value>",
        "platform": "<value><struct></struct></value>",
        "power_state": "<value>Halted</value>",
        "suspend_VDI": "<value>OpaqueRef:NULL</value>",
        "PV_args": "<value></value>",
    }.items():
        assert await wire.xml(f"VM.get_{name}", session, ref) == value % xml
    assert await wire.xml("VM.set_memory", session, ref, str(3 * GIB)) == value % "<value></value>"
    failure = f"{STATUS}Failure</value></member><member><name>ErrorDescription</name><value><array><data>%s"
    assert await wire.xml("VM.set_memory", session, ref, "1") == (
        failure % f"<value>MEMORY_CONSTRAINT_VIOLATION_ORDER</value></data></array></value>{TAIL}"
    )


async def test_records_contain_no_white_space_between_tags_and_no_string_tags(wire: Wire) -> None:
    session = await wire.stack.login()
    for name in ("pool", "host", "host_metrics", "VM", "VM_metrics", "VM_guest_metrics"):
        answer = await wire.xml(f"{name}.get_all_records", session)
        assert re.search(r">\s+<", answer) is None
        assert "<string>" not in answer
        assert "<int>" not in answer
        assert "<i8>" not in answer


async def test_session_opened_on_one_wire_is_good_on_the_other(wire: Wire) -> None:
    session = (await wire.json(id=1, method="session.login_with_password", params=["root", PASSWORD]))[
        "result"
    ]
    assert "<value>Success</value>" in await wire.xml("VM.get_all", session)
    assert "<value>Success</value>" in await wire.xml("session.logout", session)
    assert (await wire.json(id=1, method="VM.get_all", params=[session]))["error"][0] == "SESSION_INVALID"
